"""PKCSReq, RenewalReq and CertPoll against the whole service (RFC 8894 sections 3.3.1, 3.3.3)."""

import asyncio
import datetime as dt
import ipaddress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from pkiserver.ca.authority_rollover import Rotation
from pkiserver.ca.model import CertificateRequest, Reason, Requester
from pkiserver.cms import oids, signed_data
from pkiserver.errors import PKIError
from pkiserver.pkix import cert, der
from protocols.scep import messages
from protocols.scep.messages import MessageType
from tests.test_scep.client import (
    START,
    Device,
    encrypt,
    make_csr,
    new_transaction,
    rsa_key,
    self_signed,
)
from tests.test_scep.conftest import OpenWorld
from tests.test_scep.world import World

VECTORS = Path(__file__).parent.parent / "cms" / "vectors" / "smallstep-scep"
SID = "tag:microsoft.com,2022-09-14:sid:S-1-5-21-1004336348-1177238915-682003330-512"
UPN = x509.OtherName(
    x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"),
    der.encode(der.UTF8_STRING, b"user@corp.example"),
)
PAIR_OID = "1.3.6.1.4.1.311.13.2.1"


def pair(name: str, value: str) -> tuple[str, bytes]:
    texts = (der.encode(der.BMP_STRING, text.encode("utf-16-be")) for text in (name, value))
    return PAIR_OID, der.encode(der.SEQUENCE, *texts)


async def test_enrolment(world: World) -> None:
    device = await world.device()
    rep = await world.enrol(device, csr={"names": [x509.DNSName("router.example.com")]})
    certificate = rep.certificate
    assert len(rep.certificates) == 1
    assert certificate.public_key() == device.key.public_key()
    certificate.verify_directly_issued_by(device.ca[1])
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.DNSName("router.example.com")]
    assert rep.transaction_id == device.transaction_id
    assert rep.recipient_nonce == b"\x01" * 16


@pytest.mark.parametrize(
    "encryption", ["aes128-cbc", "aes192-cbc", "aes256-cbc", "des-ede3-cbc", "aes128-gcm"]
)
async def test_answers_mirror_the_encryption(world: World, encryption: str) -> None:
    """S3: IOS reads nothing but what it sends itself."""
    rep = await world.enrol(await world.device(), encryption=encryption)
    assert rep.content_encryption == encryption


@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
async def test_answers_mirror_the_digest(world: World, digest: str) -> None:
    """S3."""
    assert (await world.enrol(await world.device(), digest=digest)).digest == digest


@pytest.mark.parametrize("oaep_digest", ["sha1", "sha256"])
async def test_windows(world: World, oaep_digest: str) -> None:
    """S4, 2.5: RSAES-OAEP, attributes for the validity, names for strong mapping."""
    device = await world.device()
    rep = await world.enrol(
        device,
        key_transport="oaep",
        oaep_digest=oaep_digest,
        encryption="aes256-cbc",
        csr={
            "names": [UPN, x509.UniformResourceIdentifier(SID)],
            "extra": [pair("ValidityPeriod", "Days"), pair("ValidityPeriodUnits", "30")],
        },
    )
    names = list(
        rep.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    )
    assert UPN in names and x509.UniformResourceIdentifier(SID) in names
    assert rep.key_transport == ("oaep", oaep_digest)


async def test_apple(world: World) -> None:
    """S10: BER with indefinite lengths and segments."""
    assert await world.enrol(await world.device(), ber=True, encryption="des-ede3-cbc")


@pytest.mark.parametrize(
    "tag", [der.PRINTABLE_STRING, der.UTF8_STRING, der.T61_STRING, der.IA5_STRING, der.BMP_STRING]
)
async def test_challenges_of_every_string_type(world: World, tag: int) -> None:
    """S29: Cisco's T61String, and what else is out there."""
    assert await world.enrol(await world.device(), csr={"challenge_tag": tag})


@pytest.mark.parametrize("nonce", [b"\x02" * 8, b"\x03" * 16, None])
async def test_nonces(world: World, nonce: bytes | None) -> None:
    """S7: of any length, or absent; ours is fresh each time."""
    device = await world.device()
    first = await world.enrol(device, nonce=nonce)
    again = await world.send(device, device.pkcs_req("used", nonce=nonce))
    assert first.recipient_nonce == again.recipient_nonce == nonce
    assert first.sender_nonce != again.sender_nonce


