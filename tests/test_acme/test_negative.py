"""Requests that must be refused, each sent to every signed resource: RFC 8555 section 6; checklist
items 2, 5, 14, 26, 27, 54, 55. A refusal is a typed problem with its own status, carries one fresh
nonce, and changes nothing."""

import base64
import hmac
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec

from protocols.acme.http import MAX_BODY
from tests.test_acme.client import Signer, b64, flattened, new_key
from tests.test_acme.signed import Target, Targets, open_targets
from tests.test_acme.world import BASE, open_acme, problem

MALFORMED, BAD_NONCE = (400, "malformed"), (400, "badNonce")
UNAUTHORIZED, BAD_ALGORITHM = (403, "unauthorized"), (400, "badSignatureAlgorithm")
NO_ACCOUNT = (400, "accountDoesNotExist")
Refusal = tuple[int, str]


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def targets(
    template: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Targets]:
    """One service for all: none of these requests may change it."""
    async with open_acme(template, tmp_path_factory.mktemp("negative") / "home") as world:
        yield await open_targets(world)


async def refused(
    targets: Targets, response: httpx.Response, target: Target, expected: Refusal
) -> None:
    try:
        problem(response, *expected)
    except AssertionError as error:
        raise AssertionError(f"{target.name}: {error}") from error
    assert response.request.method == "POST"


def change(**members: object) -> Callable[[dict[str, Any]], None]:
    """Change members of the finished JWS."""

    def tamper(jws: dict[str, Any]) -> None:
        jws.update(members)

    return tamper


def header(**members: object) -> dict[str, Any]:
    """Options: members of the protected header, signed as they are."""
    return {"header": members}


def text(make: Callable[[str], str]) -> dict[str, Any]:
    """Options: the request's text, changed."""
    return {"tamper": lambda jws: make(json.dumps(jws)).encode("utf-8", "surrogatepass")}


