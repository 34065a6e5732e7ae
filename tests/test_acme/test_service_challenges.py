"""Challenges: RFC 8555 sections 7.5.1 and 8, RFC 8737; checklist items 8, 9, 23, 24, 30 to 38."""

import asyncio
import datetime as dt
import hashlib
from typing import Any

import pytest
from cryptography import x509

from interop import acme_sh
from pkiserver.ca import refusals
from pkiserver.clock import rfc3339
from pkiserver.config_types import Rate
from protocols.acme.challenges import FailureKind
from protocols.acme.challenges.model import FetchHTTP, HTTPAnswer, ProbeALPN
from protocols.acme.service.validation import Validation
from tests.test_acme.challenge_support import ALPNCertificate
from tests.test_acme.client import ACMEClient
from tests.test_acme.conftest import OpenWorld
from tests.test_acme.world import BASE, NOW, FakeProber, World, problem

NAME = "www.example.org"


async def pending(client: ACMEClient, name: str = NAME) -> tuple[str, dict[str, dict[str, Any]]]:
    """The URL of an order for one name, and its challenges by type; `authz` is the URL of their
    authorization."""
    order = await client.new_order([name])
    url = order.json()["authorizations"][0]
    challenges = (await client.post(url)).json()["challenges"]
    return order.headers["location"], {c["type"]: {**c, "authz": url} for c in challenges}


@pytest.mark.parametrize("kind", ["http-01", "dns-01"])
async def test_success(world: World, client: ACMEClient, kind: str) -> None:
    """Checklist 8, 9 and 24: `up`, the URL that was asked, the result without a poll."""
    order, challenges = await pending(client)
    challenge = challenges[kind]
    response = await client.answer(challenge["authz"], kind, world.prober.publish)
    assert response.status_code == 200
    assert f'<{challenge["authz"]}>;rel="up"' in response.headers.get_list("link")
    assert response.json() == {
        "type": kind, "url": challenge["url"], "token": challenge["token"],
        "status": "valid", "validated": rfc3339(NOW),
    }  # fmt: skip
    assert "retry-after" not in response.headers
    authorization = await client.post(challenge["authz"])
    body = authorization.json()
    assert body["status"] == "valid"
    assert body["expires"] == rfc3339(NOW + dt.timedelta(days=30))
    assert [c["type"] for c in body["challenges"]] == [kind], "checklist 32: the deciding one"
    assert acme_sh.says_valid(authorization.content)
    assert not acme_sh.says_invalid(authorization.content)
    assert (await client.post(order)).json()["status"] == "ready"
    ((_, _, outcome, detail),) = await world.audit("acme.challenge.valid")
    assert outcome == "done" and NAME in detail


@pytest.mark.parametrize(("name", "status"), [(NAME, "valid"), ("b.example.org", "invalid")])
async def test_tls_alpn(world: World, client: ACMEClient, name: str, status: str) -> None:
    """RFC 8737: a certificate for exactly this name."""
    _, challenges = await pending(client)
    challenge = challenges["tls-alpn-01"]
    proof = client.signer.key_authorization(challenge["token"])
    digest = hashlib.sha256(proof.encode()).digest()
    world.prober.certificates[NAME] = ALPNCertificate(digest, [x509.DNSName(name)]).der()
    assert (await client.post(challenge["url"], {})).json()["status"] == status
    assert isinstance(world.prober.asked[-1], ProbeALPN)


async def test_ports_come_from_the_settings(open_world: OpenWorld) -> None:
    world = await open_world(default={"http01_port": 5002, "tls_alpn01_port": 5001})
    client = await world.account()
    await world.ready_order(client, NAME)
    (request,) = world.prober.asked
    assert isinstance(request, FetchHTTP) and request.port == 5002


async def test_dns_account(open_world: OpenWorld) -> None:
    """dns-account-01, where it is configured: below a label of the account's own."""
    world = await open_world(default={"challenges": ["dns-account-01"]})
    client = await world.account()
    order, challenges = await pending(client)
    challenge = challenges["dns-account-01"]
    proof = client.signer.key_authorization(challenge["token"])
    world.prober.publish_for_account(NAME, str(client.signer.kid), proof)
    assert (await client.post(challenge["url"], {})).json()["status"] == "valid"
    assert (await client.post(order)).json()["status"] == "ready"


