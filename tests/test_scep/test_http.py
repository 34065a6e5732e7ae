"""Paths, methods, media types, and what devices do to HTTP (S11 to S20, S33, S36)."""

import asyncio
import base64
import datetime as dt
import functools
from collections.abc import Callable
from urllib.parse import quote

import httpx
import pytest

from pkiserver.ca.authority_rollover import Rotation
from pkiserver.ca.model import Reason, Requester
from pkiserver.cms import certs_only, oids, signed_data
from pkiserver.serving.connection import Timeouts
from pkiserver.serving.listeners import Listener, bind
from pkiserver.serving.worker import Server
from pkiserver.storage import Reader
from protocols.scep.http import label_of
from protocols.scep.remedies import remedy
from protocols.scep.store import related
from tests.test_scep.client import get_url, new_transaction
from tests.test_scep.conftest import OpenWorld
from tests.test_scep.world import World, application

PATHS = {
    "/scep/default": "default",
    "/scep/default/pkiclient.exe": "default",
    "/SCEP/Default/PKICLIENT.EXE": "default",
    "/scep/x/any/thing": "x",
    "/cgi-bin/pkiclient.exe": "default",
    "/CGI-BIN/pkiclient.exe/pkiclient.exe": "default",
    "/certsrv/mscep/mscep.dll": "default",
    "/certsrv/MSCEP/mscep.dll/pkiclient.exe": "default",
    "/certsrv/mscep_admin/": None,
    "/cgi-bin/pkiclient.exeX": None,
    "/scep": "",
    "/scepter": None,
    "/": None,
}


def test_paths() -> None:
    """S15."""
    assert {path: label_of(path) for path in PATHS} == PATHS


@pytest.mark.parametrize("path", [path for path, label in PATHS.items() if label == "default"])
async def test_every_path_answers(world: World, path: str) -> None:
    answer = await world.http.get(f"{path}?operation=GetCACaps")
    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/scep/nobody", "/scep", "/scep/", "/scep/%0Ax/pkiclient.exe"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_unknown_sections_are_a_404_that_says_so(
    world: World, path: str, method: str
) -> None:
    answer = await world.http.request(method, f"{path}?operation=GetCACaps")
    assert answer.status_code == 404 and answer.headers["content-type"].startswith("text/plain")
    assert answer.text.count("\n") == 1
    name = {"/scep/nobody": "nobody", "/scep/%0Ax/pkiclient.exe": "\\nx"}.get(path, "")
    assert answer.text.startswith(f"there is no SCEP service '{name}' here")


@pytest.mark.parametrize("message", ["", "&message=", "&message=0", "&message=CAIdentifier"])
async def test_capabilities(open_world: OpenWorld, message: str) -> None:
    """S2, S18, S24: text/plain, a keyword per line, SHA-1 only where it is served."""
    world = await open_world(old={"legacy": True})
    answer = await world.http.get(f"/scep/default?operation=GetCACaps{message}")
    assert answer.headers["content-type"] == "text/plain"
    words = answer.text.splitlines()
    assert {"AES", "DES3", "SHA-256", "SHA-384", "SHA-512", "POSTPKIOperation", "Renewal",
            "SCEPStandard"} == set(words)  # fmt: skip
    answer = await world.http.get(f"/scep/old?operation=GetCACaps{message}")
    assert "SHA-1" in answer.text.splitlines()


async def test_ca_certificates(open_world: OpenWorld) -> None:
    """S19 to S22: the RA first, exactly this media type, no content and no signer."""
    world = await open_world(short={"chain": "issuer"})
    answer = await world.http.get("/scep/default?operation=GetCACert&message=0")
    assert answer.headers["content-type"] == "application/x-x509-ca-ra-cert"
    signed = signed_data.parse(answer.content)
    assert (signed.content, signed.signers) == (None, ())
    ra, issuing, root = certs_only.parse(answer.content)
    assert [c.subject == c.issuer for c in (ra, issuing, root)] == [False, False, True]
    answer = await world.http.get("/scep/short?operation=GetCACert")
    assert certs_only.parse(answer.content) == (ra, issuing)
    answer = await world.http.get("/scep/default?operation=GetCACertChain")
    assert certs_only.parse(answer.content) == (issuing, root)


