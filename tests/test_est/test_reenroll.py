"""simplereenroll (RFC 7030 section 4.2.2, E20, E27) and client certificates (section 3.3.2)."""

import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

from pkiserver.ca.authority_rollover import Rotation
from pkiserver.ca.model import Reason, Requester
from pkiserver.pkix import der
from protocols.est.attributes import CHANGE_SUBJECT_NAME
from tests.test_est.conftest import OpenWorld
from tests.test_est.support import (
    PASSWORD,
    Held,
    World,
    issued,
    make_csr,
    new_key,
    peer_with,
)

ALICE = ("alice", PASSWORD)
NAMES = ["a.example.org", "b.example.org"]


def name_of(text: str, oid: x509.ObjectIdentifier = NameOID.COMMON_NAME) -> x509.Name:
    """Written as strongSwan does it."""
    return x509.Name([x509.NameAttribute(oid, text, _ASN1Type.PrintableString)])


async def test_reenrolment(world: World) -> None:
    """The same names, another key."""
    held = await world.enroll("dev1", NAMES)
    key = new_key()
    request = make_csr(held.certificate.subject, NAMES, key=key)
    new = issued(await world.post("simplereenroll", request, peer=peer_with(held)))
    assert new.subject == held.certificate.subject
    assert new.public_key() == key.public_key()
    assert new.serial_number != held.certificate.serial_number
    again = Held(new, key)
    newer = make_csr(new.subject, NAMES)
    assert (await world.post("simplereenroll", newer, peer=peer_with(again))).status_code == 200


async def test_other_kinds_of_strings_and_orders_are_the_same_names(world: World) -> None:
    """E20: strongSwan writes PrintableString; our certificates have UTF8String and sorted names."""
    held = await world.enroll("dev1", NAMES)
    request = make_csr(name_of("dev1"), [*reversed(NAMES)])
    new = issued(await world.post("simplereenroll", request, peer=peer_with(held)))
    assert new.subject.public_bytes() == held.certificate.subject.public_bytes()
    san = x509.SubjectAlternativeName
    assert new.extensions.get_extension_for_class(san) == (
        held.certificate.extensions.get_extension_for_class(san)
    )


@pytest.mark.parametrize(
    ("subject", "dns"),
    [
        ("dev2", NAMES),
        ("dev1", NAMES[:1]),
        ("dev1", [*NAMES, "c.example.org"]),
        ("dev1", []),
        ("DEV1", NAMES),
        ("dev1 ", NAMES),
        (name_of("dev1", NameOID.ORGANIZATION_NAME), NAMES),
        (x509.Name([*name_of("dev1"), *name_of("dev1")]), NAMES),
        (x509.Name([]), NAMES),
    ],
)
async def test_names_have_to_be_identical(
    world: World, subject: str | x509.Name, dns: list[str]
) -> None:
    """E20."""
    held = await world.enroll("dev1", NAMES)
    answer = await world.post("simplereenroll", make_csr(subject, dns), peer=peer_with(held))
    assert answer.status_code == 403
    assert await world.certificates() == 1
    assert len(await world.refusals()) == 1


async def test_a_password_alone_does_not_reenroll(world: World) -> None:
    await world.enroll("dev1")
    answer = await world.post("simplereenroll", make_csr("dev1"), auth=ALICE)
    assert answer.status_code == 403
    assert "client certificate" in answer.text


async def revoke(world: World, held: Held) -> None:
    await world.runtime.services.revocation.revoke(
        "issuing",
        held.certificate.serial_number,
        Reason.SUPERSEDED,
        actor=Requester("test", "pytest"),
    )


@pytest.mark.parametrize("operation", ["simpleenroll", "simplereenroll"])
async def test_a_revoked_certificate_is_worth_nothing(world: World, operation: str) -> None:
    held = await world.enroll("dev1")
    await revoke(world, held)
    answer = await world.post(operation, make_csr("dev1"), peer=peer_with(held))
    assert answer.status_code == 401
    assert any("revoked" in cause for cause in await world.refusals())
    with_password = await world.post(operation, make_csr("dev1"), peer=peer_with(held), auth=ALICE)
    assert with_password.status_code == (200 if operation == "simpleenroll" else 403)


async def test_an_expired_certificate_is_worth_nothing(world: World) -> None:
    held = await world.enroll("dev1")
    world.clock.advance(dt.timedelta(days=400))
    answer = await world.post("simplereenroll", make_csr("dev1"), peer=peer_with(held))
    assert answer.status_code == 401


@pytest.mark.parametrize("name", ["issuing", "root"])
async def test_below_a_revoked_authority(world: World, name: str) -> None:
    held = await world.enroll("dev1")
    services = world.runtime.services
    revoked = services.authorities.certificate(name)
    await services.revocation.revoke(
        "root", revoked.serial_number, Reason.CA_COMPROMISE, actor=Requester("test", "pytest")
    )
    answer = await world.post("simplereenroll", make_csr("dev1"), peer=peer_with(held))
    assert answer.status_code == 401


async def test_after_a_rollover_the_old_generations_certificates_renew(world: World) -> None:
    """E22: certificates of earlier keys stay good, and the listener knows their CA."""
    held = await world.enroll("dev1")
    services = world.runtime.services
    old = services.authorities.certificate("issuing")
    coming = await services.authorities.rotate("issuing", Rotation(), actor="test:pytest")
    new = issued(await world.post("simplereenroll", make_csr("dev1"), peer=peer_with(held)))
    new.verify_directly_issued_by(services.authorities.certificate(coming.name))
    anchors = world.runtime.protocols["est"].client_anchors
    assert anchors is not None
    assert {old.public_bytes(Encoding.DER)} < set(anchors())


