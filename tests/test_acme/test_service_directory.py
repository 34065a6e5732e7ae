"""Directory and nonces: RFC 8555 sections 7.1.1, 7.2 and 6.5; checklist items 1 to 8, 34, 58."""

import datetime as dt
import re

import pytest

from interop import acme_sh
from protocols.acme.nonces import MAX_AGE
from tests.test_acme.client import ACMEClient
from tests.test_acme.conftest import OpenWorld
from tests.test_acme.world import BASE, World, problem

DIRECTORY = f"{BASE}/acme/default/directory"


async def test_directory_lists_what_there_is(world: World) -> None:
    """Section 7.1.1; checklist 34: absolute https URLs."""
    response = await world.http.get(DIRECTORY)
    assert response.headers["content-type"] == "application/json"
    assert "replay-nonce" not in response.headers
    assert "link" not in response.headers
    body = response.json()
    meta = body.pop("meta")
    assert body == {
        name: f"{BASE}/acme/default/{path}"
        for name, path in {
            "newNonce": "new-nonce", "newAccount": "new-account", "newOrder": "new-order",
            "newAuthz": "new-authz", "revokeCert": "revoke-cert", "keyChange": "key-change",
            "renewalInfo": "renewal-info",
        }.items()
    }  # fmt: skip
    assert meta == {"profiles": {"tls-server": "TLS servers"}, "externalAccountRequired": False}


async def test_meta_shows_the_settings(open_world: OpenWorld) -> None:
    world = await open_world(
        default={
            "profiles": ["short"], "terms_of_service": "https://acme.test/terms",
            "website": "https://acme.test/", "caa_identities": ["ca.example"],
            "external_account_required": True,
        }
    )  # fmt: skip
    assert (await world.http.get(DIRECTORY)).json()["meta"] == {
        "termsOfService": "https://acme.test/terms",
        "website": "https://acme.test/",
        "caaIdentities": ["ca.example"],
        "profiles": {"tls-server": "TLS servers", "short": "Six days"},
        "externalAccountRequired": True,
    }


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204)])
async def test_new_nonce(world: World, method: str, status: int) -> None:
    """Section 7.2; checklist 1, 3, 4."""
    response = await world.http.request(method, f"{BASE}/acme/default/new-nonce")
    assert response.status_code == status
    assert response.headers["cache-control"] == "no-store"
    assert response.headers.get_list("link") == [f'<{DIRECTORY}>;rel="index"']
    (nonce,) = response.headers.get_list("replay-nonce")
    assert re.fullmatch(r"[A-Za-z0-9_-]+", nonce)
    assert response.content == b""


async def test_new_nonce_by_post_as_get(world: World, client: ACMEClient) -> None:
    response = await client.post(client.directory["newNonce"])
    assert response.status_code == 204
    assert response.headers["replay-nonce"]


async def test_every_answer_to_a_post_has_index_and_one_nonce(client: ACMEClient) -> None:
    """Checklist 2 and 8: success and refusal alike."""
    good = await client.new_order(["a.example.org"])
    bad = await client.post(client.directory["newOrder"], {})
    for response in (good, bad):
        assert f'<{DIRECTORY}>;rel="index"' in response.headers.get_list("link")
        assert len(response.headers.get_list("replay-nonce")) == 1
        assert response.headers["cache-control"] == "no-store"


async def test_a_nonce_is_good_once(client: ACMEClient) -> None:
    """Section 6.5; checklist 5 and 6: what makes clients try again."""
    url, nonce = client.directory["newOrder"], await client.nonce()
    body = client.signer.sign(url, {"identifiers": []}, nonce=nonce)
    headers = {"Content-Type": "application/jose+json"}
    first = await client.http.post(url, content=body, headers=headers)
    problem(first, 400, "malformed")
    second = await client.http.post(url, content=body, headers=headers)
    problem(second, 400, "badNonce")
    assert acme_sh.is_bad_nonce(second.content)
    assert acme_sh.nonce(list(second.headers.items())) not in ("", nonce)