async def test_ec_clients_get_a_password_recipient(world: World) -> None:
    """S32, RFC 8894 section 3.1: no key transport to an EC key."""
    device = await world.device(key=ec.generate_private_key(ec.SECP256R1()))
    challenge = await world.challenge()
    rep = await world.send(device, device.pkcs_req(challenge), password=challenge)
    assert rep.certificate.public_key() == device.key.public_key()


@pytest.mark.parametrize(
    ("period", "units", "days"),
    [
        ("Days", "30", 30),
        ("30", "Days", 30),
        ("Years", "1", 365),
        ("Years", "9", 365),
        ("x", "1", 365),
    ],
)
async def test_wished_validity(world: World, period: str, units: str, days: int) -> None:
    """2.5: within the profile, Android's order tolerated, nonsense ignored."""
    csr_values = [pair("ValidityPeriod", period), pair("ValidityPeriodUnits", units)]
    device = await world.device()
    rep = await world.enrol(device, csr={"extra": csr_values})
    left = rep.certificate.not_valid_after_utc - world.clock.now()
    assert abs(left - dt.timedelta(days=days)) < dt.timedelta(minutes=10)


# Idempotence


async def test_a_repeated_request_gets_the_same_certificate(world: World) -> None:
    """S27, S39: also with a challenge that is used up by now."""
    device = await world.device()
    message = device.pkcs_req(await world.challenge())
    first = await world.send(device, message)
    again = await world.send(device, device.pkcs_req("whatever"))
    assert first.certificate == again.certificate
    assert await world.issued() == 1


async def test_the_same_transaction_with_another_subject_is_another_request(world: World) -> None:
    """S39: strongSwan's transactionID is of the key, for life."""
    device = await world.device()
    first = await world.enrol(device)
    refused = await world.send(device, device.pkcs_req("used", csr={"common_name": "other"}))
    assert refused.fail_info == "2"
    second = await world.enrol(device, csr={"common_name": "other"})
    assert second.certificate.subject != first.certificate.subject


async def test_another_key_does_not_get_it(world: World) -> None:
    device, other = await world.device(), await world.device(number=1)
    await world.enrol(device)
    message = other.pkcs_req("guess", transaction_id=device.transaction_id)
    assert (await world.send(other, message)).status == "2"


async def test_a_revoked_certificate_is_not_handed_out_again(world: World) -> None:
    device = await world.device()
    certificate = (await world.enrol(device)).certificate
    await world.runtime.services.revocation.revoke(
        "issuing", certificate.serial_number, Reason.SUPERSEDED, actor=Requester("test", "x")
    )
    assert (await world.send(device, device.pkcs_req("used"))).status == "2"
    assert (await world.enrol(device)).certificate != certificate


async def test_concurrent_requests_of_one_transaction_get_one_certificate(
    open_world: OpenWorld,
) -> None:
    """S27, S30: over two processes' worth of services on one database."""
    worlds = [await open_world(), await open_world()]
    device = await worlds[0].device()
    message = device.pkcs_req(await worlds[0].challenge())
    reps = await asyncio.gather(*(worlds[n % 2].send(device, message) for n in range(8)))
    assert {rep.status for rep in reps} == {"0"}, [rep.text for rep in reps]
    assert len({rep.certificate for rep in reps}) == 1
    assert await worlds[0].issued() == 1


async def test_a_challenge_makes_one_certificate_whoever_has_it(open_world: OpenWorld) -> None:
    """S30, invariant 6: eight devices, two services, one challenge."""
    worlds = [await open_world(), await open_world()]
    challenge = await worlds[0].challenge()
    devices = [await worlds[0].device(number=n % 4) for n in range(8)]
    reps = await asyncio.gather(
        *(
            worlds[n % 2].send(device, device.pkcs_req(challenge, transaction_id=new_transaction()))
            for n, device in enumerate(devices)
        )
    )
    assert sorted(rep.status for rep in reps) == ["0"] + ["2"] * 7
    assert await worlds[0].issued() == 1


