"""What is not EST: over the wire, only 4xx comes of it, and no certificate but for the names that
the user may have."""

import asyncio
import base64
import random
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from interop import est_requests as requests
from interop.bench import aftermath
from interop.est_pki import EstPKI, est_pki
from interop.fuzz import est as fuzz
from interop.fuzz.cases import Case, Subject
from interop.fuzz.client import Client
from interop.fuzz.run import device_certificate, tls

POSTS = ("simpleenroll", "simplereenroll", "serverkeygen")
CASES = 1500
SEED = 7
PKCS10 = (b"content-type", b"application/pkcs10")
GOOD = requests.request("malformed")
TEXT = base64.b64encode(GOOD)
BODIES = {
    "nothing": b"",
    "garbage": b"\x00\xff" * 100,
    "words": b"please let me in",
    "no base64": TEXT[:-1] + b"*",
    "half a request": base64.b64encode(GOOD[: len(GOOD) // 2]),
    "half of the text": TEXT[: len(TEXT) // 2 - 1],
    "half of DER": GOOD[: len(GOOD) // 2],
    "more behind it": base64.b64encode(GOOD + b"\x05\x00"),
    "indefinite lengths": base64.b64encode(b"\x30\x80" + GOOD[4:] + b"\x00\x00"),
    "a length of 2^31": base64.b64encode(b"\x30\x84\x7f\xff\xff\xff" + GOOD[4:]),
    "depth": base64.b64encode(b"\x30\x80" * 5000),
    "an empty armour": b"-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n",
    "a certificate's armour": b"-----BEGIN CERTIFICATE-----\n"
    + TEXT
    + b"\n-----END CERTIFICATE-----",
    "huge": b"A" * (192 * 1024 + 1),
    "huge white space": b" " * 1_000_000 + TEXT,
}


@pytest.fixture(scope="module")
def patient(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EstPKI]:
    """Where nobody has to wait after too many refusals."""
    if request.config.getoption("--target") != "pkiserver":
        pytest.skip("EST is ours alone")
    with est_pki(
        tmp_path_factory.mktemp("est"), refusals_per_client="false", enrolments_per_client="false"
    ) as running:
        yield running


@pytest.fixture(scope="module")
def login(patient: EstPKI) -> tuple[bytes, bytes]:
    field = requests.basic("malformed", patient.add_user("malformed"))
    return b"authorization", field.encode()


def context(pki: EstPKI) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(pki.root))


def issued(pki: EstPKI) -> int:
    sql = "SELECT count(*) FROM certificates WHERE requester LIKE 'est:%'"
    return int(aftermath.query(pki.home / "pki.db", sql)[0][0])


async def test_bodies(patient: EstPKI, login: tuple[bytes, bytes]) -> None:
    """With a password that is good, so that everything gets as far as it can."""
    before, wrong = issued(patient), []
    for what, body in BODIES.items():
        for operation in POSTS:
            target = f"/.well-known/est/{operation}".encode()
            async with Client(patient.https_port, context(patient)) as client:
                reply = await client.send(Case(b"POST", target, (PKCS10, login), body))
            expected = (413,) if what.startswith("huge") else (400, 403)
            if reply.status not in expected:
                wrong.append((what, operation, reply.status, reply.body[:200]))
    assert not wrong
    assert issued(patient) == before


@pytest.mark.parametrize(
    ("method", "place", "headers", "status"),
    [
        (b"POST", b"simpleenroll", ((b"content-type", b"text/plain"),), 415),
        (b"POST", b"simpleenroll", (), 415),
        (b"POST", b"simpleenroll", (PKCS10,), 401),
        (b"POST", b"simpleenroll", (PKCS10, (b"authorization", b"Basic !")), 401),
        (b"POST", b"simpleenroll", (PKCS10, (b"authorization", b"Digest x")), 401),
        (b"GET", b"simpleenroll", (), 405),
        (b"POST", b"cacerts", (PKCS10,), 405),
        (b"POST", b"fullcmc", (PKCS10,), 404),
        (b"GET", b"", (), 404),
        (b"GET", b"nobody/cacerts", (), 404),
        (b"GET", b"default/default/cacerts", (), 404),
        (b"GET", b"..%2fest/cacerts", (), 404),
        (b"GET", b"%63acerts", (), 404),
    ],
)
async def test_requests(
    patient: EstPKI,
    method: bytes,
    place: bytes,
    headers: tuple[tuple[bytes, bytes], ...],
    status: int,
) -> None:
    """E26."""
    async with Client(patient.https_port, context(patient)) as client:
        body = TEXT if method == b"POST" else b""
        reply = await client.send(Case(method, b"/.well-known/est/" + place, headers, body))
    assert reply.status == status
    assert len(reply.body) < fuzz.MOST_TEXT


async def test_damaged_requests(patient: EstPKI, tmp_path: Path) -> None:
    """Some of what `make fuzz` sends for ten minutes."""
    ports = (patient.https_port, patient.http_port)
    subject = Subject(patient.command, patient.home, *ports, Path(), Path(), tmp_path / "device")
    await asyncio.to_thread(device_certificate, subject)
    make, rng = fuzz.cases(subject), random.Random(SEED)
    wrong: list[str] = []
    cases = iter([make(rng) for _ in range(CASES)])

    async def send() -> None:
        async with Client(patient.https_port, tls(subject)) as client:
            for case in cases:
                reply = await client.send(case)
                trouble = f"{reply.status}" if reply.status >= 500 else case.check(reply)
                if trouble:
                    wrong.append(f"{trouble}: {case.method!r} {case.target!r} {case.body.hex()}")

    await asyncio.gather(*(send() for _ in range(4)))
    assert not wrong, wrong[:5]
