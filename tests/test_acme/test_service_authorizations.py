"""Authorizations: RFC 8555 sections 7.1.4, 7.4.1, 7.5; checklist items 29 to 33, 61."""

import datetime as dt

from interop import acme_sh
from pkiserver.clock import rfc3339
from tests.test_acme.client import ACMEClient
from tests.test_acme.conftest import OpenWorld
from tests.test_acme.world import NOW, World, problem


async def test_read(client: ACMEClient) -> None:
    """Section 7.1.4; checklist 31: each challenge has type, url, status, token."""
    order = await client.new_order(["www.example.org"])
    body = (await client.post(order.json()["authorizations"][0])).json()
    challenges = body.pop("challenges")
    assert body == {
        "identifier": {"type": "dns", "value": "www.example.org"},
        "status": "pending",
        "expires": rfc3339(NOW + dt.timedelta(days=7)),
    }
    for challenge in challenges:
        assert list(challenge) == ["type", "url", "token", "status"]
        assert challenge["status"] == "pending"
        assert len(challenge["token"]) >= 43
    assert len({challenge["token"] for challenge in challenges}) == 3


async def test_reuse_of_a_valid_one(world: World, client: ACMEClient) -> None:
    """Checklist 61: an order over authorized names is ready at once."""
    first = await world.ready_order(client, "a.example.org")
    second = await client.new_order(["a.example.org"])
    assert second.json()["status"] == "ready"
    assert second.json()["authorizations"] == first["authorizations"]
    mixed = await client.new_order(["a.example.org", "b.example.org"])
    assert mixed.json()["status"] == "pending"
    assert first["authorizations"][0] in mixed.json()["authorizations"]


async def test_what_is_not_reused(world: World, client: ACMEClient) -> None:
    """Another account's, a wildcard's for the name or the reverse, a pending one, an old one."""
    await world.ready_order(client, "a.example.org")
    await world.ready_order(client, "*.b.example.org", challenge="dns-01")
    await client.new_order(["c.example.org"])
    other = await world.account()
    assert (await other.new_order(["a.example.org"])).json()["status"] == "pending"
    for name in ("*.a.example.org", "b.example.org", "c.example.org"):
        assert (await client.new_order([name])).json()["status"] == "pending"
    world.clock.advance(dt.timedelta(days=30))
    assert (await client.new_order(["a.example.org"])).json()["status"] == "pending"


async def test_reuse_can_be_switched_off(open_world: OpenWorld) -> None:
    world = await open_world(default={"authorization_lifetime": "0s"})
    client = await world.account()
    order = await world.ready_order(client, "a.example.org")
    assert dt.datetime.fromisoformat(order["expires"]) == NOW + dt.timedelta(hours=1), (
        "an order is not ready for longer than its authorizations are valid"
    )
    assert (await client.new_order(["a.example.org"])).json()["status"] == "pending"


async def test_an_order_on_an_old_authorization_ends_with_it(
    world: World, client: ACMEClient
) -> None:
    await world.ready_order(client, "a.example.org")
    world.clock.advance(dt.timedelta(days=29))
    order = (await client.new_order(["a.example.org", "b.example.org"])).json()
    assert order["expires"] == rfc3339(NOW + dt.timedelta(days=30))
    world.clock.advance(dt.timedelta(hours=23, minutes=30))
    late = await client.new_order(["a.example.org"])
    assert late.json()["status"] == "pending", "too little is left of the old one"


async def test_expiry_of_a_valid_one(world: World, client: ACMEClient) -> None:
    order = await world.ready_order(client, "a.example.org")
    world.clock.advance(dt.timedelta(days=30))
    body = (await client.post(order["authorizations"][0])).json()
    assert body["status"] == "expired"


async def test_expiry_of_a_pending_one(world: World, client: ACMEClient) -> None:
    order = (await client.new_order(["a.example.org"])).json()
    world.clock.advance(dt.timedelta(days=7))
    body = (await client.post(order["authorizations"][0])).json()
    assert body["status"] == "invalid"
    response = await client.post(body["challenges"][0]["url"], {})
    problem(response, 400, "malformed")


