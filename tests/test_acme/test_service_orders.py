"""Orders: RFC 8555 sections 7.1.3 and 7.4; checklist items 15 to 20, 49 to 52."""

import datetime as dt
from typing import Any

import pytest

from pkiserver.clock import rfc3339
from tests.test_acme.client import ACMEClient, make_csr
from tests.test_acme.conftest import OpenWorld
from tests.test_acme.world import BASE, NOW, World, problem

IP = {"type": "ip", "value": "192.0.2.7"}


async def test_create(world: World, client: ACMEClient) -> None:
    """Checklist 15 and 16: 201, Location, pending."""
    response = await client.new_order(["www.example.org", "example.org"])
    assert response.status_code == 201
    url = response.headers["location"]
    body = response.json()
    authorizations = body.pop("authorizations")
    assert len(set(authorizations)) == 2
    assert all(item.startswith(f"{BASE}/acme/default/authz/") for item in authorizations)
    assert body == {
        "status": "pending",
        "expires": rfc3339(NOW + dt.timedelta(days=7)),
        "identifiers": [
            {"type": "dns", "value": "www.example.org"}, {"type": "dns", "value": "example.org"}
        ],
        "finalize": f"{url}/finalize",
    }  # fmt: skip
    assert (await client.post(url)).json() == {**body, "authorizations": authorizations}
    assert len(await world.audit("acme.order.create")) == 1


async def test_identifiers_come_back_as_they_were_sent(world: World, client: ACMEClient) -> None:
    """Checklist 17: octet for octet, while the certificate has the normal form."""
    sent = ["WWW.Example.ORG", {"type": "ip", "value": "2001:DB8:0:0:0:0:0:1"}]
    response = await client.new_order(sent)
    values = [item["value"] for item in response.json()["identifiers"]]
    assert values == ["WWW.Example.ORG", "2001:DB8:0:0:0:0:0:1"]
    assert await world.rows("SELECT value FROM acme_authorizations ORDER BY value") == [
        ("2001:db8::1",), ("www.example.org",)
    ]  # fmt: skip


async def test_duplicates_are_one(client: ACMEClient) -> None:
    response = await client.new_order(["a.example.org", "A.example.org", "a.example.org"])
    assert response.json()["identifiers"] == [{"type": "dns", "value": "a.example.org"}]
    assert len(response.json()["authorizations"]) == 1


async def test_several_bad_identifiers_are_subproblems(world: World, client: ACMEClient) -> None:
    """Section 6.7.1."""
    before = await world.contents()
    body = problem(await client.new_order(["a..b", "ok.example.org", "*.*.x"]), 400, "malformed")
    assert [item["identifier"]["value"] for item in body["subproblems"]] == ["a..b", "*.*.x"]
    other = problem(await client.new_order([{"type": "email", "value": "a@b"}]), 400,
                    "unsupportedIdentifier")  # fmt: skip
    assert other["identifier"] == {"type": "email", "value": "a@b"}
    assert await world.contents() == before


@pytest.mark.parametrize(
    "payload",
    [
        {}, {"identifiers": []}, {"identifiers": {}}, {"identifiers": ["a.example.org"]},
        {"identifiers": [{"type": "dns"}]}, {"identifiers": [{"type": "dns", "value": ""}]},
        {"identifiers": [{"type": "dns", "value": 7}]},
        {"identifiers": [{"type": "ip", "value": "192.0.2.300"}]},
        {"identifiers": [{"type": "ip", "value": "*.192.0.2.1"}]},
        {"identifiers": [{"type": "dns", "value": "192.0.2.1"}]},
        {"identifiers": [{"type": "dns", "value": "b\u00fccher.example"}]},
        {"identifiers": [{"type": "dns", "value": f"n{n}.example.org"} for n in range(101)]},
        {"identifiers": [{"type": "dns", "value": "a.example.org"}], "notAfter": "tomorrow"},
        {"identifiers": [{"type": "dns", "value": "a.example.org"}], "notAfter": "2026-11-22"},
        {"identifiers": [{"type": "dns", "value": "a.example.org"}], "replaces": 1},
        {"identifiers": [{"type": "dns", "value": "a.example.org"}], "profile": ["x"]},
    ],
)  # fmt: skip
async def test_malformed(world: World, client: ACMEClient, payload: dict[str, Any]) -> None:
    before = await world.contents()
    response = await client.post(client.directory["newOrder"], payload)
    numeric = "'192.0.2.1'" in str(payload)
    problem(response, *((403, "rejectedIdentifier") if numeric else (400, "malformed")))
    assert await world.contents() == before


