"""Finalizing: RFC 8555 section 7.4; checklist items 19 to 22, 60. CAA: RFC 8659 and 8657."""

import asyncio
import hashlib
import ipaddress
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from interop import acme_sh
from protocols.acme.challenges import FailureKind
from protocols.acme.challenges.model import CAARecord
from tests.test_acme.client import ACMEClient, b64, make_csr
from tests.test_acme.conftest import OpenWorld
from tests.test_acme.world import World, problem

NAME = "www.example.org"


async def test_the_answer(world: World, client: ACMEClient) -> None:
    """Checklist 19 and 20: 200, the order, Location; valid for good."""
    order = await world.ready_order(client, NAME)
    csr, key = make_csr([NAME])
    response = await client.finalize(order, csr)
    assert response.status_code == 200
    assert response.headers["location"] == order["url"]
    assert "retry-after" not in response.headers
    body = response.json()
    assert body["status"] == "valid"
    assert acme_sh.certificate_url(response.content) == body["certificate"]
    assert (await client.post(order["url"])).json() == body
    chain = await client.post(body["certificate"])
    leaf = x509.load_pem_x509_certificates(chain.content)[0]
    assert leaf.public_key() == key.public_key()
    ((identifier, requester, _),) = await world.issued()
    assert requester == f"acme:{str(client.signer.kid).rpartition('/')[2]}"
    assert body["certificate"].endswith(f"/cert/{identifier}")


async def test_two_durable_transactions(world: World, client: ACMEClient) -> None:
    """Nothing is written but the intent and the certificate."""
    order = await world.ready_order(client, NAME)
    database = world.runtime.services.database
    written = 0
    real = database.write

    async def counting(work: Any) -> Any:
        nonlocal written
        written += 1
        return await real(work)

    database.write = counting  # type: ignore[method-assign]
    csr, _ = make_csr([NAME])
    assert (await client.finalize(order, csr)).json()["status"] == "valid"
    assert written == 2


async def test_padded_csr(world: World, client: ACMEClient) -> None:
    """Checklist section 2 item 12."""
    order = await world.ready_order(client, NAME)
    csr, _ = make_csr([NAME])
    padded = b64(csr) + "=" * (-len(b64(csr)) % 4)
    assert (await client.post(order["finalize"], {"csr": padded})).json()["status"] == "valid"


async def test_again_with_the_same_csr(world: World, client: ACMEClient) -> None:
    """Checklist 21: answered with the order; another CSR with orderNotReady and 403."""
    order = await world.ready_order(client, NAME)
    csr, _ = make_csr([NAME])
    first = await client.finalize(order, csr)
    again = await client.finalize(order, csr)
    assert (again.status_code, again.json()) == (200, first.json())
    other, _ = make_csr([NAME])
    problem(await client.finalize(order, other), 403, "orderNotReady")
    assert len(await world.issued()) == 1


async def test_not_ready(client: ACMEClient) -> None:
    order = await client.new_order([NAME])
    csr, _ = make_csr([NAME])
    body = problem(await client.finalize(order.json(), csr), 403, "orderNotReady")
    assert "pending" in body["detail"]


def csr_with(
    *names: x509.GeneralName, cn: str | None = None, key: Any = None, extensions: Any = ()
) -> bytes:
    subject = [] if cn is None else [x509.NameAttribute(NameOID.COMMON_NAME, cn)]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    key = key or ec.generate_private_key(ec.SECP256R1())
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


DNS = x509.DNSName(NAME)
REFUSED: dict[str, Callable[[], bytes]] = {
    "another name": lambda: csr_with(x509.DNSName("other.example.org")),
    "one more name (CVE-2022-34831)": lambda: csr_with(DNS, x509.DNSName("other.example.org")),
    "no names": lambda: csr_with(),
    "an address": lambda: csr_with(DNS, x509.IPAddress(ipaddress.ip_address("192.0.2.1"))),
    "an e-mail address": lambda: csr_with(DNS, x509.RFC822Name("a@example.org")),
    "a URI": lambda: csr_with(DNS, x509.UniformResourceIdentifier("https://www.example.org/")),
    "another common name": lambda: csr_with(DNS, cn="other.example.org"),
    "a common name that is text": lambda: csr_with(DNS, cn="Some Company"),
    "a wildcard": lambda: csr_with(x509.DNSName("*.example.org")),
    "a CA": lambda: csr_with(DNS, extensions=[x509.BasicConstraints(ca=True, path_length=None)]),
    "OCSP signing": lambda: csr_with(
        DNS, extensions=[x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING])]
    ),
    "a broken signature": lambda: csr_with(DNS)[:-4] + b"\0\0\0\0",
    "a trailing octet": lambda: csr_with(DNS) + b"\0",
    "no CSR": lambda: b"\x30\x00",
}


