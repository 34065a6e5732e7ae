"""Users, failed logins, enrollments and what clients got, in the database."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pkiserver.storage import Reader, Row, Transaction

_USER = "id, label, name, password, names, created"
BATCH = 500


@dataclass(frozen=True, slots=True)
class User:
    """Somebody with a password, under one label. `password` is an Argon2id PHC string; `names`
    are patterns by "cn" or name type, None: anything the profile allows."""

    id: str
    label: str
    name: str
    password: str = field(repr=False)
    names: Mapping[str, Sequence[str]] | None
    created: int


def _user(row: Row) -> User:
    identifier, label, name, password, names, created = row
    return User(identifier, label, name, password, json.loads(names), created)


def user(reader: Reader, label: str, name: str) -> User | None:
    row = reader.one(f"SELECT {_USER} FROM est_users WHERE label = ? AND name = ?", (label, name))
    return None if row is None else _user(row)


def users(reader: Reader, label: str | None) -> list[User]:
    """Of one label or of all, by label and name."""
    where, params = ("", ()) if label is None else ("WHERE label = ?", (label,))
    rows = reader.all(f"SELECT {_USER} FROM est_users {where} ORDER BY label, name", params)
    return [_user(row) for row in rows]


def insert_user(tx: Transaction, new: User) -> None:
    """Raises `IntegrityError` if the label has a user of that name."""
    tx.execute(
        f"INSERT INTO est_users ({_USER}) VALUES (?, ?, ?, ?, ?, ?)",
        (new.id, new.label, new.name, new.password, json.dumps(new.names), new.created),
    )


def remove_user(tx: Transaction, label: str, name: str) -> bool:
    return tx.execute("DELETE FROM est_users WHERE label = ? AND name = ?", (label, name)) == 1


def insert_failures(tx: Transaction, sources: Sequence[str], now: int) -> None:
    tx.execute_many(
        "INSERT INTO est_failures (source, at) VALUES (?, ?)", [(each, now) for each in sources]
    )


def crowded_since(
    reader: Reader,
    table: Literal["est_failures", "est_issued"],
    source: str,
    now: int,
    period: int,
    count: int,
) -> int | None:
    """When the oldest of the `count` newest rows of a source was, if so many lie within a `period`,
    seconds. What lies further ahead of `now` than that was dated by a wrong clock."""
    row = reader.one(
        f"SELECT at FROM {table} WHERE source = ? AND at > ? AND at <= ? "
        "ORDER BY at DESC LIMIT 1 OFFSET ?",
        (source, now - period, now + period, count - 1),
    )
    return None if row is None else int(row[0])


def delete_failures(tx: Transaction, before: int) -> int:
    """A batch of them; how many."""
    return tx.execute(
        "DELETE FROM est_failures WHERE at IN "
        "(SELECT at FROM est_failures WHERE at < ? ORDER BY at LIMIT ?)",
        (before, BATCH),
    )


@dataclass(frozen=True, slots=True)
class EnrollmentKey:
    """Whose request it is."""

    label: str
    requester: str
    csr_sha256: bytes


@dataclass(frozen=True, slots=True)
class Enrollment:
    """The newest certificate for a request, by id."""

    certificate: str
    created: int


def enrollment(reader: Reader, key: EnrollmentKey) -> Enrollment | None:
    row = reader.one(
        "SELECT certificate, created FROM est_enrollments "
        "WHERE label = ? AND requester = ? AND csr_sha256 = ?",
        (key.label, key.requester, key.csr_sha256),
    )
    return None if row is None else Enrollment(row[0], row[1])


def claim(
    tx: Transaction, key: EnrollmentKey, certificate: str, stale: str | None, now: int
) -> bool:
    """Make `certificate` the request's, in place of `stale` (None: of none); whether it is."""
    changed = tx.execute(
        "INSERT INTO est_enrollments (label, requester, csr_sha256, certificate, created) "
        "VALUES (?, ?, ?, ?, ?) ON CONFLICT (label, requester, csr_sha256) DO UPDATE "
        "SET certificate = excluded.certificate, created = excluded.created "
        "WHERE est_enrollments.certificate = ?",
        (key.label, key.requester, key.csr_sha256, certificate, now, stale or ""),
    )
    return changed == 1


def delete_enrollments(tx: Transaction, label: str, before: int) -> int:
    """All that are older; how many."""
    return tx.execute(
        "DELETE FROM est_enrollments WHERE label = ? AND created < ?", (label, before)
    )


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate, by id, that counts for `source` until nobody asks any more. `line`: for whom
    what is got with it counts; None: for itself."""

    certificate: str
    source: str
    line: str | None
    at: int
    until: int


def insert_issued(tx: Transaction, new: Issued) -> None:
    tx.execute(
        "INSERT INTO est_issued (certificate, source, line, at, until) VALUES (?, ?, ?, ?, ?)",
        (new.certificate, new.source, new.line, new.at, new.until),
    )


def line_of(reader: Reader, certificate: str) -> str | None:
    row = reader.one("SELECT line FROM est_issued WHERE certificate = ?", (certificate,))
    return None if row is None else row[0]


def delete_issued(tx: Transaction, before: int) -> int:
    """A batch of those nobody asks for any more; how many."""
    return tx.execute(
        "DELETE FROM est_issued WHERE certificate IN "
        "(SELECT certificate FROM est_issued WHERE until < ? ORDER BY until LIMIT ?)",
        (before, BATCH),
    )
