"""Certificates and revocation: RFC 8555 sections 7.4.2 and 7.6; checklist items 10, 42 to 45."""

import datetime as dt
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from interop import acme_sh
from pkiserver.ca.ca_certificate import Wish
from pkiserver.ca.model import CertificateRequest, Reason, Requester
from tests.ca.world import subject
from tests.test_acme.client import ACMEClient, Signer, b64, make_csr
from tests.test_acme.conftest import OpenWorld
from tests.test_acme.world import NOW, Issued, World, problem

NAME = "www.example.org"


def der(issued: Issued) -> bytes:
    return issued.certificate.public_bytes(Encoding.DER)


async def test_chain(world: World, client: ACMEClient) -> None:
    """Checklist 10, 28, 43: leaf first, PEM blocks only, no root, no `up`."""
    issued = await world.issue(client, NAME)
    response = await client.post(issued.order["certificate"])
    assert response.headers["content-type"] == "application/pem-certificate-chain"
    certificates = x509.load_pem_x509_certificates(response.content)
    assert len(certificates) == 2
    certificates[0].verify_directly_issued_by(certificates[1])
    assert certificates[1].issuer != certificates[1].subject
    assert response.content.endswith(b"-----END CERTIFICATE-----\n")
    assert len(acme_sh.certificates(response.content)) == 2
    assert not [line for line in response.headers.get_list("link") if '"index"' not in line]


async def test_the_url_stays(world: World, client: ACMEClient) -> None:
    """Checklist 45: also when the order is gone."""
    from protocols.acme.build import delete_old

    issued = await world.issue(client, NAME)
    world.clock.advance(dt.timedelta(days=60))
    await delete_old(world.endpoints["default"].directory)
    problem(await client.post(issued.order["url"]), 404, "malformed")
    assert (await client.post(issued.order["certificate"])).status_code == 200
    assert (await client.revoke(der(issued))).status_code == 200


async def cross_certify(world: World) -> bytes:
    """Give the issuing CA a second chain, to an outside root."""
    authorities = world.runtime.services.authorities
    issuing = authorities.get("issuing").certificate
    assert issuing is not None
    key = ec.generate_private_key(ec.SECP256R1())
    name = subject("Outside Root")
    root = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(NOW).not_valid_after(NOW + dt.timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_CA_USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    public: Any = issuing.public_key()
    cross = (
        x509.CertificateBuilder()
        .subject_name(issuing.subject).issuer_name(name).public_key(public)
        .serial_number(2).not_valid_before(NOW).not_valid_after(NOW + dt.timedelta(days=1800))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_CA_USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
        )
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    await authorities.add_chain("issuing", [cross, root], actor="test:operator")
    return cross.public_bytes(Encoding.DER)


_CA_USAGE = x509.KeyUsage(
    digital_signature=True, content_commitment=False, key_encipherment=False,
    data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
    encipher_only=False, decipher_only=False,
)  # fmt: skip


async def test_alternate_chains(world: World, client: ACMEClient) -> None:
    """Section 7.4.2, checklist 44: the same leaf, one link per line, every link works."""
    cross = await cross_certify(world)
    issued = await world.issue(client, NAME)
    url = issued.order["certificate"]
    default = await client.post(url)
    (alternate,) = acme_sh.alternates(list(default.headers.multi_items()))
    assert alternate == f"{url}/1"
    other = await client.post(alternate)
    assert acme_sh.alternates(list(other.headers.multi_items())) == [url]
    first = x509.load_pem_x509_certificates(default.content)
    second = x509.load_pem_x509_certificates(other.content)
    assert first[0] == second[0]
    assert second[1].public_bytes(Encoding.DER) == cross
    for number in ("2", "99", "100", "-1", "x", "01x"):
        assert (await client.post(f"{url}/{number}")).status_code == 404


async def test_others_certificates(world: World, client: ACMEClient) -> None:
    issued = await world.issue(client, NAME)
    other = await world.account()
    problem(await other.post(issued.order["certificate"]), 403, "unauthorized")
    problem(await client.post(issued.order["certificate"], {}), 400, "malformed")


async def revoked(world: World) -> list[tuple[Any, ...]]:
    return await world.rows("SELECT reason FROM certificates WHERE revoked_at IS NOT NULL")


async def test_by_the_account(world: World, client: ACMEClient) -> None:
    """Checklist 42: 200 and nothing more; again is alreadyRevoked."""
    issued = await world.issue(client, NAME)
    response = await client.revoke(der(issued))
    assert response.status_code == 200
    assert response.content == b""
    assert await revoked(world) == [("unspecified",)]
    problem(await client.revoke(der(issued)), 400, "alreadyRevoked")


async def test_by_the_certificates_key(world: World, client: ACMEClient) -> None:
    issued = await world.issue(client, NAME)
    stranger = await world.client(signer=Signer(issued.key))
    assert (await stranger.revoke(der(issued), reason=1)).status_code == 200
    assert await revoked(world) == [("keyCompromise",)]


async def test_by_an_account_with_all_authorizations(world: World, client: ACMEClient) -> None:
    """Section 7.6: proven for every name, the wildcard as a wildcard."""
    names = ("example.org", "*.example.org")
    issued = await world.issue(client, *names, challenge="dns-01")
    other = await world.account()
    problem(await other.revoke(der(issued)), 403, "unauthorized")
    await world.ready_order(other, "example.org")
    problem(await other.revoke(der(issued)), 403, "unauthorized")
    await world.ready_order(other, "*.example.org", challenge="dns-01")
    assert (await other.revoke(der(issued), reason=5)).status_code == 200
    assert await revoked(world) == [("cessationOfOperation",)]


async def test_expired_authorizations_do_not_count(world: World, client: ACMEClient) -> None:
    issued = await world.issue(client, NAME)
    other = await world.account()
    await world.ready_order(other, NAME)
    world.clock.advance(dt.timedelta(days=30))
    problem(await other.revoke(der(issued)), 403, "unauthorized")


async def test_trust_is_no_proof(world: World, client: ACMEClient) -> None:
    """Who gets authorizations for nothing could revoke everybody's certificates."""
    new = await world.external_account(trusted=True)
    other = await world.client()
    from tests.test_acme.test_service_external import binding

    await other.new_account(externalAccountBinding=binding(other, new))
    issued = await world.issue(client, NAME)
    assert (await other.new_order([NAME])).json()["status"] == "ready"
    problem(await other.revoke(der(issued)), 403, "unauthorized")
    own = await world.issue(other, "own.example.org")
    assert (await other.revoke(der(own))).status_code == 200


async def test_a_certificate_without_names(world: World, client: ACMEClient) -> None:
    """Another protocol's: no account holds authorizations for all of no names."""
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Alice")]))
        .sign(key, hashes.SHA256())
    )
    issuance = world.runtime.services.issuance
    request = CertificateRequest(
        profile="tls-client",
        requester=Requester("cli", "operator"),
        csr=csr.public_bytes(Encoding.DER),
    )
    issued = await issuance.issue(await issuance.prepare(request))
    problem(await client.revoke(issued.der), 403, "unauthorized")
    assert await revoked(world) == []


