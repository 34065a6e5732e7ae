"""Fixtures: a home to copy, and services on it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pkiserver.app import open_runtime
from pkiserver.ca.authorities import bootstrap
from pkiserver.clock import FixedClock
from pkiserver.keys import create_passphrase
from tests.test_scep_challenges.world import NOW, World, open_world, settings_of


@pytest.fixture(scope="session")
def challenge_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with its authorities, to be copied."""
    home = tmp_path_factory.mktemp("scep-challenges") / "template"
    (home / "keys").mkdir(mode=0o700, parents=True)
    settings = settings_of(home)
    create_passphrase(settings)

    async def fill() -> None:
        async with open_runtime(settings, clock=FixedClock(NOW)) as runtime:
            await bootstrap(
                runtime.services.authorities, organization="", root_key="p256", issuing_key="p256"
            )

    asyncio.run(fill())
    return home


@pytest.fixture
async def world(challenge_template: Path, tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(challenge_template, tmp_path / "home") as opened:
        yield opened
