"""What ends between the check of a request and its effect: an account, an order, a policy."""

import datetime as dt
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.web.problems import HTTPProblem
from protocols.acme.challenges.model import CAAAnswer, ResolveCAA
from protocols.acme.http import problem_form
from protocols.acme.messages import parse_new_order
from protocols.acme.problems import Problem, ProblemType
from protocols.acme.records import Account
from protocols.acme.service.names import named
from tests.test_acme.client import ACMEClient, Signer, make_csr
from tests.test_acme.conftest import OpenWorld
from tests.test_acme.world import World, open_acme, problem

NAME = "www.example.org"
ORDER = b'{"identifiers":[{"type":"dns","value":"www.example.org"}]}'


async def account_of(world: World, client: ACMEClient) -> Account:
    account_id = str(client.signer.kid).rpartition("/")[2]
    return await world.endpoints["default"].accounts.by_id(account_id)


async def test_an_account_that_ended_after_its_request_was_checked(
    world: World, client: ACMEClient
) -> None:
    """Section 7.3.6: looked at again in the transaction that would make something of it."""
    account = await account_of(world, client)
    await client.post(str(client.signer.kid), {"status": "deactivated"})
    before = await world.contents()
    message = parse_new_order(ORDER, max_identifiers=1)
    endpoints = world.endpoints["default"]
    with pytest.raises(Problem) as refused:
        await endpoints.orders.create(account, message)
    assert refused.value.type is ProblemType.UNAUTHORIZED
    with pytest.raises(Problem) as refused:
        await endpoints.authorizations.pre_authorize(account, named(message.identifiers[0]))
    assert refused.value.type is ProblemType.UNAUTHORIZED
    assert await world.contents() == before


async def test_an_order_that_expires_while_caa_is_looked_up(open_world: OpenWorld) -> None:
    """Section 7.1.3: nothing is issued after `expires`, though the authorizations still stand."""
    settings = {"profile": "checked", "caa_identities": ["ca.example"], "order_lifetime": "1h"}
    world = await open_world(default=settings)
    client = await world.account()
    order = await world.ready_order(client, NAME)
    look_up = world.prober.resolve_caa

    async def slow(request: ResolveCAA) -> CAAAnswer:
        world.clock.advance(dt.timedelta(hours=1))
        return await look_up(request)

    world.prober.resolve_caa = slow  # type: ignore[method-assign]
    csr, _ = make_csr([NAME])
    problem(await client.finalize(order, csr), 403, "orderNotReady")
    assert await world.issued() == []
    assert (await client.post(order["url"])).json()["status"] == "invalid"


async def test_trust_that_was_taken_back(template: Path, tmp_path: Path) -> None:
    """What was given on trust is no proof once the directory asks for one."""
    signer = Signer()
    async with open_acme(template, tmp_path / "home", default={"authorization": "trusted"}) as old:
        client = await old.client(signer=signer)
        await client.new_account()
        assert (await client.new_order([NAME])).json()["status"] == "ready"
        new_authz = {"identifier": {"type": "dns", "value": "pre.example.org"}}
        made = await client.post(client.directory["newAuthz"], new_authz)
        assert made.json()["status"] == "valid"
        again = await client.new_order([NAME])
        assert again.json()["status"] == "ready"
    async with open_acme(template, tmp_path / "home") as new:
        client = await new.client(signer=signer)
        await client.new_account()
        for name in (NAME, "pre.example.org"):
            assert (await client.new_order([name])).json()["status"] == "pending"
        fresh = await client.post(client.directory["newAuthz"], new_authz)
        assert fresh.json()["status"] == "pending"


async def test_a_profile_that_is_gone(template: Path, tmp_path: Path) -> None:
    """An order for a profile that the configuration has no more is refused, not a fault."""
    signer, home = Signer(), tmp_path / "home"
    validity = {"notAfter": "2026-11-30T00:00:00Z"}
    extra = {"old": {"issuer": "issuing", "validity": "30d", "dns": {"allow": ["*"]},
                     "extended_key_usage": ["serverAuth"]}}  # fmt: skip
    async with open_acme(template, home, profiles=extra, default={"profiles": ["old"]}) as world:
        client = await world.client(signer=signer)
        await client.new_account()
        orders = [
            await world.ready_order(client, NAME, profile="old", **more) for more in ({}, validity)
        ]
    async with open_acme(template, home) as world:
        client = await world.client(signer=signer)
        await client.new_account()
        for order in orders:
            csr, _ = make_csr([NAME])
            problem(await client.finalize(order, csr), 400, "invalidProfile")


async def test_authorizations_of_another_directory_revoke_nothing(open_world: OpenWorld) -> None:
    """Section 7.6 within one directory: another may prove control in ways of its own."""
    world = await open_world(other={})
    owner, other, same = (
        await world.account(), await world.account("other"), await world.account()
    )  # fmt: skip
    issued = await world.issue(owner, NAME)
    der = issued.certificate.public_bytes(Encoding.DER)
    await world.ready_order(other, NAME)
    problem(await other.revoke(der), 403, "unauthorized")
    problem(await other.post(other.directory["revokeCert"], {"certificate": "AAAA"}), 400,
            "malformed")  # fmt: skip
    await world.ready_order(same, NAME)
    assert (await same.revoke(der)).status_code == 200


@pytest.mark.parametrize(
    ("status", "kind"),
    [(413, "malformed"), (431, "malformed"), (429, "rateLimited"), (500, "serverInternal"),
     (503, "serverInternal")],
)  # fmt: skip
def test_refusals_of_the_edge(status: int, kind: str) -> None:
    """Checklist 26 and 27: what is our fault does not look like the client's."""
    response = problem_form(HTTPProblem(status, "why"))
    assert response.status_code == status
    assert f'"urn:ietf:params:acme:error:{kind}"'.encode() in bytes(response.body)
