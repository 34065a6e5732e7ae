"""Paths of outside client certificates: what TLS may let through and the label does not (RFC 5280
section 6.1)."""

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from pkiserver.pkix.pem import pem_chain
from tests.test_est.conftest import OpenWorld
from tests.test_est.support import Factory, Held, World, make_csr, new_key, peer_with

CONFIGURATION = """
[est.factory]
auth = ["mtls"]
client_ca = ["factory.pem"]
certificate_names = "any"
"""
Extensions = Sequence[tuple[x509.ExtensionType, bool]]
CA: Extensions = [(x509.BasicConstraints(True, None), True)]


@pytest.fixture
async def world(open_world: OpenWorld, home: Path, factory: Factory) -> World:
    (home / "factory.pem").write_bytes(pem_chain([factory.root.certificate]))
    return await open_world(CONFIGURATION)


def made(
    factory: Factory,
    name: str,
    issuer: Held,
    extensions: Extensions = (),
    *,
    days: tuple[int, int] = (-1, 10),
) -> Held:
    """A certificate; `days` are those of its validity, from now."""
    key = new_key()
    first, last = (factory.now + dt.timedelta(days=each) for each in days)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(first)
        .not_valid_after(last)
    )
    for value, critical in extensions:
        builder = builder.add_extension(value, critical=critical)
    return Held(builder.sign(issuer.key, hashes.SHA256()), key)


async def status(world: World, device: Held, *chain: Held) -> int:
    peer = peer_with(device, *chain)
    return (await world.post("factory/simpleenroll", make_csr(), peer=peer)).status_code


@pytest.mark.parametrize("days", [(-9, -1), (1, 9)])
async def test_not_valid_now(world: World, factory: Factory, days: tuple[int, int]) -> None:
    """The leaf, or the CA above it."""
    above = factory.issuing
    assert await status(world, made(factory, "SN-1", above), above) == 200
    assert await status(world, made(factory, "SN-1", above, days=days), above) == 403
    between = made(factory, "CA 2", factory.root, CA, days=days)
    assert await status(world, made(factory, "SN-1", between), between) == 403


def constrained(*, permitted: str | None = None, excluded: str | None = None) -> Extensions:
    permits, excludes = (
        None if each is None else [x509.DNSName(each)] for each in (permitted, excluded)
    )
    return [*CA, (x509.NameConstraints(permits, excludes), True)]


@pytest.mark.parametrize(
    "limits", [constrained(permitted="in.test"), constrained(excluded="out.test")]
)
async def test_name_constraints(world: World, factory: Factory, limits: Extensions) -> None:
    above = made(factory, "Constrained", factory.root, limits)
    for name, expected in (("a.in.test", 200), ("a.out.test", 403)):
        names = x509.SubjectAlternativeName([x509.DNSName(name)])
        device = made(factory, "SN-1", above, [(names, False)])
        assert await status(world, device, above) == expected


@pytest.mark.parametrize(
    "extensions",
    [
        [],
        [(x509.BasicConstraints(False, None), True)],
        [
            *CA,
            (
                x509.KeyUsage(True, False, False, False, False, False, False, False, False),
                True,
            ),
        ],
    ],
)
async def test_what_is_no_authority(world: World, factory: Factory, extensions: Extensions) -> None:
    above = made(factory, "No CA", factory.root, extensions)
    assert await status(world, made(factory, "SN-1", above), above) == 403


async def test_path_length(world: World, factory: Factory) -> None:
    first = made(factory, "CA 1", factory.root, [(x509.BasicConstraints(True, 0), True)])
    second = made(factory, "CA 2", first, CA)
    assert await status(world, made(factory, "SN-1", first), first) == 200
    assert await status(world, made(factory, "SN-1", second), second, first) == 403
