"""How many certificates one device gets (`enrolments_per_device`), counted in the transaction that
reserves the next one, or files the request for it.

A device is the subject and the names that are certified. What it asks for besides makes no other
device of it, nor do a new key and a new transaction: a renewal has the names of what it renews, so
one certificate that was stolen is renewed so often and no more.
"""

import hashlib
from collections.abc import Iterable

from pkiserver.clock import Clock, epoch
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.storage import Transaction
from protocols.scep import store
from protocols.scep.settings import SCEPSettings


class Quota:
    """Of one section."""

    def __init__(self, label: str, settings: SCEPSettings, clock: Clock) -> None:
        self._label = label
        self._limit = settings.enrolments_per_device
        self._clock = clock

    def claim(self, tx: Transaction, enrolment: str, subject: str, names: Iterable[str]) -> None:
        """Count one, which an enrolment's id names. Raises `PKIError` RATE_LIMITED if there were
        too many."""
        if self._limit is None:
            return
        device = _digest([subject, *names])
        now, period = epoch(self._clock.now()), int(self._limit.period.total_seconds())
        since, count = now - period, self._limit.count
        oldest = store.issued_since(tx, self._label, device, since, count)
        if oldest is not None:
            raise PKIError(
                ErrorCode.RATE_LIMITED,
                f"too many certificates for this subject: at most {count} in {period} seconds",
                rule=f"scep.{self._label}.enrolments_per_device",
                retry_after=max(1, oldest + period - now),
            )
        store.insert_issued(tx, enrolment, self._label, device, now, now + period)


def _digest(parts: Iterable[str]) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        octets = part.encode("utf-8", "surrogatepass")
        digest.update(len(octets).to_bytes(4) + octets)
    return digest.digest()
