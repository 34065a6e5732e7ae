"""Accounts: RFC 8555 section 7.3; checklist items 12 to 14, 41."""

import datetime as dt
from dataclasses import replace
from typing import Any

import httpx
import pytest

from pkiserver.errors import ErrorCode, PKIError
from tests.test_acme.client import ACMEClient, Signer, new_key
from tests.test_acme.conftest import OpenWorld
from tests.test_acme.world import BASE, World, problem

TERMS = "https://acme.test/terms"


async def test_create(world: World) -> None:
    """Section 7.3: 201, Location, the account."""
    client = await world.client()
    response = await client.new_account(contact=["mailto:admin@example.org"])
    assert response.status_code == 201
    url = response.headers["location"]
    assert url.startswith(f"{BASE}/acme/default/acct/")
    assert response.json() == {
        "status": "valid", "contact": ["mailto:admin@example.org"], "orders": f"{url}/orders",
        "termsOfServiceAgreed": True,
    }  # fmt: skip
    assert len(await world.audit("acme.account.create")) == 1


@pytest.mark.parametrize("algorithm", ["ES256", "ES384", "ES512", "RS256", "PS256", "EdDSA"])
async def test_every_algorithm(world: World, algorithm: str) -> None:
    """Checklist 39."""
    client = await world.client(signer=Signer(new_key(algorithm), algorithm))
    assert (await client.new_account()).status_code == 201
    assert (await client.new_order(["a.example.org"])).status_code == 201


async def test_find_existing(world: World, client: ACMEClient) -> None:
    """Section 7.3.1 and checklist 12: 200 with Location and the whole body."""
    url = client.signer.kid
    for members in ({}, {"onlyReturnExisting": True}, {"contact": ["mailto:other@example.org"]}):
        response = await client.new_account(**members)
        assert response.status_code == 200
        assert response.headers["location"] == url
        assert response.json()["status"] == "valid"
        assert "contact" in response.json()
    assert len(await world.rows("SELECT id FROM acme_accounts")) == 1


async def test_only_return_existing_of_an_unknown_key(world: World) -> None:
    """Section 7.3.1 and checklist 13."""
    client = await world.client()
    response = await client.new_account(onlyReturnExisting=True, contact=["nonsense"])
    problem(response, 400, "accountDoesNotExist")
    assert await world.rows("SELECT id FROM acme_accounts") == []


async def test_existing_account_needs_neither_terms_nor_binding(open_world: OpenWorld) -> None:
    """Checklist 13: clients ask for theirs without; the rules came after the account."""
    before = await open_world()
    client = await before.account()
    after = await open_world(default={"terms_of_service": TERMS, "external_account_required": True})
    again = await after.client(signer=replace(client.signer, kid=None))
    response = await again.new_account(termsOfServiceAgreed=False)
    assert response.status_code == 200
    assert response.headers["location"] == client.signer.kid


@pytest.mark.parametrize(
    ("contact", "kind"),
    [
        (["tel:+123"], "unsupportedContact"),
        (["mailto:a@example.org,b@example.org"], "invalidContact"),
        (["mailto:a@example.org?subject=x"], "invalidContact"),
        (["not a uri"], "invalidContact"),
        ("mailto:a@example.org", "malformed"),
        ([1], "malformed"),
    ],
)
async def test_bad_contacts(world: World, contact: object, kind: str) -> None:
    """Section 7.3."""
    client = await world.client()
    problem(await client.new_account(contact=contact), 400, kind)
    assert await world.rows("SELECT id FROM acme_accounts") == []


async def test_terms_have_to_be_agreed_to(open_world: OpenWorld) -> None:
    """Sections 7.3 and 7.3.3."""
    world = await open_world(default={"terms_of_service": TERMS})
    client = await world.client()
    response = await client.new_account(termsOfServiceAgreed=False)
    problem(response, 403, "userActionRequired")
    assert f'<{TERMS}>;rel="terms-of-service"' in response.headers.get_list("link")
    agreed = await client.new_account(termsOfServiceAgreed=True)
    assert agreed.status_code == 201
    assert agreed.json()["termsOfServiceAgreed"] is True


async def test_read_and_update(world: World, client: ACMEClient) -> None:
    """Section 7.3.2: POST-as-GET reads; contacts are replaced, and may be taken away."""
    url = str(client.signer.kid)
    assert (await client.post(url)).json()["contact"] == []
    changed = await client.post(url, {"contact": ["mailto:new@example.org"], "unknown": 1})
    assert changed.json()["contact"] == ["mailto:new@example.org"]
    assert changed.headers["location"] == url
    untouched = await client.post(url, {})
    assert untouched.json()["contact"] == ["mailto:new@example.org"]
    assert (await client.post(url, {"contact": []})).json()["contact"] == []
    assert (await client.post(url, {"termsOfServiceAgreed": True})).status_code == 200
    assert len(await world.audit("acme.account.update")) == 2


