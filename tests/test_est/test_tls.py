"""EST as it is served: real TLS 1.2 and 1.3, client certificates, octets on the wire."""

import base64
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from pkiserver.app import Runtime
from pkiserver.ca.model import Reason, Requester
from pkiserver.cms import certs_only
from pkiserver.errors import PKIError
from pkiserver.pkix.pem import pem_chain
from pkiserver.run import listeners
from pkiserver.server import Server, bind
from pkiserver.testing import PKI
from tests.test_est.conftest import OpenWorld
from tests.test_est.support import (
    PASSWORD,
    PKCS10,
    Factory,
    Held,
    issued,
    make_csr,
    new_key,
)
from tests.test_est.support import World as InProcess

BOTH = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
ALICE = ("alice", PASSWORD)
CONFIGURATION = """
[est.default]
[est.factory]
auth = ["mtls"]
client_ca = ["FACTORY"]
[est.linked]
proof_of_possession = "required"
"""


@pytest.fixture(scope="module")
def served(
    pki_factory: Callable[..., PKI], factory: Factory, tmp_path_factory: pytest.TempPathFactory
) -> PKI:
    path = tmp_path_factory.mktemp("anchors") / "factory.pem"
    path.write_bytes(pem_chain([factory.root.certificate]))
    pki = pki_factory(configuration=CONFIGURATION.replace("FACTORY", str(path)))

    async def add_users(runtime: Runtime) -> None:
        from pkiserver.clock import FixedClock

        world = InProcess(runtime, FixedClock(runtime.services.clock.now()))
        await world.add_user()
        await world.add_user(label="linked")

    pki._worker.wait_for(add_users)
    return pki


def context(
    pki: PKI, tmp_path: Path, held: Held | None = None, *chain: Held, version: ssl.TLSVersion
) -> ssl.SSLContext:
    found = ssl.create_default_context(cafile=str(pki.root_pem))
    found.minimum_version = found.maximum_version = version
    if held is not None:
        path = tmp_path / f"{held.certificate.serial_number}.pem"
        key = held.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.write_bytes(key + pem_chain([each.certificate for each in (held, *chain)]))
        found.load_cert_chain(path)
    return found


@contextmanager
def connected(pki: PKI, tls: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    port = int(pki.https_base.rpartition(":")[2])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as sock,
        tls.wrap_socket(sock, server_hostname="localhost") as wrapped,
    ):
        yield wrapped


def basic() -> str:
    return "Basic " + base64.b64encode(":".join(ALICE).encode()).decode()


def exchange(sock: ssl.SSLSocket, request: bytes) -> bytes:
    sock.sendall(request)
    found = b""
    while data := sock.recv(65536):
        found += data
    return found


def raw(path: str, body: bytes, *fields: str, version: str = "1.1") -> bytes:
    head = [
        f"POST /.well-known/est/{path} HTTP/{version}",
        *(["Host: localhost"] if version == "1.1" else []),
        "Content-Type: application/pkcs10",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *fields,
    ]
    return "\r\n".join([*head, "", ""]).encode() + body


@pytest.mark.parametrize("version", BOTH)
def test_enrol_and_renew(served: PKI, tmp_path: Path, version: ssl.TLSVersion) -> None:
    """E9, E20, E21: a password, then the certificate, on the same listener."""
    key = new_key()
    anonymous = context(served, tmp_path, version=version)
    with httpx.Client(verify=anonymous) as client:
        url = f"{served.https_base}/.well-known/est"
        body = base64.b64encode(make_csr("dev1", key=key))
        first = client.post(f"{url}/simpleenroll", content=body, headers=PKCS10, auth=ALICE)
    held = Held(issued(first), key)
    chain = served._worker.runtime.services.authorities.chain("issuing")
    with_certificate = context(
        served, tmp_path, held, *(Held(each, key) for each in chain), version=version
    )
    for http2 in (False, True):
        with httpx.Client(verify=with_certificate, http2=http2) as client:
            body = base64.b64encode(make_csr("dev1"))
            answer = client.post(f"{url}/simplereenroll", content=body, headers=PKCS10)
        assert issued(answer).subject.rfc4514_string() == "CN=dev1"
        assert answer.http_version == ("HTTP/2" if http2 else "HTTP/1.1")


