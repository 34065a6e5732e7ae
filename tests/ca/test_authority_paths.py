"""Authorities that stand on certificates from outside: requests, answers, imports, cross chains."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path
from typing import get_args

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.ca import ca_path
from pkiserver.ca.authorities import Authorities, subject_name
from pkiserver.ca.model import AuthorityStatus
from pkiserver.ca.subtrees import name_constraints
from pkiserver.config_types import KeyKind
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix import cert, csr, pem
from tests.ca.authority_support import (
    ACTOR,
    DAY,
    NOW,
    SOUND,
    OutsideCA,
    Says,
    World,
    below,
    certify,
    new_key,
    open_world,
    outside_root,
)

SUBJECT = subject_name("CN=Example Issuing,O=Example")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        yield world


async def requested(world: World, name: str = "issuing") -> csr.CertificationRequest:
    data = await world.authorities.request(name, SUBJECT, "p256", actor=ACTOR)
    return csr.parse(pem.csr_der(data))


def answered(
    request: csr.CertificationRequest,
    ca: OutsideCA,
    says: Says = SOUND,
    subject: x509.Name = SUBJECT,
) -> tuple[x509.Certificate, ...]:
    own = certify(subject, request.public_key, ca.certificate.subject, ca.key, says)
    return (own, *ca.path)


async def install(world: World, *certificates: x509.Certificate) -> None:
    await world.authorities.install("issuing", certificates, actor=ACTOR)


# Requests


async def test_a_request_asks_for_a_ca_certificate(world: World) -> None:
    request = await requested(world)
    assert request.ca and request.subject == SUBJECT
    assert request.key_usage is not None and request.key_usage.key_cert_sign
    pending = world.authorities.get("issuing")
    assert (pending.status, pending.certificate) == (AuthorityStatus.PENDING, None)
    assert request.spki_sha256 == pending.spki_sha256
    again = await world.authorities.csr("issuing")
    assert pem.csr_der(again) == request.der
    assert await world.actions() == [("authority.request", "issuing", "done")]


@pytest.mark.parametrize("kind", [kind for kind in get_args(KeyKind) if kind != "rsa-4096"])
async def test_every_kind_of_key_makes_a_request(world: World, kind: KeyKind) -> None:
    data = await world.authorities.request("issuing", SUBJECT, kind, actor=ACTOR)
    assert csr.parse(pem.csr_der(data)).ca


async def test_a_pending_authority_signs_and_shows_nothing(world: World) -> None:
    await requested(world)
    for look in (world.authorities.path, world.authorities.chain, world.authorities.certificate):
        with pytest.raises(PKIError) as caught:
            look("issuing")
        assert caught.value.code is ErrorCode.UNAVAILABLE
    assert world.authorities.roots() == ()
    assert world.authorities.key_identifier("issuing") is None
    with pytest.raises(PKIError):
        await world.child("below", "issuing")


async def test_a_pending_name_is_not_taken_over(world: World) -> None:
    await requested(world)
    keys = world.key_files()
    for make in (world.root("issuing"), requested(world)):
        with pytest.raises(PKIError) as caught:
            await make
        assert caught.value.code is ErrorCode.CONFLICT
    assert world.key_files() == keys


async def test_there_is_no_request_of_an_authority_of_ours(world: World) -> None:
    await world.root()
    for name in ("root", "nobody"):
        with pytest.raises(PKIError) as caught:
            await world.authorities.csr(name)
        assert caught.value.code is ErrorCode.NOT_FOUND
    root = world.authorities.certificate("root")
    with pytest.raises(PKIError) as conflict:
        await world.authorities.install("root", [root], actor=ACTOR)
    assert conflict.value.code is ErrorCode.CONFLICT


# Answers


async def test_an_answer_in_any_order_with_others_among_it_is_installed(world: World) -> None:
    request = await requested(world)
    ca = below(below(outside_root()), "Outside Sub Sub")
    path = answered(request, ca)
    await install(world, *reversed(path), outside_root("Stranger").certificate)
    authority = world.authorities.get("issuing")
    assert authority.status is AuthorityStatus.ACTIVE
    assert (authority.certificate, authority.outside) == (path[0], path[1:])
    assert world.authorities.path("issuing") == path
    assert world.authorities.chain("issuing") == path[:-1]
    assert world.authorities.roots() == (path[-1],)
    other = await world.another_process()
    assert other.path("issuing") == path
    await world.child("below", "issuing")
    assert world.authorities.path("below")[1:] == path
    assert (await world.actions())[1] == ("authority.install", "issuing", "done")


async def test_of_two_answers_at_once_one_is_installed(world: World) -> None:
    request = await requested(world)
    answers = [answered(request, outside_root(f"Root {n}")) for n in range(4)]
    results = await asyncio.gather(
        *(install(world, *answer) for answer in answers), return_exceptions=True
    )
    refused = [r for r in results if isinstance(r, PKIError) and r.code is ErrorCode.CONFLICT]
    assert (results.count(None), len(refused)) == (1, 3)
    assert world.authorities.path("issuing") in answers


@pytest.mark.parametrize(
    ("says", "why"),
    [
        (Says(ca=False, cert_sign=False), "not a CA certificate"),
        (Says(ca=None), "not a CA certificate"),
        (Says(cert_sign=False), "keyCertSign"),
        (Says(end=NOW - dt.timedelta(seconds=1)), "has expired"),
        (Says(start=NOW + dt.timedelta(seconds=1)), "not valid yet"),
        (
            Says(extra=[(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b""), True)]),
            "critical extension that is not known here: 1.2.3",
        ),
    ],
)
@pytest.mark.parametrize("place", ["own", "middle", "root"])
async def test_section_6_1_any_certificate_can_spoil_the_path(
    world: World, says: Says, why: str, place: str
) -> None:
    request = await requested(world)
    root = outside_root(says=says if place == "root" else Says())
    middle = below(root, says=says if place == "middle" else Says())
    path = answered(request, middle, says if place == "own" else Says())
    with pytest.raises(PKIError, match=why) as caught:
        await install(world, *path)
    assert caught.value.code is ErrorCode.REFUSED_BY_PROFILE
    assert world.authorities.get("issuing").status is AuthorityStatus.PENDING


async def test_section_6_1_4_path_lengths_hold_over_the_whole_path(world: World) -> None:
    request = await requested(world)
    for length in (0, 1):
        ca = below(below(outside_root(says=Says(path_length=length))), "Sub Sub")
        with pytest.raises(PKIError, match="path length allows fewer"):
            await install(world, *answered(request, ca))
    ca = below(below(outside_root(says=Says(path_length=3))), "Sub Sub", Says(path_length=1))
    await install(world, *answered(request, ca, Says(path_length=0)))
    with pytest.raises(PKIError, match="no further CA"):
        await world.child("below", "issuing")


async def test_section_4_2_1_10_names_of_cas_keep_the_constraints_above(world: World) -> None:
    limits = name_constraints(["dirname:O=Example"])
    assert limits is not None
    request = await requested(world)
    ca = outside_root(says=Says(extra=[(limits, True)]))
    with pytest.raises(PKIError) as caught:
        await install(world, *answered(request, ca, subject=subject_name("CN=X,O=Other")))
    assert caught.value.code is ErrorCode.REFUSED_NAME
    await install(world, *answered(request, ca))


async def test_an_incomplete_or_foreign_chain_is_refused(world: World) -> None:
    request = await requested(world)
    path = answered(request, below(outside_root()))
    with pytest.raises(PKIError, match="is missing"):
        await install(world, *path[:-1])
    with pytest.raises(PKIError, match="is missing"):
        await install(world, path[0], path[2])
    with pytest.raises(PKIError, match="none of the certificates is for this"):
        await install(world, *path[1:])
    with pytest.raises(PKIError, match="none of the certificates is for this"):
        await install(world)


async def test_a_signature_that_does_not_verify_is_no_link(world: World) -> None:
    request = await requested(world)
    root = outside_root()
    forger = OutsideCA(new_key(), root.path)
    with pytest.raises(PKIError, match="is missing"):
        await install(world, *answered(request, forger))


async def test_a_link_certificate_with_its_own_name_is_not_a_root(world: World) -> None:
    """RFC 4210 appendix E: an old key certifies the new one under the same name."""
    old = outside_root("Root")
    new = outside_root("Root")
    subject = new.certificate.subject
    link = certify(subject, new.key.public_key(), subject, old.key)
    own = answered(await requested(world), new)[0]
    await install(world, own, link, old.certificate)
    assert world.authorities.chain("issuing") == (own, link)
    assert world.authorities.roots() == (old.certificate,)


async def test_the_shortest_of_several_paths_is_taken(world: World) -> None:
    request = await requested(world)
    old, new = outside_root("Old"), outside_root("New")
    cross = certify(new.certificate.subject, new.key.public_key(), old.certificate.subject, old.key)
    own = answered(request, new)[0]
    await install(world, own, cross, old.certificate, new.certificate)
    assert world.authorities.path("issuing") == (own, new.certificate)


def with_sha1(certificate: x509.Certificate, key: rsa.RSAPrivateKey) -> x509.Certificate:
    """Signed anew with sha1WithRSAEncryption, which the library does not do."""
    tbs, algorithm, _ = cert.split(certificate.public_bytes(Encoding.DER))
    legacy = algorithm.replace(b"\x01\x01\x0b", b"\x01\x01\x05")
    tbs = tbs.replace(algorithm, legacy)
    signature = key.sign(tbs, padding.PKCS1v15(), hashes.SHA1())
    return x509.load_der_x509_certificate(cert.assemble(tbs, legacy, signature))


async def test_a_certificate_signed_over_sha1_is_refused(world: World) -> None:
    request = await requested(world)
    key = rsa.generate_private_key(65537, 2048)
    name = subject_name("CN=Legacy Root")
    root = OutsideCA(key, (certify(name, key.public_key(), name, key),))
    own, *above = answered(request, root)
    with pytest.raises(PKIError) as caught:
        await install(world, with_sha1(own, key), *above)
    assert caught.value.code is ErrorCode.REFUSED_BY_PROFILE


async def test_weak_keys_above_are_refused(world: World) -> None:
    request = await requested(world)
    key = ec.generate_private_key(ec.SECP256K1())
    name = subject_name("CN=Odd Root")
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), 5, NOW - DAY, NOW + DAY)
        .add_extension(x509.BasicConstraints(True, None), True)
    )  # fmt: skip
    root = builder.sign(key, hashes.SHA256())
    own = x509.CertificateBuilder(
        name, SUBJECT, request.public_key, 6, NOW - DAY, NOW + DAY,
        [*_extensions_of(certify(SUBJECT, request.public_key, name, new_key()))],
    ).sign(key, hashes.SHA256())  # fmt: skip
    with pytest.raises(PKIError) as caught:
        await install(world, own, root)
    assert caught.value.code is ErrorCode.REFUSED_BY_PROFILE


def _extensions_of(certificate: x509.Certificate) -> list[x509.Extension[x509.ExtensionType]]:
    return [each for each in certificate.extensions if each.critical]


async def test_an_empty_subject_is_refused(world: World) -> None:
    request = await requested(world)
    with pytest.raises(PKIError, match="empty subject"):
        await install(world, *answered(request, outside_root(), subject=x509.Name([])))


async def test_missing_crl_sign_is_noted(world: World) -> None:
    request = await requested(world)
    await install(world, *answered(request, outside_root(), Says(crl_sign=False)))
    assert not ca_path.may_sign_crls(world.authorities.certificate("issuing"))
    ((detail,),) = await world.all("SELECT detail FROM audit WHERE action = 'authority.install'")
    assert '"crl_sign":false' in detail


def test_a_tangle_of_cross_certificates_ends_soon() -> None:
    names = [subject_name(f"CN=Knot {n}") for n in range(7)]
    keys = [new_key() for _ in names]
    tangle = [
        certify(names[a], keys[a].public_key(), names[b], keys[b])
        for a in range(7)
        for b in range(7)
        if a != b
    ]
    with pytest.raises(PKIError, match="self-signed root"):
        ca_path.order(tangle, keys[0].public_key())


# Imports


async def import_(world: World, name: str, ca: OutsideCA) -> None:
    await world.authorities.import_(name, ca.path, ca.key, actor=ACTOR)


async def test_an_outside_ca_is_imported_with_its_key(world: World) -> None:
    ca = below(outside_root())
    await import_(world, "issuing", ca)
    authority = world.authorities.get("issuing")
    assert (authority.parent, authority.outside) == (None, ca.path[1:])
    assert (await world.another_process()).key("issuing").public_key() == ca.key.public_key()
    assert await world.actions() == [("authority.import", "issuing", "done")]
    assert await world.all("SELECT 1 FROM certificates") == []
    assert (await world.child("below", "issuing")).status is AuthorityStatus.ACTIVE


async def test_a_whole_hierarchy_is_imported_and_linked(world: World) -> None:
    """What a root of ours issued elsewhere is in our inventory: its status is asked of us."""
    root = outside_root()
    sub = below(root)
    await import_(world, "root", root)
    await world.authorities.import_("sub", [sub.certificate], sub.key, actor=ACTOR)
    assert world.authorities.get("sub").parent == "root"
    assert world.authorities.path("sub") == sub.path
    rows = await world.all("SELECT issuer, serial, profile, status FROM certificates")
    assert {(issuer, int.from_bytes(serial)) for issuer, serial, _, _ in rows} == {
        ("root", root.certificate.serial_number),
        ("root", sub.certificate.serial_number),
    }
    assert {(profile, status) for _, _, profile, status in rows} == {("ca", "issued")}


async def test_a_request_may_be_answered_with_an_authority_of_ours(world: World) -> None:
    root = outside_root()
    await import_(world, "root", root)
    own = answered(await requested(world), root)[0]
    await install(world, own)
    assert world.authorities.get("issuing").parent == "root"


async def test_a_refused_import_leaves_nothing(world: World) -> None:
    ca = outside_root(says=Says(end=NOW - dt.timedelta(seconds=1)))
    with pytest.raises(PKIError, match="expired"):
        await import_(world, "issuing", ca)
    good = outside_root()
    with pytest.raises(PKIError, match="none of the certificates"):
        await world.authorities.import_("issuing", good.path, new_key(), actor=ACTOR)
    assert world.authorities.list() == [] and world.key_files() == set()


async def test_a_key_is_one_authority_s_only(world: World) -> None:
    ca = outside_root()
    await import_(world, "one", ca)
    with pytest.raises(PKIError) as caught:
        await import_(world, "two", ca)
    assert caught.value.code is ErrorCode.CONFLICT
    with pytest.raises(PKIError):
        await import_(world, "one", outside_root())
    assert len(world.key_files()) == 1


# Cross chains


async def test_cross_chains_are_alternates_of_everything_below(world: World) -> None:
    root = await world.root()
    await world.child("issuing")
    assert root.certificate is not None
    old = below(outside_root("Old Root"), "Old Sub")
    own = root.certificate
    cross = certify(own.subject, own.public_key(), old.certificate.subject, old.key)
    given = (*reversed(old.path), cross)
    await world.authorities.add_chain("root", given, actor=ACTOR)
    issuing = world.authorities.certificate("issuing")
    other: Authorities = await world.another_process()
    for tree in (world.authorities, other):
        assert tree.chains("issuing") == ((issuing,), (issuing, cross, old.certificate))
        assert tree.chains("root") == ((), (cross, old.certificate))
        assert tree.roots() == (own,)
    with pytest.raises(PKIError) as caught:
        await world.authorities.add_chain("root", given, actor=ACTOR)
    assert caught.value.code is ErrorCode.CONFLICT
    assert (await world.actions())[-2:] == [
        ("authority.cross", "root", "done"),
        ("authority.cross", "root", "refused"),
    ]


async def test_a_cross_certificate_is_for_the_same_name_and_key(world: World) -> None:
    root = await world.root()
    assert root.certificate is not None
    old = outside_root("Old Root")
    own = root.certificate
    renamed = certify(SUBJECT, own.public_key(), old.certificate.subject, old.key)
    with pytest.raises(PKIError, match="another name"):
        await world.authorities.add_chain("root", (renamed, *old.path), actor=ACTOR)
    with pytest.raises(PKIError, match="none of the certificates"):
        await world.authorities.add_chain("root", old.path, actor=ACTOR)
    with pytest.raises(PKIError) as caught:
        await world.authorities.add_chain("root", (own,), actor=ACTOR)
    assert caught.value.code is ErrorCode.CONFLICT