async def test_next_ca_only_when_there_is_one(world: World) -> None:
    """S33, RFC 8894 section 4.7: signed by the RA of today."""
    url = "/scep/default?operation=GetNextCACert"
    assert (await world.http.get(url)).status_code == 404
    services = world.runtime.services
    await services.authorities.rotate(
        "issuing", Rotation(activate_after=None), actor="test:operator"
    )
    following = services.authorities.next_certificate("issuing")
    assert following is not None
    assert "GetNextCACert" in (await world.http.get("/scep/default?operation=GetCACaps")).text
    answer = await world.http.get(url)
    assert answer.headers["content-type"] == "application/x-x509-next-ca-cert"
    signed = signed_data.parse(answer.content)
    ra = (await world.ca())[0]
    (signer,) = signed.signers
    signed_data.verify(signed, signer, ra.public_key())
    assert signed.content_type == oids.DATA and signed.content is not None
    assert certs_only.parse(signed.content) == (following,)
    device = await world.device()
    old = (await world.enrol(device)).certificate
    await services.authorities.activate("issuing", actor="test:operator")
    ra, issuing, _ = await world.ca()
    assert issuing == following
    ra.verify_directly_issued_by(issuing)
    device = (await world.device()).with_certificate(old)
    assert (await world.send(device, device.renewal_req())).status == "0", "of the CA before"
    assert (await world.send(device, device.get_crl(old))).status == "0"