async def test_dns_persist(open_world: OpenWorld) -> None:
    """dns-persist-01, where it is configured: no token, a record that names the account."""
    world = await open_world(
        default={"challenges": ["dns-persist-01"], "caa_identities": ["ca.example"]}
    )
    client = await world.account()
    order, challenges = await pending(client)
    challenge = challenges["dns-persist-01"]
    assert "token" not in challenge
    assert challenge["issuer-domain-names"] == ["ca.example"]
    assert challenge["accounturi"] == client.signer.kid
    world.prober.texts[f"_validation-persist.{NAME}"] = [
        f"ca.example; accounturi={client.signer.kid}"
    ]
    assert (await client.post(challenge["url"], {})).json()["status"] == "valid"
    assert (await client.post(order)).json()["status"] == "ready"


async def test_failure(world: World, client: ACMEClient) -> None:
    """Section 8.2: the error is shown, authorization and order are invalid."""
    order, challenges = await pending(client)
    challenge = challenges["http-01"]
    response = await client.post(challenge["url"], {})
    body = response.json()
    assert body["status"] == "invalid"
    assert list(body)[-1] == "error", "checklist 30: last"
    assert body["error"]["type"] == "urn:ietf:params:acme:error:unauthorized"
    assert "404" in body["error"]["detail"]
    authorization = await client.post(challenge["authz"])
    assert authorization.json()["status"] == "invalid"
    assert [c["type"] for c in authorization.json()["challenges"]] == ["http-01"]
    assert acme_sh.says_invalid(authorization.content)
    ended = (await client.post(order)).json()
    assert ended["status"] == "invalid"
    assert ended["error"]["type"] == "urn:ietf:params:acme:error:unauthorized"
    ((_, _, outcome, _),) = await world.audit("acme.challenge.invalid")
    assert outcome == "refused"


async def test_an_account_that_fails_all_the_time_does_not_fill_the_audit_log(
    world: World, client: ACMEClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "PER_SOURCE", Rate(count=2, period=dt.timedelta(hours=1)))
    for number in range(3):
        _, challenges = await pending(client, f"no{number}.example.org")
        answer = await client.post(challenges["http-01"]["url"], {})
        assert answer.json()["status"] == "invalid"
    assert len(await world.audit("acme.challenge.invalid")) == 2


async def test_wrong_content_is_final(world: World, client: ACMEClient) -> None:
    """Only what may pass by itself is tried again."""
    _, challenges = await pending(client)
    challenge = challenges["http-01"]
    target = f"/.well-known/acme-challenge/{challenge['token']}"
    world.prober.pages[NAME, target] = "something else"
    body = (await client.post(challenge["url"], {})).json()
    assert body["status"] == "invalid"
    assert len(world.prober.asked) == 1


@pytest.mark.parametrize("kind", [FailureKind.CONNECTION, FailureKind.DNS, FailureKind.TLS])
async def test_retries(world: World, client: ACMEClient, kind: FailureKind) -> None:
    """Section 8.2: passing faults are tried again by the server."""
    order, challenges = await pending(client)
    world.prober.failures[NAME] = [kind, kind]
    response = await client.answer(challenges["http-01"]["authz"], "http-01", world.prober.publish)
    assert response.json()["status"] == "valid"
    assert "error" not in response.json()
    assert len(world.prober.asked) == 3
    assert (await client.post(order)).json()["status"] == "ready"


async def test_retries_come_to_an_end(world: World, client: ACMEClient) -> None:
    _, challenges = await pending(client)
    world.prober.failures[NAME] = [FailureKind.CONNECTION] * 9
    body = (await client.post(challenges["http-01"]["url"], {})).json()
    assert body["status"] == "invalid"
    assert body["error"]["type"] == "urn:ietf:params:acme:error:connection"
    assert len(world.prober.asked) == 3


