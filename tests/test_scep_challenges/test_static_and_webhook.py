"""Static challenges, and decisions by webhook: fail closed, no secrets anywhere (section 1.2)."""

import asyncio
import base64
import contextlib
import datetime as dt
import gzip
import hmac
import json
import secrets
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.clock import FixedClock
from pkiserver.config_types import Rate
from pkiserver.errors import ErrorCode, MalformedMessage, PKIError
from pkiserver.pkix.names import dns_name
from pkiserver.web.failures import Failures
from protocols.scep.outgoing import Outgoing
from protocols.scep.secret import Secret
from protocols.scep.static_challenge import NoChallenge, StaticChallenge
from protocols.scep.webhook import MOST_BYTES, Decision, Webhook, parse
from tests.test_scep_challenges.world import NOW, request

KEY = secrets.token_bytes(32)
URL = "https://decide.example/scep"
STATIC = "correct horse"


def secret_file(folder: Path, text: str, mode: int = 0o600) -> Secret:
    path = folder / "secret"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return Secret("scep.default.secret", folder, "secret", "")


async def code_of(work: Awaitable[object]) -> ErrorCode:
    with pytest.raises(PKIError) as caught:
        await work
    return caught.value.code


# Static


async def test_the_static_challenge_is_compared_whole(tmp_path: Path) -> None:
    static = StaticChallenge("default", secret_file(tmp_path, f"{STATIC}\n"))
    assert (await static.validate(request(STATIC))).party == "default/static"
    for wrong in (None, "", STATIC[:-1], STATIC + "x", STATIC.upper(), "\ud800"):
        assert await code_of(static.validate(request(wrong))) is ErrorCode.UNAUTHORIZED


async def test_it_comes_from_a_variable_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    static = StaticChallenge("default", Secret("place", tmp_path, "", "A_CHALLENGE"))
    with pytest.raises(PKIError):
        static.check()
    assert await code_of(static.validate(request(STATIC))) is ErrorCode.UNAVAILABLE
    monkeypatch.setenv("A_CHALLENGE", STATIC)
    static.check()
    await static.validate(request(STATIC))


@pytest.mark.parametrize(
    ("text", "mode"), [("", 0o600), ("short", 0o600), (STATIC, 0o604), ("x" * 5000, 0o600)]
)
async def test_a_secret_that_cannot_be_used_refuses_everybody(
    tmp_path: Path, text: str, mode: int
) -> None:
    static = StaticChallenge("default", secret_file(tmp_path, text, mode))
    with pytest.raises(PKIError) as caught:
        static.check()
    assert caught.value.code is ErrorCode.CONFIGURATION
    assert await code_of(static.validate(request(text))) is ErrorCode.UNAVAILABLE


async def test_a_new_secret_counts_at_once(tmp_path: Path) -> None:
    static = StaticChallenge("default", secret_file(tmp_path, STATIC))
    secret_file(tmp_path, "another secret")
    await static.validate(request("another secret"))


async def test_a_file_that_is_away_or_binary(tmp_path: Path) -> None:
    gone = StaticChallenge("default", Secret("place", tmp_path, "nothing", ""))
    assert await code_of(gone.validate(request(STATIC))) is ErrorCode.UNAVAILABLE
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xfd" * 10)
    (tmp_path / "binary").chmod(0o600)
    with pytest.raises(PKIError):
        Secret("place", tmp_path, "binary", "").read()


async def test_without_a_challenge_nobody_is_known_and_nobody_files_without_end() -> None:
    limit = Failures(Rate(count=2, period=dt.timedelta(hours=1)), FixedClock(NOW), "x")
    nobody = NoChallenge("default", limit)
    for _ in range(2):
        assert (await nobody.validate(request(None))).party == "default/anonymous"
    assert await code_of(nobody.validate(request(None))) is ErrorCode.RATE_LIMITED
    assert (await nobody.validate(request(None, address="192.0.2.8"))).party


# Webhook

Handler = Callable[[httpx.Request], httpx.Response]


def webhook(folder: Path, handler: Handler, timeout: float = 5) -> Webhook:
    outgoing = Outgoing(
        timeout=dt.timedelta(seconds=timeout),
        transport=httpx.MockTransport(handler),
        most_bytes=MOST_BYTES,
    )
    secret = secret_file(folder, base64.b64encode(KEY).decode())
    return Webhook("default", URL, secret, outgoing, FixedClock(NOW))


