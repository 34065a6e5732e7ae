"""Keys on their way: noted before they exist, so that a crash leaves none that nobody knows of.

The transaction that gives a key its purpose takes the note away. What is still noted after
`GIVEN_UP` was left by a crash, and goes.
"""

import datetime as dt

from pkiserver.clock import epoch
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.keys import KeyProvider
from pkiserver.storage import Database, Reader, Transaction

GIVEN_UP = dt.timedelta(hours=1)
"""After so long whoever was making a key has crashed."""
_REMOVING = 0


def note(tx: Transaction, key_id: str, now: dt.datetime) -> bool:
    """A key of that name is going to be made; False if somebody else is at it."""
    added = tx.execute(
        "INSERT INTO key_drafts (key_id, begun) VALUES (?, ?) ON CONFLICT (key_id) DO NOTHING",
        (key_id, epoch(now)),
    )
    return added == 1


def take(tx: Transaction, key_id: str) -> None:
    """The key has its purpose. `PKIError` CONFLICT if it was given up meanwhile."""
    if not tx.execute("DELETE FROM key_drafts WHERE key_id = ? AND begun > ?", (key_id, _REMOVING)):
        raise PKIError(ErrorCode.CONFLICT, "making the key took too long")


def drop(tx: Transaction, key_id: str) -> None:
    """There is no such key, or none of ours."""
    tx.execute("DELETE FROM key_drafts WHERE key_id = ?", (key_id,))


def leave(tx: Transaction, key_id: str) -> None:
    """The key has no purpose any more: it goes with those a crash left."""
    tx.execute(
        "INSERT INTO key_drafts (key_id, begun) VALUES (?, ?) ON CONFLICT (key_id) DO NOTHING",
        (key_id, _REMOVING),
    )


async def forget_left(database: Database, keys: KeyProvider, now: dt.datetime) -> int:
    """Delete the keys that a crash left; how many."""
    before = epoch(now - GIVEN_UP)

    def claim(tx: Transaction) -> list[str]:
        # From here on `take` comes too late: no key is deleted that is still going to be used.
        tx.execute("UPDATE key_drafts SET begun = ? WHERE begun < ?", (_REMOVING, before))
        rows = tx.all(
            "SELECT key_id FROM key_drafts WHERE begun = ? AND NOT EXISTS "
            "(SELECT 1 FROM authorities WHERE authorities.key_id = key_drafts.key_id)",
            (_REMOVING,),
        )
        return [key_id for (key_id,) in rows]

    if not await database.lookup(lambda reader: _any(reader, before)):
        return 0
    left = await database.write(claim)
    for key_id in left:
        await keys.delete(key_id)
        await database.write(lambda tx, gone=key_id: drop(tx, gone))  # type: ignore[misc]
    return len(left)


def _any(reader: Reader, before: int) -> bool:
    return reader.one("SELECT 1 FROM key_drafts WHERE begun < ? LIMIT 1", (before,)) is not None
