"""Leases: of all processes and nodes one does a piece of work, for a while."""

import datetime as dt

from pkiserver.clock import epoch
from pkiserver.storage import Transaction


def take(tx: Transaction, name: str, holder: str, now: dt.datetime, length: dt.timedelta) -> bool:
    """Hold the lease for `length`, unless somebody holds it. One that would run for more than
    twice as long is of a clock that was ahead, and does not count: the work would rest until then.
    """
    start, seconds = epoch(now), max(1, int(length.total_seconds()))
    won = tx.execute(
        "INSERT INTO leases (name, holder, until) VALUES (?, ?, ?) "
        "ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until "
        "WHERE leases.until <= ? OR leases.until > ?",
        (name, holder, start + seconds, start, start + 2 * seconds),
    )
    return won == 1


def release(tx: Transaction, name: str, holder: str) -> None:
    """Before its time, if it is still that holder's."""
    tx.execute("DELETE FROM leases WHERE name = ? AND holder = ?", (name, holder))