@pytest.mark.parametrize("reason", [0, 1, 3, 4, 5, 9])
async def test_reasons(world: World, client: ACMEClient, reason: int) -> None:
    issued = await world.issue(client, NAME)
    assert (await client.revoke(der(issued), reason=reason)).status_code == 200
    ((name,),) = await revoked(world)
    assert Reason(name).code == reason


@pytest.mark.parametrize("reason", [2, 6, 7, 8, 10, 11, -1])
async def test_reasons_that_are_not_a_subscribers(
    world: World, client: ACMEClient, reason: int
) -> None:
    issued = await world.issue(client, NAME)
    problem(await client.revoke(der(issued), reason=reason), 400, "badRevocationReason")
    assert await revoked(world) == []


@pytest.mark.parametrize("reason", ["1", 1.5, True, [1]])
async def test_reasons_of_another_type(world: World, client: ACMEClient, reason: object) -> None:
    issued = await world.issue(client, NAME)
    problem(await client.revoke(der(issued), reason=reason), 400, "malformed")


async def test_certificates_that_are_not_ours(world: World, client: ACMEClient) -> None:
    """Another CA's, one of ours that was changed, one with a made-up serial, no certificate."""
    issued = await world.issue(client, NAME)
    original = der(issued)
    key = ec.generate_private_key(ec.SECP256R1())
    same_serial = (
        x509.CertificateBuilder()
        .subject_name(issued.certificate.subject).issuer_name(issued.certificate.issuer)
        .public_key(key.public_key()).serial_number(issued.certificate.serial_number)
        .not_valid_before(NOW).not_valid_after(NOW + dt.timedelta(days=1))
        .sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    )  # fmt: skip
    changed = original[:-1] + bytes([original[-1] ^ 1])
    for sent in (same_serial, changed):
        response = await client.revoke(sent)
        assert response.status_code in (400, 404)
        stranger = await world.client(signer=Signer(key))
        assert (await stranger.revoke(sent)).status_code in (400, 404)
    for payload in ({}, {"certificate": ""}, {"certificate": "AAAA"}, {"certificate": 1}):
        problem(await client.post(client.directory["revokeCert"], payload), 400, "malformed")
    assert await revoked(world) == []


async def test_a_key_that_is_not_the_certificates(world: World, client: ACMEClient) -> None:
    issued = await world.issue(client, NAME)
    stranger = await world.client()
    problem(await stranger.revoke(der(issued)), 403, "unauthorized")


async def test_padded_certificate(world: World, client: ACMEClient) -> None:
    issued = await world.issue(client, NAME)
    encoded = b64(der(issued))
    padded = {"certificate": encoded + "=" * (-len(encoded) % 4), "reason": 0}
    assert (await client.post(client.directory["revokeCert"], padded)).status_code == 200


async def test_expired_certificate(world: World, client: ACMEClient) -> None:
    issued = await world.issue(client, NAME)
    world.clock.advance(dt.timedelta(days=91))
    problem(await client.revoke(der(issued)), 400, "malformed")


async def test_another_issuer(open_world: OpenWorld) -> None:
    """Profiles may use different authorities; each certificate gets its own chain."""
    world = await open_world(
        default={"profiles": ["second"]},
        profiles={"second": {"issuer": "second", "validity": "30d", "dns": {"allow": ["*"]},
                             "extended_key_usage": ["serverAuth"]}},
    )  # fmt: skip
    wish = Wish(subject("Second"), dt.timedelta(days=900), path_length=0)
    authorities = world.runtime.services.authorities
    await authorities.create("second", "root", wish, "p256", actor="test:operator")
    client = await world.account()
    issued = await world.issue(client, NAME, profile="second")
    chain = x509.load_pem_x509_certificates(
        (await client.post(issued.order["certificate"])).content
    )
    assert chain[1].subject == subject("Second")
    csr, _ = make_csr([NAME])
    assert (await client.revoke(der(issued))).status_code == 200
    assert csr
