"""Rollover of issuing CAs and roots: checklist ocsp-crl-ca 1c, section 5 item 9, section 7 "CA
core"; RFC 4210 section 4.4, RFC 7030 section 4.1.3, RFC 8894 section 4.7."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.ca import lint, succession
from pkiserver.ca.audit import verify
from pkiserver.ca.authorities import Authorities, Rotation, subject_name
from pkiserver.ca.ca_certificate import Wish
from pkiserver.ca.model import Authority, AuthorityStatus, Reason, Turn
from pkiserver.ca.subtrees import name_constraints
from pkiserver.config_types import KeyKind
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.keys import FileKeyProvider
from pkiserver.pkix import algorithms, cert
from tests.ca.status_support import ACTOR, NOW, PKI, ask, has, open_pki, pem, tool

DAY = dt.timedelta(days=1)
SECOND = dt.timedelta(seconds=1)
BY_HAND = Rotation(activate_after=None)
AT_ONCE = Rotation()
WHO = "test:tester"


@pytest.fixture
async def pki(tmp_path: Path) -> AsyncIterator[PKI]:
    async with open_pki(tmp_path) as pki:
        yield pki


async def rotate(pki: PKI, name: str, wanted: Rotation = AT_ONCE) -> Authority:
    return await pki.authorities.rotate(name, wanted, actor=WHO)


async def activate(pki: PKI, name: str) -> Authority:
    return await pki.authorities.activate(name, actor=WHO)


async def another_process(pki: PKI) -> Authorities:
    keys = FileKeyProvider(pki.home / "keys", b"a passphrase for tests")
    other = Authorities(pki.database, pki.clock, keys, pki.audit, pki.settings)
    await other.load()
    return other


async def actions(pki: PKI) -> list[tuple[str, str]]:
    assert (await pki.database.read(verify)).broken is None
    rows = await pki.database.read(
        lambda reader: reader.all("SELECT action, object FROM audit ORDER BY sequence")
    )
    return [(action, what) for action, what in rows]


def refused(code: ErrorCode, text: str = "") -> "pytest.RaisesExc[PKIError]":
    return pytest.RaisesExc(PKIError, match=text or None, check=lambda error: error.code is code)


# The line of an issuing CA.


async def test_new_leaves_come_from_the_new_key_and_no_profile_is_edited(pki: PKI) -> None:
    before = await pki.issue()
    made = await rotate(pki, "issuing")
    after = await pki.issue()
    assert (before.record.issuer, after.record.issuer) == ("issuing", "issuing-2")
    assert made.certificate is not None
    after.certificate.verify_directly_issued_by(made.certificate)
    assert made.spki_sha256 != pki.authorities.get("issuing").spki_sha256
    (point,) = after.certificate.extensions.get_extension_for_class(
        x509.CRLDistributionPoints
    ).value
    assert point.full_name is not None
    assert point.full_name[0].value == "http://pki.example.com/crl/issuing-2.crl"


async def test_the_new_generation_is_like_the_old_one_but_for_its_name(pki: PKI) -> None:
    made = (await rotate(pki, "issuing")).certificate
    old = pki.certificate("issuing")
    assert made is not None
    assert made.subject.rfc4514_string() == "CN=Example Issuing G2,O=Example,C=CH"
    assert made.issuer == old.issuer
    basic = [
        each.extensions.get_extension_for_class(x509.BasicConstraints).value for each in (made, old)
    ]
    assert basic[0] == basic[1]
    lifetimes = {each.not_valid_after_utc - each.not_valid_before_utc for each in (made, old)}
    assert len(lifetimes) == 1


async def test_the_number_grows_and_any_generation_names_the_line(pki: PKI) -> None:
    await rotate(pki, "issuing")
    assert (await rotate(pki, "issuing")).name == "issuing-3"
    assert (await rotate(pki, "issuing-2")).name == "issuing-4"
    for name in ("issuing", "issuing-2", "issuing-3", "issuing-4"):
        assert pki.authorities.current(name) == "issuing-4"
    subjects = [
        each.certificate.subject.rfc4514_string()[:21]
        for each in pki.authorities.line("issuing-3")
        if each.certificate is not None
    ]
    assert subjects == ["CN=Example Issuing,O=", *(f"CN=Example Issuing G{n}" for n in (2, 3, 4))]


async def test_status_of_the_old_generation_goes_on_under_its_key_and_urls(pki: PKI) -> None:
    issued = await pki.issue()
    await pki.status.maintain()
    await rotate(pki, "issuing")
    await pki.authorities.retire("issuing", actor=WHO)
    await pki.status.maintain()
    await pki.revoke(issued)
    old = pki.certificate("issuing")
    answer = await pki.status.ocsp("issuing", ask(issued.certificate, old))
    parsed = ocsp.load_der_ocsp_response(answer.der)
    assert parsed.certificate_status is ocsp.OCSPCertStatus.REVOKED
    parsed.certificates[0].verify_directly_issued_by(old)
    await pki.status.publish_crl("issuing")
    crl = x509.load_der_x509_crl((await pki.status.crl("issuing")).der)
    key = old.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey) and crl.is_signature_valid(key)
    assert crl.get_revoked_certificate_by_serial_number(issued.record.serial) is not None
    with refused(ErrorCode.UNAUTHORIZED):
        await pki.status.ocsp("issuing-2", ask(issued.certificate, old))


async def test_issuance_under_way_ends_as_it_began(pki: PKI) -> None:
    prepared = await pki.prepare()
    await rotate(pki, "issuing")
    issued = await pki.issuance.issue(prepared)
    issued.certificate.verify_directly_issued_by(pki.certificate("issuing"))


async def test_children_are_made_below_the_generation_that_issues(pki: PKI) -> None:
    await rotate(pki, "root", BY_HAND)
    assert (await rotate(pki, "issuing")).parent == "root"
    await activate(pki, "root")
    assert (await rotate(pki, "issuing")).parent == "root-2"
    wish = Wish(subject_name("CN=Other"), 10 * DAY)
    made = await pki.authorities.create("other", "root", wish, "p256", actor=WHO)
    assert made.parent == "root-2"


# Its turn.


async def test_a_prepared_generation_is_published_and_waits(pki: PKI) -> None:
    made = await rotate(pki, "issuing", BY_HAND)
    await pki.status.maintain()
    tree = pki.authorities
    for name in ("issuing", "issuing-2"):
        assert tree.current(name) == "issuing"
        assert tree.next_certificate(name) == made.certificate
        assert made.certificate in tree.rollover_certificates(name)
    assert [tree.turn(name) for name in ("issuing", "issuing-2")] == [Turn.CURRENT, Turn.NEXT]
    assert (await pki.issue()).record.issuer == "issuing"
    assert (await pki.status.crl("issuing-2")).der
    await activate(pki, "issuing")
    assert [tree.turn(name) for name in ("issuing", "issuing-2")] == [Turn.PREVIOUS, Turn.CURRENT]
    assert tree.next_certificate("issuing") is None
    assert pki.certificate("issuing") in tree.rollover_certificates("issuing")
    assert (await pki.issue()).record.issuer == "issuing-2"
    with refused(ErrorCode.CONFLICT, "nothing comes after"):
        await activate(pki, "issuing")


async def test_every_process_changes_over_at_the_time_that_was_said(pki: PKI) -> None:
    await rotate(pki, "issuing", Rotation(activate_after=7 * DAY))
    other = await another_process(pki)
    pki.clock.advance(7 * DAY - SECOND)
    assert {tree.current("issuing") for tree in (pki.authorities, other)} == {"issuing"}
    assert other.takes_over("issuing-2") == NOW + 7 * DAY
    pki.clock.advance(SECOND)
    assert {tree.current("issuing") for tree in (pki.authorities, other)} == {"issuing-2"}
    assert (await pki.issue()).record.issuer == "issuing-2"


async def test_activation_may_come_earlier_and_counts_once(pki: PKI) -> None:
    await rotate(pki, "issuing", Rotation(activate_after=7 * DAY))
    others = [await another_process(pki) for _ in range(4)]
    done = await asyncio.gather(
        *(each.activate("issuing", actor=WHO) for each in others), return_exceptions=True
    )
    assert [isinstance(each, Authority) for each in done].count(True) == 1
    await pki.authorities.refresh_if_changed()
    assert pki.authorities.current("issuing") == "issuing-2"
    assert (await actions(pki)).count(("authority.activate", "issuing-2")) == 1


async def test_a_revoked_generation_or_one_without_its_key_does_not_take_over(pki: PKI) -> None:
    made = await rotate(pki, "issuing", BY_HAND)
    path = pki.home / "keys" / f"{made.key_id}.key"
    path.rename(away := path.with_suffix(".away"))
    other = await another_process(pki)
    with refused(ErrorCode.UNAVAILABLE, "offline"):
        await other.activate("issuing", actor=WHO)
    away.rename(path)
    assert made.certificate is not None
    await pki.revocation.revoke(
        "root", made.certificate.serial_number, Reason.CA_COMPROMISE, actor=ACTOR
    )
    with refused(ErrorCode.REFUSED_BY_PROFILE, "revoked"):
        await activate(pki, "issuing")
    assert pki.authorities.current("issuing") == "issuing"


async def test_a_generation_that_is_retired_before_its_turn_leaves_the_line(pki: PKI) -> None:
    await rotate(pki, "issuing", Rotation(activate_after=DAY))
    await pki.authorities.retire("issuing-2", actor=WHO)
    pki.clock.advance(2 * DAY)
    assert (await pki.issue()).record.issuer == "issuing"
    assert (await rotate(pki, "issuing")).name == "issuing-3"
    assert (await pki.issue()).record.issuer == "issuing-3"


async def test_one_that_took_over_and_was_retired_does_not_bring_the_old_key_back(
    pki: PKI,
) -> None:
    await rotate(pki, "issuing")
    await pki.authorities.retire("issuing-2", actor=WHO)
    with refused(ErrorCode.REFUSED_BY_PROFILE, "issuing-2 is retired"):
        await pki.issue()
    await rotate(pki, "issuing")
    assert (await pki.issue()).record.issuer == "issuing-3"


async def test_one_successor_at_a_time(pki: PKI) -> None:
    await rotate(pki, "issuing", BY_HAND)
    with refused(ErrorCode.CONFLICT, "issuing-2 comes next already"):
        await rotate(pki, "issuing")


@pytest.mark.parametrize("name", ["issuing", "root"])
async def test_invariant_6_of_many_who_rotate_at_once_one_wins(pki: PKI, name: str) -> None:
    others = [await another_process(pki) for _ in range(5)]
    done = await asyncio.gather(
        *(each.rotate(name, BY_HAND, actor=WHO) for each in others), return_exceptions=True
    )
    won = [each for each in done if isinstance(each, Authority)]
    lost = [each for each in done if isinstance(each, PKIError)]
    assert (len(won), len(lost)) == (1, 4)
    assert {error.code for error in lost} == {ErrorCode.CONFLICT}
    await pki.authorities.refresh_if_changed()
    assert [each.name for each in pki.authorities.line(name)] == [name, f"{name}-2"]
    keys = {path.stem for path in (pki.home / "keys").glob("*.key")}
    assert keys == {"root", "issuing", won[0].key_id}


# A CA below one that is not ours.


async def test_a_generation_certified_outside_takes_over_when_it_is_installed(pki: PKI) -> None:
    authorities = pki.authorities
    with refused(ErrorCode.NOT_FOUND):
        await authorities.rotate_outside("nobody", AT_ONCE, actor=WHO)
    name, request = await authorities.rotate_outside("issuing", AT_ONCE, actor=WHO)
    csr = x509.load_pem_x509_csr(request)
    assert name == "issuing-2" and csr.subject.rfc4514_string().startswith("CN=Example Issuing G2")
    assert authorities.current("issuing") == "issuing", "it has no certificate yet"
    assert authorities.next_certificate("issuing") is None
    with refused(ErrorCode.CONFLICT, "already"):
        await rotate(pki, "issuing")
    with refused(ErrorCode.UNAVAILABLE, "no certificate yet"):
        await activate(pki, "issuing")
    await authorities.install(name, outside(csr), actor=WHO)
    assert authorities.current("issuing") == "issuing-2"
    with refused(ErrorCode.CONFIGURATION, "--csr"):
        await rotate(pki, "issuing")


async def test_a_request_that_nobody_answers_is_given_up_by_retiring_it(pki: PKI) -> None:
    await pki.authorities.rotate_outside("issuing", AT_ONCE, actor=WHO)
    await pki.authorities.retire("issuing-2", actor=WHO)
    assert (await rotate(pki, "issuing")).name == "issuing-3"
    assert (await pki.issue()).record.issuer == "issuing-3"


def outside(csr: x509.CertificateSigningRequest) -> tuple[x509.Certificate, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = subject_name("CN=Outside Root")

    def sign(subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.Certificate:
        usage = csr.extensions.get_extension_for_class(x509.KeyUsage).value
        builder = x509.CertificateBuilder(
            name, subject, public_key, x509.random_serial_number(), NOW - DAY, NOW + 900 * DAY
        )
        for value, critical in (
            (x509.BasicConstraints(True, None), True),
            (usage, True),
            (x509.SubjectKeyIdentifier(algorithms.key_identifier(public_key)), False),
        ):
            builder = builder.add_extension(value, critical)
        return builder.sign(key, hashes.SHA256())

    own = csr.public_key()
    assert isinstance(own, ec.EllipticCurvePublicKey)
    return sign(csr.subject, own), sign(name, key.public_key())


# Roots.


def link(pki: PKI, name: str) -> x509.Certificate:
    (found,) = pki.authorities.links(name)
    return found


@pytest.mark.parametrize("subject", [None, "CN=Example Root,O=Example,C=CH"])
async def test_rfc_4210_4_4_old_with_new_and_new_with_old(pki: PKI, subject: str | None) -> None:
    old = pki.certificate("root")
    same = None if subject is None else old.subject
    pki.clock.advance(100 * DAY)
    made = (await rotate(pki, "root", Rotation(subject=same, activate_after=None))).certificate
    assert made is not None
    old_with_new, new_with_old = link(pki, "root"), link(pki, "root-2")
    for certificate, copied, issuer in (
        (old_with_new, old, made),
        (new_with_old, made, old),
    ):
        certificate.verify_directly_issued_by(issuer)
        assert certificate.subject == copied.subject
        assert certificate.public_key() == copied.public_key()
        assert cert.subject_key_identifier(certificate) == cert.subject_key_identifier(copied)
        assert certificate.not_valid_before_utc == copied.not_valid_before_utc
        assert certificate.not_valid_after_utc == old.not_valid_after_utc
        authority_key = certificate.extensions.get_extension_for_class(
            x509.AuthorityKeyIdentifier
        ).value
        assert authority_key.key_identifier == cert.subject_key_identifier(issuer)
    urls = new_with_old.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    assert urls[0].access_location.value == "http://pki.example.com/ocsp/root"
    assert (made.subject == old.subject) == (same is not None)


async def test_rfc_7030_4_1_3_clients_get_every_root_and_link(pki: PKI) -> None:
    await rotate(pki, "root", BY_HAND)
    tree = pki.authorities
    old, new = pki.certificate("root"), pki.certificate("root-2")
    links = {link(pki, "root"), link(pki, "root-2")}
    assert {new, *links} <= set(tree.rollover_certificates("issuing"))
    assert old not in tree.rollover_certificates("issuing"), "it is in the path"
    assert tree.next_certificate("root") == new
    assert set(tree.roots()) == {old, new}
    await activate(pki, "root")
    await rotate(pki, "issuing")
    found = tree.rollover_certificates("issuing")
    assert {old, pki.certificate("issuing"), *links} == set(found)
    assert len(found) == len(set(found))


async def test_before_any_rollover_there_is_nothing_more(pki: PKI) -> None:
    assert pki.authorities.rollover_certificates("issuing") == ()
    assert pki.authorities.next_certificate("issuing") is None
    assert pki.authorities.linked_chain("issuing") == pki.authorities.chain("issuing")


async def test_links_are_alternate_chains_and_go_with_the_server_s_certificate(pki: PKI) -> None:
    await rotate(pki, "root", BY_HAND)
    issuing, tree = pki.certificate("issuing"), pki.authorities
    assert tree.chains("issuing") == ((issuing,), (issuing, link(pki, "root")))
    assert tree.linked_chain("issuing") == (issuing, link(pki, "root"))


async def test_a_root_called_off_is_linked_with_nothing_any_more(pki: PKI) -> None:
    await rotate(pki, "root", BY_HAND)
    await pki.authorities.retire("root-2", actor=WHO)
    assert pki.authorities.links("root") == ()
    assert pki.authorities.rollover_certificates("issuing") == ()
    assert len(pki.authorities.chains("issuing")) == 1
    await rotate(pki, "root", BY_HAND)
    assert {link(pki, "root"), link(pki, "root-3"), pki.certificate("root-3")} == set(
        pki.authorities.rollover_certificates("issuing")
    )


async def test_links_and_their_chains_end_with_the_old_root(pki: PKI) -> None:
    pki.clock.advance(100 * DAY)
    await rotate(pki, "root")
    await rotate(pki, "issuing")
    assert len(pki.authorities.chains("issuing-2")) == 2
    pki.clock.advance(7199 * DAY)
    await rotate(pki, "root")
    pki.clock.advance(2 * DAY)
    assert pki.certificate("root") not in pki.authorities.rollover_certificates("root")
    assert {each.subject for each in pki.authorities.links("root-2")} == {
        pki.certificate("root-2").subject
    }


async def test_links_are_in_the_inventory_and_can_be_revoked(pki: PKI) -> None:
    await rotate(pki, "root", BY_HAND)
    await pki.status.maintain()
    found = link(pki, "root-2")
    answer = await pki.status.ocsp("root", ask(found, pki.certificate("root")))
    parsed = ocsp.load_der_ocsp_response(answer.der)
    assert parsed.certificate_status is ocsp.OCSPCertStatus.GOOD
    await pki.revocation.revoke("root", found.serial_number, Reason.SUPERSEDED, actor=ACTOR)
    assert ("authority.link", "root") in await actions(pki)
    assert ("authority.link", "root-2") in await actions(pki)


async def test_a_root_whose_key_is_offline_cannot_be_linked(pki: PKI) -> None:
    (pki.home / "keys" / "root.key").rename(pki.home / "root.away")
    other = await another_process(pki)
    with refused(ErrorCode.UNAVAILABLE, "authority root is not here; is it offline"):
        await other.rotate("root", BY_HAND, actor=WHO)
    assert {path.stem for path in (pki.home / "keys").glob("*.key")} == {"issuing"}
    assert [each.name for each in other.line("root")] == ["root"]


async def test_rfc_5280_4_2_1_9_a_path_length_leaves_no_room_for_a_link_to_another_name(
    pki: PKI,
) -> None:
    subject = subject_name("CN=Bounded Root")
    wish = Wish(subject, 1000 * DAY, path_length=1)
    await pki.authorities.create_root("bounded", wish, "p256", actor=WHO)
    with refused(ErrorCode.REFUSED_BY_PROFILE, "--subject 'CN=Bounded Root'"):
        await rotate(pki, "bounded", BY_HAND)
    made = await rotate(pki, "bounded", Rotation(subject=subject, activate_after=None))
    assert made.certificate is not None and made.certificate.subject == subject
    assert pki.authorities.rollover_certificates("bounded")


async def test_a_retired_root_links_nothing(pki: PKI) -> None:
    await pki.authorities.retire("root", actor=WHO)
    with refused(ErrorCode.REFUSED_BY_PROFILE, "root is retired"):
        await rotate(pki, "root", BY_HAND)
    assert {path.stem for path in (pki.home / "keys").glob("*.key")} == {"root", "issuing"}


async def test_an_expired_root_links_nothing(pki: PKI) -> None:
    pki.clock.advance(7301 * DAY)
    with refused(ErrorCode.REFUSED_BY_PROFILE, "expired"):
        await rotate(pki, "root", BY_HAND)


@pytest.mark.parametrize("kind", [kind for kind in get_args(KeyKind) if kind != "rsa-4096"])
async def test_every_kind_of_key_follows_every_other(pki: PKI, kind: KeyKind) -> None:
    made = await rotate(pki, "root", Rotation(kind=kind))
    assert made.certificate is not None
    assert algorithms.describe(made.certificate.public_key()) == kind
    below = await rotate(pki, "issuing", Rotation(kind="p256"))
    assert below.parent == "root-2" and below.certificate is not None
    below.certificate.verify_directly_issued_by(made.certificate)
    link(pki, "root").verify_directly_issued_by(made.certificate)
    assert (await pki.issue()).record.issuer == "issuing-2"


async def test_limits_are_handed_on_and_everything_passes_pkilint(pki: PKI) -> None:
    limits: dict[str, Any] = {
        "name_constraints": name_constraints(["dns:example.com"], ["ip:10.0.0.0/8"]),
        "extended_key_usage": (ExtendedKeyUsageOID.SERVER_AUTH,),
        "policies": (x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"),),
    }
    wish = Wish(subject_name("CN=Limited,O=Example"), 100 * DAY, 0, **limits)
    await pki.authorities.create("limited", "root", wish, "p256", actor=WHO)
    await rotate(pki, "root", BY_HAND)
    await rotate(pki, "limited")
    new, old = pki.certificate("limited-2"), pki.certificate("limited")
    for kind in (x509.NameConstraints, x509.ExtendedKeyUsage, x509.CertificatePolicies):
        assert new.extensions.get_extension_for_class(
            kind
        ) == old.extensions.get_extension_for_class(kind)
    for certificate in (new, pki.certificate("root-2"), link(pki, "root"), link(pki, "root-2")):
        findings = lint.full(certificate.public_bytes(Encoding.DER))
        assert [f.code for f in findings if f.is_error] == [], certificate.subject


async def test_an_imported_root_keeps_its_key_identifier_in_the_link(pki: PKI) -> None:
    """Below it, authority key identifiers are what it calls itself, however it came to that."""
    key, name = ec.generate_private_key(ec.SECP384R1()), subject_name("CN=Imported")
    usage = pki.certificate("root").extensions.get_extension_for_class(x509.KeyUsage)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7, NOW - DAY, NOW + 99 * DAY)
    for value, critical in (
        (x509.BasicConstraints(True, None), True),
        (usage.value, True),
        (x509.SubjectKeyIdentifier(b"chosen by hand"), False),
    ):
        builder = builder.add_extension(value, critical)
    own = builder.sign(key, hashes.SHA384())
    await pki.authorities.import_("imported", [own], key, actor=WHO)
    made = await rotate(pki, "imported", BY_HAND)
    assert made.certificate is not None
    assert algorithms.describe(made.certificate.public_key()) == "p384"
    assert cert.subject_key_identifier(link(pki, "imported")) == b"chosen by hand"
    authority_key = link(pki, "imported-2").extensions.get_extension_for_class(
        x509.AuthorityKeyIdentifier
    )
    assert authority_key.value.key_identifier == b"chosen by hand"


async def test_refusals_are_in_the_audit_log_with_their_cause(pki: PKI) -> None:
    await rotate(pki, "issuing", BY_HAND)
    for failing in (
        rotate(pki, "issuing"),
        activate(pki, "root"),
        pki.authorities.retire("nobody", actor=WHO),
    ):
        with pytest.raises(PKIError):
            await failing
    rows = await pki.database.read(
        lambda reader: reader.all(
            "SELECT action, object, detail FROM audit WHERE outcome = 'refused' ORDER BY sequence"
        )
    )
    assert [row[:2] for row in rows] == [
        ("authority.rotate", "issuing"), ("authority.activate", "root"),
        ("authority.retire", "nobody"),
    ]  # fmt: skip
    assert "comes next already" in rows[0][2]


# What other implementations make of it.


async def whole_rollover(pki: PKI, wanted: Rotation) -> list[tuple[str, x509.Certificate]]:
    """A leaf of the old hierarchy and one of the new."""
    old = await pki.issue("old.example.com")
    await rotate(pki, "root", wanted)
    await rotate(pki, "issuing")
    new = await pki.issue("new.example.com")
    return [("issuing", old.certificate), ("issuing-2", new.certificate)]


@pytest.mark.skipif(not has("openssl"), reason="openssl is not here")
@pytest.mark.parametrize("same_name", [False, True])
async def test_openssl_verifies_old_and_new_leaves_with_the_old_root_or_the_new(
    pki: PKI, tmp_path: Path, same_name: bool
) -> None:
    subject = pki.certificate("root").subject if same_name else None
    leaves = await whole_rollover(pki, Rotation(subject=subject))
    for anchor in ("root", "root-2"):
        root = pem(tmp_path / "anchor.pem", [pki.certificate(anchor)])
        for issuer, leaf in leaves:
            chain = pem(tmp_path / "chain.pem", pki.authorities.linked_chain(issuer))
            file = pem(tmp_path / "leaf.pem", [leaf])
            at = str(int(NOW.timestamp()))
            done = tool(
                "openssl", "verify", "-attime", at, "-x509_strict", "-CAfile", root,
                "-untrusted", chain, file,
            )  # fmt: skip
            assert done.returncode == 0, (anchor, issuer, done.stdout)
            without = pem(tmp_path / "chain.pem", pki.authorities.chain(issuer))
            done = tool("openssl", "verify", "-attime", at, "-CAfile", root, "-untrusted", without,
                        file)  # fmt: skip
            own = pki.authorities.path(issuer)[-1] == pki.certificate(anchor)
            assert (done.returncode == 0) == own, "only the link makes the other root do"


@pytest.mark.skipif(not has("certtool"), reason="certtool is not here")
@pytest.mark.parametrize("same_name", [False, True])
async def test_gnutls_verifies_chains_with_links(tmp_path: Path, same_name: bool) -> None:
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)  # certtool has no other time
    async with open_pki(tmp_path, now=now) as pki:
        subject = pki.certificate("root").subject if same_name else None
        leaves = await whole_rollover(pki, Rotation(subject=subject))
        for issuer, leaf, anchor in (
            ("issuing", leaves[0][1], "root"),
            ("issuing", leaves[0][1], "root-2"),
            ("issuing-2", leaves[1][1], "root"),
            ("issuing-2", leaves[1][1], "root-2"),
        ):
            own = pki.authorities.path(issuer)[-1] == pki.certificate(anchor)
            chain = pki.authorities.chain(issuer) if own else pki.authorities.linked_chain(issuer)
            done = tool(
                "certtool", "--verify", "--infile", pem(tmp_path / "chain.pem", [leaf, *chain]),
                "--load-ca-certificate", pem(tmp_path / "a.pem", [pki.certificate(anchor)]),
            )  # fmt: skip
            assert done.returncode == 0, (issuer, anchor, done.stdout)


@pytest.mark.skipif(not has("openssl") or not has("certtool"), reason="a tool is not here")
@pytest.mark.parametrize("first", ["issuing", "issuing-2"])
async def test_a_revoked_leaf_is_seen_whichever_generation_s_list_comes_first(
    tmp_path: Path, first: str
) -> None:
    """GnuTLS takes the list of the other generation where both have one name: they do not."""
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    async with open_pki(tmp_path, now=now) as pki:
        revoked = await pki.issue("revoked.example.com")
        good = await pki.issue("good.example.com")
        await rotate(pki, "issuing")
        await pki.revoke(revoked)
        lists = b""
        for name in (first, *{"issuing", "issuing-2"} - {first}, "root"):
            await pki.status.publish_crl(name)
            found = x509.load_der_x509_crl((await pki.status.crl(name)).der)
            lists += found.public_bytes(Encoding.PEM)
        (tmp_path / "crls.pem").write_bytes(lists)
        root = pem(tmp_path / "root.pem", [pki.certificate("root")])
        for issued, sound in ((revoked, False), (good, True)):
            chain = pem(tmp_path / "chain.pem", [issued.certificate, pki.certificate("issuing")])
            for words in (
                ("openssl", "verify", "-crl_check_all", "-CAfile", root, "-CRLfile",
                 tmp_path / "crls.pem", "-untrusted", chain, chain),
                ("certtool", "--verify", "--infile", chain, "--load-ca-certificate", root,
                 "--load-crl", tmp_path / "crls.pem"),
            ):  # fmt: skip
                done = tool(*words)
                assert (done.returncode == 0) == sound, (words[0], done.stdout)
                assert sound or "revoked" in done.stdout


# Names.


def name_of(text: str) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = subject_name(text)
    return x509.CertificateBuilder(
        subject, subject, key.public_key(), 1, NOW, NOW + DAY,
        [x509.Extension(x509.BasicConstraints.oid, True, x509.BasicConstraints(True, None))],
    ).sign(key, hashes.SHA256())  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("CN=A CA,O=X", "CN=A CA G2,O=X"),
        ("CN=A CA G7", "CN=A CA G2"),
        ("CN=Group G", "CN=Group G G2"),
    ],
)
def test_a_generation_s_name(before: str, after: str) -> None:
    subject = succession.wish_after(name_of(before), 2).subject
    assert subject == subject_name(after)


def test_a_name_of_several_values_and_string_types_is_kept() -> None:
    number = x509.NameAttribute(NameOID.SERIAL_NUMBER, "1")
    common = x509.NameAttribute(NameOID.COMMON_NAME, "A CA", _type=_ASN1Type.PrintableString)
    own = name_of("CN=Stand in")
    name = x509.Name([x509.RelativeDistinguishedName([common, number])])
    key = ec.generate_private_key(ec.SECP256R1())
    own = x509.CertificateBuilder(
        name, name, key.public_key(), 1, NOW, NOW + DAY, [*own.extensions]
    ).sign(key, hashes.SHA256())
    (rdn,) = succession.wish_after(own, 2).subject.rdns
    assert {(each.oid, each.value) for each in rdn} == {
        (NameOID.SERIAL_NUMBER, "1"), (NameOID.COMMON_NAME, "A CA G2"),
    }  # fmt: skip
    assert {each._type for each in rdn} == {_ASN1Type.PrintableString}


@pytest.mark.parametrize("text", ["O=Nobody", f"CN={'x' * 64}"])
def test_a_name_that_cannot_be_numbered_has_to_be_said(text: str) -> None:
    with refused(ErrorCode.CONFIGURATION, "--subject"):
        succession.wish_after(name_of(text), 2)


NAMES = st.from_regex(r"\A[a-z0-9][a-z0-9-]{0,62}\Z")


@settings(max_examples=100)
@given(NAMES, st.integers(1, 50), st.lists(NAMES, max_size=5))
def test_names_of_authorities_are_free_and_fit_into_urls(
    first: str, generations: int, others: Sequence[str]
) -> None:
    taken = [*others, f"{first[:55]}-{generations + 1}"]
    name, number = succession.next_name(first, generations, taken)
    assert name not in taken and len(name) <= 63 and number > generations
    assert name == name.strip() and name.endswith(f"-{number}")


async def test_a_successor_is_the_operator_s_only_if_he_made_it_one(pki: PKI) -> None:
    """What an interrupted rotation left, and somebody takes over otherwise, is in no line."""
    await pki.database.write(
        lambda tx: tx.execute(
            "INSERT INTO authorities (name, chain, key_id, spki_sha256, status, created, "
            "generation) VALUES ('issuing-2', ?, 'gone', ?, 'pending', 0, 99)",
            (b"", b"gone"),
        )
    )
    await pki.database.write(
        lambda tx: tx.execute(
            "INSERT INTO successions (predecessor, successor, created, activates) "
            "VALUES ('issuing', 'issuing-2', 0, 0)"
        )
    )
    await pki.authorities.refresh_if_changed()
    wish = Wish(subject_name("CN=Unrelated"), 10 * DAY)
    await pki.authorities.create("issuing-2", "root", wish, "p256", actor=WHO)
    assert pki.authorities.current("issuing") == "issuing"
    assert pki.authorities.get("issuing-2").status is AuthorityStatus.ACTIVE
    assert (await rotate(pki, "issuing")).name == "issuing-3"


async def test_der_of_links_survives_a_restart(pki: PKI) -> None:
    await rotate(pki, "root", BY_HAND)
    other = await another_process(pki)
    assert [each.public_bytes(Encoding.DER) for each in other.links("root")] == [
        each.public_bytes(Encoding.DER) for each in pki.authorities.links("root")
    ]
