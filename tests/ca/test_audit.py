"""The audit chain: what is appended verifies, and whatever is done to a row shows."""

import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pkiserver.ca import audit
from pkiserver.ca.audit import Audit, Head
from pkiserver.clock import FixedClock
from pkiserver.storage import Database, Transaction, migrate, open_database

NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = open_database("sqlite:///pki.db", tmp_path)
    await migrate(database, {})
    yield database
    await database.close()


async def append(database: Database, count: int) -> None:
    log = Audit(FixedClock(NOW))

    def work(tx: Transaction) -> None:
        for number in range(count):
            log.append(
                tx,
                actor="cli:alice",
                action="certificate.issue",
                object=f"c{number}",
                detail={"é": number, "names": ["a", "b"]},
            )

    await database.write(work)


async def change(database: Database, sql: str) -> None:
    await database.write(lambda tx: tx.execute(sql))


async def test_empty_log_verifies(database: Database) -> None:
    found = await database.read(audit.verify)
    assert found == audit.Verified(0, None, None, Head(0, audit.GENESIS))


async def test_appended_rows_verify_and_the_head_is_the_newest(database: Database) -> None:
    await append(database, 20)
    await append(database, 1)
    found = await database.read(audit.verify)
    assert (found.rows, found.broken) == (21, None)
    assert found.head == await database.read(audit.head)


async def test_invariant_7_a_row_is_appended_with_what_it_records_or_not_at_all(
    database: Database,
) -> None:
    log = Audit(FixedClock(NOW))

    def work(tx: Transaction) -> None:
        log.append(tx, actor="a", action="b.c", object="d")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await database.write(work)
    assert (await database.read(audit.head)).sequence == 0


@pytest.mark.parametrize(
    ("sql", "broken"),
    [
        ("UPDATE audit SET at = at + 1 WHERE sequence = 4", 4),
        ("UPDATE audit SET actor = 'cli:mallory' WHERE sequence = 4", 4),
        ("UPDATE audit SET action = 'x.y' WHERE sequence = 4", 4),
        ("UPDATE audit SET object = 'c9' WHERE sequence = 4", 4),
        ("UPDATE audit SET outcome = 'refused' WHERE sequence = 4", 4),
        ("UPDATE audit SET detail = '{}' WHERE sequence = 1", 1),
        ("UPDATE audit SET hash = zeroblob(32) WHERE sequence = 4", 4),
        ("UPDATE audit SET previous = zeroblob(32) WHERE sequence = 4", 4),
        ("DELETE FROM audit WHERE sequence = 4", 4),
        ("DELETE FROM audit WHERE sequence = 1", 1),
        ("UPDATE audit SET sequence = 100 WHERE sequence = 4", 4),
    ],
)
async def test_any_change_of_a_row_is_found_at_that_row(
    database: Database, sql: str, broken: int
) -> None:
    await append(database, 8)
    await change(database, sql)
    found = await database.read(audit.verify)
    assert found.broken == broken
    assert found.rows == broken - 1
    assert found.problem


async def test_an_anchor_shows_a_tail_that_was_cut_off(database: Database) -> None:
    await append(database, 8)
    anchor = await database.read(audit.head)
    await change(database, "DELETE FROM audit WHERE sequence > 5")
    assert (await database.read(audit.verify)).broken is None
    found = await database.read(lambda reader: audit.verify(reader, anchor))
    assert found.broken == 6


async def test_an_anchor_shows_a_log_that_was_written_anew(database: Database) -> None:
    await append(database, 8)
    anchor = await database.read(audit.head)
    await change(database, "DELETE FROM audit")
    log = Audit(FixedClock(NOW))
    for _ in range(9):
        await database.write(lambda tx: log.append(tx, actor="m", action="x.y", object="z"))
    found = await database.read(lambda reader: audit.verify(reader, anchor))
    assert found.broken == 8


async def test_an_anchor_in_the_past_still_holds(database: Database) -> None:
    await append(database, 3)
    anchor = await database.read(audit.head)
    await append(database, 3)
    found = await database.read(lambda reader: audit.verify(reader, anchor))
    assert (found.broken, found.rows) == (None, 6)
