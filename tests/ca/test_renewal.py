"""Another certificate for an authority's name and key, from a CA outside."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from pkiserver.ca.authorities import subject_name
from pkiserver.ca.issuance import Issuance
from pkiserver.ca.model import Authority
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix.algorithms import key_identifier
from tests.ca.authority_support import (
    ACTOR,
    DAY,
    NOW,
    OutsideCA,
    Says,
    World,
    certify,
    new_key,
    open_world,
    outside_root,
)

LONGER = Says(end=NOW + 360 * DAY)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        yield world


@pytest.fixture
def root() -> OutsideCA:
    return outside_root()


async def installed(world: World, root: OutsideCA, name: str = "issuing") -> x509.Certificate:
    """An authority below an outside root."""
    pem = await world.authorities.request(name, subject_name("CN=Sub"), "p256", actor=ACTOR)
    certificate = answer(root, pem, Says(end=NOW + 100 * DAY))
    await world.authorities.install(name, [certificate, *root.path], actor=ACTOR)
    return certificate


def answer(root: OutsideCA, request: bytes, says: Says = LONGER) -> x509.Certificate:
    csr = x509.load_pem_x509_csr(request)
    assert csr.is_signature_valid
    return certify(csr.subject, csr.public_key(), root.certificate.subject, root.key, says)


async def renew(world: World, *certificates: x509.Certificate, name: str = "issuing") -> Authority:
    return await world.authorities.renew(name, certificates, actor=ACTOR)


async def test_it_lasts_longer_and_keeps_name_key_and_urls(world: World, root: OutsideCA) -> None:
    old = await installed(world, root)
    new = answer(root, await world.authorities.renewal_request("issuing"))
    made = await renew(world, new, *root.path)
    assert (made.certificate, made.spki_sha256) == (
        new,
        world.authorities.get("issuing").spki_sha256,
    )
    assert world.authorities.path("issuing") == (new, *root.path)
    assert world.authorities.chains("issuing") == ((new,),)
    assert new.not_valid_after_utc > old.not_valid_after_utc
    other = await world.another_process()
    assert other.certificate("issuing") == new
    child = await world.child("below", "issuing")
    assert child.certificate is not None
    child.certificate.verify_directly_issued_by(old)
    assert (await world.actions())[-3][:2] == ("authority.renew", "issuing")


async def test_below_another_root_the_old_path_stays_an_alternate(
    world: World, root: OutsideCA
) -> None:
    old = await installed(world, root)
    another = outside_root("Another Root")
    new = answer(another, await world.authorities.renewal_request("issuing"))
    await renew(world, new, *another.path)
    assert world.authorities.chains("issuing") == ((new,), (old,))
    assert world.authorities.roots() == (another.certificate,)


async def test_one_of_ours_may_go_below_a_root_outside(world: World, root: OutsideCA) -> None:
    await world.root()
    await world.child("issuing")
    before = world.authorities.path("issuing")
    new = answer(root, await world.authorities.renewal_request("issuing"))
    made = await renew(world, new, *root.path)
    assert (made.parent, made.outside) == (None, root.path)
    assert world.authorities.chains("issuing") == ((new,), before[:-1])
    issuance = Issuance(world.database, world.clock, world.authorities, world.audit, world.settings)
    assert issuance.profiles["tls-server"].issuer == "issuing"


async def test_what_does_not_fit_is_refused_and_changes_nothing(
    world: World, root: OutsideCA
) -> None:
    old = await installed(world, root)
    key = new_key()
    request = await world.authorities.renewal_request("issuing")
    own = x509.load_pem_x509_csr(request).public_key()
    other_name = certify(
        subject_name("CN=Other"),
        own,
        root.certificate.subject,
        root.key,
        LONGER,
    )
    other_key = certify(old.subject, key.public_key(), root.certificate.subject, root.key, LONGER)
    for certificates, text in (
        ([other_name, *root.path], "another name"),
        ([other_key, *root.path], "none of the certificates is for this authority's key"),
        ([old, *root.path], "the certificate the authority has"),
        ([answer(root, request)], "is missing"),
        ([answer(root, request, Says(end=NOW - DAY / 2)), *root.path], "expired"),
    ):
        with pytest.raises(PKIError, match=text) as caught:
            await renew(world, *certificates)
        assert caught.value.code is ErrorCode.REFUSED_BY_PROFILE
    assert world.authorities.certificate("issuing") == old
    refused = [row for row in await world.actions() if row[2] == "refused"]
    assert refused == [("authority.renew", "issuing", "refused")] * 5


async def test_another_key_identifier_would_break_what_was_issued(
    world: World, root: OutsideCA
) -> None:
    key = new_key()
    standing = x509.SubjectKeyIdentifier(b"its own")
    assert key_identifier(key.public_key()) != b"its own"
    own = (
        x509.CertificateBuilder(
            subject_name("CN=Sub"), subject_name("CN=Sub"), key.public_key(), 5, NOW - DAY,
            NOW + 50 * DAY,
        )
        .add_extension(x509.BasicConstraints(True, None), True)
        .add_extension(standing, False)
    )  # fmt: skip
    certificate = own.sign(key, hashes.SHA256())
    await world.authorities.import_("issuing", [certificate], key, actor=ACTOR)
    new = answer(root, await world.authorities.renewal_request("issuing"))
    with pytest.raises(PKIError, match="another subject key identifier"):
        await renew(world, new, *root.path)


async def test_of_two_renewals_at_once_one_counts(world: World, root: OutsideCA) -> None:
    await installed(world, root)
    request = await world.authorities.renewal_request("issuing")
    trees = [await world.another_process() for _ in range(3)]
    done = await asyncio.gather(
        *(tree.renew("issuing", [answer(root, request), *root.path], actor=ACTOR)
          for tree in trees),
        return_exceptions=True,
    )  # fmt: skip
    assert sum(isinstance(each, Authority) for each in done) == 1
    assert {each.code for each in done if isinstance(each, PKIError)} == {ErrorCode.CONFLICT}