async def test_error_shown_between_attempts(open_world: OpenWorld) -> None:
    """Section 8.2 and checklist 24, 30: processing, an error without objects, Retry-After: 1."""
    world = await open_world(delays=(3600.0,))
    world.endpoints["default"].validation._patience = 0.05
    client = await world.account()
    order, challenges = await pending(client)
    world.prober.failures[NAME] = [FailureKind.CONNECTION]
    response = await client.post(challenges["http-01"]["url"], {})
    body = response.json()
    assert body["status"] == "processing"
    assert response.headers["retry-after"] == "1"
    assert body["error"]["type"] == "urn:ietf:params:acme:error:connection"
    assert not any(isinstance(value, dict) for value in body["error"].values())
    authorization = await client.post(challenges["http-01"]["authz"])
    assert authorization.json()["status"] == "pending"
    assert authorization.headers["retry-after"] == "1"
    assert acme_sh.challenge(authorization.content, "http-01").url == body["url"]
    assert not acme_sh.says_invalid(authorization.content)
    assert (await client.post(order)).json()["status"] == "pending"


class SlowProber(FakeProber):
    """Answers http-01 only once `gate` is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.begun = 0

    async def fetch_http(self, request: FetchHTTP) -> HTTPAnswer:
        self.begun += 1
        await self.gate.wait()
        return await super().fetch_http(request)


def slow(world: World) -> SlowProber:
    """Make the world's validation wait, without patience."""
    prober = SlowProber()
    validation = world.endpoints["default"].validation
    validation._prober = prober
    validation._patience = 0
    return prober


async def test_a_second_response_while_processing(world: World, client: ACMEClient) -> None:
    """Checklist 37: the object as it is, no second validation; POST-as-GET only reads."""
    prober = slow(world)
    _, challenges = await pending(client)
    challenge = challenges["http-01"]
    assert (await client.post(challenge["url"])).json()["status"] == "pending"
    first = await client.answer(challenge["authz"], "http-01", prober.publish)
    assert first.json()["status"] == "processing"
    for payload in ({}, None, {"keyAuthorization": "x"}):
        again = await client.post(challenge["url"], payload)
        assert (again.status_code, again.json()["status"]) == (200, "processing")
    prober.gate.set()
    world.endpoints["default"].validation._patience = 5
    final = await client.post(challenge["url"], {})
    assert final.json()["status"] == "valid"
    assert (await client.post(challenge["url"], {})).json()["status"] == "valid"
    assert len(prober.asked) == 1


async def test_two_challenges_at_once(world: World, client: ACMEClient) -> None:
    """The first result decides; the other challenge changes nothing any more (checklist 32)."""
    prober = slow(world)
    order, challenges = await pending(client)
    await client.answer(challenges["http-01"]["authz"], "http-01", prober.publish)
    world.endpoints["default"].validation._patience = 5
    failed = await client.post(challenges["dns-01"]["url"], {})
    assert failed.json()["status"] == "invalid"
    prober.gate.set()
    late = await client.post(challenges["http-01"]["url"], {})
    assert late.json()["status"] == "invalid"
    assert "ended" in late.json()["error"]["detail"]
    assert (await client.post(challenges["http-01"]["authz"])).json()["status"] == "invalid"
    assert (await client.post(order)).json()["status"] == "invalid"


async def test_success_first_then_failure(world: World, client: ACMEClient) -> None:
    prober = slow(world)
    order, challenges = await pending(client)
    await client.post(challenges["http-01"]["url"], {})
    world.endpoints["default"].validation._patience = 5
    assert (await client.answer(challenges["dns-01"]["authz"], "dns-01", prober.publish)).json()[
        "status"
    ] == "valid"
    prober.gate.set()
    assert (await client.post(challenges["http-01"]["url"], {})).json()["status"] == "invalid"
    authorization = await client.post(challenges["http-01"]["authz"])
    assert authorization.json()["status"] == "valid"
    assert not acme_sh.says_invalid(authorization.content)
    assert (await client.post(order)).json()["status"] == "ready"


async def test_deactivated_while_processing(world: World, client: ACMEClient) -> None:
    prober = slow(world)
    order, challenges = await pending(client)
    challenge = challenges["http-01"]
    await client.answer(challenge["authz"], "http-01", prober.publish)
    await client.post(challenge["authz"], {"status": "deactivated"})
    prober.gate.set()
    world.endpoints["default"].validation._patience = 5
    assert (await client.post(challenge["url"], {})).json()["status"] == "invalid"
    assert (await client.post(challenge["authz"])).json()["status"] == "deactivated"
    assert (await client.post(order)).json()["status"] == "invalid"


