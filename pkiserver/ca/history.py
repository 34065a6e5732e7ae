"""Reading the audit log: lists, pages for an export, and the story of
one certificate, order, account or client address."""

import datetime as dt
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pkiserver.ca import inventory
from pkiserver.ca.model import CertificateRecord
from pkiserver.clock import from_epoch
from pkiserver.errors import PKIError
from pkiserver.pkix.cert import parse_serial, serial_hex
from pkiserver.storage import Reader, Row

MOST_ROWS = 1000
_SELECT = "SELECT sequence, at, actor, action, object, outcome, detail, previous, hash FROM audit"


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the audit log."""

    sequence: int
    at: dt.datetime
    actor: str
    action: str
    object: str
    outcome: str
    detail: dict[str, Any]
    previous: bytes
    hash: bytes


def newest(
    reader: Reader,
    *,
    actor: str | None = None,
    action: str | None = None,
    object: str | None = None,
    before: int | None = None,
    limit: int = 100,
) -> list[Entry]:
    """The newest rows, oldest of them first; `action` may be the beginning of one up to a dot,
    `before` is the sequence number of the first row of the page after."""
    where, params = ["1 = 1"], list[str | int]()
    for column, value in (("actor", actor), ("object", object)):
        if value is not None:
            where.append(f"{column} = ?")
            params.append(value)
    if action is not None:
        where.append("(action = ? OR substr(action, 1, ?) = ?)")
        params += [action, len(action) + 1, f"{action}."]
    if before is not None:
        where.append("sequence < ?")
        params.append(before)
    params.append(max(1, min(limit, MOST_ROWS)))
    rows = reader.all(
        f"{_SELECT} WHERE {' AND '.join(where)} ORDER BY sequence DESC LIMIT ?", params
    )
    return [_entry(row) for row in reversed(rows)]


def page(reader: Reader, after: int = 0, limit: int = MOST_ROWS) -> list[Entry]:
    """The rows after a sequence number, in order, `limit` of them at most."""
    sql = f"{_SELECT} WHERE sequence > ? ORDER BY sequence LIMIT ?"
    return [_entry(row) for row in reader.all(sql, (after, limit))]


def certificates_named(reader: Reader, text: str) -> list[CertificateRecord]:
    """By id, or by serial number in hexadecimal: none, one, or one of each issuer."""
    found = inventory.by_id(reader, text)
    if found is not None:
        return [found]
    try:
        return inventory.with_serial(reader, parse_serial(text))
    except PKIError:
        return []


def identities(reader: Reader, text: str) -> set[str]:
    """What the audit log may call the thing `text` names: itself, and for a certificate's id or
    serial number (any spelling) both of them."""
    known = {text}
    for record in certificates_named(reader, text):
        known |= {record.id, serial_hex(record.serial)}
    return known


def story(reader: Reader, known: Iterable[str], limit: int = MOST_ROWS) -> list[Entry]:
    """The rows about, by or mentioning any of these, in order; the newest `limit` of them."""
    found: dict[int, Entry] = {}
    for name in known:
        for row in reader.all(*_about(name, limit)):
            if _is_about(row, name):
                found.setdefault(row[0], _entry(row))
    return [found[sequence] for sequence in sorted(found)][-limit:]


def _about(name: str, limit: int) -> tuple[str, list[str | int]]:
    """An actor is `protocol:party`; in the detail a name stands as a whole JSON string."""
    where = "object = ? OR actor LIKE ? ESCAPE '!' OR detail LIKE ? ESCAPE '!'"
    patterns = [f"%{_escaped(name)}", f"%{_escaped(_quoted(name))}%"]
    sql = f"{_SELECT} WHERE {where} ORDER BY sequence DESC LIMIT ?"
    return sql, [name, *patterns, limit]


def _is_about(row: Row, name: str) -> bool:
    """LIKE takes `a` for `A`; ids are not that lenient."""
    return (
        row[4] == name or row[2] == name or row[2].endswith(f":{name}") or _quoted(name) in row[6]
    )


def _quoted(name: str) -> str:
    return json.dumps(name)


def _escaped(text: str) -> str:
    return text.replace("!", "!!").replace("%", "!%").replace("_", "!_")


def _entry(row: Row) -> Entry:
    sequence, at, actor, action, thing, outcome, detail, previous, digest = row
    return Entry(
        sequence, from_epoch(at), actor, action, thing, outcome, json.loads(detail),
        bytes(previous), bytes(digest),
    )  # fmt: skip
