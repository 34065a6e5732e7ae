"""SQLite behind the port: disk full, the lock between processes, files and their modes."""

import asyncio
import fcntl
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pkiserver.errors import ErrorCode, PKIError
from pkiserver.storage import Reader, Row, Transaction, open_database, sqlite
from pkiserver.storage.sqlite import SQLiteDatabase

TABLE = "CREATE TABLE things (id INTEGER PRIMARY KEY, data BLOB)"


def add(tx: Transaction, size: int = 10) -> int:
    return tx.execute("INSERT INTO things (data) VALUES (?)", (bytes(size),))


def count(reader: Reader) -> Row | None:
    return reader.one("SELECT COUNT(*) FROM things")


async def opened(home: Path) -> SQLiteDatabase:
    database = SQLiteDatabase(home / "pki.db")
    await database.write(lambda tx: tx.execute(TABLE))
    return database


async def test_a_full_disk_fails_what_it_concerns_and_nothing_is_half_done(tmp_path: Path) -> None:
    """SQLite ends the transaction by itself then, with the savepoints of those before."""
    database = await opened(tmp_path)
    raw = database._writer.raw
    raw.execute(f"PRAGMA max_page_count = {raw.execute('PRAGMA page_count').fetchone()[0] + 4}")
    outcomes = await asyncio.gather(
        *(database.write(lambda tx: add(tx, 3000)) for _ in range(20)), return_exceptions=True
    )
    refused = [each for each in outcomes if isinstance(each, PKIError)]
    assert refused and all(each.code is ErrorCode.UNAVAILABLE for each in refused)
    assert len(refused) + outcomes.count(1) == 20
    assert await database.read(count) == (outcomes.count(1),)
    raw.execute("PRAGMA max_page_count = 100000")
    assert await database.write(add) == 1
    await database.close()


@pytest.mark.parametrize("method", ["lookup", "read"])
async def test_rows_that_nobody_reads_hold_on_to_no_snapshot(tmp_path: Path, method: str) -> None:
    """A statement outlives ROLLBACK: look-ups and the change mark would stand still for good."""
    one, two = await opened(tmp_path), SQLiteDatabase(tmp_path / "pki.db")
    for _ in range(3):
        await one.write(add)

    def begun(reader: Reader) -> Iterator[Row]:
        rows = reader.each("SELECT id FROM things")
        assert next(rows) == (1,)
        return rows

    run = getattr(one, method)
    rows = [await run(begun) for _ in range(4)]
    for expected in (4, 5):
        before = await one.change_mark()
        await two.write(add)
        assert await one.change_mark() != before
        assert [await run(count) for _ in range(4)] == [(expected,)] * 4
    with pytest.raises(sqlite3.ProgrammingError):
        next(rows[0])
    await one.write(lambda tx: begun(tx))
    assert await two.write(add) == await one.write(add) == 1
    await one.close()
    await two.close()


async def test_no_change_mark_inside_a_look_up(tmp_path: Path) -> None:
    """It would be that of the look-up's moment, whatever was committed since."""
    database = await opened(tmp_path)
    database._inline.raw.execute("BEGIN")
    with pytest.raises(PKIError) as caught:
        await database.change_mark()
    assert caught.value.code is ErrorCode.UNAVAILABLE
    database._inline.raw.execute("ROLLBACK")
    assert await database.change_mark() == await database.change_mark()
    await database.close()


async def test_who_goes_on_after_sqlite_ended_the_transaction_writes_nothing(
    tmp_path: Path,
) -> None:
    """Outside a transaction each statement would be committed on the spot."""
    database = await opened(tmp_path)

    def stubborn(tx: Transaction) -> None:
        database._writer.raw.execute("ROLLBACK")  # as SQLite does on SQLITE_FULL
        add(tx)

    with pytest.raises(PKIError, match="has ended"):
        await database.write(stubborn)
    assert await database.read(count) == (0,)
    assert await database.write(add) == 1
    await database.close()


async def test_an_error_of_the_lock_file_does_not_end_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = await opened(tmp_path)

    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError("no locks available")

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", no_locks)
        with pytest.raises(OSError, match="no locks"):
            await database.write(add)
    assert await asyncio.wait_for(database.write(add), 10) == 1
    await database.close()


