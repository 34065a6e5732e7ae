"""The port to the database: what callers may rely on, whichever engine is behind it.

- A unit of work is a synchronous function of a transaction, and short: an engine may run it on the
  event loop. Nothing is awaited inside one. It may run more than once (after a serialization
  failure), so it has no effect but through its argument.
- `write` returns after the commit is durable (fsync). It raises what the function raised, after
  rolling back everything the function did. A caller that is cancelled while waiting cannot tell
  whether the commit happened.
- `read` sees one snapshot and cannot write.
- `lookup` is `read` for a few look-ups by key: an engine may run it on the event loop.
- SQL is portable between SQLite and PostgreSQL: `?` placeholders (and no other `?`), RETURNING,
  ON CONFLICT, times as integer seconds, bytes as BLOB/BYTEA (spelled BLOB in migrations).
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

SQLValue = str | int | float | bytes | None
Row = tuple[Any, ...]
T = TypeVar("T")


class IntegrityError(Exception):
    """A UNIQUE, CHECK or foreign-key constraint refused a row. The transaction rolls back."""


class Reader(Protocol):
    """What a read may do."""

    def one(self, sql: str, params: Sequence[SQLValue] = ()) -> Row | None:
        """The first row, or None."""
        ...

    def all(self, sql: str, params: Sequence[SQLValue] = ()) -> list[Row]:
        """Every row."""
        ...

    def each(self, sql: str, params: Sequence[SQLValue] = ()) -> Iterator[Row]:
        """Rows one after the other, for results that should not be held in memory whole."""
        ...

    def joined(self, sql: str, params: Sequence[SQLValue] = ()) -> tuple[bytes, int]:
        """The bytes that are the only column of every row, end to end, and how many rows there
        are. The engine puts them together: a million rows take no million steps of ours."""
        ...


class Transaction(Reader, Protocol):
    """What a write may do."""

    def execute(self, sql: str, params: Sequence[SQLValue] = ()) -> int:
        """Run a statement; the number of rows it changed. Raises `IntegrityError`."""
        ...

    def execute_many(self, sql: str, rows: Iterable[Sequence[SQLValue]]) -> None:
        """Run a statement once per row. Raises `IntegrityError`."""
        ...


class Database(Protocol):
    """One database, shared by every service of a process. Raises `PKIError` UNAVAILABLE when the
    engine is away, locked for too long or full."""

    async def read(self, work: Callable[[Reader], T]) -> T:
        """Run `work` on one snapshot."""
        ...

    async def lookup(self, work: Callable[[Reader], T]) -> T:
        """Run `work`, a few look-ups by key."""
        ...

    async def change_mark(self) -> Hashable:
        """A value that stands for the present content: as long as it is the same as before, nobody,
        in whatever process, has committed anything in between. Far cheaper than a look-up where an
        engine can make it so. It says nothing across a restart."""
        ...

    def change_mark_now(self) -> Hashable | None:
        """`change_mark` for who cannot wait; None where an engine has to."""
        ...

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` in a transaction of its own and commit it durably."""
        ...

    async def close(self) -> None:
        """Finish what was accepted, then let go. Idempotent."""
        ...
