"""The whole service on the wire: each kind of challenge configured as an operator would, Intune's
side served over real HTTP on loopback."""

import asyncio
import base64
import datetime as dt
import json
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import hypercorn
import pytest
from hypercorn.asyncio import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from pkiserver.errors import ErrorCode, PKIError
from protocols.scep.challenge_settings import IntuneSettings
from protocols.scep.challenges import Challenges
from protocols.scep.settings import SCEPSettings
from tests.test_scep.client import rsa_key
from tests.test_scep.world import World, application, make_template, open_scep
from tests.test_scep_challenges.intune_fake import (
    CLIENT_ID,
    CLIENT_SECRET,
    TENANT,
    Expected,
    FakeMicrosoft,
)

CHALLENGE = "MIIP" + "q3J5cHRlZA" * 190
Opener = Callable[..., Coroutine[Any, Any, World]]


@pytest.fixture(scope="session")
def scep_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("scep-whole") / "template"
    make_template(home)
    return home


@pytest.fixture
async def open_whole(scep_template: Path, tmp_path: Path) -> AsyncIterator[Opener]:
    async with AsyncExitStack() as stack:

        async def opener(**sections: Any) -> World:
            return await stack.enter_async_context(
                open_scep(scep_template, tmp_path / "home", **sections)
            )

        yield opener


@asynccontextmanager
async def served(app: Starlette) -> AsyncIterator[str]:
    """The application on a free port of loopback; its base URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    settings = hypercorn.Config()
    settings.bind = [f"fd://{listener.detach()}"]
    settings.accesslog = settings.errorlog = None
    stop = asyncio.Event()
    task = asyncio.create_task(serve(app, settings, shutdown_trigger=stop.wait))  # type: ignore[arg-type]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        stop.set()
        await task


def write_secret(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return str(path)


async def test_intune_over_the_wire(open_whole: Opener, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        fake = FakeMicrosoft(lambda: dt.datetime(2026, 11, 21, 12, 0, tzinfo=dt.UTC))
        base = await stack.enter_async_context(served(fake.app()))
        fake.serve_at(base)
        fake.profiles[CHALLENGE] = Expected(subject="CN=device-1")
        world = await open_whole(
            intune={
                "challenge": "intune",
                "intune": {
                    "tenant": TENANT, "client_id": CLIENT_ID, "login_url": base,
                    "graph_url": base, "resource": f"{base}/resource/",
                    "client_secret_file": write_secret(tmp_path, "secret", CLIENT_SECRET),
                },
            }
        )  # fmt: skip
        scep = world.runtime.protocols["scep"]
        assert scep.start and scep.stop and scep.recover
        await scep.start()
        try:
            device = await world.device("intune", key=rsa_key())
            rep = await world.send(device, device.pkcs_req(CHALLENGE), "intune")
            assert rep.status == "0", rep.text
            assert list(fake.issued) == [device.transaction_id] and fake.wrong == []

            refused = await world.send(device, device.pkcs_req("another"), "intune")
            assert refused.status in ("0", "2")  # the same transaction: the same certificate
            other = await world.device("intune", key=rsa_key(1))
            refused = await world.send(other, other.pkcs_req("another"), "intune")
            assert (refused.status, refused.fail_info) == ("2", "2")
            assert "ChallengeDecryptionError" in (refused.text or "")

            fake.outcomes["successNotification"] = 500
            failed = await world.send(other, other.pkcs_req(CHALLENGE), "intune")
            assert failed.status == "2"
            assert other.transaction_id in fake.failures

            renewed = device.with_certificate(rep.certificate)
            answer = await world.send(renewed, renewed.renewal_req(), "intune")
            assert answer.status == "2", "Intune's lifecycle is Intune's"

            fake.revocations = [
                {
                    "requestContext": "c-1",
                    "serialNumber": fake.issued[device.transaction_id]["certificateSerialNumber"],
                    "issuerName": None,
                    "caConfiguration": "issuing",
                }
            ]
            jobs = {job.name: job for job in scep.jobs}
            for name in ("revocation", "sweep", "clean"):
                await jobs[f"scep-intune-{name}-intune"].run()
            assert fake.results["c-1"]["succeeded"] is True
            fake.outcomes["downloadRevocationRequests"] = 503
            await jobs["scep-intune-revocation-intune"].run()
            await scep.recover()
        finally:
            await scep.stop()


async def test_webhook_over_the_wire(open_whole: Opener, tmp_path: Path) -> None:
    async def decide(request: Request) -> JSONResponse:
        body = json.loads(await request.body())
        return JSONResponse({"allow": body["scepChallenge"] == "open sesame", "reason": "unknown"})

    async with served(Starlette(routes=[Route("/", decide, methods=["POST"])])) as base:
        key = write_secret(tmp_path, "key", base64.b64encode(b"k" * 32).decode())
        world = await open_whole(
            hook={"challenge": "webhook", "webhook": {"url": f"{base}/", "secret_file": key}}
        )
        scep = world.runtime.protocols["scep"]
        assert scep.start and scep.stop
        await scep.start()
        device = await world.device("hook", key=rsa_key())
        refused = await world.send(device, device.pkcs_req("wrong"), "hook")
        assert (refused.status, refused.text) == ("2", "the enrolment was not allowed: unknown")
        assert (await world.send(device, device.pkcs_req("open sesame"), "hook")).status == "0"
        await scep.stop()
    other = await world.device("hook", key=rsa_key(1))
    assert (await world.send(other, other.pkcs_req("open sesame"), "hook")).status == "2"


async def test_static_challenge_in_every_string_type(open_whole: Opener, tmp_path: Path) -> None:
    """S29: Printable, UTF-8, T61, IA5 and BMP."""
    world = await open_whole(
        fixed={
            "challenge": "static",
            "challenge_secret_file": write_secret(tmp_path, "s", "Enrol-2026"),
        }
    )
    for number, tag in enumerate((0x13, 0x0C, 0x14, 0x16, 0x1E)):
        device = await world.device("fixed", key=rsa_key(number % 2), common_name=f"d-{number}")
        message = device.pkcs_req("Enrol-2026", csr={"challenge_tag": tag})
        rep = await world.send(device, message, "fixed")
        assert rep.status == "0", (hex(tag), rep.text)


async def test_password_page_and_paths_are_https_only(open_whole: Opener) -> None:
    world = await open_whole()
    for plain, expected in ((True, 404), (False, 401)):
        transport = httpx.ASGITransport(
            application(world.runtime, plain=plain), client=("192.0.2.1", 1)
        )
        async with httpx.AsyncClient(transport=transport, base_url="https://scep.test") as http:
            for path in ("/certsrv/mscep_admin/", "/CERTSRV/MSCEP_ADMIN"):
                assert (await http.get(path)).status_code == expected, (plain, path)
            assert (await http.post("/scep-challenge/default")).status_code == expected
            capabilities = await http.get("/certsrv/mscep/mscep.dll?operation=GetCACaps")
            assert capabilities.status_code == 200


@pytest.mark.parametrize(
    "section",
    [
        {"challenge": "none"},
        {"challenge": "static"},
        {"challenge": "webhook"},
        {"challenge": "intune"},
        {"challenge_secret_env": "X"},
        {"challenge": "static", "challenge_secret_env": "X", "challenge_secret_file": "y"},
        {"challenge": "webhook", "webhook": {"url": "http://decide.example/", "secret_env": "X"}},
        {"challenge": "webhook", "webhook": {"url": "https://decide.example/"}},
        {"challenge": "intune", "intune": {"tenant": "a/b", "client_id": CLIENT_ID,
                                           "client_secret_env": "X"}},
        {"challenge": "intune", "intune": {"tenant": TENANT, "client_id": CLIENT_ID}},
        {"challenge": "intune", "intune": {"tenant": TENANT, "client_id": CLIENT_ID,
                                           "client_secret_env": "X",
                                           "login_url": "http://login.example"}},
        {"challenge": "intune", "profile": "approved",
         "intune": {"tenant": TENANT, "client_id": CLIENT_ID, "client_secret_env": "X"}},
    ],
)  # fmt: skip
async def test_configurations_that_cannot_be(open_whole: Opener, section: dict[str, Any]) -> None:
    with pytest.raises(PKIError) as caught:
        await open_whole(wrong=section)
    assert caught.value.code is ErrorCode.CONFIGURATION
    assert "scep.wrong" in caught.value.detail


async def test_sections_of_other_tenants_are_known(open_whole: Opener) -> None:
    """Two tenants on one server; a tenant's name is of any case."""
    names = {"a": "one.example", "b": "ONE.example", "c": "two.example"}
    world = await open_whole(
        **{
            label: {"challenge": "intune", "intune": {
                "tenant": tenant, "client_id": CLIENT_ID, "client_secret_env": "X"}}
            for label, tenant in names.items()
        }
    )  # fmt: skip
    sections = world.runtime.services.settings.section("scep")
    challenges = Challenges(
        world.runtime.services, {k: v for k, v in sections.items() if isinstance(v, SCEPSettings)}
    )
    found = {label: challenges._foreign(IntuneSettings(tenant=name, client_id=CLIENT_ID,
             client_secret_env="X")) for label, name in names.items()}  # fmt: skip
    assert found == {"a": {"c"}, "b": {"c"}, "c": {"a", "b"}}