def says(status: int = 200, **members: object) -> Handler:
    return lambda _: httpx.Response(status, json=members)


async def test_the_service_gets_what_step_ca_would_send(tmp_path: Path) -> None:
    seen: list[httpx.Request] = []

    def handler(asked: httpx.Request) -> httpx.Response:
        seen.append(asked)
        return httpx.Response(200, json={"allow": True, "profile": "short", "data": {"x": 1}})

    asked = request("from the device", names=[dns_name("a.example")])
    accepted = await webhook(tmp_path, handler).validate(asked)
    assert (accepted.party, accepted.profile) == ("default/webhook", "short")
    (sent,) = seen
    assert str(sent.url) == URL and sent.method == "POST"
    expected = hmac.new(KEY, sent.content, "sha256").hexdigest()
    assert sent.headers["X-Smallstep-Signature"] == expected
    assert sent.headers["X-Smallstep-Webhook-ID"] == "default"
    body = json.loads(sent.content)
    pem = body.pop("certificateRequestPEM")
    assert base64.b64decode("".join(pem.splitlines()[1:-1])) == asked.csr_der
    assert body == {
        "timestamp": "2026-11-21T12:00:00Z",
        "provisionerName": "default",
        "scepChallenge": "from the device",
        "scepTransactionID": "T-1",
        "x509CertificateRequest": {
            "raw": base64.b64encode(asked.csr_der).decode(),
            "subject": {"commonName": "device-1.example"},
            "dnsNames": ["a.example"],
        },
        "address": "192.0.2.7",
    }


@pytest.mark.parametrize(
    ("handler", "code"),
    [
        (says(allow=False), ErrorCode.UNAUTHORIZED),
        (says(allow=False, reason="not\nin\x07ventoried"), ErrorCode.UNAUTHORIZED),
        (says(allow="true"), ErrorCode.UNAVAILABLE),
        (says(allow=1), ErrorCode.UNAVAILABLE),
        (says(), ErrorCode.UNAVAILABLE),
        (says(allow=True, profile=3), ErrorCode.UNAVAILABLE),
        (says(500, allow=True), ErrorCode.UNAVAILABLE),
        (says(201, allow=True), ErrorCode.UNAVAILABLE),
        (says(403, allow=True), ErrorCode.UNAVAILABLE),
        (lambda _: httpx.Response(200, content=b"[true]"), ErrorCode.UNAVAILABLE),
        (lambda _: httpx.Response(200, content=b"{\"allow\": true"), ErrorCode.UNAVAILABLE),
        (lambda _: httpx.Response(200, content=b" " * MOST_BYTES + b"{}"), ErrorCode.UNAVAILABLE),
    ],
)  # fmt: skip
async def test_only_a_clear_yes_lets_an_enrolment_pass(
    tmp_path: Path, handler: Handler, code: ErrorCode
) -> None:
    assert await code_of(webhook(tmp_path, handler).validate(request("x"))) is code


async def test_answers_are_not_unpacked(tmp_path: Path) -> None:
    """A few octets of gzip could be gigabytes."""

    def handler(asked: httpx.Request) -> httpx.Response:
        assert asked.headers["accept-encoding"] == "identity"
        packed = gzip.compress(b'{"allow": true}')
        return httpx.Response(200, headers={"Content-Encoding": "gzip"}, content=packed)

    assert await code_of(webhook(tmp_path, handler).validate(request("x"))) is ErrorCode.UNAVAILABLE


async def test_redirects_are_not_followed(tmp_path: Path) -> None:
    seen: list[str] = []

    def handler(asked: httpx.Request) -> httpx.Response:
        seen.append(str(asked.url))
        return httpx.Response(307, headers={"Location": "https://elsewhere.example/"})

    assert await code_of(webhook(tmp_path, handler).validate(request("x"))) is ErrorCode.UNAVAILABLE
    assert seen == [URL]