SIGNED: dict[str, tuple[dict[str, Any], Refusal]] = {
    "no signature": ({"tamper": change(signature="")}, MALFORMED),
    "a signature of zeros": ({"tamper": change(signature=b64(bytes(64)))}, MALFORMED),
    "a signature cut short": ({"tamper": change(signature=b64(bytes(40)))}, MALFORMED),
    "a signature that is a number": ({"tamper": change(signature=1)}, MALFORMED),
    "another payload": ({"tamper": change(payload=b64(b'{"a":1}'))}, MALFORMED),
    "a payload with padding": ({"tamper": change(payload="e30=")}, MALFORMED),
    "a payload in base64": ({"tamper": change(payload="+/+/")}, MALFORMED),
    "a payload that is an object": ({"tamper": change(payload={})}, MALFORMED),
    "an unprotected header": ({"tamper": change(header={"kid": "x"})}, MALFORMED),
    "an empty unprotected header": ({"tamper": change(header={})}, MALFORMED),
    "several signatures": ({"tamper": change(signatures=[])}, MALFORMED),
    "a member nobody knows": ({"tamper": change(extra=1)}, MALFORMED),
    "a member missing": ({"tamper": lambda jws: jws.pop("payload") and None}, MALFORMED),
    "the general form": (
        {"tamper": lambda jws: {"payload": jws["payload"], "signatures": [jws]}}, MALFORMED,
    ),
    "the compact form": (
        {"tamper": lambda jws: ".".join(jws.values()).encode()}, MALFORMED,
    ),
    "another algorithm's name": ({"header": {"alg": "ES384"}}, BAD_ALGORITHM),
    "RS256 for an EC key": (header(alg="RS256"), BAD_ALGORITHM),
    "an algorithm nobody knows": (header(alg="XX999"), BAD_ALGORITHM),
    "no algorithm": (header(alg=None), MALFORMED),
    "algorithms in a list": (header(alg=["ES256"]), MALFORMED),
    "none": ({**header(alg="none"), "tamper": change(signature="")}, BAD_ALGORITHM),
    "NONE": ({**header(alg="NONE"), "tamper": change(signature="")}, BAD_ALGORITHM),
    "no url": (header(url=None), MALFORMED),
    "another url": ({"url": f"{BASE}/acme/default/other"}, UNAUTHORIZED),
    "another host": ({"url": "https://evil.test/acme/default/new-order"}, UNAUTHORIZED),
    "a url of another type": (header(url=["x"]), MALFORMED),
    "a url that is too long": ({"url": BASE + "/" + "a" * 3000}, MALFORMED),
    "neither kid nor jwk": (header(kid=None, jwk=None), MALFORMED),
    "critical extensions": (header(crit=["exp"], exp=1), MALFORMED),
    "an empty list of critical extensions": (header(crit=[]), MALFORMED),
    "an unencoded payload": (header(b64=False), MALFORMED),
    "no nonce": ({"nonce": None}, BAD_NONCE),
    "a nonce that was made up": ({"nonce": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}, BAD_NONCE),
    "a short nonce": ({"nonce": "A"}, BAD_NONCE),
    "a nonce with other characters": ({"nonce": "abc+def/"}, MALFORMED),
    "an empty nonce": (header(nonce=""), MALFORMED),
    "a nonce that is a number": (header(nonce=1), MALFORMED),
    "a nonce in other digits": (header(nonce="\u0661\u0662\u0663"), MALFORMED),
    "a truncated request": (text(lambda whole: whole[:-2]), MALFORMED),
    "a request twice": (text(lambda whole: whole + whole), MALFORMED),
    "a byte order mark": (text(lambda whole: "\ufeff" + whole), MALFORMED),
    "a lone surrogate": (text(lambda whole: whole[:-1] + ',"\ud800":1}'), MALFORMED),
    "an escaped lone surrogate": (text(lambda w: w[:-1] + ',"x":"\\ud800"}'), MALFORMED),
    "a duplicate member": (text(lambda whole: whole[:-1] + ',"payload":""}'), MALFORMED),
    "not a number": (text(lambda whole: whole[:-1] + ',"x":NaN}'), MALFORMED),
    "a NUL": (text(lambda whole: whole[:-1] + "\0}"), MALFORMED),
    "nested too deeply": (text(lambda w: w[:-1] + ',"x":' + "[" * 5000 + "]" * 5000 + "}"),
                          MALFORMED),
    "a list": (text(lambda whole: f"[{whole}]"), MALFORMED),
    "a string": (text(lambda whole: json.dumps(whole)), MALFORMED),
    "null": (text(lambda whole: "null"), MALFORMED),
    "nothing": (text(lambda whole: ""), MALFORMED),
    "an integer of 5000 digits": (text(lambda w: w[:-1] + ',"x":' + "9" * 5000 + "}"), MALFORMED),
    "octets that are not UTF-8": ({"tamper": lambda jws: b"\xff\xfe" + json.dumps(jws).encode()},
                                  MALFORMED),
    "UTF-16": ({"tamper": lambda jws: json.dumps(jws).encode("utf-16")}, MALFORMED),
    "a huge header": (header(extra="a" * 20000), MALFORMED),
    "a huge body": (text(lambda whole: whole + " " * MAX_BODY), (413, "malformed")),
}  # fmt: skip


@pytest.mark.parametrize("what", SIGNED)
async def test_signed_requests(targets: Targets, what: str) -> None:
    options, expected = SIGNED[what]
    before = await targets.world.contents()
    for target in targets:
        response = await targets.send(target, await targets.sign(target, **options))
        await refused(targets, response, target, expected)
    assert await targets.world.contents() == before


@pytest.mark.parametrize(
    "content_type",
    [None, "", "application/json", "application/jose", "text/plain", "application/jose+jsonx",
     "application/jose+json, application/json", "APPLICATION/JOSE"],
)  # fmt: skip
async def test_content_type(targets: Targets, content_type: str | None) -> None:
    """Section 6.2 and checklist 54: 415."""
    before = await targets.world.contents()
    for target in targets:
        response = await targets.send(target, await targets.sign(target), content_type)
        await refused(targets, response, target, (415, "malformed"))
    assert await targets.world.contents() == before