async def test_deactivation(world: World, client: ACMEClient) -> None:
    """Section 7.5.2; the orders that need it become invalid and say why (section 7.1.6)."""
    order = await world.ready_order(client, "a.example.org", "b.example.org")
    url = order["authorizations"][0]
    response = await client.post(url, {"status": "deactivated"})
    assert response.status_code == 200
    assert response.json()["status"] == "deactivated"
    ended = (await client.post(order["url"])).json()
    assert ended["status"] == "invalid"
    assert "deactivated" in ended["error"]["detail"]
    again = await client.post(url, {"status": "deactivated"})
    assert again.json()["status"] == "deactivated"
    assert (await client.new_order(["a.example.org"])).json()["status"] == "pending"
    assert len(await world.audit("acme.authorization.deactivate")) == 1


async def test_deactivation_of_a_pending_one(client: ACMEClient) -> None:
    order = await client.new_order(["a.example.org"])
    url = order.json()["authorizations"][0]
    challenge = (await client.post(url)).json()["challenges"][0]
    assert (await client.post(url, {"status": "deactivated"})).json()["status"] == "deactivated"
    problem(await client.post(challenge["url"], {}), 400, "malformed")
    assert (await client.post(order.headers["location"])).json()["status"] == "invalid"


async def test_no_other_change(world: World, client: ACMEClient) -> None:
    url = (await client.new_order(["a.example.org"])).json()["authorizations"][0]
    for payload in ({}, {"status": "valid"}, {"status": "pending"}, {"status": 1}):
        problem(await client.post(url, payload), 400, "malformed")
    other = await world.account()
    problem(await other.post(url), 403, "unauthorized")
    problem(await other.post(url, {"status": "deactivated"}), 403, "unauthorized")
    assert (await client.post(url)).json()["status"] == "pending"


async def test_pre_authorization(world: World, client: ACMEClient) -> None:
    """Section 7.4.1: 201 for a new one, 200 for the one there is; an order then uses it."""
    payload = {"identifier": {"type": "dns", "value": "a.example.org"}}
    made = await client.post(client.directory["newAuthz"], payload)
    assert made.status_code == 201
    assert made.json()["status"] == "pending"
    again = await client.post(client.directory["newAuthz"], payload)
    assert again.status_code == 200
    assert again.headers["location"] == made.headers["location"]
    await client.answer(made.headers["location"], "http-01", world.prober.publish)
    valid = await client.post(client.directory["newAuthz"], payload)
    assert (valid.status_code, valid.json()["status"]) == (200, "valid")
    order = await client.new_order(["a.example.org"])
    assert order.json()["status"] == "ready"
    assert order.json()["authorizations"] == [made.headers["location"]]
    assert len(await world.audit("acme.authorization.create")) == 1


async def test_pre_authorization_refusals(open_world: OpenWorld) -> None:
    world = await open_world(
        default={"dns": {"allow": ["*.example.org"]}, "orders_per_account": "2/1h"}
    )
    client = await world.account()

    def ask(value: object, kind: str = "dns") -> dict[str, object]:
        return {"identifier": {"type": kind, "value": value}}

    url = client.directory["newAuthz"]
    problem(await client.post(url, ask("*.a.example.org")), 400, "malformed")
    problem(await client.post(url, ask("a.example.net")), 403, "rejectedIdentifier")
    problem(await client.post(url, ask("a@example.org", "email")), 400, "unsupportedIdentifier")
    problem(await client.post(url, ask(None)), 400, "malformed")
    problem(await client.post(url, {}), 400, "malformed")
    assert await world.rows("SELECT id FROM acme_authorizations") == []
    for name in ("a.example.org", "b.example.org"):
        assert (await client.post(url, ask(name))).status_code == 201
    refused = await client.post(url, ask("c.example.org"))
    problem(refused, 429, "rateLimited")
    assert int(refused.headers["retry-after"]) > 0


async def test_as_acme_sh_reads_it(world: World, client: ACMEClient) -> None:
    """Checklist 30 to 33: by patterns, not as JSON."""
    response = await client.new_order(["*.example.org", "www.example.org"])
    urls = acme_sh.authorizations(response.content)
    assert urls == response.json()["authorizations"]
    assert acme_sh.finalize_url(response.content) == response.json()["finalize"]
    wild = await client.post(urls[0])
    assert acme_sh.identifier(wild.content) == "example.org"
    assert acme_sh.is_wildcard(wild.content)
    plain = await client.post(urls[1])
    assert not acme_sh.is_wildcard(plain.content)
    assert not acme_sh.says_valid(plain.content) and not acme_sh.says_invalid(plain.content)
    for challenge in plain.json()["challenges"]:
        entry = acme_sh.challenge(plain.content, challenge["type"])
        assert (entry.url, entry.token) == (challenge["url"], challenge["token"])
