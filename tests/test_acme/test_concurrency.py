"""What happens at once, in one process and in two on the same database: one winner each time
(checklist section 6 item 3)."""

import asyncio
from collections import Counter
from collections.abc import Awaitable
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests.test_acme.client import ACMEClient, Signer, make_csr
from tests.test_acme.conftest import OpenWorld
from tests.test_acme.test_service_external import binding
from tests.test_acme.test_service_renewal import cert_id
from tests.test_acme.world import World, problem

NAME = "www.example.org"
MANY = 8


@pytest.fixture
async def pair(open_world: OpenWorld) -> tuple[World, World]:
    """Two processes' services on one home."""
    settings = {"orders_per_account": "5/1h", "accounts_per_address": "12/1h"}
    return await open_world(default=settings), await open_world(default=settings)


async def twin(world: World, client: ACMEClient) -> ACMEClient:
    """The same account at another process."""
    return await world.client(signer=client.signer)


async def at_once(*requests: Awaitable[httpx.Response]) -> list[httpx.Response]:
    return list(await asyncio.gather(*requests))


def statuses(responses: list[httpx.Response]) -> Counter[int]:
    return Counter(response.status_code for response in responses)


@pytest.mark.parametrize("same_csr", [True, False])
async def test_finalize(pair: tuple[World, World], same_csr: bool) -> None:
    """Exactly one certificate; the same CSR again is answered with the order."""
    first, second = pair
    client = await first.account()
    other = await twin(second, client)
    order = await first.ready_order(client, NAME)
    csrs = [make_csr([NAME])[0] for _ in range(MANY)]
    responses = await at_once(
        *(
            (client, other)[number % 2].finalize(order, csrs[0 if same_csr else number])
            for number in range(MANY)
        )
    )
    good = [response for response in responses if response.status_code == 200]
    for response in responses:
        if response not in good:
            problem(response, 403, "orderNotReady")
    assert len(good) == MANY if same_csr else 1
    assert {response.json()["status"] for response in good} <= {"valid", "processing"}
    await asyncio.gather(*(world.endpoints["default"].finalizer.stop() for world in pair))
    ((_, _, status),) = await first.issued()
    assert status == "issued"
    assert (await client.post(order["url"])).json()["status"] == "valid"


async def test_two_orders_at_once(world: World, client: ACMEClient) -> None:
    """Checklist 62: no lock on the account; each order gets its own certificate."""
    orders = [await world.ready_order(client, f"n{number}.example.org") for number in range(MANY)]
    responses = await at_once(
        *(
            client.finalize(order, make_csr([f"n{number}.example.org"])[0])
            for number, order in enumerate(orders)
        )
    )
    assert {response.json()["status"] for response in responses} == {"valid"}
    assert len({response.json()["certificate"] for response in responses}) == MANY


async def test_new_account_with_one_key(pair: tuple[World, World]) -> None:
    signer = Signer()
    clients = [await pair[number % 2].client(signer=signer) for number in range(MANY)]
    responses = await at_once(*(client.new_account() for client in clients))
    assert statuses(responses) == {201: 1, 200: MANY - 1}
    assert len({response.headers["location"] for response in responses}) == 1
    assert len(await pair[0].rows("SELECT id FROM acme_accounts")) == 1


async def test_uses_of_an_external_account_key(pair: tuple[World, World]) -> None:
    new = await pair[0].external_account(uses=3)
    clients = [await pair[number % 2].client() for number in range(MANY)]
    responses = await at_once(
        *(client.new_account(externalAccountBinding=binding(client, new)) for client in clients)
    )
    assert statuses(responses) == {201: 3, 403: MANY - 3}
    assert await pair[0].rows("SELECT uses_left FROM acme_external_accounts") == [(0,)]


async def test_one_nonce(pair: tuple[World, World]) -> None:
    """Also between processes."""
    client = await pair[0].account()
    url = f"{client.signer.kid}/orders"
    body = client.signer.sign(url, None, nonce=await client.nonce())
    headers = {"Content-Type": "application/jose+json"}
    responses = await at_once(
        *(pair[n % 2].http.post(url, content=body, headers=headers) for n in range(MANY))
    )
    assert statuses(responses) == {200: 1, 400: MANY - 1}