async def test_a_restart_in_the_middle_changes_nothing(open_world: OpenWorld) -> None:
    """What a crash leaves between the two transactions is finished; the client's retry gets it."""
    world = await open_world()
    device = await world.device()
    message = device.pkcs_req(await world.challenge())
    certificate = (await world.send(device, message)).certificate
    await world.runtime.services.database.write(
        lambda tx: tx.execute(
            "UPDATE certificates SET status = 'signing', der = NULL WHERE profile = 'device'"
        )
    )
    later = await open_world()
    await later.runtime.recover()
    again = await later.send(device, message)
    assert again.certificate.serial_number == certificate.serial_number
    assert await later.issued() == 1


# Renewal


async def renewed(world: World, device: Device, old: x509.Certificate, **options: Any) -> Any:
    """With a new key, signed by the old one."""
    new = rsa_key(2)
    label = options.pop("label", "default")
    kind = options.pop("kind", MessageType.RENEWAL_REQ)
    signer = device.with_certificate(old)
    csr = device.csr(None, **{"key": new, **options.pop("csr", {})})
    message = signer.message(kind, csr, transaction_id=new_transaction(), **options)
    return await world.send(signer, message, label)


@pytest.mark.parametrize("kind", [MessageType.RENEWAL_REQ, MessageType.UPDATE_REQ])
async def test_renewal_needs_the_old_certificate_alone(world: World, kind: str) -> None:
    """S28; UpdateReq is the drafts' name of it."""
    device = await world.device()
    names = {
        "names": [x509.DNSName("a.example.com"), x509.IPAddress(ipaddress.ip_address("192.0.2.7"))]
    }
    old = (await world.enrol(device, csr=names)).certificate
    world.clock.advance(dt.timedelta(days=300))
    rep = await renewed(world, device, old, kind=kind, csr=names)
    assert rep.status == "0", rep.text
    new = rep.certificate
    assert new.subject == old.subject and new.public_key() == rsa_key(2).public_key()
    assert new.not_valid_after_utc > old.not_valid_after_utc


async def test_renewal_with_the_same_key_and_transaction(world: World) -> None:
    """S39: every renewal is a new certificate, every repeat the same one."""
    device = await world.device()
    old = (await world.enrol(device)).certificate
    signer = device.with_certificate(old)
    first = await world.send(signer, signer.renewal_req())
    assert first.certificate != old
    assert (await world.send(signer, signer.renewal_req())).certificate == first.certificate
    signer = device.with_certificate(first.certificate)
    assert (await world.send(signer, signer.renewal_req())).certificate != first.certificate


@pytest.mark.parametrize(
    "csr",
    [
        {"common_name": "somebody-else"},
        {"names": [x509.DNSName("more.example.com")]},
    ],
)
async def test_renewal_changes_no_names(world: World, csr: dict[str, Any]) -> None:
    """S28, 1.3.5."""
    device = await world.device()
    old = (await world.enrol(device)).certificate
    rep = await renewed(world, device, old, csr=csr)
    assert (rep.status, rep.fail_info) == ("2", "2")
    assert await world.issued() == 1


async def test_renewal_of_what_is_not_ours_expired_or_revoked(world: World) -> None:
    """S28: badCertId for what we do not know, badRequest for what may not be renewed."""
    device = await world.device()
    unknown = await renewed(world, device, device.certificate)
    assert (unknown.status, unknown.fail_info) == ("2", "4")
    old = (await world.enrol(device)).certificate
    await world.runtime.services.revocation.revoke(
        "issuing", old.serial_number, Reason.KEY_COMPROMISE, actor=Requester("test", "x")
    )
    revoked = await renewed(world, device, old)
    assert (revoked.status, revoked.fail_info) == ("2", "2")
    assert revoked.text == "the certificate to renew is revoked"


async def test_renewal_of_what_a_revoked_authority_issued(world: World) -> None:
    """Not under the key that came after it either."""
    device = await world.device()
    old = (await world.enrol(device)).certificate
    authorities = world.runtime.services.authorities
    compromised = authorities.certificate("issuing")
    await authorities.rotate("issuing", Rotation(), actor="test:pytest")
    await world.runtime.services.revocation.revoke(
        "root", compromised.serial_number, Reason.CA_COMPROMISE, actor=Requester("test", "pytest")
    )
    rep = await renewed(world, device, old)
    assert rep.text == "the certificate to renew is of the authority issuing, which is revoked"