async def test_unsigned_methods(targets: Targets) -> None:
    """Section 6.3: GET, PUT and the rest on what takes POST."""
    before = await targets.world.contents()
    for target in targets:
        for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "TRACE"):
            if target.name == "newNonce" and method in ("GET", "HEAD"):
                continue
            response = await targets.world.http.request(method, target.url)
            assert response.status_code == 405, target.name
            assert response.headers["content-type"] == "application/problem+json"
            assert "POST" in response.headers["allow"]
    assert await targets.world.contents() == before


async def test_another_keys_signature(targets: Targets) -> None:
    before = await targets.world.contents()
    for target in targets:
        if target.signer.kid is None:
            continue
        forged = replace(target.signer, key=new_key())
        response = await targets.send(target, await targets.sign(target, signer=forged))
        await refused(targets, response, target, MALFORMED)
    assert await targets.world.contents() == before


async def test_a_mac_over_the_public_key(targets: Targets) -> None:
    """HS256 with what everybody knows as its key."""
    before = await targets.world.contents()
    for target in targets:
        for algorithm in ("HS256", "HS512"):
            key = json.dumps(target.signer.jwk).encode()
            members = {"alg": algorithm, "nonce": await targets.nonce(), "url": target.url}
            members |= {"kid": target.signer.kid or "x"}
            jws = flattened(members, b"", lambda data, key=key: hmac.digest(key, data, "sha256"))  # type: ignore[misc]
            response = await targets.send(target, json.dumps(jws).encode())
            await refused(targets, response, target, BAD_ALGORITHM)
            assert "ES256" in response.json()["algorithms"]
    assert await targets.world.contents() == before


async def test_both_kid_and_jwk(targets: Targets) -> None:
    before = await targets.world.contents()
    for target in targets:
        members = {"kid": targets.client.signer.kid, "jwk": target.signer.jwk}
        response = await targets.send(target, await targets.sign(target, header=members))
        await refused(targets, response, target, MALFORMED)
    assert await targets.world.contents() == before


async def test_the_wrong_one_of_kid_and_jwk(targets: Targets) -> None:
    """Section 6.2: newAccount takes a jwk, everything else a kid; revokeCert takes both."""
    before = await targets.world.contents()
    for target in targets:
        if target.name == "newNonce" or target.name.startswith("revokeCert"):
            continue
        other = targets.client.signer if target.name == "newAccount" else Signer()
        response = await targets.send(target, await targets.sign(target, signer=other))
        await refused(targets, response, target, MALFORMED)
    assert await targets.world.contents() == before


@pytest.mark.parametrize(
    "kid",
    [
        "https://other.test/acme/default/acct/abc", f"{BASE}/acme/default/acct/unknown",
        f"{BASE}/acme/default/acct/", f"{BASE}/acme/other/acct/abc", "abc", "",
        f"{BASE}/acme/default/order/abc", f"{BASE}/acme/default/acct/../acct/abc",
        f"{BASE}/acme/default/acct/abc%00", f"{BASE}/acme/default/acct/' OR 1=1 --",
        "HTTPS://ACME.TEST/acme/default/acct/abc",
    ],
)  # fmt: skip
async def test_foreign_kid(targets: Targets, kid: str) -> None:
    """Checklist section 2 item 8: accountDoesNotExist, on which clients register anew."""
    before = await targets.world.contents()
    for target in targets:
        if target.signer.kid is None:
            continue
        response = await targets.send(target, await targets.sign(target, header={"kid": kid}))
        await refused(targets, response, target, NO_ACCOUNT)
    assert await targets.world.contents() == before