async def test_a_certificate_enrols_for_its_own_names_only(world: World) -> None:
    """Else whoever has any certificate could have everybody's by simpleenroll."""
    held = await world.enroll("dev1", NAMES)
    for cn, dns, status in (
        ("dev1", NAMES[:1], 200),
        ("a.example.org", NAMES, 200),
        ("dev2", NAMES, 403),
        ("dev1", ["c.example.org"], 403),
    ):
        answer = await world.post("simpleenroll", make_csr(cn, dns), peer=peer_with(held))
        assert answer.status_code == status, (cn, dns)


async def test_any_names_where_the_label_says_so(open_world: OpenWorld) -> None:
    world = await open_world('[est.default]\ncertificate_names = "any"\n')
    await world.add_user()
    held = await world.enroll("dev1")
    answer = await world.post("simpleenroll", make_csr("dev2"), peer=peer_with(held))
    assert answer.status_code == 200


RA = """
[profiles.ra]
extended_key_usage = ["clientAuth", "1.3.6.1.5.5.7.3.28"]
subject = "CN={cn}"
require_name = false
[est.make]
profile = "ra"
[est.default]
registration_authorities = true
client_profiles = ["ra"]
[est.closed]
client_profiles = ["ra"]
[est.strict]
registration_authorities = true
"""


@pytest.mark.parametrize("operation", ["simpleenroll", "simplereenroll"])
async def test_registration_authority(open_world: OpenWorld, operation: str) -> None:
    """E27: with id-kp-cmcRA it may enrol for others, where the label allows it."""
    world = await open_world(RA)
    await world.add_user(label="make")
    ra = peer_with(await world.enroll("registrar", label="make"))
    request = make_csr("dev7", ["dev7.example.org"])
    assert (await world.post(operation, request, peer=ra)).status_code == 200
    assert (await world.post(f"closed/{operation}", request, peer=ra)).status_code == 403
    assert (await world.post(f"strict/{operation}", request, peer=ra)).status_code == 401
    assert any("client_profiles" in cause for cause in await world.refusals())


async def test_a_certificate_of_another_profile(open_world: OpenWorld) -> None:
    """A device's certificate is no way to one of a registration authority."""
    world = await open_world(RA)
    await world.add_user()
    peer = peer_with(await world.enroll("dev1"))
    for operation in ("simpleenroll", "simplereenroll"):
        answer = await world.post(f"make/{operation}", make_csr("dev1"), peer=peer)
        assert answer.status_code == 401


def change_to(cn: str | None, *dns: str) -> dict[str, bytes]:
    subject = b""
    if cn is not None:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)]).public_bytes()
    names = [der.encode(0x82, name.encode()) for name in dns]
    alternative = der.encode(der.SEQUENCE, *names) if dns else b""
    return {CHANGE_SUBJECT_NAME: der.encode(der.SEQUENCE, subject, alternative)}


@pytest.mark.parametrize(
    ("cn", "dns", "subject", "names"),
    [
        ("new", [], "CN=new", ["dev1.example.org"]),
        (None, ["n.example.org"], "CN=dev1", ["n.example.org"]),
        ("new.example.org", ["n.example.org"], "CN=new.example.org",
         ["n.example.org", "new.example.org"]),
    ],
)  # fmt: skip
async def test_change_subject_name(
    open_world: OpenWorld, cn: str | None, dns: list[str], subject: str, names: list[str]
) -> None:
    """RFC 6402 section 2.8: the request has the old names, the attribute the new ones."""
    world = await open_world("[est.default]\nchange_subject = true\n[est.fixed]\n")
    await world.add_user()
    held = await world.enroll("dev1", ["dev1.example.org"])
    key = new_key()
    request = make_csr("dev1", ["dev1.example.org"], key=key, attributes=change_to(cn, *dns))
    new = issued(await world.post("simplereenroll", request, peer=peer_with(held)))
    assert new.subject.rfc4514_string() == subject
    found = new.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert found.get_values_for_type(x509.DNSName) == names
    fixed = await world.post("fixed/simplereenroll", request, peer=peer_with(held))
    assert fixed.status_code == 403


async def test_changed_names_obey_the_profile(open_world: OpenWorld) -> None:
    world = await open_world(
        '[profiles.device.dns]\nallow = ["*.example.org"]\n[est.default]\nchange_subject = true\n'
    )
    await world.add_user()
    held = await world.enroll("dev1", ["dev1.example.org"])
    for cn, dns in ((None, ["evil.test"]), ("evil.test", []), ("*evil.test*", [])):
        attributes = change_to(cn, *dns)
        request = make_csr("dev1", ["dev1.example.org"], key=new_key(), attributes=attributes)
        answer = await world.post("simplereenroll", request, peer=peer_with(held))
        assert answer.status_code == 403, (cn, dns)


async def test_changed_names_are_a_bound_users_own(open_world: OpenWorld) -> None:
    """A user with patterns has them whichever way he asks."""
    world = await open_world(
        '[est.default]\nauth_require = "all"\nchange_subject = true\n[est.plain]\n'
    )
    await world.add_user(label="plain")
    await world.add_user(names={"cn": ["dev*"], "dns": ["*.example.org"]})
    peer = peer_with(await world.enroll("dev1", ["dev1.example.org"], label="plain"))
    for cn, dns, status in (
        ("dev2", ["dev2.example.org"], 200),
        ("chief", [], 403),
        (None, ["dev2.example.com"], 403),
    ):
        attributes = change_to(cn, *dns)
        request = make_csr("dev1", ["dev1.example.org"], key=new_key(), attributes=attributes)
        answer = await world.post("simplereenroll", request, peer=peer, auth=ALICE)
        assert answer.status_code == status, (cn, dns, answer.text)


# Outside anchors