async def test_an_old_nonce_is_bad(world: World, client: ACMEClient) -> None:
    nonce = await client.nonce()
    world.clock.advance(dt.timedelta(seconds=MAX_AGE + 1))
    client._nonces.append(nonce)
    problem(await client.post(client.directory["newOrder"], {}, retry=False), 400, "badNonce")


async def test_a_forged_request_burns_no_nonce(client: ACMEClient) -> None:
    """Checklist 7: the signature is checked before the nonce is spent."""
    url, nonce = client.directory["newOrder"], await client.nonce()

    def forge(jws: dict[str, object]) -> None:
        jws["payload"] = ""

    headers = {"Content-Type": "application/jose+json"}
    forged = client.signer.sign(url, {"identifiers": []}, nonce=nonce, tamper=forge)
    problem(await client.http.post(url, content=forged, headers=headers), 400, "malformed")
    body = client.signer.sign(
        url, {"identifiers": [{"type": "dns", "value": "a.example.org"}]}, nonce=nonce
    )
    assert (await client.http.post(url, content=body, headers=headers)).status_code == 201


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "new-account", "POST"),
        ("GET", "new-order", "POST"),
        ("HEAD", "revoke-cert", "POST"),
        ("GET", "order/abc", "POST"),
        ("PUT", "new-order", "POST"),
        ("DELETE", "acct/abc", "POST"),
        ("PATCH", "new-nonce", "GET, HEAD, POST"),
        ("POST", "directory", "GET, HEAD"),
        ("POST", "renewal-info/abc.def", "GET, HEAD"),
    ],
)
async def test_wrong_method(world: World, method: str, path: str, allow: str) -> None:
    """Section 6.3 and checklist 27: 405 is a problem document too."""
    response = await world.http.request(method, f"{BASE}/acme/default/{path}")
    assert response.status_code == 405
    assert response.headers["allow"] == allow
    assert response.headers["content-type"] == "application/problem+json"
    if method != "HEAD":
        assert response.json()["status"] == 405


@pytest.mark.parametrize(
    "path",
    [
        "/acme/", "/acme/nobody/directory", "/acme/default", "/acme/default/",
        "/acme/default/directory/", "/acme/default/nothing", "/acme/default/order",
        "/acme/default/order/", "/acme/default/order//finalize", "/acme/default/order/a/b/c",
        "/acme/default/order/a%00b", "/acme/default/acct/%ff", "/acme/default/renewal-info",
        "/acme/default/renewal-info/", "/acme/default/cert/x/y/z",
        "/acme/default/order/" + 65 * "a",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_nothing_there(world: World, method: str, path: str) -> None:
    """Checklist 27: 404 as a problem; checklist 58: no redirect to or from a slash."""
    response = await world.http.request(method, BASE + path)
    problem_status = response.json()["status"]
    assert response.status_code == problem_status
    assert problem_status in (404, 405)
    assert response.headers["content-type"] == "application/problem+json"


async def test_no_answer_for_other_origins(world: World) -> None:
    """Deliberately without CORS (checklist 59): inside a private network, where an account may be
    enough to get certificates, a web page must not be able to speak ACME through its visitor."""
    origin = {"Origin": "https://evil.test", "Access-Control-Request-Method": "POST"}
    response = await world.http.options(f"{BASE}/acme/default/new-order", headers=origin)
    assert response.status_code == 405
    for answer in (response, await world.http.get(DIRECTORY, headers=origin)):
        assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_directories_are_apart(open_world: OpenWorld) -> None:
    """An account of one directory is unknown in another, even with the same key."""
    world = await open_world(other={})
    first = await world.account()
    second = await world.client("other", first.signer)
    problem(await second.new_order(["a.example.org"]), 400, "accountDoesNotExist")
    assert (await second.new_account()).status_code == 201
    assert len(await world.rows("SELECT id FROM acme_accounts")) == 2