FORMS: dict[str, Callable[[str], str]] = {
    "escaped": lambda text: quote(text, safe=""),
    "raw": lambda text: text,
    "plus as space": lambda text: text.replace("+", "%20").replace("=", "%3D"),
    "lines": lambda text: "%0A".join(text[n : n + 64] for n in range(0, len(text), 64)),
    "no padding": lambda text: quote(text.rstrip("="), safe=""),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
async def test_operation_by_get(world: World, form: Callable[[str], str]) -> None:
    """S12: Cisco IOS, old macOS, EJBCA's clients, strongSwan."""
    device = await world.device()
    message = device.pkcs_req(await world.challenge())
    answer = await world.http.get(f"/cgi-bin/pkiclient.exe?{get_url(message, form)}")
    assert answer.status_code == 200, answer.text
    assert device.read(answer.content).status == "0"


@pytest.mark.parametrize(
    "kind", [None, "", "application/octet-stream", "application/x-pki-message", "nonsense"]
)
@pytest.mark.parametrize("url", ["?operation=PKIOperation", "", "?operation=pkioperation"])
async def test_posts(world: World, kind: str | None, url: str) -> None:
    """S11: whatever the media type, with or without an operation."""
    device = await world.device()
    message = device.pkcs_req("x", transaction_id=new_transaction())
    headers = {} if kind is None else {"content-type": kind}
    answer = await world.http.post(f"/scep/default{url}", content=message, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/x-pki-message"


@pytest.mark.parametrize(
    ("method", "url", "body", "status"),
    [
        ("GET", "", b"", 400),
        ("GET", "?operation=Nonsense", b"", 400),
        ("GET", "?operation=PKIOperation", b"", 400),
        ("GET", "?operation=PKIOperation&message=%ff%fe", b"", 400),
        ("GET", "?operation=GetCACaps&operation=GetCACert", b"", 400),
        ("POST", "?operation=PKIOperation", b"", 400),
        ("POST", "?operation=PKIOperation", b"x" * (256 * 1024 + 1), 413),
        ("PUT", "?operation=PKIOperation", b"", 405),
        ("DELETE", "", b"", 405),
    ],
)
async def test_refusals_are_a_line_of_text(
    world: World, method: str, url: str, body: bytes, status: int
) -> None:
    """S36: a status and a line, no stack."""
    answer = await world.http.request(method, f"/scep/default{url}", content=body)
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.text.count("\n") == 1 and "Traceback" not in answer.text


async def test_over_https_too(world: World) -> None:
    transport = httpx.ASGITransport(application(world.runtime, plain=False))
    async with httpx.AsyncClient(transport=transport, base_url="https://scep.test") as http:
        assert (await http.get("/scep/default?operation=GetCACaps")).status_code == 200


async def test_devices_on_the_wire(world: World) -> None:
    """S13, S14, S16, S17: plain HTTP, HTTP/1.0 and 1.1 without Host, long URLs in small pieces."""
    device = await world.device()
    challenge = await world.challenge()
    lenient = world.runtime.lenient
    listener = Listener(
        bind("127.0.0.1", 0), application(world.runtime), timeouts=Timeouts(lenient=lenient)
    )
    server = Server([listener])
    await server.start()
    try:
        long = device.pkcs_req("x" * 16000, ber=True, transaction_id=new_transaction())
        assert len(base64.b64encode(long)) > 20_000
        for version, message, status in (
            ("1.0", device.pkcs_req(challenge), "0"),
            ("1.1", device.pkcs_req("again"), "0"),
            ("1.1", long, "2"),
        ):
            head = f"GET /scep/default/pkiclient.exe?{get_url(message)} HTTP/{version}\r\n\r\n"
            body = await _exchange(listener.address, head.encode())
            assert device.read(body).status == status
    finally:
        await server.stop(1.0)
        listener.sock.close()


async def _exchange(address: tuple[str, int], head: bytes) -> bytes:
    """Sent in pieces as small as a network's."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        for start in range(0, len(head), 1400):
            writer.write(head[start : start + 1400])
            await writer.drain()
            await asyncio.sleep(0)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        assert answer.startswith("http/1.1 200 "), answer
        length = int(answer.split("content-length: ")[1].split("\r\n")[0])
        return await reader.readexactly(length)
    finally:
        writer.close()


# The registration authority over time


async def test_rotation_with_overlap(open_world: OpenWorld) -> None:
    """A third of the lifetime before the end there is a new one; the old one still decrypts."""
    world = await open_world()
    old = await world.device()
    world.clock.advance(dt.timedelta(days=250))
    new = await world.device()
    assert new.ra != old.ra
    message = old.pkcs_req(await world.challenge())
    answer = await world.post(message)
    rep = old.read(answer.content)
    assert rep.status == "0", rep.text
    world.clock.advance(dt.timedelta(days=200))
    answer = await world.post(old.pkcs_req("x", transaction_id=new_transaction()))
    latest = await world.device()
    assert latest.read(answer.content).text is not None
    jobs = {job.name: job for job in world.runtime.protocols["scep"].jobs}
    await jobs["scep-registration"].run()
    rows = await world.rows("SELECT key_id FROM scep_registrations")
    keys = {path.stem for path in (world.runtime.services.settings.home / "keys").glob("scep-*")}
    assert {row[0] for row in rows} == keys and len(rows) == 1, "the first one is over"


async def test_one_registration_authority_for_all_processes(open_world: OpenWorld) -> None:
    worlds = [await open_world(), await open_world()]
    await worlds[0].runtime.services.database.write(
        lambda tx: tx.execute("DELETE FROM scep_registrations")
    )
    found = await asyncio.gather(*(worlds[n % 2].ca() for n in range(6)))
    assert len({certificates[0] for certificates in found}) == 1
    rows = await worlds[0].rows("SELECT count(*) FROM scep_registrations")
    assert rows == [(1,)]


async def test_a_revoked_registration_authority_is_replaced(world: World) -> None:
    ra = (await world.ca())[0]
    await world.runtime.services.revocation.revoke(
        "issuing", ra.serial_number, Reason.KEY_COMPROMISE, actor=Requester("test", "x")
    )
    assert (await world.ca())[0] != ra


async def test_purge(open_world: OpenWorld) -> None:
    world = await open_world()
    await world.enrol(await world.device())
    jobs = {job.name: job for job in world.runtime.protocols["scep"].jobs}
    await jobs["scep-clean"].run()
    assert await world.rows("SELECT count(*) FROM scep_transactions") == [(1,)]
    world.clock.advance(dt.timedelta(days=31))
    await jobs["scep-clean"].run()
    assert await world.rows("SELECT count(*) FROM scep_transactions") == [(0,)]


async def test_the_story_of_a_transaction(world: World) -> None:
    """`pkiserver why`: from the transactionID to the certificate and back, with a remedy."""
    device = await world.device()
    certificate = (await world.enrol(device)).certificate
    (row,) = await world.rows("SELECT transaction_id, certificate FROM scep_transactions")
    database = world.runtime.services.database
    for name in row:
        assert set(row) == set(await database.read(functools.partial(_stories, name)))
    assert certificate is not None
    stranger = await world.device(number=1)
    await world.send(stranger, stranger.message("19", b"x", recipient=stranger.certificate))
    (refusal,) = await world.refusals()
    assert "GetCACert" in (remedy("scep.refuse", refusal) or "")
    assert remedy("certificate.refuse", refusal) is None


def _stories(name: str, reader: Reader) -> list[str]:
    return related(reader, name)
