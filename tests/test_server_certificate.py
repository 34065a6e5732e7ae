"""The HTTPS listener's own certificate: made, renewed and taken up without a restart; and one the
operator brings."""

import asyncio
import datetime as dt
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from pkiserver import run
from pkiserver.app import Runtime, load_settings, open_runtime
from pkiserver.ca.authorities import Rotation
from pkiserver.ca.model import Reason, Requester
from pkiserver.clock import FixedClock, SystemClock
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.home import Home
from pkiserver.initialise import NewHome, initialise
from pkiserver.server import Server, bind
from pkiserver.server_certificate import ServerCertificate

ACTOR = Requester("test", "tester")
DAY = dt.timedelta(days=1)


@pytest.fixture(scope="session")
def made_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("certificate") / "pki"
    initialise(home, NewHome(root_key="p256"))
    return home


@pytest.fixture
def home(made_home: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "pki"
    shutil.copytree(made_home, copy)
    return copy


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(SystemClock().now())


@asynccontextmanager
async def opened(home: Path, clock: FixedClock) -> AsyncIterator[Runtime]:
    async with open_runtime(load_settings(home), clock=clock) as runtime:
        yield runtime


def leaf(home: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificates(Home(home).server_pem.read_bytes())[0]


async def ensure(runtime: Runtime) -> None:
    await ServerCertificate(runtime.services, runtime.keys).ensure()


def configure(home: Path, *lines: str) -> None:
    text = "[server]\n" + "\n".join(lines) + "\n[acme.default]\n"
    (home / "pkiserver.toml").write_text(text, encoding="utf-8")


async def test_it_is_renewed_when_a_third_is_left_and_not_before(
    home: Path, clock: FixedClock
) -> None:
    first = leaf(home)
    async with opened(home, clock) as runtime:
        for days, renewed in ((0, False), (59, False), (2, True)):
            clock.advance(days * DAY)
            await ensure(runtime)
            assert (leaf(home) != first) is renewed
        assert leaf(home).not_valid_after_utc > clock.now() + 89 * DAY
        row = await runtime.services.database.read(
            lambda reader: reader.one(
                "SELECT COUNT(*) FROM certificates WHERE requester = 'server:https'"
            )
        )
    assert row == (2,)


async def test_its_key_is_encrypted_and_only_ours_to_read(home: Path) -> None:
    """Invariant 8: private keys never leave in the clear."""
    path = Home(home).server_pem
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"BEGIN ENCRYPTED PRIVATE KEY" in path.read_bytes()
    assert b"BEGIN PRIVATE KEY" not in path.read_bytes()


@pytest.mark.parametrize("hostname", ["pki.example.com", "192.0.2.1", "2001:db8::1"])
async def test_another_hostname_makes_another_certificate(
    home: Path, clock: FixedClock, hostname: str
) -> None:
    configure(home, f'hostname = "{hostname}"')
    async with opened(home, clock) as runtime:
        await ensure(runtime)
        names = leaf(home).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert [str(name.value) for name in names] == [hostname]
        again = leaf(home)
        await ensure(runtime)
        assert leaf(home) == again


async def test_a_revoked_one_is_replaced(home: Path, clock: FixedClock) -> None:
    first = leaf(home)
    async with opened(home, clock) as runtime:
        await runtime.services.revocation.revoke(
            "issuing", first.serial_number, Reason.KEY_COMPROMISE, actor=ACTOR
        )
        await ensure(runtime)
        await runtime.services.status.settle()
    assert leaf(home).serial_number != first.serial_number
    assert leaf(home).public_key() != first.public_key()


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "another key", "another passphrase"])
async def test_a_damaged_file_is_replaced(home: Path, clock: FixedClock, damage: str) -> None:
    path = Home(home).server_pem
    pem = path.read_bytes()
    other = trustme.CA().issue_cert("localhost")
    key = serialization.load_pem_private_key(other.private_key_pem.bytes(), None)
    end = b"-----END ENCRYPTED PRIVATE KEY-----\n"
    foreign = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"another"),
    )
    match damage:
        case "gone":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(pem[:200])
        case "another key":
            path.write_bytes(other.private_key_pem.bytes() + pem.partition(end)[2])
        case "another passphrase":
            path.write_bytes(foreign + pem.partition(end)[2])
    async with opened(home, clock) as runtime:
        await ensure(runtime)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path, password=runtime.keys.passphrase())


async def test_an_authority_that_is_away_ends_no_server_whose_certificate_is_good(
    home: Path, clock: FixedClock
) -> None:
    first = leaf(home)
    (home / "keys" / "issuing.key").rename(home / "issuing.key")
    async with opened(home, clock) as runtime:
        clock.advance(80 * DAY)
        await ensure(runtime)
        assert leaf(home) == first
        clock.advance(20 * DAY)
        with pytest.raises(PKIError) as caught:
            await ensure(runtime)
        assert caught.value.code is ErrorCode.UNAVAILABLE


