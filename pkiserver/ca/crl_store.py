"""The tables of published lists. Plain functions of a reader or a transaction, a few look-ups by
key each, so that a loop may run them."""

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, field, fields

from pkiserver.ca.crl import CRL
from pkiserver.ca.crl_scope import Scope
from pkiserver.clock import epoch, from_epoch
from pkiserver.storage import Reader, Row, Transaction

PAGE = 1 << 20
"""Octets of a list in one row, so that none of its transactions is long."""
HISTORY = 10
"""Lists of a scope that are kept, complete ones and deltas each,"""
HISTORY_OCTETS = 4 << 20
"""as far as they are not larger than this together; the newest two are kept anyway."""

_COLUMNS = (
    "issuer, scope, delta, number, base, generation, this_update, next_update, entries, size, "
    "sha256, form, anchor, body"
)
_INSERT_LIST = f"INSERT INTO crl_lists ({_COLUMNS}) VALUES (?{', ?' * 13})"
_SELECT = f"SELECT {_COLUMNS} FROM crl_lists WHERE issuer = ? AND scope = ? "


@dataclass(frozen=True, slots=True)
class Published:
    """What is known of a list without reading it; `body` is where its octets are. `sha256` is None
    for one from before digests were kept."""

    issuer: str
    scope: str
    delta: bool
    number: int
    base: int | None
    generation: int
    this_update: dt.datetime
    next_update: dt.datetime
    entries: int
    size: int
    sha256: bytes | None = field(repr=False)
    form: bytes = field(repr=False)
    anchor: bool
    body: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class State:
    """The lists of one scope: the newest complete one and the newest delta, the generations of the
    issuer and of the last change in this scope, and the highest number in use."""

    complete: Published | None
    delta: Published | None
    generation: int
    changed: int

    @property
    def number(self) -> int:
        return max(each.number if each else 0 for each in (self.complete, self.delta))


def state(reader: Reader, issuer: str, scope: Scope) -> State:
    generation = reader.one("SELECT generation FROM status_generations WHERE issuer = ?", (issuer,))
    changed = reader.one(
        "SELECT MAX(generation) FROM crl_changes WHERE issuer = ? AND bucket >= ? AND bucket <= ?",
        (issuer, *scope.buckets),
    )
    return State(
        newest(reader, issuer, scope, delta=False),
        newest(reader, issuer, scope, delta=True),
        generation[0] if generation else 0,
        (changed[0] if changed else None) or 0,
    )


def newest(reader: Reader, issuer: str, scope: Scope, *, delta: bool) -> Published | None:
    row = reader.one(
        _SELECT + "AND delta = ? ORDER BY number DESC LIMIT 1", (issuer, scope.name, int(delta))
    )
    return None if row is None else _published(row)


def anchor(
    reader: Reader, issuer: str, scope: Scope, form: bytes, now: dt.datetime
) -> Published | None:
    """The oldest complete list that relying parties may still hold, of the same form: what a delta
    refers to, so that it is of use to as many as possible."""
    row = reader.one(
        _SELECT + "AND delta = 0 AND anchor = 1 AND form = ? AND next_update > ? "
        "ORDER BY number LIMIT 1",
        (issuer, scope.name, form, epoch(now)),
    )
    return None if row is None else _published(row)


def last_anchor(reader: Reader, issuer: str, scope: Scope, form: bytes) -> Published | None:
    row = reader.one(
        _SELECT + "AND delta = 0 AND anchor = 1 AND form = ? ORDER BY number DESC LIMIT 1",
        (issuer, scope.name, form),
    )
    return None if row is None else _published(row)


def has_lists(reader: Reader, issuer: str, scope: Scope) -> bool:
    row = reader.one(
        "SELECT 1 FROM crl_lists WHERE issuer = ? AND scope = ? LIMIT 1", (issuer, scope.name)
    )
    return row is not None


def entries(
    reader: Reader, issuer: str, scope: Scope, not_after: dt.datetime
) -> tuple[list[bytes], int]:
    """The entries of a complete list, many in one piece, and how many they are: of certificates
    that expire at `not_after` or later."""
    pieces: list[bytes] = []
    total = 0
    for low, high in scope.ranges():
        piece, count = reader.joined(
            "SELECT entry FROM revocations "
            "WHERE issuer = ? AND bucket >= ? AND bucket <= ? AND not_after >= ?",
            (issuer, low, high, epoch(not_after)),
        )
        total += count
        if piece:
            pieces.append(piece)
    return pieces, total


