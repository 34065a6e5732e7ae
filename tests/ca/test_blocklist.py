"""Blocked keys."""

import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pkiserver.ca import blocklist
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.storage import Database, migrate, open_database

NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)
KEY = bytes(range(32))


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = open_database("sqlite:///pki.db", tmp_path)
    await migrate(database, {})
    yield database
    await database.close()


async def test_a_blocked_key_is_refused_with_its_reason(database: Database) -> None:
    await database.read(lambda reader: blocklist.check(reader, KEY))
    assert await database.write(lambda tx: blocklist.block(tx, KEY, "published on a wiki", NOW))
    with pytest.raises(PKIError, match="published on a wiki") as caught:
        await database.read(lambda reader: blocklist.check(reader, KEY))
    assert caught.value.code is ErrorCode.BAD_PUBLIC_KEY


async def test_the_first_reason_stands(database: Database) -> None:
    await database.write(lambda tx: blocklist.block(tx, KEY, "first", NOW))
    assert not await database.write(lambda tx: blocklist.block(tx, KEY, "second", NOW))
    await database.write(lambda tx: blocklist.block(tx, bytes(32), "third", NOW))
    assert await database.read(blocklist.page) == [
        blocklist.BlockedKey(bytes(32), "third", NOW),
        blocklist.BlockedKey(KEY, "first", NOW),
    ]
    assert len(await database.read(lambda reader: blocklist.page(reader, bytes(32), 1))) == 1
