"""The tables of one-time challenges and of the logins that may ask for them."""

import json
from dataclasses import dataclass

from pkiserver.storage import Reader, Row, Transaction

BATCH = 1000
_COLUMNS = "id, label, profile, subjects, created, created_by, expires, used, certificate, revoked"


@dataclass(frozen=True, slots=True)
class Challenge:
    """A one-time challenge without its secret. Times are seconds since 1970 UTC; `subjects` are
    patterns, none: any subject."""

    id: str
    label: str
    profile: str | None
    subjects: tuple[str, ...]
    created: int
    created_by: str
    expires: int
    used: int | None = None
    certificate: str | None = None
    revoked: int | None = None


@dataclass(frozen=True, slots=True)
class Login:
    """A name that may ask for challenges of one label."""

    name: str
    label: str
    created: int
    created_by: str


def insert(tx: Transaction, challenge: Challenge, secret_sha256: bytes) -> None:
    tx.execute(
        "INSERT INTO scep_challenges "
        "(id, label, secret_sha256, profile, subjects, created, created_by, expires) "
        "VALUES (?,?,?,?,?,?,?,?)",
        (
            challenge.id, challenge.label, secret_sha256, challenge.profile,
            json.dumps(challenge.subjects), challenge.created, challenge.created_by,
            challenge.expires,
        ),
    )  # fmt: skip


def by_secret(reader: Reader, label: str, secret_sha256: bytes) -> Challenge | None:
    row = reader.one(
        f"SELECT {_COLUMNS} FROM scep_challenges WHERE secret_sha256 = ? AND label = ?",
        (secret_sha256, label),
    )
    return None if row is None else _challenge(row)


def newest(reader: Reader, label: str | None, limit: int) -> list[Challenge]:
    """The newest first."""
    rows = reader.all(
        f"SELECT {_COLUMNS} FROM scep_challenges WHERE label = COALESCE(?, label) "
        "ORDER BY created DESC, id LIMIT ?",
        (label, limit),
    )
    return [_challenge(row) for row in rows]


def unused(reader: Reader, label: str, now: int) -> int:
    """How many can still be used."""
    row = reader.one(
        "SELECT COUNT(*) FROM scep_challenges "
        "WHERE label = ? AND expires > ? AND used IS NULL AND revoked IS NULL",
        (label, now),
    )
    return 0 if row is None else int(row[0])


def use(tx: Transaction, challenge_id: str, now: int, certificate: str | None) -> bool:
    """Compare and set: whether it could still be used, and is used up now."""
    changed = tx.execute(
        "UPDATE scep_challenges SET used = ?, certificate = ? "
        "WHERE id = ? AND used IS NULL AND revoked IS NULL AND expires > ?",
        (now, certificate, challenge_id, now),
    )
    return changed == 1


def revoke(tx: Transaction, challenge_id: str, now: int) -> bool:
    """Compare and set: whether it could still be used, and cannot any more."""
    changed = tx.execute(
        "UPDATE scep_challenges SET revoked = ? "
        "WHERE id = ? AND used IS NULL AND revoked IS NULL AND expires > ?",
        (now, challenge_id, now),
    )
    return changed == 1


def delete_expired(tx: Transaction, before: int) -> int:
    """Delete at most `BATCH` that expired before a moment; how many."""
    return tx.execute(
        "DELETE FROM scep_challenges WHERE id IN "
        "(SELECT id FROM scep_challenges WHERE expires < ? ORDER BY expires LIMIT ?)",
        (before, BATCH),
    )


def insert_login(tx: Transaction, login: Login, secret_sha256: bytes) -> None:
    """Raises `IntegrityError` if the name is taken."""
    tx.execute(
        "INSERT INTO scep_logins (name, label, secret_sha256, created, created_by) "
        "VALUES (?,?,?,?,?)",
        (login.name, login.label, secret_sha256, login.created, login.created_by),
    )


def login(reader: Reader, name: str) -> tuple[Login, bytes] | None:
    """A login and the digest of its password."""
    row = reader.one(
        "SELECT name, label, created, created_by, secret_sha256 FROM scep_logins WHERE name = ?",
        (name,),
    )
    return None if row is None else (Login(*row[:4]), bytes(row[4]))


def logins(reader: Reader) -> list[Login]:
    rows = reader.all("SELECT name, label, created, created_by FROM scep_logins ORDER BY name")
    return [Login(*row) for row in rows]


def delete_login(tx: Transaction, name: str) -> bool:
    return tx.execute("DELETE FROM scep_logins WHERE name = ?", (name,)) == 1


def _challenge(row: Row) -> Challenge:
    identifier, label, profile, subjects, *rest = row
    return Challenge(identifier, label, profile, tuple(json.loads(subjects)), *rest)