async def test_names_the_directory_does_not_serve(open_world: OpenWorld) -> None:
    """Policy refusals are 403 with a subproblem for each name, and leave no trace."""
    world = await open_world(default={"dns": {"allow": ["*.example.org"]}, "ip": {"allow": []}})
    client = await world.account()
    body = problem(await client.new_order(["a.example.org", "a.example.net", "b.example.net", IP]),
                   403, "rejectedIdentifier")  # fmt: skip
    refused = [item["identifier"]["value"] for item in body["subproblems"]]
    assert refused == ["a.example.net", "b.example.net", "192.0.2.7"]
    ((_, _, outcome, detail),) = await world.audit("acme.order.refuse")
    assert outcome == "refused" and "a.example.net" in detail
    assert await world.rows("SELECT id FROM acme_orders") == []
    assert (await client.new_order(["a.example.org"])).status_code == 201


async def test_names_the_profile_does_not_certify(open_world: OpenWorld) -> None:
    """Before the client has to prove anything."""
    world = await open_world(default={"profile": "short"})
    client = await world.account()
    for name in ("a.example.net", "*.example.org", IP):
        problem(await client.new_order([name]), 403, "rejectedIdentifier")
    assert (await client.new_order(["a.example.org"])).status_code == 201


async def test_more_names_than_the_profile_allows(open_world: OpenWorld) -> None:
    world = await open_world(default={}, profiles={"tls-server": {"max_names": 2}})
    client = await world.account()
    names = [f"n{number}.example.org" for number in range(3)]
    problem(await client.new_order(names), 400, "malformed")
    assert (await client.new_order(names[:2])).status_code == 201


async def test_wildcard(world: World, client: ACMEClient) -> None:
    """Section 7.1.3 and checklist 33: the base name, `wildcard`, proof by DNS only."""
    response = await client.new_order(["*.example.org", "example.org"])
    wild, plain = [(await client.post(url)).json() for url in response.json()["authorizations"]]
    assert wild["identifier"] == {"type": "dns", "value": "example.org"}
    assert wild["wildcard"] is True
    assert [c["type"] for c in wild["challenges"]] == ["dns-01"]
    assert "wildcard" not in plain
    assert [c["type"] for c in plain["challenges"]] == ["http-01", "dns-01", "tls-alpn-01"]
    issued = await world.issue(client, "*.example.org", challenge="dns-01")
    assert issued.order["identifiers"] == [{"type": "dns", "value": "*.example.org"}]


async def test_wildcard_without_dns_challenges(open_world: OpenWorld) -> None:
    world = await open_world(default={"challenges": ["http-01"]})
    client = await world.account()
    body = problem(await client.new_order(["*.example.org"]), 403, "rejectedIdentifier")
    assert "no challenge" in body["detail"]


@pytest.mark.parametrize("value", ["192.0.2.7", "2001:db8::7"])
async def test_ip(world: World, client: ACMEClient, value: str) -> None:
    """RFC 8738: no dns-01; the certificate has the address."""
    import ipaddress

    from cryptography import x509

    order = await client.new_order([{"type": "ip", "value": value}])
    url = order.json()["authorizations"][0]
    authorization = (await client.post(url)).json()
    assert authorization["identifier"] == {"type": "ip", "value": value}
    assert [c["type"] for c in authorization["challenges"]] == ["http-01", "tls-alpn-01"]
    answered = await client.answer(url, "http-01", world.prober.publish)
    assert answered.json()["status"] == "valid"
    csr, _ = make_csr([], addresses=[x509.IPAddress(ipaddress.ip_address(value))])
    final = (await client.finalize(order.json(), csr)).json()
    chain = await client.post(final["certificate"])
    leaf = x509.load_pem_x509_certificates(chain.content)[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address(value)]


async def test_validity_asked_for(world: World, client: ACMEClient) -> None:
    """Section 7.4: notBefore and notAfter are kept to, or refused."""
    start, end = NOW + dt.timedelta(minutes=5), NOW + dt.timedelta(days=3)
    issued = await world.issue(
        client, "a.example.org", notBefore=rfc3339(start), notAfter=rfc3339(end)
    )
    assert issued.order["notBefore"] == rfc3339(start)
    assert issued.order["notAfter"] == rfc3339(end)
    assert issued.certificate.not_valid_before_utc == start
    assert issued.certificate.not_valid_after_utc == end


async def test_the_whole_length_of_the_profile(world: World, client: ACMEClient) -> None:
    """From now for ninety days, finalized a while later."""
    end = NOW + dt.timedelta(days=90)
    order = await world.ready_order(
        client, "a.example.org", notBefore=rfc3339(NOW), notAfter=rfc3339(end)
    )
    world.clock.advance(dt.timedelta(minutes=3))
    csr, _ = make_csr(["a.example.org"])
    response = await client.finalize(order, csr)
    assert response.json()["status"] == "valid", response.text