async def test_renewal_after_expiry_only_within_the_grace(open_world: OpenWorld) -> None:
    world = await open_world(grace={"renewal_grace": "10d"})
    device = await world.device()
    old = (await world.enrol(device)).certificate
    other = await world.device(number=1)
    world.clock.advance(dt.timedelta(days=366))
    device, other = await world.device(), await world.device(number=1)  # another RA by now
    assert (await renewed(world, device, old)).text == "the certificate to renew has expired"
    assert (await renewed(world, device, old, label="grace")).status == "0"
    world.clock.advance(dt.timedelta(days=10))
    assert other.ca
    assert (await renewed(world, device, old, label="grace")).status == "2"


async def test_renewal_window_and_switch(open_world: OpenWorld) -> None:
    world = await open_world(window={"renewal_window": "30d"}, never={"renewal": False})
    device = await world.device()
    old = (await world.enrol(device)).certificate
    early = await renewed(world, device, old, label="window")
    assert "too long to go" in (early.text or "")
    assert (await renewed(world, device, old, label="never")).status == "2"
    world.clock.advance(dt.timedelta(days=340))
    assert (await renewed(world, device, old, label="window")).status == "0"


async def test_a_certificate_of_another_profile_is_not_renewed(world: World) -> None:
    """A server's certificate does not become a device's."""
    issued = await world.runtime.services.issuance.issue(
        await world.runtime.services.issuance.prepare(
            _request(world, rsa_key(5), "tls-server", [x509.DNSName("www.example.com")])
        )
    )
    device = await world.device(number=5)
    rep = await renewed(world, device, issued.certificate)
    assert (rep.status, rep.fail_info) == ("2", "4")


def _request(world: World, key: Any, profile: str, names: list[x509.GeneralName]) -> Any:
    csr = make_csr(key, "www.example.com", names=names)
    return CertificateRequest(profile=profile, requester=Requester("acme", "x"), csr=csr)


async def test_a_pkcs_req_signed_by_an_old_certificate_for_the_same_names_renews(
    world: World,
) -> None:
    """As in the drafts before RFC 8894: certmonger renews so, with the used challenge still in the
    request and one transactionID per key (S39)."""
    device = await world.device()
    certificate = (await world.enrol(device)).certificate
    seen = {certificate}
    for _ in range(3):
        signer = device.with_certificate(certificate)
        message = signer.pkcs_req("used")
        certificate = (await world.send(signer, message)).certificate
        assert (await world.send(signer, message)).certificate == certificate
        assert certificate not in seen and certificate.subject == next(iter(seen)).subject
        seen.add(certificate)
    assert await world.issued() == 4


async def test_a_pkcs_req_with_a_name_as_common_name_renews_a_certificate_without_a_subject(
    open_world: OpenWorld,
) -> None:
    """jscep takes a request for another subject for no renewal, and sends a PKCSReq."""
    world = await open_world(plain={"profile": "plain"})
    device = await world.device("plain", common_name="a.example.com")
    old = (await world.enrol(device, "plain")).certificate
    assert not old.subject.rdns
    signer = device.with_certificate(old)
    rep = await world.send(signer, signer.pkcs_req(None, csr={"key": rsa_key(3)}), "plain")
    assert rep.status == "0"
    assert rep.certificate.public_key() == rsa_key(3).public_key()


async def test_a_pkcs_req_signed_by_an_old_certificate_for_other_names_is_an_ordinary_one(
    world: World,
) -> None:
    """S28: without a challenge it is refused."""
    device = await world.device()
    old = (await world.enrol(device)).certificate
    signer = device.with_certificate(old)
    for change in ({"common_name": "other"}, {"names": [x509.DNSName("more.example.com")]}):
        options = {"transaction_id": new_transaction(), "csr": {"key": rsa_key(3), **change}}
        assert (await world.send(signer, signer.pkcs_req(None, **options))).status == "2"
        message = signer.pkcs_req(await world.challenge(), **options)
        assert (await world.send(signer, message)).status == "0"