async def test_a_write_that_waits_too_long_for_the_lock_is_withdrawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process that was stopped in the middle must not hang this one; and what was refused
    is not done later."""
    database = await opened(tmp_path)
    monkeypatch.setattr(sqlite, "_PATIENCE", 0.05)
    other = os.open(tmp_path / "pki.db.lock", os.O_RDWR)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(PKIError, match="locked by another process") as caught:
        await database.write(add)
    assert caught.value.code is ErrorCode.UNAVAILABLE
    assert await database.read(count) == (0,)
    monkeypatch.setattr(sqlite, "_PATIENCE", 30.0)
    os.close(other)
    assert await database.write(add) == 1
    assert await database.read(count) == (1,)
    await database.close()


async def test_a_write_that_began_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = await opened(tmp_path)

    def slow(tx: Transaction) -> int:
        threading.Event().wait(0.1)
        return add(tx)

    monkeypatch.setattr(sqlite, "_PATIENCE", 0.05)
    assert await database.write(slow) == 1
    await database.close()


async def test_units_of_work_run_in_the_loop_s_thread(tmp_path: Path) -> None:
    database = await opened(tmp_path)
    assert await database.write(lambda tx: threading.get_ident()) == threading.get_ident()
    await database.close()


def test_a_loop_that_does_not_run_does_not_hold_up_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its jobs are never carried out, not even when it runs again."""
    (tmp_path / "pki.db").touch()
    raw = sqlite.connect(tmp_path / "pki.db", read_only=False)
    loop = asyncio.new_event_loop()
    ran: list[int] = []

    async def make_job() -> sqlite._Job:
        return sqlite._Job(lambda tx: ran.append(1))

    job = loop.run_until_complete(make_job())
    monkeypatch.setattr(sqlite, "_PATIENCE", 0.02)
    visit = sqlite._Visit(sqlite._Connection(raw), [job])
    with pytest.raises(TimeoutError, match="does not run"):
        visit.make(loop)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert ran == []
    with pytest.raises(RuntimeError):
        visit.make(loop)
    raw.close()


async def test_a_write_of_a_foreign_program_is_waited_for(tmp_path: Path) -> None:
    """One that knows nothing of our lock file, such as sqlite3 at the command line."""
    database = await opened(tmp_path)
    foreign = sqlite3.connect(tmp_path / "pki.db", isolation_level=None)
    foreign.execute("BEGIN IMMEDIATE")
    task = asyncio.create_task(database.write(add))
    assert await database.lookup(count) == (0,)
    await asyncio.wait({task}, timeout=0.05)
    assert not task.done()
    foreign.execute("ROLLBACK")
    foreign.close()
    assert await task == 1
    await database.close()


async def test_only_we_can_read_the_files(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        database = await opened(tmp_path)
        await database.write(add)
    finally:
        os.umask(old)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert set(modes) == {"pki.db", "pki.db-wal", "pki.db-shm", "pki.db.lock"}
    assert set(modes.values()) == {0o600}
    await database.close()


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%41b", "a b", "ä", "a?mode=memory"])
async def test_a_home_may_have_any_name(tmp_path: Path, name: str) -> None:
    home = tmp_path / name
    home.mkdir()
    database = await opened(home)
    await database.write(add)
    await database.close()
    assert (home / "pki.db").stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == [name]


async def test_durability_is_what_the_port_promises(
    tmp_path: Path,
    durable_connect: Callable[..., sqlite3.Connection],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sqlite, "connect", durable_connect)
    database = await opened(tmp_path)
    raw = database._writer.raw
    settings = {
        name: raw.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "foreign_keys")
    }
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    await database.close()


@pytest.mark.parametrize("url", ["", "pki.db", "postgresql://user:hunter2@host/name"])
def test_another_url_is_refused_and_not_repeated(tmp_path: Path, url: str) -> None:
    with pytest.raises(PKIError) as caught:
        open_database(url, tmp_path)
    assert caught.value.code is ErrorCode.CONFIGURATION
    assert "hunter2" not in caught.value.detail


def test_what_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "pki.db").write_bytes(b"not a database, but long enough to be taken for one" * 99)
    with pytest.raises(PKIError) as caught:
        open_database("sqlite:///pki.db", tmp_path)
    assert caught.value.code is ErrorCode.UNAVAILABLE
    with pytest.raises(PKIError) as caught:
        open_database("sqlite:///nowhere/pki.db", tmp_path)
    assert caught.value.code is ErrorCode.UNAVAILABLE


_COUNT_UP = """
import asyncio, sys
from pathlib import Path
from pkiserver.storage.sqlite import SQLiteDatabase

def up(tx):
    (value,) = tx.one("SELECT COUNT(*) FROM things")
    return tx.execute("INSERT INTO things (id) VALUES (?)", (value + 1,))

async def main():
    database = SQLiteDatabase(Path(sys.argv[1]))
    await asyncio.gather(*(database.write(up) for _ in range(100)))
    await database.close()

asyncio.run(main())
"""


async def test_writers_of_several_processes_take_turns(tmp_path: Path) -> None:
    database = await opened(tmp_path)
    command = [sys.executable, "-c", _COUNT_UP, str(database.path)]
    processes = [subprocess.Popen(command) for _ in range(3)]
    codes = await asyncio.gather(*(asyncio.to_thread(process.wait, 30) for process in processes))
    assert codes == [0, 0, 0]
    assert await database.read(count) == (300,)
    await database.close()
