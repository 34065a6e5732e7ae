"""Structured logs: one line per event, no secrets, no control characters."""

import asyncio
import datetime as dt
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtensionOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pkiserver import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def configured(style: Any = "json", level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    logs.configure(style=style, level=level, stream=stream, cache=False)
    return stream


def test_strangers_certificates_write_no_warnings() -> None:
    """A negative authorityCertSerialNumber, of which the library warns on stderr."""
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    name, key = x509.Name([]), ed25519.Ed25519PrivateKey.generate()
    identifier = x509.UnrecognizedExtension(
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER, bytes.fromhex("3008 a103 820178 8201ff")
    )
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now)
    certificate = builder.add_extension(identifier, critical=False).sign(key, None)
    der = certificate.public_bytes(Encoding.DER)
    with pytest.warns(CryptographyDeprecationWarning):
        len(x509.load_der_x509_certificate(der).extensions)
    configured()
    len(x509.load_der_x509_certificate(der).extensions)


@pytest.mark.parametrize("style", ["json", "console"])
def test_secrets_are_hidden_wherever_they_are(style: str) -> None:
    stream = configured(style)

    class Holder:
        def __repr__(self) -> str:
            return "s3cret"

    structlog.get_logger("x").warning(
        "event",
        password="s3cret",
        eab_hmac="s3cret",
        nested={"private_key": "s3cret", "list": [{"token": "s3cret"}]},
        body=b"s3cret",
        holder=Holder(),
        serial="fine",
    )
    assert "s3cret" not in stream.getvalue()
    assert "fine" in stream.getvalue()


def test_tracebacks_show_no_local_variables() -> None:
    stream = configured()

    def inner() -> None:
        key_material = b"\x73\x33cret0".decode()
        if key_material:
            raise ValueError("boom")

    try:
        inner()
    except ValueError:
        structlog.get_logger("x").exception("failed")
    event = json.loads(stream.getvalue())
    assert "boom" in event["exception"]
    assert "s3cret0" not in stream.getvalue()


async def log_requests(*, count: int = 1, **about: Any) -> None:
    for _ in range(count):
        logs.log_request(**about, request_id="abcdef12")
    await asyncio.sleep(0)


class Writes(io.StringIO):
    """Counts what would be system calls."""

    count = 0

    def flush(self) -> None:
        self.count += 1


def test_request_lines_of_one_turn_are_written_together() -> None:
    stream = Writes()
    logs.configure(stream=stream, cache=False)
    asyncio.run(log_requests(count=3, method="GET", path="/", status=200, ms=0.25, client=None))
    assert len(stream.getvalue().splitlines()) == 3
    assert stream.count == 1


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.text(max_size=40) | st.text("\x1b\n\r\t\x9b =", max_size=5),
    st.sampled_from(["json", "console"]),
)
def test_one_printable_line_per_event(text: str, style: str) -> None:
    stream = configured(style)
    structlog.get_logger("x").info(text, path=text)
    line = stream.getvalue()
    assert line.endswith("\n")
    assert not any(ord(character) < 32 or ord(character) == 127 for character in line[:-1])


def test_libraries_logs_take_the_same_way() -> None:
    stream = configured()
    logging.getLogger("hypercorn.error").error("it %s", "broke")
    logging.getLogger("noise").info("not shown")
    event = json.loads(stream.getvalue())
    assert (event["logger"], event["level"], event["event"]) == (
        "hypercorn.error",
        "error",
        "it broke",
    )


def test_level_is_respected() -> None:
    stream = configured(level="warning")
    structlog.get_logger("x").info("quiet")
    structlog.get_logger("x").warning("loud")
    assert "quiet" not in stream.getvalue() and "loud" in stream.getvalue()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.text(max_size=60), st.sampled_from([None, "192.0.2.7", "2001:db8::1"]))
def test_the_short_way_of_request_lines_is_the_long_one(path: str, client: str | None) -> None:
    """The same line to the letter, but for the time."""
    stream = configured()
    about: dict[str, Any] = {
        "method": "GET",
        "path": path,
        "status": 200,
        "ms": 0.25,
        "client": client,
    }
    asyncio.run(log_requests(**about))
    with structlog.contextvars.bound_contextvars(request_id="abcdef12"):
        structlog.get_logger("pkiserver.access").info("request", **about)
    short, long = (line.partition('"timestamp"') for line in stream.getvalue().splitlines())
    assert short[0] == long[0]
    assert len(short[2]) == len(long[2]) and json.loads("".join(short))["path"] == path


@pytest.mark.parametrize("style,level,lines", [("console", "info", 1), ("json", "warning", 0)])
def test_request_lines_respect_style_and_level(style: str, level: str, lines: int) -> None:
    stream = configured(style, level)
    asyncio.run(log_requests(method="GET", path="/x y", status=404, ms=1.0, client=None))
    assert len(stream.getvalue().splitlines()) == lines
    assert not stream.getvalue().startswith("{")
