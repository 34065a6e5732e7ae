"""Renewal information and `replaces`: RFC 9773; checklist items 46 to 48."""

import datetime as dt
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from protocols.acme.build import delete_old
from tests.test_acme.client import ACMEClient, b64
from tests.test_acme.conftest import OpenWorld
from tests.test_acme.world import BASE, Issued, World, problem

NAME = "www.example.org"


def cert_id(certificate: x509.Certificate) -> str:
    """RFC 9773 section 4.1, from the certificate alone."""
    extension = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    identifier = extension.value.key_identifier
    assert identifier is not None
    serial = certificate.serial_number
    return f"{b64(identifier)}.{b64(serial.to_bytes(serial.bit_length() // 8 + 1, 'big'))}"


async def window(world: World, text: str) -> tuple[dt.datetime, dt.datetime]:
    response = await world.http.get(f"{BASE}/acme/default/renewal-info/{text}")
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    assert int(response.headers["retry-after"]) > 0
    assert "replay-nonce" not in response.headers
    suggested = response.json()["suggestedWindow"]
    start, end = suggested["start"], suggested["end"]
    assert start.endswith("Z") and end.endswith("Z")
    return dt.datetime.fromisoformat(start), dt.datetime.fromisoformat(end)


async def test_window(world: World, client: ACMEClient) -> None:
    """Section 4.2, checklist 46: unsigned, before the end, with Retry-After."""
    certificate = (await world.issue(client, NAME)).certificate
    start, end = await window(world, cert_id(certificate))
    assert certificate.not_valid_before_utc < start
    assert end - start > dt.timedelta(seconds=1)
    assert end < certificate.not_valid_after_utc


async def test_window_of_a_revoked_certificate(world: World, client: ACMEClient) -> None:
    """In the past: renew now."""
    certificate = (await world.issue(client, NAME)).certificate
    await client.revoke(certificate.public_bytes(Encoding.DER))
    _, end = await window(world, cert_id(certificate))
    assert end <= world.clock.now()


@pytest.mark.parametrize("text", ["AAAA.AAAA", "AAAA.AQ", "AAAA." + "A" * 128])
async def test_unknown_certificate(world: World, text: str) -> None:
    response = await world.http.get(f"{BASE}/acme/default/renewal-info/{text}")
    assert response.status_code in (400, 404)
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("text", ["AAAA", "AAAA.", ".AAAA", "a.b.c", "AAAA.AA=="])
async def test_malformed_id(world: World, text: str) -> None:
    response = await world.http.get(f"{BASE}/acme/default/renewal-info/{text}")
    problem(response, 400, "malformed")


async def test_serial_of_another_issuer(world: World, client: ACMEClient) -> None:
    """The root issued no certificate with that number."""
    certificate = (await world.issue(client, NAME)).certificate
    root = world.runtime.services.authorities.get("root").certificate
    assert root is not None
    key_identifier = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    serial = cert_id(certificate).partition(".")[2]
    url = f"{BASE}/acme/default/renewal-info/{b64(key_identifier.digest)}.{serial}"
    assert (await world.http.get(url)).status_code == 404


async def renew(client: ACMEClient, issued: Issued, name: str = NAME) -> Any:
    return await client.new_order([name], replaces=cert_id(issued.certificate))


async def test_replaces(world: World, client: ACMEClient) -> None:
    """Section 5: echoed in the order."""
    issued = await world.issue(client, NAME)
    response = await renew(client, issued)
    assert response.status_code == 201
    assert response.json()["replaces"] == cert_id(issued.certificate)
    assert (await client.post(response.headers["location"])).json() == response.json()


async def test_replaced_once(world: World, client: ACMEClient) -> None:
    """Checklist 47: 409 and alreadyReplaced, also once the order is done."""
    issued = await world.issue(client, NAME)
    await world.issue(client, NAME, replaces=cert_id(issued.certificate))
    problem(await renew(client, issued), 409, "alreadyReplaced")


async def test_replaced_for_good(world: World, client: ACMEClient) -> None:
    """Deleting old orders does not make a certificate replaceable again."""
    issued = await world.issue(client, NAME)
    text = cert_id(issued.certificate)
    await world.issue(client, NAME, replaces=text)
    world.clock.advance(dt.timedelta(days=60))
    await delete_old(world.endpoints["default"].directory)
    problem(await renew(client, issued), 409, "alreadyReplaced")
    world.clock.advance(dt.timedelta(days=61))
    await delete_old(world.endpoints["default"].directory)
    assert await world.rows("SELECT id FROM acme_orders") == []


async def test_an_order_that_failed_replaced_nothing(world: World, client: ACMEClient) -> None:
    issued = await world.issue(client, NAME)
    first = await renew(client, issued)
    await client.post(first.json()["authorizations"][0], {"status": "deactivated"})
    assert (await renew(client, issued)).status_code == 201


async def test_an_order_that_expired_replaced_nothing(world: World, client: ACMEClient) -> None:
    issued = await world.issue(client, NAME)
    assert (await renew(client, issued)).status_code == 201
    problem(await renew(client, issued), 409, "alreadyReplaced")
    world.clock.advance(dt.timedelta(days=7))
    assert (await renew(client, issued)).status_code == 201


async def test_what_cannot_be_replaced(world: World, client: ACMEClient) -> None:
    """Checklist 47: `malformed`, and the word `replaces` in the detail."""
    issued = await world.issue(client, NAME)
    other = await world.account()
    orders = await world.rows("SELECT COUNT(*) FROM acme_orders")
    refused = [
        await renew(other, issued),
        await renew(client, issued, "other.example.org"),
        await client.new_order([NAME], replaces="nonsense"),
    ]
    for response in refused:
        assert "replaces" in problem(response, 400, "malformed")["detail"]
    assert await world.rows("SELECT COUNT(*) FROM acme_orders") == orders


async def test_a_certificate_of_another_ca(world: World, client: ACMEClient) -> None:
    """Ignored: a client that moves here still renews."""
    response = await client.new_order([NAME], replaces="AAAA.AQID")
    assert response.status_code == 201
    assert "replaces" not in response.json()


async def test_renewals_are_not_limited(open_world: OpenWorld) -> None:
    """Those that are due, and each certificate's once."""
    world = await open_world(default={"orders_per_account": "1/1h"})
    client = await world.account()
    issued = await world.issue(client, NAME)
    problem(await client.new_order([NAME]), 429, "rateLimited")
    problem(await renew(client, issued), 429, "rateLimited")
    world.clock.advance(dt.timedelta(days=60))
    assert (await client.new_order([NAME])).status_code == 201
    problem(await client.new_order([NAME]), 429, "rateLimited")
    first = await renew(client, issued)
    assert first.status_code == 201
    await client.post(first.json()["authorizations"][0], {"status": "deactivated"})
    problem(await renew(client, issued), 429, "rateLimited")


async def test_a_subset_of_names_may_be_shared(world: World, client: ACMEClient) -> None:
    issued = await world.issue(client, "a.example.org", "b.example.org")
    response = await client.new_order(
        ["b.example.org", "c.example.org"], replaces=cert_id(issued.certificate)
    )
    assert response.status_code == 201