@pytest.mark.parametrize("version", BOTH)
def test_factory_certificates(
    served: PKI, tmp_path: Path, factory: Factory, version: ssl.TLSVersion
) -> None:
    """E22: outside anchors are known to the listener, and only their label takes them; also on a
    connection that resumes a session."""
    device = factory.device("SN-9")
    tls = context(served, tmp_path, device, factory.issuing, version=version)
    url = f"{served.https_base}/.well-known/est"
    body = base64.b64encode(make_csr("SN-9"))
    for _ in range(3):
        with httpx.Client(verify=tls) as client:
            mine = client.post(f"{url}/factory/simpleenroll", content=body, headers=PKCS10)
            other = client.post(f"{url}/simpleenroll", content=body, headers=PKCS10)
        assert (mine.status_code, other.status_code) == (200, 401)


@pytest.mark.parametrize("version", BOTH)
def test_a_resumed_session_has_the_whole_chain(
    served: PKI, tmp_path: Path, factory: Factory, version: ssl.TLSVersion
) -> None:
    device = factory.device("SN-10")
    tls = context(served, tmp_path, device, factory.issuing, version=version)
    request = raw("factory/simpleenroll", base64.b64encode(make_csr("SN-10")))
    port = int(served.https_base.rpartition(":")[2])
    session = None
    for _ in range(2):
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as sock,
            tls.wrap_socket(sock, server_hostname="localhost", session=session) as wrapped,
        ):
            assert exchange(wrapped, request).startswith(b"HTTP/1.1 200 ")
            assert wrapped.session_reused == (session is not None)
            session = wrapped.session


@pytest.mark.parametrize("version", BOTH)
def test_a_resumed_session_is_no_way_round_revocation(
    served: PKI, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """TLS believes the certificate of the session; its status is looked up for each request."""
    key = new_key()
    with connected(served, context(served, tmp_path, version=version)) as first:
        body = base64.b64encode(make_csr("resumed", key=key))
        answer = exchange(first, raw("simpleenroll", body, f"Authorization: {basic()}"))
    message = base64.b64decode(answer.partition(b"\r\n\r\n")[2])
    held = Held(certs_only.parse(message)[0], key)
    tls = context(served, tmp_path, held, version=version)
    port = int(served.https_base.rpartition(":")[2])
    request = raw("simplereenroll", base64.b64encode(make_csr("resumed")))
    session = None
    for status in (b"200", b"401"):
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as sock,
            tls.wrap_socket(sock, server_hostname="localhost", session=session) as wrapped,
        ):
            assert exchange(wrapped, request).startswith(b"HTTP/1.1 " + status)
            assert wrapped.session_reused == (session is not None)
            session = wrapped.session
        served._worker.wait_for(lambda runtime: revoked(runtime, held))


async def revoked(runtime: Runtime, held: Held) -> None:
    with contextlib.suppress(PKIError):  # it is already
        await runtime.services.revocation.revoke(
            "issuing",
            held.certificate.serial_number,
            Reason.SUPERSEDED,
            actor=Requester("test", "pytest"),
        )


def test_tls_unique_links_the_request(served: PKI, tmp_path: Path) -> None:
    """E14, as the client computes it; on TLS 1.3 such a label says why not (E16)."""
    tls = context(served, tmp_path, version=ssl.TLSVersion.TLSv1_2)
    for right in (True, False):
        with connected(served, tls) as sock:
            unique = sock.get_channel_binding("tls-unique") or b""
            text = base64.b64encode(unique if right else unique[::-1]).decode()
            body = base64.b64encode(make_csr(challenge=text))
            answer = exchange(sock, raw("linked/simpleenroll", body, f"Authorization: {basic()}"))
        assert answer.startswith(b"HTTP/1.1 200 " if right else b"HTTP/1.1 403 ")
    tls = context(served, tmp_path, version=ssl.TLSVersion.TLSv1_3)
    with connected(served, tls) as sock:
        body = base64.b64encode(make_csr(challenge="x"))
        answer = exchange(sock, raw("linked/simpleenroll", body, f"Authorization: {basic()}"))
    assert answer.startswith(b"HTTP/1.1 403 ") and b"TLS 1.2" in answer


