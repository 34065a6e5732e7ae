"""Requests with one octet changed, cut off, or grown: refused or answered, never a failure of ours
(E26), and never a certificate for names that were not signed for."""

import base64

import pytest
from cryptography import x509

from pkiserver.pkix import der
from protocols.est.attributes import CHANGE_SUBJECT_NAME, DECRYPT_KEY_ID, SMIME_CAPABILITIES
from tests.test_est.conftest import OpenWorld
from tests.test_est.support import PASSWORD, World, make_csr, new_key, peer_with

KEY = new_key()
NAMES = ["a.example.org"]
SUBJECT = x509.Name.from_rfc4514_string("CN=new").public_bytes()
ATTRIBUTES = {
    CHANGE_SUBJECT_NAME: der.encode(
        der.SEQUENCE, SUBJECT, der.encode(der.SEQUENCE, der.encode(0x82, b"n.example.org"))
    ),
    DECRYPT_KEY_ID: der.encode(der.OCTET_STRING, b"alice"),
    SMIME_CAPABILITIES: der.encode(
        der.SEQUENCE, der.encode(der.SEQUENCE, der.encode_oid("2.16.840.1.101.3.4.1.42"))
    ),
}
REQUEST = make_csr("dev1", NAMES, key=KEY, attributes=ATTRIBUTES)


def mutations(request: bytes) -> list[bytes]:
    found = [request[:cut] for cut in range(0, len(request), 41)]
    found += [request + b"\0", request * 2]
    for place in range(0, len(request), 9):
        changed = bytearray(request)
        changed[place] ^= 1 << (place % 8)
        found.append(bytes(changed))
    return found


@pytest.fixture
async def unlimited(open_world: OpenWorld) -> World:
    """Where nobody waits after too many refusals."""
    world = await open_world("[est.default]\nrefusals_per_client = false\n")
    await world.add_user()
    return world


@pytest.mark.parametrize("operation", ["simpleenroll", "simplereenroll"])
async def test_mutations_are_refused(unlimited: World, operation: str) -> None:
    """The signature covers every octet."""
    world = unlimited
    held = await world.enroll("dev1", NAMES)
    before = await world.certificates()
    peer = peer_with(held)
    for mutation in mutations(REQUEST):
        answer = await world.post(operation, mutation, peer=peer)
        assert answer.status_code in (400, 403), base64.b64encode(mutation)
    assert await world.certificates() == before


async def test_mutations_for_a_key_of_the_server(unlimited: World) -> None:
    """Here the signature means nothing, so what is changed may be answered."""
    world = unlimited
    for mutation in mutations(REQUEST):
        answer = await world.post("serverkeygen", mutation, auth=("alice", PASSWORD))
        assert answer.status_code in (200, 400, 403), mutation.hex()