async def test_a_missing_secret_stops_the_start(open_whole: Opener) -> None:
    world = await open_whole(fixed={"challenge": "static", "challenge_secret_env": "NOT_SET"})
    start = world.runtime.protocols["scep"].start
    assert start is not None
    with pytest.raises(PKIError) as caught:
        await start()
    assert "NOT_SET is not set" in caught.value.detail


async def test_no_challenge_is_used_twice_under_load(scep_template: Path, tmp_path: Path) -> None:
    """Forty devices, two processes' worth of services, ten challenges: ten certificates."""
    home = tmp_path / "home"
    async with open_scep(scep_template, home) as one, open_scep(scep_template, home) as two:
        challenges = [await one.challenge() for _ in range(10)]
        device = await one.device(key=rsa_key())

        async def enrol(number: int) -> str | None:
            message = device.pkcs_req(
                challenges[number % 10],
                csr={"common_name": f"device-{number}"},
                transaction_id=f"T-{number}",
            )
            return (await device_world(number).send(device, message)).status

        def device_world(number: int) -> World:
            return (one, two)[number // 10 % 2]

        statuses = await asyncio.gather(*(enrol(number) for number in range(40)))
        assert sorted(str(status) for status in statuses) == ["0"] * 10 + ["2"] * 30
        assert await one.issued() == 10
        used = await one.rows("SELECT certificate FROM scep_challenges WHERE used IS NOT NULL")
        assert len({certificate for (certificate,) in used}) == 10
