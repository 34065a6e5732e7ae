"""SQLite behind the `Database` port: a writer thread, a few reader threads, WAL, synchronous=FULL.

The writer thread begins and commits; the units of work in between run in the caller's event loop.
They are short by rule: a long one would hold up every request.

Writers that arrive while a commit is being synced to disk are carried out together and share the
next sync (group commit); each runs in a savepoint, so that one that fails takes back only its own.
A lock file serialises the writers of several processes: waiting for it is woken at once, whereas
SQLite's own busy handler sleeps. A write that waits too long, since another process sits on the
lock, is withdrawn.
"""

import asyncio
import concurrent.futures
import contextlib
import fcntl
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pkiserver.errors import ErrorCode, PKIError
from pkiserver.storage.database import IntegrityError, Reader, Row, SQLValue, Transaction

T = TypeVar("T")
_BATCH = 64
_BUSY_TIMEOUT_MS = 10_000
_READERS = 3
_PATIENCE = 30.0
"""Seconds a write waits for its turn."""


class _Connection:
    """`Transaction` on a sqlite3 connection. After some errors (disk full) SQLite ends the whole
    transaction by itself: what a function that goes on would then write is refused, as it would
    be committed at once."""

    def __init__(self, raw: sqlite3.Connection) -> None:
        self.raw = raw
        self._iterated: list[sqlite3.Cursor] = []

    def one(self, sql: str, params: Sequence[SQLValue] = ()) -> Row | None:
        row: Row | None = self._run(sql, params).fetchone()
        return row

    def all(self, sql: str, params: Sequence[SQLValue] = ()) -> list[Row]:
        return self._run(sql, params).fetchall()

    def each(self, sql: str, params: Sequence[SQLValue] = ()) -> Iterator[Row]:
        cursor = self._run(sql, params)
        self._iterated.append(cursor)
        return cursor

    def end_iterations(self) -> None:
        """A statement that was not read to its end holds on to its snapshot beyond the end of the
        transaction: whatever the connection said next would be of that moment."""
        while self._iterated:
            self._iterated.pop().close()

    def joined(self, sql: str, params: Sequence[SQLValue] = ()) -> tuple[bytes, int]:
        # group_concat takes the octets of a BLOB as they are, NUL included. Unlike with rows, the
        # interpreter's lock changes hands once.
        whole = (
            f"WITH rows_to_join (piece) AS ({sql}) "
            "SELECT CAST(group_concat(piece, '') AS BLOB), COUNT(*) FROM rows_to_join"
        )
        octets, count = self._run(whole, params).fetchone()
        return octets or b"", count

    def execute(self, sql: str, params: Sequence[SQLValue] = ()) -> int:
        return self._run(sql, params).rowcount

    def execute_many(self, sql: str, rows: Iterable[Sequence[SQLValue]]) -> None:
        self._require_transaction()
        try:
            self.raw.executemany(sql, rows)
        except sqlite3.IntegrityError as error:
            raise IntegrityError(str(error)) from error

    def _run(self, sql: str, params: Sequence[SQLValue]) -> sqlite3.Cursor:
        self._require_transaction()
        try:
            return self.raw.execute(sql, params)
        except sqlite3.IntegrityError as error:
            raise IntegrityError(str(error)) from error

    def _require_transaction(self) -> None:
        if not self.raw.in_transaction:
            raise sqlite3.OperationalError("the transaction has ended")


def connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """A connection in autocommit mode with our settings. Raises `PKIError` UNAVAILABLE."""
    try:
        raw = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rw'}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        raw.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
        raw.execute("PRAGMA foreign_keys = ON")
        raw.execute("PRAGMA cache_size = -16000")
        if read_only:
            raw.execute("PRAGMA query_only = ON")
        else:
            raw.execute("PRAGMA journal_mode = WAL")
            raw.execute("PRAGMA synchronous = FULL")
            # Savepoints would make a temporary file each; a longer log writes hot pages once.
            raw.execute("PRAGMA temp_store = MEMORY")
            raw.execute("PRAGMA wal_autocheckpoint = 8000")
    except sqlite3.Error as error:
        raise _unavailable(error) from error
    return raw