async def test_a_service_that_is_away(tmp_path: Path) -> None:
    def handler(asked: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=asked)

    with pytest.raises(PKIError) as caught:
        await webhook(tmp_path, handler).validate(request("x"))
    assert caught.value.code is ErrorCode.UNAVAILABLE
    assert "decide.example" not in caught.value.detail, "devices need not know"
    assert "decide.example" in str(caught.value.rule)


async def test_a_service_that_never_answers(tmp_path: Path) -> None:
    class Silent(httpx.AsyncBaseTransport):
        async def handle_async_request(self, asked: httpx.Request) -> httpx.Response:
            await asyncio.Event().wait()
            raise AssertionError

    outgoing = Outgoing(timeout=dt.timedelta(milliseconds=20), transport=Silent())
    secret = secret_file(tmp_path, base64.b64encode(KEY).decode())
    hook = Webhook("default", URL, secret, outgoing, FixedClock(NOW))
    assert await code_of(hook.validate(request("x"))) is ErrorCode.UNAVAILABLE
    await outgoing.close()


@pytest.mark.parametrize("text", ["", "not base64!", base64.b64encode(b"short").decode()])
async def test_without_a_key_nothing_is_sent(tmp_path: Path, text: str) -> None:
    def handler(asked: httpx.Request) -> httpx.Response:
        raise AssertionError("sent")

    hook = webhook(tmp_path, handler)
    secret_file(tmp_path, text)
    with pytest.raises(PKIError):
        hook.check()
    assert await code_of(hook.validate(request("x"))) is ErrorCode.UNAVAILABLE


async def test_secrets_are_in_no_log_and_no_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    hook = webhook(tmp_path, says(500))
    with pytest.raises(PKIError) as caught:
        await hook.validate(request("the device's challenge"))
    seen = "".join(capsys.readouterr()) + caplog.text + repr(caught.value) + str(caught.value.rule)
    assert "the device's challenge" not in seen
    assert base64.b64encode(KEY).decode() not in seen + repr(hook)


@settings(max_examples=100)
@given(st.one_of(st.binary(max_size=80), st.text(max_size=80).map(str.encode)))
def test_an_answer_is_a_decision_or_malformed(body: bytes) -> None:
    with contextlib.suppress(MalformedMessage):
        assert isinstance(parse(body), Decision)


# TLS, over real sockets


@asynccontextmanager
async def tls_service(folder: Path) -> AsyncIterator[tuple[int, Path]]:
    """An HTTPS service that says yes; its port and its anchors."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    anchors = folder / "anchors.pem"
    authority.cert_pem.write_to_path(str(anchors))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\nConnection: close\r\n\r\n{"allow": true}'
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "localhost", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1], anchors


@pytest.mark.parametrize("trusted", [True, False])
async def test_the_service_has_to_prove_who_it_is(tmp_path: Path, trusted: bool) -> None:
    async with tls_service(tmp_path) as (port, anchors):
        outgoing = Outgoing(timeout=dt.timedelta(seconds=10), anchors=anchors if trusted else None)
        secret = secret_file(tmp_path, base64.b64encode(KEY).decode())
        hook = Webhook("d", f"https://localhost:{port}/", secret, outgoing, FixedClock(NOW))
        try:
            if trusted:
                await hook.validate(request("x"))
            else:
                assert await code_of(hook.validate(request("x"))) is ErrorCode.UNAVAILABLE
        finally:
            await outgoing.close()


def test_anchors_and_proxies_are_checked(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    second = dt.timedelta(seconds=1)
    for broken in (
        Outgoing(timeout=second, anchors=tmp_path / "empty.pem"),
        Outgoing(timeout=second, anchors=tmp_path / "nothing.pem"),
        Outgoing(timeout=second, proxy="nonsense://x"),
    ):
        with pytest.raises(PKIError) as caught:
            broken.check()
        assert caught.value.code is ErrorCode.CONFIGURATION


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_the_documented_way_to_make_a_key(tmp_path: Path) -> None:
    made = subprocess.run(
        ["openssl", "rand", "-base64", "32"], capture_output=True, text=True, check=True
    )
    outgoing = Outgoing(timeout=dt.timedelta(seconds=1))
    hook = Webhook("d", URL, secret_file(tmp_path, made.stdout), outgoing, FixedClock(NOW))
    hook.check()
