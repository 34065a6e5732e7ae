"""The plug-in as the server mounts it: behind the HTTP edge, in front of and inside Starlette, with
the framework's own refusals (checklist 27, 34, 35, 58); and what the configuration refuses."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from pkiserver.app import Runtime, open_runtime, starlette_app
from pkiserver.errors import PKIError
from pkiserver.web.edge import Edge
from pkiserver.web.limits import Limits
from tests.test_acme.client import CONTENT_TYPE, ACMEClient
from tests.test_acme.conftest import OpenWorld
from tests.test_acme.world import BASE, World, problem, settings_of

DIRECTORY = f"{BASE}/acme/default/directory"


def forms(runtime: Runtime) -> dict[str, Any]:
    return {path: form for part in runtime.protocols.values() for path, form in part.forms.items()}


def over(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE)


async def use(http: httpx.AsyncClient, directory: str) -> None:
    """Directory, nonce, account, order."""
    client = await ACMEClient(http, directory).start()
    assert (await client.new_account()).status_code == 201
    response = await client.new_order(["a.example.org"])
    assert response.status_code == 201
    assert response.headers["location"].startswith(f"{BASE}/acme/default/order/")


async def test_as_the_server_has_it(world: World) -> None:
    edge = Edge(world.runtime.app(), limits=Limits(), forms=forms(world.runtime))
    async with over(edge) as http:
        await use(http, DIRECTORY)


async def test_inside_starlette(world: World) -> None:
    """Without the short way in front: as an embedding application has it."""
    async with over(starlette_app(world.runtime.routes(plain=False))) as http:
        await use(http, DIRECTORY)


async def test_mounted_in_another_application(open_world: OpenWorld) -> None:
    """Below a path: the public URLs come from the configuration, paths from the mount."""
    world = await open_world()
    inner = starlette_app(world.runtime.routes(plain=False))
    async with over(Starlette(routes=[Mount("/pki", app=inner)])) as http:
        response = await http.get(f"{BASE}/pki/acme/default/directory")
        assert response.status_code == 200
        assert response.json()["newOrder"] == f"{BASE}/acme/default/new-order"
        assert (await http.head(f"{BASE}/pki/acme/default/new-nonce")).status_code == 200


async def test_not_on_the_plain_listener(world: World) -> None:
    """Section 6.1: ACME is spoken over HTTPS."""
    async with over(world.runtime.plain_app()) as http:
        assert (await http.get(DIRECTORY)).status_code == 404


@pytest.mark.parametrize("path", ["/acme", "/acme/", "/acme/x/y", "/acme/default/x"])
async def test_framework_refusals_are_problems(world: World, path: str) -> None:
    edge = Edge(world.runtime.app(), limits=Limits(), forms=forms(world.runtime))
    async with over(edge) as http:
        response = await http.get(path)
        assert response.status_code == 404
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["status"] == 404


async def test_refusals_of_the_edge_look_like_ours(world: World) -> None:
    """Too long a body, before anything of ACME is asked."""
    edge = Edge(world.runtime.app(), limits=Limits(body_bytes=1000), forms=forms(world.runtime))
    async with over(edge) as http:
        response = await http.post(
            f"{BASE}/acme/default/new-order",
            content=b" " * 1001,
            headers={"Content-Type": CONTENT_TYPE},
        )
        body = response.json()
        assert response.status_code == body["status"] == 413
        assert body["type"] == "urn:ietf:params:acme:error:malformed"
        assert response.headers["content-type"] == "application/problem+json"


async def test_the_clients_address_comes_from_the_edge(world: World) -> None:
    """Behind a trusted proxy it is not the peer's."""
    from pkiserver.web.peer import TrustedProxies

    edge = Edge(
        world.runtime.app(), forms=forms(world.runtime),
        trusted_proxies=TrustedProxies(["127.0.0.0/8"]),
    )  # fmt: skip
    async with over(edge) as http:
        http.headers["X-Forwarded-For"] = "203.0.113.9"
        await use(http, DIRECTORY)
    assert await world.rows("SELECT address FROM acme_accounts") == [("203.0.113.9",)]


async def test_external_url(open_world: OpenWorld, template: Path) -> None:
    """Checklist 34 and 35: a proxy's URL is in every answer and in what is signed."""
    import shutil

    from pkiserver import config, registry

    home = template.parent / "external"
    shutil.copytree(template, home)
    server = {"hostname": "inside", "external_url": "https://ca.example.com/pki/"}
    table = {"server": server, "acme": {"default": {}}}
    settings = config.build(home, table, registry.sections(registry.available()))
    async with open_runtime(settings) as runtime, over(runtime.app()) as http:
        listed = (await http.get("http://inside/acme/default/directory")).json()
        assert listed["newOrder"] == "https://ca.example.com/pki/acme/default/new-order"
        url = listed["newAccount"]
        client = await ACMEClient(http, "http://inside/acme/default/directory").start()
        nonce = (await http.head("/acme/default/new-nonce")).headers["replay-nonce"]
        body = client.signer.sign(url, {}, nonce=nonce)
        response = await http.post(
            "/acme/default/new-account", content=body, headers={"Content-Type": CONTENT_TYPE}
        )
        assert response.status_code == 201
        assert response.headers["location"].startswith("https://ca.example.com/pki/acme/")


async def test_recover_makes_old_nonces_bad(world: World) -> None:
    """At the start of the server, before anything is served."""
    async with over(world.runtime.app()) as http:
        client = await ACMEClient(http, DIRECTORY).start()
        await client.new_account()
        client._nonces = [await client.nonce()]
        await world.runtime.recover()
        problem(await client.post(client.directory["newOrder"], {}, retry=False), 400, "badNonce")
        assert (await client.new_order(["a.example.org"])).status_code == 201


CAA_PROFILE = {"issuer": "issuing", "validity": "1d", "dns": {"allow": ["*"]}, "caa": True}


@pytest.mark.parametrize(
    ("acme", "message"),
    [
        ({"profile": "nothing"}, "there is no profile 'nothing'"),
        ({"profiles": ["nothing"]}, "there is no profile 'nothing'"),
        ({"profile": "checked"}, "caa_identities"),
        ({"challenges": ["dns-persist-01"]}, "caa_identities"),
        ({"deny_networks": ["10.0.0.1/8"]}, "deny_networks"),
        ({"dns": {"allow": ["*.*"]}}, "dns"),
        ({"ip": {"deny": ["nonsense"]}}, "ip"),
        ({"challenges": ["dns-02"]}, "challenges"),
        ({"challenges": []}, "challenges"),
        ({"orders_per_account": "many"}, "orders_per_account"),
        ({"authorization": "none"}, "authorization"),
        ({"unknown": 1}, "unknown"),
        ({"dns_resolvers": ["not an address!"]}, "dns_resolvers"),
    ],
)
async def test_configurations_that_do_not_start(
    tmp_path: Path, template: Path, acme: dict[str, Any], message: str
) -> None:
    """One line that names the key."""
    import shutil

    home = tmp_path / "home"
    shutil.copytree(template, home)
    with pytest.raises(PKIError) as refused:
        async with open_runtime(settings_of(home, {"default": acme})):
            pass
    assert refused.value.code == "configuration"
    assert message in refused.value.detail