def _unavailable(error: sqlite3.Error) -> PKIError:
    return PKIError(ErrorCode.UNAVAILABLE, f"the database does not answer: {error}")


def _create(path: Path) -> int:
    """Make the database file and the lock file beside it, for our eyes only: SQLite gives its
    other files the modes of the first. The lock's descriptor."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        return os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise PKIError(
            ErrorCode.UNAVAILABLE, f"the database cannot be opened: {error.strerror}"
        ) from error


class _Job:
    """One accepted write and where its outcome goes."""

    def __init__(self, work: Callable[[Transaction], Any]) -> None:
        self.work = work
        self._unclaimed = [True]
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.outcome: Any = None
        self.error: BaseException | None = None

    def run(self, connection: _Connection) -> None:
        if not self._claim():
            return
        try:
            self.outcome, self.error = self.work(connection), None
        except BaseException as error:  # handed to the caller, whatever it is
            self.outcome, self.error = None, error

    def withdraw(self) -> None:
        """Unless it has begun."""
        if self._claim() and not self.future.done():
            locked = PKIError(ErrorCode.UNAVAILABLE, "the database is locked by another process")
            self.future.set_exception(locked)

    def _claim(self) -> bool:
        """Atomic: either the job is run or it is withdrawn."""
        try:
            return self._unclaimed.pop()
        except IndexError:
            return False

    def settle(self) -> None:
        """In the loop of the caller, who may be gone."""
        if self.future.done():
            return
        if self.error is None:
            self.future.set_result(self.outcome)
        elif isinstance(self.error, sqlite3.Error):
            self.future.set_exception(_unavailable(self.error))
        elif isinstance(self.error, StopIteration):  # which a future does not take
            self.future.set_exception(RuntimeError("StopIteration left a unit of work"))
        else:
            self.future.set_exception(self.error)


class _Visit:
    """Jobs carried out in their event loop's thread, between the writer thread's BEGIN and COMMIT.

    The sqlite3 module gives up the interpreter's lock at each statement. In a thread beside a busy
    loop every statement would wait for it again, some fifty switches per transaction; here they
    are two, and only what may wait (the lock of other processes, the disk) is the thread's."""

    def __init__(self, connection: _Connection, jobs: list[_Job]) -> None:
        self._connection = connection
        self._jobs = jobs
        self._unclaimed = [True]
        self._done = threading.Event()
        self._error: Exception | None = None

    def make(self, loop: asyncio.AbstractEventLoop) -> None:
        """Raises what broke the transaction; RuntimeError or TimeoutError for a loop that is closed
        or does not run any more."""
        loop.call_soon_threadsafe(self._carry_out)
        if not self._done.wait(_PATIENCE) and self._claim():
            raise TimeoutError("the event loop does not run")
        self._done.wait()
        if self._error is not None:
            raise self._error

    def _claim(self) -> bool:
        try:
            return self._unclaimed.pop()
        except IndexError:
            return False

    def _carry_out(self) -> None:
        if not self._claim():
            return
        raw = self._connection.raw
        try:
            for job in self._jobs:
                raw.execute("SAVEPOINT job")
                job.run(self._connection)
                self._connection.end_iterations()
                if job.error is not None:
                    raw.execute("ROLLBACK TO job")
                raw.execute("RELEASE job")
        except Exception as error:
            self._error = error
        finally:
            self._done.set()