async def test_another_account_is_none_of_its_business(world: World, client: ACMEClient) -> None:
    other = await world.account()
    for path in ("", "/orders"):
        problem(await client.post(f"{other.signer.kid}{path}"), 403, "unauthorized")
    problem(
        await client.post(str(other.signer.kid), {"status": "deactivated"}), 403, "unauthorized"
    )
    assert (await other.post(str(other.signer.kid))).json()["status"] == "valid"


async def test_deactivation(world: World, client: ACMEClient) -> None:
    """Section 7.3.6 and checklist 14: 401 by kid, 403 at newAccount; what was open ends."""
    order = await world.ready_order(client, "a.example.org")
    pending = await client.new_order(["b.example.org"])
    response = await client.post(str(client.signer.kid), {"status": "deactivated"})
    assert response.status_code == 200
    assert response.json()["status"] == "deactivated"
    problem(await client.post(str(client.signer.kid)), 401, "unauthorized")
    problem(await client.post(order["url"]), 401, "unauthorized")
    problem(await client.new_order(["a.example.org"]), 401, "unauthorized")
    problem(await client.new_account(), 403, "unauthorized")
    problem(await client.new_account(onlyReturnExisting=True), 403, "unauthorized")
    rows = await world.rows("SELECT status, error FROM acme_orders")
    assert {status for status, _ in rows} == {"invalid"}
    assert all("deactivated" in error for _, error in rows)
    assert await world.rows("SELECT DISTINCT status FROM acme_authorizations") == [("deactivated",)]
    assert pending.status_code == 201


@pytest.mark.parametrize("status", ["valid", "revoked", "nonsense"])
async def test_no_other_change_of_status(client: ACMEClient, status: str) -> None:
    response = await client.post(str(client.signer.kid), {"status": status})
    assert response.json()["status"] == "valid"


async def change_key(client: ACMEClient, new: Signer, **changes: Any) -> httpx.Response:
    url = client.directory["keyChange"]
    return await client.post(url, client.signer.key_change(new, url, **changes))


async def test_key_change(world: World, client: ACMEClient) -> None:
    """Section 7.3.5 and checklist 41."""
    old, new = client.signer, Signer(new_key("ES384"), "ES384")
    order = await client.new_order(["a.example.org"])
    response = await change_key(client, new)
    assert response.status_code == 200
    assert response.headers["location"] == old.kid
    problem(await client.post(str(old.kid)), 400, "badSignatureAlgorithm")
    client.signer = replace(new, kid=old.kid)
    assert (await client.post(order.headers["location"])).status_code == 200
    found = await client.new_account(onlyReturnExisting=True)
    assert found.headers["location"] == old.kid
    stranger = await world.client(signer=replace(old, kid=None))
    problem(await stranger.new_account(onlyReturnExisting=True), 400, "accountDoesNotExist")
    assert len(await world.audit("acme.account.key-change")) == 1


async def test_key_change_to_a_taken_key(world: World, client: ACMEClient) -> None:
    """409 and Location of the account that has it; its own key included."""
    other = await world.account()
    response = await change_key(client, other.signer)
    assert response.status_code == 409
    assert response.headers["location"] == other.signer.kid
    own = await change_key(client, client.signer)
    assert own.status_code == 409
    assert own.headers["location"] == client.signer.kid


async def test_key_change_refusals(world: World, client: ACMEClient) -> None:
    other = await world.account()
    url = client.directory["keyChange"]
    before = await world.contents()
    problem(await change_key(client, Signer(), account=other.signer.kid), 400, "malformed")
    problem(await change_key(client, Signer(), oldKey=other.signer.jwk), 400, "malformed")
    problem(await change_key(client, Signer(), oldKey={"kty": "EC"}), 400, "malformed")
    problem(await client.post(url, {"account": client.signer.kid}), 400, "malformed")
    problem(await client.post(url), 400, "malformed")
    elsewhere = client.signer.key_change(Signer(), client.directory["newOrder"])
    problem(await client.post(url, elsewhere), 400, "malformed")
    forged = client.signer.key_change(Signer(), url) | {"signature": "AAAA"}
    problem(await client.post(url, forged), 400, "malformed")
    assert await world.contents() == before


