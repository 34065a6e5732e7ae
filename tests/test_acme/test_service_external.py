"""External account binding: RFC 8555 section 7.3.4; checklist item 40 and section 6 item 6."""

import base64
import datetime as dt
from typing import Any

import httpx
import pytest

from pkiserver.errors import PKIError
from protocols.acme.service.external import NewExternalAccount
from tests.test_acme.client import ACMEClient, b64, external_account_binding, make_csr
from tests.test_acme.conftest import OpenWorld
from tests.test_acme.world import World, problem

REQUIRED = {"external_account_required": True}


def binding(client: ACMEClient, new: NewExternalAccount, **more: Any) -> dict[str, Any]:
    """As a client makes it: the MAC key is decoded from what the operator handed out."""
    mac_key = base64.urlsafe_b64decode(new.mac_key + "=" * (-len(new.mac_key) % 4))
    jwk = more.pop("jwk", client.signer.jwk)
    url = more.pop("url", client.directory["newAccount"])
    key_id = more.pop("key_id", new.record.id)
    return external_account_binding(jwk, url, key_id, mac_key, **more)


async def register(world: World, new: NewExternalAccount) -> tuple[ACMEClient, httpx.Response]:
    client = await world.client()
    return client, await client.new_account(externalAccountBinding=binding(client, new))


async def test_required(open_world: OpenWorld) -> None:
    world = await open_world(default=REQUIRED)
    client = await world.client()
    problem(await client.new_account(), 403, "externalAccountRequired")
    new = await world.external_account()
    sent = binding(client, new)
    response = await client.new_account(externalAccountBinding=sent)
    assert response.status_code == 201
    assert response.json()["externalAccountBinding"] == sent
    assert (await client.new_order(["a.example.org"])).status_code == 201


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
async def test_algorithms(world: World, algorithm: str) -> None:
    new = await world.external_account()
    client = await world.client()
    sent = binding(client, new, algorithm=algorithm)
    assert (await client.new_account(externalAccountBinding=sent)).status_code == 201


async def test_members_of_the_key_in_another_form(world: World) -> None:
    """Checklist section 2 item 2: compared by thumbprint, not by octets."""
    new = await world.external_account()
    client = await world.client()
    jwk = dict(reversed(client.signer.jwk.items())) | {"use": "sig"}
    sent = binding(client, new, jwk=jwk)
    assert (await client.new_account(externalAccountBinding=sent)).status_code == 201


async def test_one_use(world: World) -> None:
    new = await world.external_account(uses=1)
    client, response = await register(world, new)
    assert response.status_code == 201
    problem((await register(world, new))[1], 403, "unauthorized")
    again = await client.new_account(externalAccountBinding=binding(client, new))
    assert again.status_code == 200, "an account that is bound already is found (checklist 40)"


async def test_several_uses_and_unlimited(world: World) -> None:
    three = await world.external_account(uses=2)
    assert [(await register(world, three))[1].status_code for _ in range(3)] == [201, 201, 403]
    any_number = await world.external_account(uses=None)
    assert {(await register(world, any_number))[1].status_code for _ in range(3)} == {201}


async def test_expiry(world: World) -> None:
    new = await world.external_account(lifetime=3600)
    world.clock.advance(dt.timedelta(hours=1))
    problem((await register(world, new))[1], 403, "unauthorized")


async def test_bad_bindings(world: World) -> None:
    """Nothing is registered and no use is spent."""
    new, other = await world.external_account(), await world.external_account()
    client, stranger = await world.client(), await world.client()
    good = binding(client, new)
    bad = [
        (binding(client, new, jwk=stranger.signer.jwk), 400, "malformed"),
        (binding(client, new, url=client.directory["newOrder"]), 400, "malformed"),
        (binding(client, new, nonce="abc"), 400, "malformed"),
        (binding(client, new, alg="none"), 400, "malformed"),
        (binding(client, new, key_id=other.record.id), 403, "unauthorized"),
        (binding(client, new, key_id="unknown"), 403, "unauthorized"),
        (good | {"signature": b64(bytes(32))}, 403, "unauthorized"),
        (good | {"header": {}}, 400, "malformed"),
        ({}, 400, "malformed"),
        ("text", 400, "malformed"),
    ]
    before = await world.contents()
    for sent, status, kind in bad:
        problem(await client.new_account(externalAccountBinding=sent), status, kind)
    assert await world.contents() == before
    assert (await client.new_account(externalAccountBinding=good)).status_code == 201