async def test_an_order_ends_with_what_its_not_before_allows(
    world: World, client: ACMEClient
) -> None:
    """What was accepted can be issued for as long as the order lives."""
    order = await world.ready_order(client, "a.example.org", notBefore=rfc3339(NOW))
    expires = dt.datetime.fromisoformat(order["expires"])
    assert expires < NOW + dt.timedelta(days=7)
    world.clock.advance(expires - NOW - dt.timedelta(seconds=1))
    csr, _ = make_csr(["a.example.org"])
    assert (await client.finalize(order, csr)).json()["status"] == "valid"


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (None, dt.timedelta(days=91)),
        (None, dt.timedelta(seconds=0)),
        (None, dt.timedelta(days=-1)),
        (dt.timedelta(days=-2), None),
        (dt.timedelta(days=90), None),
        (dt.timedelta(days=2), dt.timedelta(days=1)),
        (dt.timedelta(days=1), dt.timedelta(days=90, seconds=1)),
        (dt.timedelta(days=-2), dt.timedelta(days=80)),
        (dt.timedelta(minutes=-30), dt.timedelta(days=90)),
    ],
)
async def test_validity_beyond_the_profile(
    world: World, client: ACMEClient, start: dt.timedelta | None, end: dt.timedelta | None
) -> None:
    """Refused at once, not when the order is finalized."""
    members = {
        name: rfc3339(NOW + delta)
        for name, delta in (("notBefore", start), ("notAfter", end))
        if delta is not None
    }
    problem(await client.new_order(["a.example.org"], **members), 400, "malformed")
    assert await world.rows("SELECT id FROM acme_orders") == []


async def test_profiles(open_world: OpenWorld) -> None:
    """draft-ietf-acme-profiles, checklist 49: echoed where asked for, `invalidProfile` else."""
    world = await open_world(default={"profiles": ["short"]})
    client = await world.account()
    issued = await world.issue(client, "a.example.org", profile="short")
    assert issued.order["profile"] == "short"
    lifetime = issued.certificate.not_valid_after_utc - issued.certificate.not_valid_before_utc
    assert lifetime < dt.timedelta(days=6)
    assert "profile" not in (await client.new_order(["b.example.org"])).json()
    for name in ("checked", "nothing", "x" * 200):
        problem(await client.new_order(["a.example.org"], profile=name), 400, "invalidProfile")


async def test_expiry(world: World, client: ACMEClient) -> None:
    """Section 7.1.3 and checklist 52: invalid with an error, and cannot be finalized."""
    pending = await client.new_order(["a.example.org"])
    ready = await world.ready_order(client, "b.example.org")
    world.clock.advance(dt.timedelta(days=7))
    for url, name in ((pending.headers["location"], "a"), (ready["url"], "b")):
        order = (await client.post(url)).json()
        assert order["status"] == "invalid"
        assert "expired" in order["error"]["detail"]
        csr, _ = make_csr([f"{name}.example.org"])
        problem(await client.finalize(order, csr), 403, "orderNotReady")
    assert (await client.post(f"{client.signer.kid}/orders")).json()["orders"] == []


async def test_others_orders(world: World, client: ACMEClient) -> None:
    order = await client.new_order(["a.example.org"])
    other = await world.account()
    problem(await other.post(order.headers["location"]), 403, "unauthorized")
    csr, _ = make_csr(["a.example.org"])
    problem(await other.finalize(order.json(), csr), 403, "unauthorized")
    for path in ("order/unknown", "authz/unknown", "chall/unknown", "cert/unknown"):
        problem(await client.post(f"{BASE}/acme/default/{path}"), 404, "malformed")
    csr_body = {"csr": "AAAA"}
    url = f"{BASE}/acme/default/order/unknown/finalize"
    problem(await client.post(url, csr_body), 404, "malformed")
    problem(await client.post(f"{order.headers['location']}/other", csr_body), 404, "malformed")


async def test_orders_per_account_are_limited(open_world: OpenWorld) -> None:
    """Section 6.6: 429 and an integer Retry-After that is right."""
    world = await open_world(default={"orders_per_account": "2/1h"})
    client, other = await world.account(), await world.account()
    assert (await client.new_order(["a.example.org"])).status_code == 201
    world.clock.advance(dt.timedelta(minutes=20))
    assert (await client.new_order(["b.example.org"])).status_code == 201
    refused = await client.new_order(["c.example.org"])
    problem(refused, 429, "rateLimited")
    assert refused.headers["retry-after"] == "2400"
    assert (await other.new_order(["c.example.org"])).status_code == 201
    world.clock.advance(dt.timedelta(seconds=2400))
    assert (await client.new_order(["c.example.org"])).status_code == 201


async def test_trusted_directory(open_world: OpenWorld) -> None:
    """authorization = "trusted": ready at once, with a valid challenge to look at (section 2 item
    7 of the checklist); wildcards and addresses included, whatever challenges are on offer."""
    world = await open_world(default={"authorization": "trusted", "challenges": ["http-01"]})
    client = await world.account()
    response = await client.new_order(["a.example.org", "*.example.org", IP])
    assert response.json()["status"] == "ready"
    for url in response.json()["authorizations"]:
        authorization = (await client.post(url)).json()
        assert authorization["status"] == "valid"
        (challenge,) = authorization["challenges"]
        assert challenge["status"] == "valid"
        assert challenge["token"] and challenge["validated"] == rfc3339(NOW)
    assert world.prober.asked == []
    issued = await world.issue(client, "b.example.org")
    assert issued.order["status"] == "valid"