@pytest.mark.parametrize("kid", ["\u00fc", "a\nb", "x" * 3000, 1, ["x"], {}])
async def test_kid_that_is_no_url(targets: Targets, kid: object) -> None:
    for target in targets:
        if target.signer.kid is None:
            continue
        response = await targets.send(target, await targets.sign(target, header={"kid": kid}))
        await refused(targets, response, target, MALFORMED)


async def test_kid_in_another_spelling(targets: Targets) -> None:
    """Checklist 38: the URL that was given out, and no other that means the same."""
    kid = str(targets.client.signer.kid)
    spellings = [f"{kid}/", f"{kid}?", f"{kid}#x", kid.replace("acme.test", "acme.test:443"),
                 kid.replace("acct", "%61cct"), f" {kid}"]  # fmt: skip
    for spelling in spellings:
        for target in targets:
            if target.signer.kid is not None:
                body = await targets.sign(target, header={"kid": spelling})
                await refused(targets, await targets.send(target, body), target, NO_ACCOUNT)


JWKS: dict[str, object] = {
    "empty": {}, "a string": "x", "no kty": {"crv": "P-256"},
    "symmetric": {"kty": "oct", "k": "AAAA"},
    "a point that is not on the curve": {"kty": "EC", "crv": "P-256", "x": b64(bytes(32)),
                                         "y": b64(bytes(32))},
    "a weak RSA key": {"kty": "RSA", "n": b64(b"\xff" * 64), "e": "AQAB"},
    "an exponent of one": {"kty": "RSA", "n": b64(b"\xff" * 256), "e": "AQ"},
    "an unknown curve": {"kty": "EC", "crv": "P-1", "x": "AA", "y": "AA"},
    "numbers": {"kty": "EC", "crv": 1, "x": 2, "y": 3},
}  # fmt: skip


@pytest.mark.parametrize("what", JWKS)
async def test_bad_jwk(targets: Targets, what: str) -> None:
    before = await targets.world.contents()
    for target in targets:
        if target.signer.kid is not None:
            continue
        body = await targets.sign(target, header={"jwk": JWKS[what]})
        response = await targets.send(target, body)
        assert response.status_code == 400, response.text
        assert response.json()["type"].rpartition(":")[2] in ("malformed", "badPublicKey",
                                                             "badSignatureAlgorithm")  # fmt: skip
    assert await targets.world.contents() == before


async def test_a_private_jwk(targets: Targets) -> None:
    target = next(t for t in targets if t.name == "newAccount")
    key = target.signer.key
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    secret = b64(key.private_numbers().private_value.to_bytes(32, "big"))
    body = await targets.sign(target, header={"jwk": {**target.signer.jwk, "d": secret}})
    response = await targets.send(target, body)
    await refused(targets, response, target, MALFORMED)
    assert secret not in response.text


async def test_a_nonce_that_was_changed(targets: Targets) -> None:
    for target in targets:
        raw = bytearray(base64.urlsafe_b64decode((await targets.nonce()) + "=="))
        raw[5] ^= 1
        body = await targets.sign(target, nonce=b64(bytes(raw)))
        await refused(targets, await targets.send(target, body), target, BAD_NONCE)


@pytest.mark.parametrize("payload", [{}, {"a": 1}, b"null", b" "])
async def test_payload_where_none_is_expected(targets: Targets, payload: object) -> None:
    """Checklist 36: POST-as-GET has the empty payload."""
    reading = {"newNonce", "orders", "order", "certificate"}
    for target in targets:
        if target.name in reading:
            response = await targets.send(target, await targets.sign(target, payload=payload))
            await refused(targets, response, target, MALFORMED)


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"null", b"1", b'"x"', b"{", b"\xff", b'{"a":1,"a":2}', b"{}x"]
)
async def test_payload_that_is_no_object(targets: Targets, payload: bytes) -> None:
    before = await targets.world.contents()
    for target in targets:
        posting = target.payload is not None and target.name not in ("account", "challenge")
        if posting or payload:
            response = await targets.send(target, await targets.sign(target, payload=payload))
            await refused(targets, response, target, MALFORMED)
    assert await targets.world.contents() == before