def sent(home: Path) -> list[str]:
    """The subjects of what clients get."""
    chain = x509.load_pem_x509_certificates(Home(home).server_pem.read_bytes())
    return [each.subject.rfc4514_string() for each in chain[1:]]


async def test_it_follows_the_line_of_its_issuer_and_carries_the_links_of_its_root(
    home: Path, clock: FixedClock
) -> None:
    """With the link, clients that trust only an older or only a newer root accept it."""
    first = leaf(home)
    by_hand = Rotation(activate_after=None)
    async with opened(home, clock) as runtime:
        authorities = runtime.services.authorities
        await authorities.rotate("issuing", by_hand, actor="test:tester")
        await ensure(runtime)
        assert leaf(home) == first, "the next generation has not taken over"
        await authorities.activate("issuing", actor="test:tester")
        await ensure(runtime)
        leaf(home).verify_directly_issued_by(authorities.certificate("issuing-2"))
        assert sent(home) == ["CN=pkiserver Issuing CA G2"]
        await authorities.rotate("root", by_hand, actor="test:tester")
        await ensure(runtime)
        assert sent(home) == ["CN=pkiserver Issuing CA G2", "CN=pkiserver Root CA"]
        settled = leaf(home)
        await ensure(runtime)
        assert leaf(home) == settled


async def fetch(port: int, home: Path) -> tuple[bytes, x509.Certificate]:
    """The answer to a request on a new connection, verified, and the certificate."""
    context = ssl.create_default_context(cafile=str(Home(home).root_pem))
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname="localhost"
    )
    certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    await writer.wait_closed()
    return answer, x509.load_der_x509_certificate(certificate)


async def test_a_running_server_takes_the_new_certificate_up(home: Path) -> None:
    """Connections of before go on; handshakes from then on show the new one."""
    https, http = bind("127.0.0.1", 0), bind("127.0.0.1", 0)
    port = https.getsockname()[1]
    clock = FixedClock(SystemClock().now())
    async with opened(home, clock) as runtime, runtime.serving():
        server = Server(run.listeners(runtime, https, http))
        await server.start()
        context = ssl.create_default_context(cafile=str(Home(home).root_pem))
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname="localhost"
        )
        answer, before = await fetch(port, home)
        assert answer.startswith(b"HTTP/1.1 200") and before == leaf(home)

        await runtime.services.revocation.revoke(
            "issuing", before.serial_number, Reason.SUPERSEDED, actor=ACTOR
        )
        await ensure(runtime)
        await server.reload()
        answer, after = await fetch(port, home)
        assert answer.startswith(b"HTTP/1.1 200")
        assert after == leaf(home) != before

        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 200")
        writer.close()
        await writer.wait_closed()
        await server.stop(1.0)
    https.close()
    http.close()


# A certificate the operator brings


def bring(home: Path, *, encrypted: bool = False, of_another: bool = False) -> trustme.CA:
    ca = trustme.CA()
    issued, other = ca.issue_cert("localhost"), ca.issue_cert("localhost")
    key = (other if of_another else issued).private_key_pem.bytes()
    if encrypted:
        key = serialization.load_pem_private_key(key, None).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"hunter2"),
        )
    (home / "brought.crt").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    (home / "brought.key").write_bytes(key)
    configure(home, 'certificate = "brought.crt"', 'certificate_key = "brought.key"')
    return ca


async def test_it_is_served_and_left_alone(home: Path, clock: FixedClock) -> None:
    ca = bring(home)
    ours = leaf(home)
    https, http = bind("127.0.0.1", 0), bind("127.0.0.1", 0)
    async with opened(home, clock) as runtime, runtime.serving():
        clock.advance(80 * DAY)
        await ensure(runtime)
        assert leaf(home) == ours
        server = Server(run.listeners(runtime, https, http))
        await server.start()
        context = ssl.create_default_context()
        ca.configure_trust(context)
        _, writer = await asyncio.open_connection(
            *https.getsockname(), ssl=context, server_hostname="localhost"
        )
        writer.close()
        await writer.wait_closed()
        await server.stop(1.0)
    https.close()
    http.close()
    assert await run.check(load_settings(home)) == []


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("missing", "No such file"),
        ("of another", "the key is that of another certificate"),
        ("encrypted", "the key is encrypted"),
        ("no PEM", "not a PEM chain"),
    ],
)
async def test_check_says_what_is_wrong_with_it(home: Path, mistake: str, message: str) -> None:
    bring(home, encrypted=mistake == "encrypted", of_another=mistake == "of another")
    if mistake == "missing":
        (home / "brought.key").unlink()
    if mistake == "no PEM":
        (home / "brought.crt").write_bytes(b"\x30\x03\x02\x01\x00")
    (line,) = await run.check(load_settings(home))
    assert line.startswith(f"{home}/pkiserver.toml: server.certificate: cannot use certificate")
    assert message in line and "hunter2" not in line
