"""The audit log: a row per act, appended in the transaction of what it records, each row bound to
the one before it by a hash.

hash = SHA-256(JSON array of sequence, at, actor, action, object, outcome, detail, previous hash)

The chain shows a row that was changed, removed from the middle, inserted or moved. It cannot show
by itself that the newest rows were cut off, or that everything was written anew: for that, keep a
`Head` somewhere else and give it to `verify` as `anchor`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import structlog

from pkiserver.ca.refusals import RefusalCount
from pkiserver.clock import Clock, epoch
from pkiserver.storage import Database, Reader, Row, Transaction

JSON: TypeAlias = str | int | float | bool | None | Sequence["JSON"] | Mapping[str, "JSON"]

GENESIS = bytes(32)
"""What stands for the hash before the first row."""

_log = structlog.get_logger("pkiserver.audit")

_NOTHING: Mapping[str, JSON] = MappingProxyType({})
_COLUMNS = "sequence, at, actor, action, object, outcome, detail, previous, hash"
_INSERT = f"INSERT INTO audit ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_EVERY_ROW = f"SELECT {_COLUMNS} FROM audit ORDER BY sequence"
_NEWEST = "SELECT sequence, hash FROM audit ORDER BY sequence DESC LIMIT 1"


@dataclass(frozen=True, slots=True)
class Head:
    """The newest row. Sequence 0 with `GENESIS`: the log is empty."""

    sequence: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Verified:
    """What a walk found: rows that are sound, the first sequence number that is not (None: all
    are), what is wrong there, and the last sound row."""

    rows: int
    broken: int | None
    problem: str | None
    head: Head


class Audit:
    """Appends to the chain. Sequence numbers have no gaps; the primary key stops two writers who
    both saw the same newest row from forking the chain."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._refusals = RefusalCount(clock)

    def append(
        self,
        tx: Transaction,
        *,
        actor: str,
        action: str,
        object: str,
        outcome: str = "done",
        detail: Mapping[str, JSON] = _NOTHING,
    ) -> None:
        """One row. `action` is dotted ("certificate.issue"), `object` what was acted on (an id, a
        name), `detail` never holds a secret."""
        newest = head(tx)
        text = _canonical(dict(detail))
        body = (
            newest.sequence + 1, epoch(self._clock.now()), actor, action, object, outcome, text,
        )  # fmt: skip
        tx.execute(_INSERT, (*body, newest.hash, _digest(body, newest.hash)))

    def refusal(
        self,
        *,
        actor: str,
        action: str,
        object: str,
        detail: Mapping[str, JSON],
        sources: Sequence[str],
    ) -> Callable[[Transaction], None] | None:
        """What appends the row of a refusal, whoever may cause it: `sources` are what it is counted
        by. None where there were too many already (see `refusals`); then it is in the server's log,
        and the number of those left out in the next row."""
        missed = self._refusals.take(action, sources)
        if missed is None:
            _log.warning(
                "refused, beyond what the audit log takes",
                actor=actor,
                action=action,
                object=object,
                detail=detail,
            )
            return None
        more = {"not recorded before": missed} if missed else {}
        return lambda tx: self.append(
            tx,
            actor=actor,
            action=action,
            object=object,
            outcome="refused",
            detail={**detail, **more},
        )

    async def refuse(
        self,
        database: Database,
        *,
        actor: str,
        action: str,
        object: str,
        detail: Mapping[str, JSON],
        sources: Sequence[str],
    ) -> None:
        """A `refusal` in a transaction of its own."""
        row = self.refusal(
            actor=actor, action=action, object=object, detail=detail, sources=sources
        )
        if row is not None:
            await database.write(row)


def head(reader: Reader) -> Head:
    """The newest row's number and hash: what to keep elsewhere as an anchor."""
    row = reader.one(_NEWEST)
    return Head(0, GENESIS) if row is None else Head(row[0], bytes(row[1]))


def verify(reader: Reader, anchor: Head | None = None) -> Verified:
    """Walk the whole chain, one row in memory at a time. With an `anchor`, the row of that number
    has to be there and to have that hash: so a cut-off tail and a rewritten log are seen."""
    last = Head(0, GENESIS)
    for row in reader.each(_EVERY_ROW):
        problem = _problem(row, last, anchor)
        if problem is not None:
            return Verified(last.sequence, last.sequence + 1, problem, last)
        last = Head(row[0], bytes(row[8]))
    if anchor is not None and anchor.sequence > last.sequence:
        problem = f"rows up to {anchor.sequence} were there when the anchor was taken"
        return Verified(last.sequence, last.sequence + 1, problem, last)
    return Verified(last.sequence, None, None, last)


def _problem(row: Row, last: Head, anchor: Head | None) -> str | None:
    sequence, previous, digest = row[0], bytes(row[7]), bytes(row[8])
    if sequence != last.sequence + 1:
        return f"the row is missing; the next one is {sequence}"
    if previous != last.hash:
        return "the row does not follow the one before it"
    if digest != _digest(row[:7], previous):
        return "the row was changed"
    if anchor is not None and anchor.sequence == sequence and anchor.hash != digest:
        return "the row is not the one the anchor was taken of"
    return None


def _canonical(value: dict[str, JSON]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _digest(body: Sequence[object], previous: bytes) -> bytes:
    text = json.dumps([*body, previous.hex()], separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).digest()