@pytest.mark.parametrize("what", REFUSED)
async def test_refused_csr(world: World, client: ACMEClient, what: str) -> None:
    """Section 7.4 and checklist 60: badCSR, and the order can be finalized with a better one."""
    order = await world.ready_order(client, NAME)
    before = await world.contents()
    problem(await client.finalize(order, REFUSED[what]()), 400, "badCSR")
    assert await world.contents() == before
    assert len(await world.audit("certificate.refuse")) == 1
    good, _ = make_csr([NAME])
    assert (await client.finalize(order, good)).json()["status"] == "valid"


@pytest.mark.parametrize("requires_approval", [False, True])
async def test_names_the_account_may_not_have_any_more(
    open_world: OpenWorld, requires_approval: bool
) -> None:
    """The operator has bound the account to other names since the order was made."""
    profiles = {"tls-server": {"validity": "90d", "requires_approval": requires_approval}}
    world = await open_world(profiles=profiles)
    client = await world.account()
    order = await world.ready_order(client, NAME)
    accounts = world.endpoints["default"].accounts
    account_id = str(client.signer.kid).rsplit("/", 1)[1]
    await accounts.restrict(account_id, ("*.example.net",), actor="cli:ops")
    body = problem(await client.finalize(order, csr_with(DNS)), 403, "rejectedIdentifier")
    assert "the account is not good for this name" in body["detail"]
    assert await world.issued() == []
    assert len(await world.audit("certificate.refuse")) == 1
    await accounts.restrict(account_id, ("*.example.org",), actor="cli:ops")
    status = "processing" if requires_approval else "valid"
    assert (await client.finalize(order, csr_with(DNS))).json()["status"] == status


async def test_weak_key(world: World, client: ACMEClient) -> None:
    order = await world.ready_order(client, NAME)
    weak = rsa.generate_private_key(65537, 1024)
    problem(await client.finalize(order, csr_with(DNS, key=weak)), 400, "badPublicKey")
    assert (await client.post(order["url"])).json()["status"] == "ready"


async def test_account_key(world: World, client: ACMEClient) -> None:
    """Section 11.1."""
    order = await world.ready_order(client, NAME)
    own = csr_with(DNS, key=client.signer.key)
    body = problem(await client.finalize(order, own), 400, "badCSR")
    assert "account" in body["detail"]
    assert await world.issued() == []
    assert len(await world.audit("certificate.refuse")) == 1


@pytest.mark.parametrize(
    "payload", [{}, {"csr": ""}, {"csr": 1}, {"csr": "***"}, {"csr": "AAA\u00e9"}, b"", b"[]"]
)
async def test_malformed(world: World, client: ACMEClient, payload: object) -> None:
    order = await world.ready_order(client, NAME)
    problem(await client.post(order["finalize"], payload), 400, "malformed")


async def test_common_name_and_case(world: World, client: ACMEClient) -> None:
    """Checklist 60: certbot's empty subject, acme.sh's common name, any case, duplicates."""
    order = await world.ready_order(client, NAME)
    csr = csr_with(x509.DNSName("WWW.example.org"), DNS, cn="www.EXAMPLE.org")
    assert (await client.finalize(order, csr)).json()["status"] == "valid"


async def test_blocked_key(world: World, client: ACMEClient) -> None:
    """A key that was reported as compromised is not certified again."""
    issued = await world.issue(client, NAME)
    der = issued.certificate.public_bytes(Encoding.DER)
    assert (await client.revoke(der, reason=1)).status_code == 200
    order = await world.ready_order(client, NAME)
    problem(await client.finalize(order, csr_with(DNS, key=issued.key)), 400, "badPublicKey")