async def test_an_order_waits_for_all(world: World, client: ACMEClient) -> None:
    order = await client.new_order(["a.example.org", "b.example.org"])
    for url in order.json()["authorizations"]:
        assert (await client.post(order.headers["location"])).json()["status"] == "pending"
        await client.answer(url, "http-01", world.prober.publish)
    assert (await client.post(order.headers["location"])).json()["status"] == "ready"


async def test_one_failure_fails_the_order(world: World, client: ACMEClient) -> None:
    order = await client.new_order(["a.example.org", "b.example.org"])
    first, second = order.json()["authorizations"]
    await client.answer(first, "http-01", world.prober.publish)
    challenge = (await client.post(second)).json()["challenges"][0]
    await client.post(challenge["url"], {})
    assert (await client.post(order.headers["location"])).json()["status"] == "invalid"
    assert (await client.post(first)).json()["status"] == "valid"


async def test_refusals(world: World, client: ACMEClient) -> None:
    _, challenges = await pending(client)
    url = challenges["http-01"]["url"]
    problem(await client.post(url, b"[]"), 400, "malformed")
    problem(await client.post(url, b"{"), 400, "malformed")
    other = await world.account()
    problem(await other.post(url, {}), 403, "unauthorized")
    problem(await other.post(url), 403, "unauthorized")
    problem(await client.post(f"{BASE}/acme/default/chall/unknown", {}), 404, "malformed")
    assert (await client.post(url)).json()["status"] == "pending"
    assert world.prober.asked == []


async def test_failures_per_name_are_limited(open_world: OpenWorld) -> None:
    """Section 6.6: a name is not tried for ever; others are not concerned."""
    world = await open_world(default={"failures_per_name": "2/1h"})
    client = await world.account()
    for _ in range(2):
        _, challenges = await pending(client)
        await client.post(challenges["http-01"]["url"], {})
    _, challenges = await pending(client)
    refused = await client.post(challenges["http-01"]["url"], {})
    problem(refused, 429, "rateLimited")
    assert 0 < int(refused.headers["retry-after"]) <= 3600
    assert (await client.post(challenges["http-01"]["url"])).json()["status"] == "pending"
    await world.ready_order(client, "other.example.org")
    world.clock.advance(dt.timedelta(hours=1))
    answered = await client.answer(challenges["http-01"]["authz"], "http-01", world.prober.publish)
    assert answered.json()["status"] == "valid"


class BrokenProber(FakeProber):
    async def fetch_http(self, request: FetchHTTP) -> HTTPAnswer:
        raise RuntimeError("not what anybody expected")


async def test_a_fault_of_ours_ends_the_challenge(world: World, client: ACMEClient) -> None:
    """No detail of it is shown."""
    world.endpoints["default"].validation._prober = BrokenProber()
    _, challenges = await pending(client)
    body = (await client.post(challenges["http-01"]["url"], {})).json()
    assert body["status"] == "invalid"
    assert body["error"]["type"] == "urn:ietf:params:acme:error:serverInternal"
    assert "anybody" not in str(body)


async def test_attempts_at_one_time(world: World, client: ACMEClient) -> None:
    """Clients choose whom we connect to, so there is a bound, and a longer one for what waits."""
    directory = world.endpoints["default"].directory
    prober = SlowProber()
    validation = Validation(directory, prober, patience=0, at_once=1)
    validation._most_waiting = 3
    world.endpoints["default"].__dict__["validation"] = validation
    urls = []
    for number in range(4):
        _, challenges = await pending(client, f"n{number}.example.org")
        urls.append(challenges["http-01"])
    for challenge in urls[:3]:
        started = await client.answer(challenge["authz"], "http-01", prober.publish)
        assert started.json()["status"] == "processing"
    assert prober.begun == 1
    refused = await client.post(urls[3]["url"], {})
    problem(refused, 429, "rateLimited")
    assert int(refused.headers["retry-after"]) > 0
    prober.gate.set()
    while validation._running:
        await asyncio.gather(*(running.task for running in validation._running.values()))
    assert (await client.post(urls[2]["url"])).json()["status"] == "valid"
    validation._patience = 5
    last = await client.answer(urls[3]["authz"], "http-01", prober.publish)
    assert last.json()["status"] == "valid"