async def test_a_pkcs_req_signed_by_a_revoked_certificate_needs_a_challenge(world: World) -> None:
    device = await world.device()
    old = (await world.enrol(device)).certificate
    await world.runtime.services.revocation.revoke(
        "issuing", old.serial_number, Reason.SUPERSEDED, actor=Requester("test", "x")
    )
    signer = device.with_certificate(old)
    assert (await world.send(signer, signer.pkcs_req("used"))).status == "2"
    assert (await world.send(signer, signer.pkcs_req(await world.challenge()))).status == "0"


# Approval


async def decide(world: World, *, approve: bool) -> None:
    approvals = world.runtime.services.approvals
    approval = (await approvals.newest())[0]
    operator = Requester("cli", "operator")
    if approve:
        await approvals.approve(approval.id, operator)
    else:
        await approvals.reject(approval.id, operator, "not this one")


@pytest.fixture
async def approving(open_world: OpenWorld) -> World:
    return await open_world(approved={"profile": "approved"})


async def test_pending_until_somebody_approves(approving: World) -> None:
    """RFC 8894 section 3.3.3, S26: PENDING, CertPoll, SUCCESS; the challenge is used by filing."""
    device = await approving.device()
    message = device.pkcs_req(await approving.challenge("approved"))
    assert (await approving.send(device, message, "approved")).status == "3"
    assert (await approving.send(device, device.cert_poll(), "approved")).status == "3"
    assert (await approving.send(device, message, "approved")).status == "3"
    assert await approving.issued() == 0
    await decide(approving, approve=True)
    rep = await approving.send(device, device.cert_poll(), "approved")
    assert rep.status == "0", rep.text
    again = await approving.send(device, device.cert_poll(), "approved")
    assert again.certificate == rep.certificate
    assert await approving.issued() == 1


async def test_rejected(approving: World) -> None:
    device = await approving.device()
    message = device.pkcs_req(await approving.challenge("approved"))
    await approving.send(device, message, "approved")
    await decide(approving, approve=False)
    rep = await approving.send(device, device.cert_poll(), "approved")
    assert (rep.status, rep.fail_info) == ("2", "2")
    assert rep.text == "the request was rejected: not this one"


async def test_concurrent_polls_issue_once(approving: World) -> None:
    device = await approving.device()
    message = device.pkcs_req(await approving.challenge("approved"))
    await approving.send(device, message, "approved")
    await decide(approving, approve=True)
    poll = device.cert_poll()
    reps = await asyncio.gather(*(approving.send(device, poll, "approved") for _ in range(6)))
    assert {rep.status for rep in reps} == {"0"}, [rep.text for rep in reps]
    assert len({rep.certificate for rep in reps}) == 1
    assert await approving.issued() == 1


async def test_concurrent_requests_file_one_approval(open_world: OpenWorld) -> None:
    """S27: over two services; the challenge is used once, by the one that files."""
    section = {"approved": {"profile": "approved"}}
    worlds = [await open_world(**section), await open_world(**section)]
    device = await worlds[0].device()
    message = device.pkcs_req(await worlds[0].challenge("approved"))
    reps = await asyncio.gather(
        *(worlds[n % 2].send(device, message, "approved") for n in range(6))
    )
    assert {rep.status for rep in reps} == {"3"}, [rep.text for rep in reps]
    assert len(await worlds[0].runtime.services.approvals.newest()) == 1
    await decide(worlds[0], approve=True)
    rep = await worlds[1].send(device, device.cert_poll(), "approved")
    assert rep.status == "0"


async def test_approval_alone(open_world: OpenWorld) -> None:
    """challenge = "none": nothing but a person's approval."""
    world = await open_world(open={"profile": "approved", "challenge": "none"})
    device = await world.device()
    assert (await world.send(device, device.pkcs_req(None), "open")).status == "3"
    await decide(world, approve=True)
    first = await world.send(device, device.pkcs_req(None), "open")
    assert first.status == "0", first.text
    signer = device.with_certificate(first.certificate)
    assert (await world.send(signer, signer.renewal_req(), "open")).status == "3"


async def test_an_approval_that_expired_is_asked_for_again(approving: World) -> None:
    device = await approving.device()
    message = device.pkcs_req(await approving.challenge("approved"))
    await approving.send(device, message, "approved")
    approving.clock.advance(dt.timedelta(days=20))
    assert (await approving.send(device, device.cert_poll(), "approved")).status == "3"
    statuses = [each.status.value for each in await approving.runtime.services.approvals.newest()]
    assert sorted(statuses) == ["expired", "pending"]


