"""Time is an argument: the only module that asks the system what time it is."""

import datetime as dt
import time
from typing import Protocol


class Clock(Protocol):
    """Where services get the time from."""

    def now(self) -> dt.datetime:
        """The present moment, timezone-aware, in UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> dt.datetime:
        return dt.datetime.now(dt.UTC)


class FixedClock:
    """A clock for tests: stands still until it is told to move."""

    def __init__(self, now: dt.datetime) -> None:
        self._now = now

    def now(self) -> dt.datetime:
        return self._now

    def advance(self, delta: dt.timedelta) -> None:
        self._now += delta


def epoch(moment: dt.datetime) -> int:
    """Whole seconds since 1970 UTC, rounded down: the form times have in the database."""
    return int(moment.timestamp() // 1)


def from_epoch(seconds: int) -> dt.datetime:
    """The reverse of `epoch`: timezone-aware UTC."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


def rfc3339(moment: dt.datetime) -> str:
    """RFC 3339 with whole seconds and `Z`."""
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def unix_time() -> float:
    """Seconds since 1970 by the machine's clock: to be shown, never to decide by."""
    return time.time()


def monotonic() -> float:
    """Seconds on a clock that never goes back; for measuring only."""
    return time.monotonic()
