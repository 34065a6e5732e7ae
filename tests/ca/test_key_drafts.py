"""Keys of authorities that never came to be: a crash leaves none for ever, and none in use goes."""

import asyncio
import datetime as dt
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pkiserver.ca import key_drafts
from pkiserver.ca.audit import Audit
from pkiserver.ca.authorities import Authorities
from pkiserver.clock import FixedClock
from pkiserver.config import CoreSettings
from pkiserver.config_types import KeyKind
from pkiserver.errors import PKIError
from pkiserver.keys import FileKeyProvider, PrivateKey
from pkiserver.storage import open_database
from tests.ca.authority_support import DAY, NOW, World, open_world, wish
from tests.processes import die, run_elsewhere


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        yield world


async def drafts(world: World) -> list[str]:
    return [key_id for (key_id,) in await world.all("SELECT key_id FROM key_drafts")]


async def forget(world: World) -> int:
    return await key_drafts.forget_left(world.database, world.keys, world.clock.now())


def create_and_die(home: Path, method: str, number: int) -> None:
    """After the n-th transaction, or the n-th key."""

    async def run() -> None:
        settings = CoreSettings(home=home)
        database, clock = open_database(settings.storage.url, home), FixedClock(NOW)
        keys = FileKeyProvider(home / "keys", b"passphrase")
        authorities = Authorities(database, clock, keys, Audit(clock), settings)
        await authorities.load()
        target: Any = keys if method == "generate" else database
        real, count = getattr(target, method), 0

        async def stand_in(*words: object) -> object:
            nonlocal count
            count += 1
            result = await real(*words)
            if count == number:
                die()
            return result

        setattr(target, method, stand_in)
        await authorities.create("issuing", "root", wish("Issuing", 10), "p256", actor="test:crash")

    asyncio.run(run())


async def killed(world: World, method: str, number: int) -> None:
    died = await run_elsewhere(create_and_die, world.home, method, number)
    assert died == -signal.SIGKILL
    await world.authorities.refresh_if_changed()


async def test_a_key_that_a_crash_left_before_its_authority_goes_after_an_hour(
    world: World,
) -> None:
    await world.root()
    await killed(world, "generate", 1)
    assert world.key_files() == {"root", "issuing"} and await drafts(world) == ["issuing"]
    issuing = await world.child("issuing")
    world.clock.advance(dt.timedelta(hours=1))
    assert await forget(world) == 0
    world.clock.advance(dt.timedelta(seconds=1))
    assert await forget(world) == 1
    assert world.key_files() == {"root", issuing.key_id} and issuing.key_id != "issuing"
    assert await drafts(world) == []


async def test_a_key_of_an_interrupted_authority_goes_when_another_one_takes_over(
    world: World,
) -> None:
    await world.root()
    await killed(world, "write", 2)
    assert world.authorities.get("issuing").key_id == "issuing" and await drafts(world) == []
    world.clock.advance(dt.timedelta(days=1))
    assert await forget(world) == 0 and "issuing" in world.key_files()
    await world.database.write(
        lambda tx: tx.execute("UPDATE certificates SET status = 'abandoned' WHERE der IS NULL")
    )
    issuing = await world.child("issuing")
    assert await forget(world) == 1
    assert world.key_files() == {"root", issuing.key_id}


async def test_who_is_given_up_meanwhile_becomes_no_authority(world: World) -> None:
    """However slow it was, it does not end up with a key that is being deleted."""
    await world.root()
    real = world.keys.generate

    async def slow(key_id: str, kind: KeyKind) -> PrivateKey:
        made = await real(key_id, kind)
        world.clock.advance(2 * DAY)
        assert await forget(world) == 1
        return made

    world.keys.generate = slow  # type: ignore[method-assign]
    with pytest.raises(PKIError, match="took too long"):
        await world.child("issuing")
    assert [each.name for each in world.authorities.list()] == ["root"]
    assert world.key_files() == {"root"} and await drafts(world) == []


async def test_keys_that_are_in_use_or_somebody_else_s_are_never_forgotten(world: World) -> None:
    await world.root()
    await world.keys.generate("sub", "p256")
    await world.child("sub")
    assert await drafts(world) == []
    await world.database.write(lambda tx: key_drafts.leave(tx, "root"))
    before = world.key_files()
    assert await forget(world) == 0 and world.key_files() == before