@pytest.mark.parametrize("version", BOTH)
def test_the_octets_of_an_answer(served: PKI, tmp_path: Path, version: ssl.TLSVersion) -> None:
    """E1 to E5: names of fields as clients compare them, a short head, and all in one record."""
    tls = context(served, tmp_path, version=version)
    with connected(served, tls) as sock:
        body = base64.b64encode(make_csr())
        sock.sendall(raw("simpleenroll", body, f"Authorization: {basic()}"))
        first = sock.recv(65536)
        rest = sock.recv(65536)
    head, _, content = first.partition(b"\r\n\r\n")
    assert rest == b""  # closed, as was asked for (E3)
    assert len(head) < 1024
    assert b"\r\nContent-Length: %d\r\n" % len(content) in head
    assert b"\r\nContent-Type: application/pkcs7-mime; smime-type=certs-only\r\n" in head
    assert head.lower().count(b"content-length") == 1
    assert b"chunked" not in head.lower()
    assert b"\n" not in content


def test_http_1_0_without_host(served: PKI, tmp_path: Path) -> None:
    """E29."""
    tls = context(served, tmp_path, version=ssl.TLSVersion.TLSv1_2)
    with connected(served, tls) as sock:
        body = base64.b64encode(make_csr())
        answer = exchange(
            sock, raw("simpleenroll", body, f"Authorization: {basic()}", version="1.0")
        )
    assert b" 200 " in answer.partition(b"\r\n")[0]


def test_401_then_the_same_connection(served: PKI, tmp_path: Path) -> None:
    """E28: clients that wait to be asked for the password."""
    tls = context(served, tmp_path, version=ssl.TLSVersion.TLSv1_2)
    body = base64.b64encode(make_csr())
    with connected(served, tls) as sock:
        sock.sendall(raw("simpleenroll", body).replace(b"Connection: close\r\n", b""))
        refused = sock.recv(65536)
        answer = exchange(sock, raw("simpleenroll", body, f"Authorization: {basic()}"))
    assert refused.startswith(b"HTTP/1.1 401 ") and refused.endswith(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_est_is_not_on_the_plain_listener(served: PKI) -> None:
    answer = httpx.get(f"{served.http_base}/.well-known/est/cacerts")
    assert answer.status_code == 404


async def test_a_listener_of_its_own(open_world: OpenWorld, tmp_path: Path) -> None:
    """server.mtls: there clients are asked for a certificate, on the main listener never."""
    world = await open_world('[server]\nmtls = "127.0.0.1:1"\n[est.default]\n')
    await world.add_user()
    held = await world.enroll("dev1")
    assert world.runtime.services.settings.server.mtls_base == "https://localhost:1"
    sockets = [bind("127.0.0.1", 0) for _ in range(3)]
    server = Server(listeners(world.runtime, *sockets))
    await server.start()
    try:
        root = world.runtime.services.settings.home / "root.pem"
        found = []
        for sock in (sockets[0], sockets[2]):
            tls = ssl.create_default_context(cafile=str(root))
            path = tmp_path / "held.pem"
            key = held.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            path.write_bytes(key + pem_chain([held.certificate]))
            tls.load_cert_chain(path)
            async with httpx.AsyncClient(verify=tls) as client:
                answer = await client.post(
                    f"https://localhost:{sock.getsockname()[1]}/.well-known/est/simplereenroll",
                    content=base64.b64encode(make_csr("dev1")),
                    headers=PKCS10,
                )
            found.append(answer.status_code)
        assert found == [401, 200]
    finally:
        await server.stop(0.5)
        for sock in sockets:
            sock.close()
