"""A home made once, copied for each test."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from pkiserver.clock import FixedClock, SystemClock
from pkiserver.initialise import NewHome, initialise
from tests.test_est.support import Factory, World, opened

OpenWorld = Callable[..., Awaitable[World]]
CONFIGURATION = "[est.default]\n"


@pytest.fixture(scope="session")
def made_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("est") / "pki"
    initialise(home, NewHome(root_key="p256"))
    return home


@pytest.fixture(scope="session")
def factory() -> Factory:
    return Factory()


@pytest.fixture
def home(made_home: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "pki"
    shutil.copytree(made_home, copy)
    return copy


@pytest.fixture
async def open_world(home: Path) -> AsyncIterator[OpenWorld]:
    """Opens servers on the home, with the text of a configuration."""
    clock = FixedClock(SystemClock().now())
    async with AsyncExitStack() as stack:

        async def open_one(configuration: str = CONFIGURATION) -> World:
            return await stack.enter_async_context(opened(home, configuration, clock))

        yield open_one


@pytest.fixture
async def world(open_world: OpenWorld) -> World:
    """With the label `default` and its user alice."""
    world = await open_world()
    await world.add_user()
    return world