async def test_a_key_of_another_directory(open_world: OpenWorld) -> None:
    world = await open_world(other={})
    new = await world.external_account("other")
    problem((await register(world, new))[1], 403, "unauthorized")


async def test_bound_to_a_profile(open_world: OpenWorld) -> None:
    """The bound profile is what its accounts get, and no other."""
    world = await open_world(default={})
    client, _ = await register(world, await world.external_account(profile="short"))
    issued = await world.issue(client, "a.example.org")
    assert issued.certificate.not_valid_after_utc - world.clock.now() <= dt.timedelta(days=6)
    problem(await client.new_order(["a.example.org"], profile="tls-server"), 400, "invalidProfile")
    assert (await client.new_order(["a.example.org"], profile="short")).status_code == 201


async def test_bound_to_names(world: World) -> None:
    new = await world.external_account(names=("*.a.example.org", "192.0.2.0/24"))
    client, _ = await register(world, new)
    assert (await client.new_order(["www.a.example.org"])).status_code == 201
    address = {"type": "ip", "value": "192.0.2.7"}
    assert (await client.new_order([address])).status_code == 201
    for name in ("www.b.example.org", {"type": "ip", "value": "198.51.100.1"}):
        body = problem(await client.new_order([name]), 403, "rejectedIdentifier")
        assert "external account key" in body["detail"]


async def test_bound_to_dns_names_only(world: World) -> None:
    """Patterns of one type allow nothing of the other."""
    client, _ = await register(world, await world.external_account(names=("*.example.org",)))
    response = await client.new_order([{"type": "ip", "value": "192.0.2.7"}])
    problem(response, 403, "rejectedIdentifier")


async def test_trusted(world: World) -> None:
    """An account of a trusted key needs no challenges; others of the directory do."""
    new = await world.external_account(trusted=True, names=("*.example.org",))
    client, _ = await register(world, new)
    order = await client.new_order(["a.example.org"])
    assert order.json()["status"] == "ready"
    other = await world.account()
    assert (await other.new_order(["a.example.org"])).json()["status"] == "pending"
    problem(await client.new_order(["a.example.net"]), 403, "rejectedIdentifier")


async def test_revoking_a_key_freezes_its_accounts(world: World) -> None:
    new = await world.external_account(uses=None, trusted=True)
    client, _ = await register(world, new)
    issued = await world.issue(client, "a.example.org")
    ready = await client.new_order(["b.example.org"])
    frozen = await world.external().revoke(new.record.id, actor="test:operator")
    assert frozen == [str(client.signer.kid).rpartition("/")[2]]
    problem(await client.post(ready.headers["location"]), 401, "unauthorized")
    csr, _ = make_csr(["b.example.org"])
    problem(await client.finalize(ready.json(), csr), 401, "unauthorized")
    problem(await client.new_account(), 403, "unauthorized")
    problem((await register(world, new))[1], 403, "unauthorized")
    assert await world.external().revoke(new.record.id, actor="test:operator") is None
    statuses = await world.rows("SELECT status FROM acme_orders ORDER BY status")
    assert statuses == [("invalid",), ("valid",)]
    assert await world.rows("SELECT DISTINCT status FROM acme_authorizations") == [("revoked",)]
    assert issued.certificate.serial_number
    assert len(await world.audit("acme.eab.revoke")) == 1


async def test_unknown_keys_are_not_revoked(world: World) -> None:
    assert await world.external().revoke("unknown", actor="test:operator") is None
    assert await world.audit("acme.eab.revoke") == []


@pytest.mark.parametrize(
    "fields",
    [{"names": ("*.*.example.org",)}, {"names": ("192.0.2.1/8",)}, {"profile": "nothing"}],
)
async def test_keys_that_could_never_work_are_not_made(
    world: World, fields: dict[str, Any]
) -> None:
    with pytest.raises(PKIError, match="names|profile"):
        await world.external_account(**fields)
    assert await world.rows("SELECT id FROM acme_external_accounts") == []


async def test_no_mac_key_in_the_database(world: World) -> None:
    new = await world.external_account()
    dump = str(await world.contents()) + str(await world.rows("SELECT detail FROM audit"))
    assert new.mac_key not in dump
    assert new.mac_key not in repr(new)


async def test_nothing_handed_out_looks_like_an_option(world: World) -> None:
    """`certbot --eab-kid KID --eab-hmac-key KEY`: a value that begins with a hyphen is refused."""
    made = [await world.external_account() for _ in range(150)]
    assert not [new for new in made if new.record.id.startswith("-")]
    assert not [new for new in made if new.mac_key.startswith("-")]