async def test_a_lost_transaction_goes_on_under_a_new_id(approving: World) -> None:
    """RFC 8894 section 5.2, S27: the same key with a new transactionID resumes."""
    device = await approving.device()
    message = device.pkcs_req(await approving.challenge("approved"))
    await approving.send(device, message, "approved")
    fresh = new_transaction()
    rep = await approving.send(device, device.pkcs_req("x", transaction_id=fresh), "approved")
    assert rep.status == "3"
    await decide(approving, approve=True)
    poll = device.cert_poll(transaction_id=fresh)
    assert (await approving.send(device, poll, "approved")).status == "0"


async def test_polls_of_strangers(approving: World) -> None:
    """badCertId: by another key, and of a transaction nobody began."""
    device, stranger = await approving.device(), await approving.device(number=1)
    message = device.pkcs_req(await approving.challenge("approved"))
    await approving.send(device, message, "approved")
    poll = stranger.cert_poll(transaction_id=device.transaction_id)
    assert (await approving.send(stranger, poll, "approved")).fail_info == "4"
    unknown = device.cert_poll(transaction_id=new_transaction())
    assert (await approving.send(device, unknown, "approved")).fail_info == "4"


async def test_an_ec_client_polls(approving: World) -> None:
    """S32: the answer to the poll is for the challenge of the request."""
    device = await approving.device(key=ec.generate_private_key(ec.SECP256R1()))
    challenge = await approving.challenge("approved")
    await approving.send(device, device.pkcs_req(challenge), "approved")
    await decide(approving, approve=True)
    rep = await approving.send(device, device.cert_poll(), "approved", password=challenge)
    assert rep.certificate.public_key() == device.key.public_key()


# Queries


async def test_get_cert(world: World) -> None:
    """RFC 8894 section 3.3.4: for holders of a certificate of ours."""
    device, other = await world.device(), await world.device(number=1, common_name="device-2")
    own, theirs = (await world.enrol(device)).certificate, (await world.enrol(other)).certificate
    signer = device.with_certificate(own)
    assert (await world.send(signer, signer.get_cert(theirs))).certificate == theirs
    assert (await world.send(device, device.get_cert(theirs))).fail_info == "2"
    assert (await world.send(signer, signer.get_cert(device.certificate))).fail_info == "4"


async def test_get_crl(world: World) -> None:
    """RFC 8894 section 3.3.5, S34."""
    await world.runtime.services.status.maintain()
    device = await world.device()
    own = (await world.enrol(device)).certificate
    rep = await world.send(device, device.get_crl(own))
    assert rep.content is not None
    (crl,) = signed_data.parse(rep.content).crls
    assert x509.load_der_x509_crl(crl).issuer == device.ca[1].subject
    assert (await world.send(device, device.get_crl(device.certificate))).fail_info == "4"


async def test_registration_authority(world: World) -> None:
    """S21."""
    ra, issuing, root = await world.ca()
    usage = ra.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature and usage.key_encipherment and not usage.key_cert_sign
    purposes = ra.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert {oid.dotted_string for oid in purposes} == {
        "1.3.6.1.5.5.7.3.1", "1.3.6.1.4.1.311.20.2.1",
    }  # fmt: skip
    assert ra.public_key() != issuing.public_key()
    ra.verify_directly_issued_by(issuing)
    issuing.verify_directly_issued_by(root)
    organization = ra.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    assert [attribute.value for attribute in organization] == ["Acme, Inc."]


# Devices' certificates and names


async def test_a_device_may_sign_with_a_subject_that_is_no_text(world: World) -> None:
    """S35: found by the fuzzer. The library raises ValueError where it is asked for such names."""
    device = await world.device()
    damaged = device.certificate.public_bytes(Encoding.DER).replace(b"device-1", b"\xacevice-1")
    signer = device.with_certificate(x509.load_der_x509_certificate(damaged))
    with pytest.raises(ValueError, match="subject"):
        _ = signer.certificate.subject
    assert (await world.send(signer, signer.pkcs_req("guess"))).status == "2"
    rep = await world.send(signer, signer.pkcs_req(await world.challenge()))
    assert (rep.status, rep.certificate.public_key()) == ("0", device.key.public_key())


