"""Proof-of-possession linking (RFC 7030 section 3.5, E14, E16)."""

import base64
import ssl

import pytest

from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix import der
from pkiserver.web.peer import Peer
from protocols.est import linking
from protocols.est.attributes import EST_IDENTITY_LINKING
from tests.test_est.conftest import OpenWorld
from tests.test_est.support import ADDRESS, PASSWORD, make_csr, new_key

UNIQUE = b"abcdefghijkl"
RIGHT = base64.b64encode(UNIQUE).decode()
TLS12 = Peer(ADDRESS, tls_version="TLSv1.2", tls_unique=UNIQUE)
TLS13 = Peer(ADDRESS, tls_version="TLSv1.3")
PROXY = Peer(ADDRESS)


@pytest.mark.parametrize("policy", ["off", "if-present", "required"])
@pytest.mark.parametrize("text", [None, RIGHT, "wrong", "ä"])
@pytest.mark.parametrize("peer", [TLS12, TLS13, PROXY])
def test_policy(policy: linking.Policy, text: str | None, peer: Peer) -> None:
    if policy == "off":
        allowed = True
    elif peer is TLS12:
        allowed = text == RIGHT or (text is None and policy == "if-present")
    else:
        allowed = policy == "if-present"
    if allowed:
        linking.check(policy, text, peer)
        return
    with pytest.raises(PKIError) as refused:
        linking.check(policy, text, peer)
    assert refused.value.code is ErrorCode.UNAUTHORIZED


@pytest.mark.parametrize("operation", ["simpleenroll", "serverkeygen"])
async def test_required(open_world: OpenWorld, operation: str) -> None:
    world = await open_world('[est.default]\nproof_of_possession = "required"\n')
    await world.add_user()
    auth = ("alice", PASSWORD)
    linked, wrong = make_csr(challenge=RIGHT), make_csr(challenge="wrong")
    assert (await world.post(operation, linked, auth=auth, peer=TLS12)).status_code == 200
    for request, peer in ((wrong, TLS12), (make_csr(), TLS12), (linked, TLS13)):
        answer = await world.post(operation, request, auth=auth, peer=peer)
        assert answer.status_code == 403
    assert "TLS 1.2" in answer.text
    assert len(await world.refusals()) == 3


def test_there_is_no_exporter() -> None:
    """Should Python's ssl get one, RFC 9266 can be done, and docs/protocols/est.md is not true any
    more."""
    assert ssl.CHANNEL_BINDING_TYPES == ["tls-unique"]


async def test_identity_linking(open_world: OpenWorld) -> None:
    """RFC 7894 section 3.3."""
    world = await open_world('[est.default]\nproof_of_possession = "required"\n')
    await world.add_user()
    value = {EST_IDENTITY_LINKING: der.encode(der.UTF8_STRING, RIGHT.encode())}
    key = new_key()
    request = make_csr(key=key, attributes=value)
    answer = await world.post("simpleenroll", request, auth=("alice", PASSWORD), peer=TLS12)
    assert answer.status_code == 200
