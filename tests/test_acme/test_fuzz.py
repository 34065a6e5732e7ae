"""Random requests: whatever is in a well-signed payload, in a protected header, in a body or in a
path, the answer is never a fault of ours (checklist 26) and every refusal is a problem document."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.test_acme.client import CONTENT_TYPE, b64
from tests.test_acme.signed import Targets, open_targets
from tests.test_acme.world import BASE, open_acme

pytestmark = pytest.mark.asyncio(loop_scope="module")
quick = settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
RESOURCES = [
    "newNonce", "newAccount", "account", "orders", "keyChange", "newOrder", "order", "finalize",
    "newAuthz", "authorization", "challenge", "certificate", "revokeCert", "revokeCert by key",
]  # fmt: skip
MEMBERS = [
    "contact", "termsOfServiceAgreed", "onlyReturnExisting", "externalAccountBinding", "status",
    "identifiers", "identifier", "notBefore", "notAfter", "replaces", "profile", "csr",
    "certificate", "reason", "account", "oldKey", "protected", "payload", "signature", "type",
    "value", "jwk", "kid", "alg", "nonce", "url",
]  # fmt: skip
TEXTS = st.one_of(
    st.sampled_from([
        "dns", "ip", "valid", "mailto:a@example.org", "*.example.org", "a.example.org", "192.0.2.1",
        "2026-11-22T00:00:00Z", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+23:59", "AAAA.AQ",
        "MAA", "MIIB", "e30", "tls-server", "xn--", "xn--a.example", "\u0130.example", "\x00",
    ]),
    st.text(max_size=40),
    st.text(st.characters(codec="ascii"), max_size=300),
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(MEMBERS) | st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
PAYLOADS = st.dictionaries(st.sampled_from(MEMBERS) | st.text(max_size=8), VALUES, max_size=6)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def targets(
    template: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Targets]:
    home = tmp_path_factory.mktemp("fuzz") / "home"
    lenient = {"orders_per_account": "1000000/1h", "accounts_per_address": "1000000/1h"}
    async with open_acme(template, home, default=lenient) as world:
        yield await open_targets(world)


def check(response: httpx.Response) -> None:
    assert response.status_code < 500, response.text
    if response.is_error:
        assert response.headers["content-type"] == "application/problem+json"
        body = response.json()
        assert body["status"] == response.status_code
        assert body["type"].startswith("urn:ietf:params:acme:error:")
    if response.request.method == "POST":
        assert len(response.headers.get_list("replay-nonce")) == 1


@pytest.mark.parametrize("name", RESOURCES)
@quick
@given(payload=PAYLOADS)
async def test_payloads(targets: Targets, name: str, payload: dict[str, Any]) -> None:
    target = next(t for t in targets if t.name == name)
    check(await targets.send(target, await targets.sign(target, payload=payload)))


@pytest.mark.parametrize("name", ["newOrder", "newAuthz", "newAccount", "revokeCert", "finalize"])
@quick
@given(data=st.data())
async def test_almost_good_payloads(targets: Targets, name: str, data: st.DataObject) -> None:
    """One member of a good payload is something else."""
    target = next(t for t in targets if t.name == name)
    good = dict(target.payload) if isinstance(target.payload, dict) else {}
    payload = good | {data.draw(st.sampled_from([*good, *MEMBERS])): data.draw(VALUES)}
    check(await targets.send(target, await targets.sign(target, payload=payload)))


@quick
@given(identifiers=st.lists(st.fixed_dictionaries({"type": TEXTS, "value": TEXTS}), max_size=5))
async def test_identifiers(targets: Targets, identifiers: list[dict[str, str]]) -> None:
    check(await targets.client.new_order(identifiers))


@quick
@given(der=st.binary(max_size=200))
async def test_der(targets: Targets, der: bytes) -> None:
    """Random octets where a CSR or a certificate should be."""
    for target in targets:
        if target.name in ("finalize", "revokeCert"):
            payload = {"csr": b64(der), "certificate": b64(der)}
            check(await targets.send(target, await targets.sign(target, payload=payload)))


@quick
@given(members=st.dictionaries(st.sampled_from([*MEMBERS, "crit", "b64"]), VALUES, max_size=4))
async def test_protected_headers(targets: Targets, members: dict[str, Any]) -> None:
    target = targets.all[1]
    check(await targets.send(target, await targets.sign(target, header=members)))


@quick
@given(body=st.binary(max_size=300) | VALUES.map(lambda value: json.dumps(value).encode()))
async def test_bodies(targets: Targets, body: bytes) -> None:
    check(await targets.send(targets.all[1], body))


@quick
@given(position=st.integers(0), octet=st.integers(0, 255))
async def test_one_octet_changed(targets: Targets, position: int, octet: int) -> None:
    """A request that was good before one octet of it was changed."""
    target = targets.all[3]
    body = bytearray(await targets.sign(target))
    body[position % len(body)] = octet
    check(await targets.send(target, bytes(body)))


@quick
@given(path=st.text(max_size=60), method=st.sampled_from(["GET", "POST", "HEAD", "PUT"]))
async def test_paths(targets: Targets, path: str, method: str) -> None:
    url = f"{BASE}/acme/default/{quote(path)}"
    response = await targets.world.http.request(method, url, headers={"Content-Type": CONTENT_TYPE})
    assert response.status_code < 500


@quick
@given(text=st.text(st.characters(codec="ascii"), max_size=80))
async def test_renewal_info(targets: Targets, text: str) -> None:
    url = f"{BASE}/acme/default/renewal-info/{quote(text)}"
    assert (await targets.world.http.get(url)).status_code < 500
