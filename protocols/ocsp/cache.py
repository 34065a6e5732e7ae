"""Finished HTTP answers by the request that asked for them, in the memory of one process.

An answer is given again only while all of this holds, looked at each time:

- its stamp is the authority's present one: since it was made no certificate of the authority was
  revoked or released, by whichever process, and the responder and the authority are the same;
- it is younger than half of its validity, and than `FRESH`, so that thisUpdate stays young;
- an HTTP cache that keeps it for as long as its headers allow lets go of it before nextUpdate.

Answers with a nonce are for one client and never come here, nor does what may yet change without
anybody revoking: errors, and what is said of serial numbers that are not issued. Nor do answers to
requests with anything in them but CertIDs of one certificate: of those there is no end, and whoever
makes them up would push out what others ask for.
"""

import datetime as dt
from collections import OrderedDict
from dataclasses import dataclass, field

from pkiserver.ca.ocsp import OCSPAnswer, Stamp
from pkiserver.web.caching import PreparedAnswer

FRESH = dt.timedelta(hours=1)
MAX_ENTRIES = 50_000
MAX_BYTES = 32 << 20
_OVERHEAD = 2500
"""Octets of memory an entry takes beside its request and its response."""

Key = tuple[str, bytes | str]
"""The authority's name, and a request: its octets, or the path that has it in base64."""


@dataclass(frozen=True, slots=True)
class Entry:
    """`since` and `until` bound when it may be given, in seconds since 1970."""

    answer: PreparedAnswer = field(repr=False)
    stamp: Stamp
    since: float
    until: float
    size: int


class AnswerCache:
    """Bounded in entries and octets; what was not asked for the longest goes first."""

    def __init__(self, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Key, Entry] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size(self) -> int:
        """Octets of memory, roughly."""
        return self._bytes

    def find(self, key: Key) -> Entry | None:
        """What is kept for a request, right or out of date."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def keep(self, key: Key, made: OCSPAnswer, prepared: PreparedAnswer, max_age: int) -> None:
        """Put an answer away, unless it is not to be given again."""
        self.drop(key)
        since = made.this_update.timestamp()
        end = made.next_update.timestamp()
        until = min(since + FRESH.total_seconds(), (since + end) / 2, end - max_age)
        size = len(key[1]) + len(made.der) + _OVERHEAD
        wanted = made.cacheable and made.plain
        if not wanted or until <= since or size > self._max_bytes:
            return
        self._entries[key] = Entry(prepared, made.stamp, since, until, size)
        self._bytes += size
        while self._bytes > self._max_bytes or len(self._entries) > self._max_entries:
            self.drop(next(iter(self._entries)))

    def drop(self, key: Key) -> None:
        """Forget what is kept for a request, if anything is."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry.size