def changes(reader: Reader, issuer: str, scope: Scope, since: int) -> tuple[list[bytes], int]:
    """The entries of a delta: what changed after that generation (RFC 5280 section 5.2.4). A hold
    that is over is on it whether or not the base had it, as another list in between may have."""
    pieces: list[bytes] = []
    total = 0
    for table in ("revocations", "crl_removals"):
        piece, count = reader.joined(
            f"SELECT entry FROM {table} "
            "WHERE issuer = ? AND generation > ? AND bucket >= ? AND bucket <= ?",
            (issuer, since, *scope.buckets),
        )
        total += count
        if piece:
            pieces.append(piece)
    return pieces, total


def add_page(tx: Transaction, body: str, page: int, content: bytes, now: dt.datetime) -> None:
    tx.execute(
        "INSERT INTO crl_pages (body, page, created, content) VALUES (?, ?, ?, ?)",
        (body, page, epoch(now), content),
    )


def add(tx: Transaction, new: Published) -> None:
    values = [getattr(new, each.name) for each in fields(new)]
    tx.execute(
        _INSERT_LIST,
        [epoch(v) if isinstance(v, dt.datetime) else int(v) if isinstance(v, bool) else v
         for v in values],
    )  # fmt: skip


def outdated(reader: Reader, new: Published, now: dt.datetime) -> list[Published]:
    """Lists beyond the history. An anchor's row stays while it holds."""
    rows = reader.all(
        _SELECT + "AND delta = ? ORDER BY number DESC", (new.issuer, new.scope, int(new.delta))
    )
    found: list[Published] = []
    size = 0
    for position, row in enumerate(rows):
        published = _published(row)
        size += published.size
        if position >= 2 and (position >= HISTORY or size > HISTORY_OCTETS):
            found.append(published)
    return [each for each in found if each.size or not each.anchor or each.next_update <= now]


def forget(tx: Transaction, old: Published, now: dt.datetime) -> None:
    """Its row, or for an anchor that still holds only what is large; the pages are deleted by
    `drop_pages`."""
    key = (old.issuer, old.scope, int(old.delta), old.number)
    where = "WHERE issuer = ? AND scope = ? AND delta = ? AND number = ?"
    if old.anchor and old.next_update > now:
        tx.execute(f"UPDATE crl_lists SET size = 0, body = '' {where}", key)
    else:
        tx.execute(f"DELETE FROM crl_lists {where}", key)


def drop_pages(tx: Transaction, body: str, first: int, end: int) -> int:
    """The pages from `first` to before `end`; how many there were."""
    return tx.execute(
        "DELETE FROM crl_pages WHERE body = ? AND page >= ? AND page < ?", (body, first, end)
    )


def note_alert(tx: Transaction, about: Published) -> bool:
    """Whether nobody was told yet that this list lapses."""
    changed = tx.execute(
        "UPDATE crl_lists SET alerted = 1 "
        "WHERE issuer = ? AND scope = ? AND delta = ? AND number = ? AND alerted = 0",
        (about.issuer, about.scope, int(about.delta), about.number),
    )
    return changed == 1


def abandoned(reader: Reader, before: dt.datetime) -> set[str]:
    """Bodies without a list: what a crash, or a process that was slower, left."""
    pages = reader.all("SELECT DISTINCT body FROM crl_pages WHERE created < ?", (epoch(before),))
    lists = reader.all("SELECT body FROM crl_lists")
    return {body for (body,) in pages} - {body for (body,) in lists}


def load(reader: Reader, body: str) -> bytes:
    """The octets of a list; empty if they are gone."""
    rows = reader.all("SELECT content FROM crl_pages WHERE body = ? ORDER BY page", (body,))
    return b"".join(content for (content,) in rows)


def pages(data: bytes) -> Iterator[bytes]:
    """One at a time: together they are as large as the list."""
    return (data[at : at + PAGE] for at in range(0, len(data), PAGE))


def crl(published: Published, sha256: bytes, data: bytes) -> CRL:
    return CRL(
        published.issuer, published.scope, published.base, published.number, published.generation,
        published.this_update, published.next_update, published.entries, sha256, data,
    )  # fmt: skip


def _published(row: Row) -> Published:
    (issuer, scope, delta, number, base, generation, this_update, next_update, count, size, sha256,
     form, is_anchor, body) = row  # fmt: skip
    return Published(
        issuer, scope, bool(delta), number, base, generation, from_epoch(this_update),
        from_epoch(next_update), count, size, sha256, form or b"", bool(is_anchor), body,
    )  # fmt: skip