async def test_processing(world: World, client: ACMEClient) -> None:
    """Checklist 20, 22, 23: `processing` with a small integer Retry-After, polled to `valid`; the
    signing goes on though nobody waits."""
    order = await world.ready_order(client, NAME)
    finalizer = world.endpoints["default"].finalizer
    finalizer._patience = 0
    csr, _ = make_csr([NAME])
    response = await client.finalize(order, csr)
    assert response.json()["status"] == "processing"
    assert response.headers["retry-after"] == "1"
    assert acme_sh.retry_after(list(response.headers.items())) == 1
    assert response.headers["location"] == order["url"]
    assert "certificate" not in response.json()
    await finalizer.stop()
    polled = await client.post(order["url"])
    assert polled.json()["status"] == "valid"
    assert "retry-after" not in polled.headers


async def test_authorization_lost_before_finalizing(world: World, client: ACMEClient) -> None:
    order = await world.ready_order(client, NAME)
    await client.post(order["authorizations"][0], {"status": "deactivated"})
    csr, _ = make_csr([NAME])
    problem(await client.finalize(order, csr), 403, "orderNotReady")


CAA = {"profile": "checked", "caa_identities": ["ca.example"]}


def record(value: str, tag: str = "issue") -> CAARecord:
    return CAARecord(0, tag, value.encode())


async def finalized(world: World, client: ACMEClient, *names: str, **more: Any) -> httpx.Response:
    order = await world.ready_order(client, *names, **more)
    csr, _ = make_csr(names)
    return await client.finalize(order, csr)


async def test_caa(open_world: OpenWorld) -> None:
    """RFC 8659: looked up just before issuing, the closest record set decides."""
    world = await open_world(default=CAA)
    client = await world.account()
    assert (await finalized(world, client, NAME)).json()["status"] == "valid", "no records"
    world.prober.caa["example.org"] = [record("other.example")]
    issued = await world.issued()
    body = problem(await finalized(world, client, NAME), 403, "caa")
    (cause,) = body["subproblems"]
    assert cause["identifier"] == {"type": "dns", "value": NAME}
    assert await world.issued() == issued
    assert len(await world.audit("certificate.refuse")) == 1
    world.prober.caa["www.example.org"] = [record("ca.example")]
    assert (await finalized(world, client, NAME)).json()["status"] == "valid"


async def test_caa_for_wildcards_methods_and_accounts(open_world: OpenWorld) -> None:
    """RFC 8659 section 4.3 and RFC 8657."""
    world = await open_world(default=CAA)
    client = await world.account()
    world.prober.caa["example.org"] = [record("ca.example"), record(";", "issuewild")]
    response = await finalized(world, client, "*.example.org", challenge="dns-01")
    problem(response, 403, "caa")
    world.prober.caa["example.org"] = [record("ca.example; validationmethods=dns-01")]
    problem(await finalized(world, client, NAME), 403, "caa")
    world.prober.caa["example.org"] = [record(f"ca.example; accounturi={client.signer.kid}")]
    assert (await finalized(world, client, NAME)).json()["status"] == "valid"
    other = await world.account()
    problem(await finalized(world, other, NAME), 403, "caa")


async def test_caa_that_cannot_be_looked_up(open_world: OpenWorld) -> None:
    """Fails closed, and the order can be tried again."""
    world = await open_world(default=CAA)
    client = await world.account()
    order = await world.ready_order(client, NAME)
    world.prober.failures[NAME] = [FailureKind.DNS]
    csr, _ = make_csr([NAME])
    body = problem(await client.finalize(order, csr), 403, "caa")
    assert body["subproblems"][0]["type"] == "urn:ietf:params:acme:error:dns"
    assert (await client.finalize(order, csr)).json()["status"] == "valid"


async def test_cancelled_request(world: World, client: ACMEClient) -> None:
    """A client that leaves does not stop the issuance it began."""
    order = await world.ready_order(client, NAME)
    csr, _ = make_csr([NAME])
    database = world.runtime.services.database
    gate, real, writes = asyncio.Event(), database.write, 0

    async def gated(work: Any) -> Any:
        nonlocal writes
        writes += 1
        if writes == 2:
            await gate.wait()
        return await real(work)

    database.write = gated  # type: ignore[method-assign]
    request = asyncio.create_task(client.finalize(order, csr))
    while writes < 2:
        await asyncio.sleep(0.001)
    request.cancel()
    gate.set()
    await world.endpoints["default"].finalizer.stop()
    database.write = real  # type: ignore[method-assign]
    assert (await client.post(order["url"])).json()["status"] == "valid"
    ((stored,),) = await world.rows("SELECT csr_sha256 FROM acme_orders")
    assert stored == hashlib.sha256(csr).digest()