class SQLiteDatabase:
    """`Database` on one SQLite file. Create it after any fork: connections do not cross one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = _create(path)
        self._writer = _Connection(connect(path, read_only=False))
        self._inline = _Connection(connect(path, read_only=True))
        self._local = threading.local()
        self._reader_connections: list[sqlite3.Connection] = []
        self._readers = concurrent.futures.ThreadPoolExecutor(_READERS, "sqlite-read")
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_loop, name="sqlite-write", daemon=True)
        self._thread.start()
        self._closed = False

    async def read(self, work: Callable[[Reader], T]) -> T:
        self._require_open()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, self._read, work)

    async def lookup(self, work: Callable[[Reader], T]) -> T:
        self._require_open()
        return _snapshot(self._inline, work)

    async def change_mark(self) -> int:
        return self.change_mark_now()

    def change_mark_now(self) -> int:
        """PRAGMA data_version changes with every commit of another connection; on this one nothing
        is ever committed, so that is every commit of anybody. It would stand still inside a
        transaction, so there must be none left open."""
        self._require_open()
        if self._inline.raw.in_transaction:
            raise PKIError(ErrorCode.UNAVAILABLE, "the database does not answer: a look-up is open")
        try:
            mark: int = self._inline.raw.execute("PRAGMA data_version").fetchone()[0]
        except sqlite3.Error as error:
            raise _unavailable(error) from error
        return mark

    async def write(self, work: Callable[[Transaction], T]) -> T:
        self._require_open()
        job = _Job(work)
        self._jobs.put(job)
        patience = job.loop.call_later(_PATIENCE, job.withdraw)
        try:
            outcome: T = await job.future
        finally:
            patience.cancel()
        return outcome

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join, _PATIENCE)
        if self._thread.is_alive():  # it waits for the lock: what it has goes with the process
            return
        await asyncio.to_thread(self._readers.shutdown)
        for raw in (*self._reader_connections, self._inline.raw, self._writer.raw):
            raw.close()
        os.close(self._lock)

    def _require_open(self) -> None:
        if self._closed:
            raise PKIError(ErrorCode.UNAVAILABLE, "the database is closed")

    def _read(self, work: Callable[[Reader], T]) -> T:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = _Connection(connect(self.path, read_only=True))
            self._reader_connections.append(connection.raw)
        return _snapshot(connection, work)

    def _write_loop(self) -> None:
        running = True
        while running:
            batch = [self._jobs.get()]
            with contextlib.suppress(queue.Empty):
                while len(batch) < _BATCH:
                    batch.append(self._jobs.get_nowait())
            running = None not in batch
            jobs = [job for job in batch if job is not None]
            if jobs:
                self._commit(jobs)
                _deliver(jobs)

    def _commit(self, jobs: list[_Job]) -> None:
        """Carry out and commit; whatever goes wrong is the outcome of every job it concerns, since
        the thread has to live for the next ones."""
        raw = self._writer.raw
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            raw.execute("BEGIN IMMEDIATE")
            for loop in {job.loop for job in jobs}:
                visit = _Visit(self._writer, [job for job in jobs if job.loop is loop])
                visit.make(loop)
            raw.execute("COMMIT")
        except Exception as error:
            for job in jobs:
                job.error = job.error or error
            with contextlib.suppress(sqlite3.Error):
                raw.execute("ROLLBACK")
        finally:
            with contextlib.suppress(OSError):
                fcntl.flock(self._lock, fcntl.LOCK_UN)


def _deliver(jobs: list[_Job]) -> None:
    """Hand out what came of the jobs, waking each loop once."""
    for loop in {job.loop for job in jobs}:
        mine = [job for job in jobs if job.loop is loop]
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_settle, mine)


def _settle(jobs: list[_Job]) -> None:
    for job in jobs:
        job.settle()


def _snapshot(connection: _Connection, work: Callable[[Reader], T]) -> T:
    try:
        connection.raw.execute("BEGIN")
        try:
            return work(connection)
        finally:
            connection.end_iterations()
            connection.raw.execute("ROLLBACK")
    except sqlite3.Error as error:
        raise _unavailable(error) from error