async def test_challenge_responses(pair: tuple[World, World]) -> None:
    """Validated once by each process at the most, decided once."""
    client = await pair[0].account()
    other = await twin(pair[1], client)
    pair[1].prober.pages = pair[0].prober.pages
    order = await client.new_order([NAME])
    url = order.json()["authorizations"][0]
    challenge = (await client.post(url)).json()["challenges"][0]
    proof = client.signer.key_authorization(challenge["token"])
    await pair[0].prober.publish({"identifier": {"value": NAME}}, challenge, proof)
    responses = await at_once(
        *((client, other)[n % 2].post(challenge["url"], {}) for n in range(MANY))
    )
    assert {response.json()["status"] for response in responses} == {"valid"}
    assert len(pair[0].prober.asked) <= 1 and len(pair[1].prober.asked) <= 1
    assert len(await pair[0].audit("acme.challenge.valid")) == 1
    assert (await client.post(order.headers["location"])).json()["status"] == "ready"


async def test_replaces(pair: tuple[World, World]) -> None:
    client = await pair[0].account()
    other = await twin(pair[1], client)
    replaced = cert_id((await pair[0].issue(client, NAME)).certificate)
    responses = await at_once(
        *((client, other)[n % 2].new_order([NAME], replaces=replaced) for n in range(MANY))
    )
    assert statuses(responses) == {201: 1, 409: MANY - 1}


async def test_key_change_to_one_key(pair: tuple[World, World]) -> None:
    new = Signer()
    clients = [await pair[number % 2].account() for number in range(4)]
    url = clients[0].directory["keyChange"]
    responses = await at_once(
        *(client.post(url, client.signer.key_change(new, url)) for client in clients)
    )
    assert statuses(responses) == {200: 1, 409: 3}
    winner = next(r for r in responses if r.status_code == 200).headers["location"]
    assert {response.headers["location"] for response in responses} == {winner}


async def test_limits_are_exact(pair: tuple[World, World]) -> None:
    client = await pair[0].account()
    other = await twin(pair[1], client)
    responses = await at_once(*((client, other)[n % 2].new_order([NAME]) for n in range(MANY)))
    assert statuses(responses) == {201: 5, 429: MANY - 5}
    clients = [await pair[number % 2].client() for number in range(16)]
    registered = await at_once(*(client.new_account() for client in clients))
    assert statuses(registered) == {201: 11, 429: 5}


async def test_revocation(pair: tuple[World, World]) -> None:
    client = await pair[0].account()
    other = await twin(pair[1], client)
    issued = await pair[0].issue(client, NAME)
    der = issued.certificate.public_bytes(Encoding.DER)
    responses = await at_once(*((client, other)[n % 2].revoke(der) for n in range(MANY)))
    assert statuses(responses) == {200: 1, 400: MANY - 1}


@pytest.mark.parametrize("what", ["account", "authorization"])
async def test_deactivation_against_finalize(pair: tuple[World, World], what: str) -> None:
    """Either the certificate was on its way, or there is none; never a certificate of an order
    that says invalid."""
    client = await pair[0].account()
    order = await pair[0].ready_order(client, NAME)
    url = {"account": str(client.signer.kid), "authorization": order["authorizations"][0]}[what]
    other = await twin(pair[1], client)
    csr, _ = make_csr([NAME])
    await at_once(client.finalize(order, csr), other.post(url, {"status": "deactivated"}))
    ((status,),) = await pair[0].rows("SELECT status FROM acme_orders")
    issued: list[Any] = await pair[0].issued()
    assert (status, len(issued)) in (("valid", 1), ("invalid", 0))


async def test_pre_authorization(world: World, client: ACMEClient) -> None:
    payload = {"identifier": {"type": "dns", "value": NAME}}
    responses = await at_once(
        *(client.post(client.directory["newAuthz"], payload) for _ in range(MANY))
    )
    assert statuses(responses) == {201: 1, 200: MANY - 1}
    assert len({response.headers["location"] for response in responses}) == 1