async def test_a_signer_with_a_strange_certificate(world: World) -> None:
    """S35: version 1, expired, any serial number, another subject: only its key counts."""
    device = await world.device()
    v1 = version_1(device.certificate, device.key)
    assert v1.version is x509.Version.v1
    device = device.with_certificate(v1)
    assert (await world.enrol(device)).certificate.public_key() == device.key.public_key()
    long_serial = self_signed(device.key, "x", serial=2**150 + 1)
    device = device.with_certificate(long_serial)
    assert await world.enrol(device, transaction_id=new_transaction(), csr={"common_name": "y"})


def version_1(certificate: x509.Certificate, key: Any) -> x509.Certificate:
    """The same without version and extensions, as old routers sign themselves."""
    tbs, algorithm, _ = cert.split(certificate.public_bytes(Encoding.DER))
    fields = [field.encoded for field in der.sequence_of(tbs) if field.tag not in (0xA0, 0xA3)]
    body = der.encode(der.SEQUENCE, *fields)
    signature = key.sign(body, padding.PKCS1v15(), hashes.SHA256())
    return x509.load_der_x509_certificate(cert.assemble(body, algorithm, signature))


async def test_ciscos_subject(world: World) -> None:
    """S29: unstructuredName beside the common name is read and left out."""
    key = rsa_key()
    subject = x509.Name(
        [
            x509.NameAttribute(x509.ObjectIdentifier("1.2.840.113549.1.9.2"), "router-1"),
            x509.NameAttribute(NameOID.COMMON_NAME, "router-1"),
        ]
    )
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    builder = builder.add_attribute(
        x509.oid.AttributeOID.CHALLENGE_PASSWORD, (await world.challenge()).encode()
    )
    request = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    device = await world.device()
    rep = await world.send(device, device.message(MessageType.PKCS_REQ, request))
    assert rep.status == "0", rep.text
    assert rep.certificate.subject.rfc4514_string() == "CN=router-1"


async def test_a_key_nothing_can_be_encrypted_for(world: World) -> None:
    """badAlg before anything is issued. A challenge is a way (S32) for the requested key alone."""
    key = ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ed")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7, START, START)
    device = await world.device()
    request = device.csr(await world.challenge())
    envelope = encrypt(device.csr(None), device.ra)
    for content in (envelope, encrypt(request, device.ra)):
        tbs = signed_data.to_be_signed(
            content, oids.DATA, "sha512",
            [
                (messages.MESSAGE_TYPE, der.encode(der.PRINTABLE_STRING, b"19")),
                (messages.TRANSACTION_ID, der.encode(der.PRINTABLE_STRING, b"ed")),
            ],
        )  # fmt: skip
        message = signed_data.encode(tbs, key.sign(tbs.data), builder.sign(key, None))
        rep = device.read((await world.post(message)).content)
        assert (rep.status, rep.fail_info) == ("2", "0")
    assert await world.issued() == 0


async def test_a_message_of_another_implementation() -> None:
    """A PKCSReq that smallstep/scep keeps for its tests."""
    data = (VECTORS / "PKCSReq.der").read_bytes()
    message = messages.parse(data)
    assert message.message_type == MessageType.PKCS_REQ
    assert message.envelope is not None and message.sender_nonce is not None
    messages.verify(message, allow_legacy=True)


async def test_what_is_revoked_before_the_serial_is_reserved_is_not_renewed(world: World) -> None:
    """Between the look and the transaction somebody revokes: the transaction looks again."""
    old = (await world.enrol(await world.device())).certificate
    services = world.runtime.services
    prepared = await services.issuance.prepare(
        CertificateRequest(
            "device", Requester("scep", "default/renewal"), make_csr(rsa_key()), renewal_of=old
        )
    )
    await services.revocation.revoke(
        "issuing", old.serial_number, Reason.SUPERSEDED, actor=Requester("test", "x")
    )
    with pytest.raises(PKIError, match="is revoked or not one of ours"):
        await services.issuance.issue(prepared)
    assert await world.issued() == 1