async def test_orders_in_pages(world: World, client: ACMEClient) -> None:
    """Section 7.1.2.1: newest first, `next` until the last page, no invalid ones."""
    made = []
    for number in range(120):
        response = await client.new_order([f"n{number}.example.org"])
        made.append(response.headers["location"])
    gone = (await client.post(made[5])).json()["authorizations"][0]
    await client.post(gone, {"status": "deactivated"})
    first = await client.post(f"{client.signer.kid}/orders")
    links = [line for line in first.headers.get_list("link") if 'rel="next"' in line]
    assert len(links) == 1
    assert len(first.json()["orders"]) == 100
    second = await client.post(links[0].partition(">")[0].lstrip("<"))
    assert not [line for line in second.headers.get_list("link") if 'rel="next"' in line]
    listed = first.json()["orders"] + second.json()["orders"]
    assert set(listed) == set(made) - {made[5]}
    assert len(listed) == 119


@pytest.mark.parametrize("query", ["cursor=", "cursor=1", "cursor=x.y", "other=1.a", "cursor=²³.a"])
async def test_orders_with_an_unknown_query(client: ACMEClient, query: str) -> None:
    url = str(httpx.URL(f"{client.signer.kid}/orders?{query}"))
    problem(await client.post(url), 400, "malformed")


async def test_orders_is_the_only_thing_below_an_account(client: ACMEClient) -> None:
    assert (await client.post(f"{client.signer.kid}/keys")).status_code == 404


async def test_accounts_per_address_are_limited(open_world: OpenWorld) -> None:
    """Section 6.6 and checklist 25: 429 with Retry-After; existing accounts are found still."""
    world = await open_world(default={"accounts_per_address": "2/1h"})
    first, _ = await world.account(), await world.account()
    refused = await (await world.client()).new_account()
    problem(refused, 429, "rateLimited")
    assert 0 < int(refused.headers["retry-after"]) <= 3600
    assert (await first.new_account()).status_code == 200


async def test_what_a_clock_that_was_ahead_counted_keeps_nobody_out(open_world: OpenWorld) -> None:
    world = await open_world(default={"accounts_per_address": "2/1h"})
    world.clock.advance(dt.timedelta(days=30))
    await world.account(), await world.account()
    world.clock.advance(dt.timedelta(days=-30))
    assert (await (await world.client()).new_account()).status_code == 201


async def test_an_ipv6_site_counts_as_one_address(open_world: OpenWorld) -> None:
    """It has 2^64 of them. The account keeps its own."""
    world = await open_world(default={"accounts_per_address": "2/1h"})
    answers = []
    for number in range(3):
        transport = httpx.ASGITransport(world.app, client=(f"2001:db8::{number}", 40000))
        async with httpx.AsyncClient(transport=transport, base_url=BASE) as http:
            client = ACMEClient(http, f"{BASE}/acme/default/directory", None)
            answers.append(await (await client.start()).new_account())
    assert [answer.status_code for answer in answers] == [201, 201, 429]
    rows = await world.rows("SELECT address FROM acme_accounts ORDER BY address")
    assert rows == [("2001:db8::0",), ("2001:db8::1",)]


async def test_an_operator_binds_an_account_to_names(world: World) -> None:
    """Allow and deny by account; orders from now on, and audited."""
    client = await world.account()
    accounts = world.endpoints["default"].accounts
    account_id = str(client.signer.kid).rsplit("/", 1)[1]
    names = ("*.example.org", "!*.secret.example.org", "10.0.0.0/8")
    assert (await accounts.restrict(account_id, names, actor="cli:ops")).names == names
    for allowed in ("www.example.org", {"type": "ip", "value": "10.1.2.3"}):
        assert (await client.new_order([allowed])).status_code == 201
    for refused in (
        "www.example.com",
        "x.secret.example.org",
        {"type": "ip", "value": "192.0.2.1"},
    ):
        body = problem(await client.new_order([refused]), 403, "rejectedIdentifier")
        assert "the account is not good for this name" in body["detail"]
    await accounts.restrict(account_id, (), actor="cli:ops")
    assert (await client.new_order(["www.example.com"])).status_code == 201
    assert len(await world.audit("acme.account.restrict")) == 2


async def test_an_account_bound_by_denials_alone_may_have_the_rest(world: World) -> None:
    client = await world.account()
    accounts = world.endpoints["default"].accounts
    await accounts.restrict(
        str(client.signer.kid).rsplit("/", 1)[1], ("!ceo.example.org",), actor="cli"
    )
    problem(await client.new_order(["ceo.example.org"]), 403, "rejectedIdentifier")
    assert (await client.new_order(["www.example.org"])).status_code == 201


async def test_what_is_no_pattern_or_no_account_is_refused(world: World) -> None:
    accounts = world.endpoints["default"].accounts
    with pytest.raises(PKIError, match="there is no valid account"):
        await accounts.restrict("nobody", ("*.example.org",), actor="cli:ops")
    with pytest.raises(PKIError) as caught:
        await accounts.restrict("nobody", ("exa mple",), actor="cli:ops")
    assert caught.value.code is ErrorCode.CONFIGURATION
