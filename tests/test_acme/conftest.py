"""Fixtures: a service with one directory, and a factory for others."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from pkiserver.app import open_runtime
from pkiserver.ca.authorities import bootstrap
from pkiserver.clock import FixedClock
from pkiserver.keys import create_passphrase
from tests.test_acme.client import ACMEClient
from tests.test_acme.world import NOW, World, open_acme, settings_of

OpenWorld = Callable[..., Awaitable[World]]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with its authorities, to be copied."""
    import asyncio

    home = tmp_path_factory.mktemp("acme") / "template"
    (home / "keys").mkdir(mode=0o700, parents=True)
    settings = settings_of(home, {"default": {}})
    create_passphrase(settings)

    async def fill() -> None:
        async with open_runtime(settings, clock=FixedClock(NOW)) as runtime:
            await bootstrap(
                runtime.services.authorities, organization="", root_key="p256", issuing_key="p256"
            )

    asyncio.run(fill())
    return home


@pytest.fixture
async def open_world(template: Path, tmp_path: Path) -> AsyncIterator[OpenWorld]:
    """Opens services: keywords are directories and their settings."""
    async with AsyncExitStack() as stack:

        async def opener(home: str = "home", **options: Any) -> World:
            return await stack.enter_async_context(open_acme(template, tmp_path / home, **options))

        yield opener


@pytest.fixture
async def world(open_world: OpenWorld) -> World:
    return await open_world()


@pytest.fixture
async def client(world: World) -> ACMEClient:
    """A client with an account in the default directory."""
    return await world.account()
