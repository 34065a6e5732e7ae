"""Keys that are never certified again: reported as compromised, or put here by the operator.

A key is known by the SHA-256 of its SubjectPublicKeyInfo. An entry is never replaced: the first
reason stands.
"""

import datetime as dt
from dataclasses import dataclass

from pkiserver.clock import epoch, from_epoch
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.storage import Reader, Transaction


@dataclass(frozen=True, slots=True)
class BlockedKey:
    """An entry of the list."""

    spki_sha256: bytes
    why: str
    added: dt.datetime


_INSERT = """INSERT INTO blocked_keys (spki_sha256, why, added) VALUES (?, ?, ?)
    ON CONFLICT (spki_sha256) DO NOTHING"""


def block(tx: Transaction, spki_sha256: bytes, why: str, now: dt.datetime) -> bool:
    """Put a key on the list; False if it was there."""
    return tx.execute(_INSERT, (spki_sha256, why, epoch(now))) == 1


def find(reader: Reader, spki_sha256: bytes) -> BlockedKey | None:
    """The key's entry."""
    row = reader.one(
        "SELECT spki_sha256, why, added FROM blocked_keys WHERE spki_sha256 = ?", (spki_sha256,)
    )
    return None if row is None else BlockedKey(bytes(row[0]), row[1], from_epoch(row[2]))


def check(reader: Reader, spki_sha256: bytes) -> None:
    """Raise `PKIError` BAD_PUBLIC_KEY if the key is on the list."""
    entry = find(reader, spki_sha256)
    if entry is not None:
        raise PKIError(
            ErrorCode.BAD_PUBLIC_KEY,
            f"the key is on the list of blocked keys: {entry.why}",
            rule="blocked-keys",
        )


def page(reader: Reader, after: bytes = b"", limit: int = 100) -> list[BlockedKey]:
    """Entries in the order of their digests, those after `after`."""
    rows = reader.all(
        "SELECT spki_sha256, why, added FROM blocked_keys WHERE spki_sha256 > ? "
        "ORDER BY spki_sha256 LIMIT ?",
        (after, limit),
    )
    return [BlockedKey(bytes(row[0]), row[1], from_epoch(row[2])) for row in rows]
