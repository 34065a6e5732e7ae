"""Fixtures: a service with one section, and a factory for others."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.test_scep.world import World, make_template, open_scep

OpenWorld = Callable[..., Awaitable[World]]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("scep") / "template"
    make_template(home)
    return home


@pytest.fixture
async def open_world(template: Path, tmp_path: Path) -> AsyncIterator[OpenWorld]:
    """Opens services: keywords are sections and their settings."""
    async with AsyncExitStack() as stack:

        async def opener(home: str = "home", **options: Any) -> World:
            return await stack.enter_async_context(open_scep(template, tmp_path / home, **options))

        yield opener


@pytest.fixture
async def world(open_world: OpenWorld) -> World:
    return await open_world()
