"""Certificates of ours in another encoding. The signature's encoding is not signed, so whoever
holds a certificate can make another with the same contents: (r, n - s) verifies like (r, s)."""

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from pkiserver.ca.model import Reason, Requester
from pkiserver.pkix import cert
from tests.test_est.conftest import OpenWorld
from tests.test_est.support import Held, World, make_csr, peer_with

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def twin(held: Held) -> Held:
    """The same certificate with the other signature that verifies."""
    tbs, algorithm, signature = cert.split(held.der)
    r, s = decode_dss_signature(signature)
    other = cert.assemble(tbs, algorithm, encode_dss_signature(r, P256_ORDER - s))
    return Held(x509.load_der_x509_certificate(other), held.key)


@pytest.fixture
async def below_an_anchor(open_world: OpenWorld, made_home: Path, tmp_path: Path) -> World:
    """A label whose outside anchor stands above our own CA, such as a company's root."""
    anchor = tmp_path / "company.pem"
    anchor.write_bytes((made_home / "root.pem").read_bytes())
    world = await open_world(
        f'[est.default]\nclient_ca = ["{anchor}"]\n[profiles.other]\n[est.other]\n'
        f'profile = "other"\nclient_ca = ["{anchor}"]\n'
    )
    await world.add_user()
    return world


async def test_the_twin_of_a_certificate(below_an_anchor: World) -> None:
    """Neither revocation nor the label's profile is got round by it."""
    world = below_an_anchor
    held = await world.enroll("dev1")
    services = world.runtime.services
    issuing = Held(services.authorities.certificate("issuing"), held.key)
    changed = twin(held)
    changed.certificate.verify_directly_issued_by(issuing.certificate)
    peer = peer_with(changed, issuing)
    for operation in ("simpleenroll", "other/simpleenroll", "simplereenroll"):
        answer = await world.post(operation, make_csr("dev1"), peer=peer)
        assert answer.status_code == 401, operation
    assert any("inventory" in cause for cause in await world.refusals())
    await services.revocation.revoke(
        "issuing",
        held.certificate.serial_number,
        Reason.KEY_COMPROMISE,
        actor=Requester("test", "pytest"),
    )
    answer = await world.post("simpleenroll", make_csr("dev1"), peer=peer)
    assert answer.status_code == 401
