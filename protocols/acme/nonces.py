"""Anti-replay nonces (RFC 8555 section 6.5) for all processes of one host.

A nonce is a counter and the time, sealed with AES-SIV under a key that the processes share: nobody
else can make one or read anything from it. What has been redeemed is in a file that each process
maps into memory, so minting writes nothing and redeeming one byte.

    0   magic         8 octets
    8   boot          16 octets   SHA-256 of the machine's boot identifier, cut
    24  key           64 octets
    88  next counter  8 octets    little endian; counters from here on belong to nobody yet
    96  unspent       a ring of WINDOW bits, by counter modulo WINDOW; 1: may be redeemed

Counters are handed out in ranges, under a lock of the file that the kernel takes back when its
holder dies. Whatever is out of order (another key, a spent or old counter, a file from before a
crash of the machine) ends as a nonce that is not good: the client gets badNonce and a fresh one.
"""

import fcntl
import hashlib
import mmap
import os
import secrets
import struct
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from pkiserver.clock import Clock, epoch
from pkiserver.errors import MalformedMessage
from protocols.acme.encoding import decode_base64url, encode_base64url

WINDOW = 1 << 20
"""Nonces that can be good at a time."""
RANGE = 256
"""Counters a process takes at a time."""
MAX_AGE = 3600
"""Seconds a nonce is good for."""
CLOCK_SKEW = 60
"""Seconds the clock may be set back before what was minted is refused."""

_MAGIC = b"ACMEnon1"
_BOOT = slice(8, 24)
_KEY = slice(24, 88)
_COUNTER = 88
_RING = 96
_SIZE = _RING + WINDOW // 8
_PLAIN = struct.Struct("<QI")
_U64 = struct.Struct("<Q")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class NonceSource(Protocol):
    """Where nonces come from and go to."""

    def mint(self) -> str:
        """A fresh nonce, base64url without padding."""
        ...

    async def redeem(self, nonce: str) -> bool:
        """Whether the nonce was good until now. Atomic: of all calls with one nonce, in whatever
        process, one at most is told so. Never raises for what a client sent."""
        ...


class SharedNonces:
    """A `NonceSource` for the processes that open the same local file.

    Each process calls it from one thread. A process that was forked may go on with the object it
    inherited. Times come from `clock`, keys from `random_bytes`; the content of `boot_id` changes
    with every start of the machine.
    """

    def __init__(
        self,
        path: Path,
        clock: Clock,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
        boot_id: Path = BOOT_ID,
    ) -> None:
        self._clock = clock
        self._boot = _boot(boot_id)
        self._random_bytes = random_bytes
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._close_file = weakref.finalize(self, os.close, self._file)
        with self._locked():
            if os.fstat(self._file).st_size != _SIZE:
                # Written out, not left sparse: a full disk shall fail here, not at a page fault.
                os.ftruncate(self._file, 0)
                os.pwrite(self._file, bytes(_SIZE), 0)
            self._map = mmap.mmap(self._file, _SIZE)
            if self._map[:8] != _MAGIC or self._map[_BOOT] != self._boot:
                self._renew()
        self._next = self._end = self._owner = 0
        self._key = self._map[_KEY]
        self._cipher = AESSIV(self._key)

    def reset(self) -> None:
        """Make every nonce out there invalid, at the start of a server."""
        with self._locked():
            self._renew()

    def close(self) -> None:
        self._map.close()
        self._close_file()

    def mint(self) -> str:
        cipher = self._current_cipher()
        if self._next >= self._end or self._owner != os.getpid() or self._is_stale():
            self._take_range()
        counter = self._next
        self._next += 1
        plain = _PLAIN.pack(counter, epoch(self._clock.now()))
        return encode_base64url(cipher.encrypt(plain, None))

    async def redeem(self, nonce: str) -> bool:
        try:
            sealed = decode_base64url(nonce, "The nonce")
            counter, minted = _PLAIN.unpack(self._current_cipher().decrypt(sealed, None))
        except (MalformedMessage, InvalidTag, ValueError, struct.error):
            return False
        age = epoch(self._clock.now()) - minted
        return -CLOCK_SKEW <= age <= MAX_AGE and self._spend(counter)

    def _spend(self, counter: int) -> bool:
        place, bit = divmod(counter % WINDOW, 8)
        place, bit = _RING + place, 1 << bit
        with self._locked():
            current = self._counter()
            unspent = self._map[place] & bit
            if not unspent or not current - WINDOW <= counter < current:
                return False
            self._map[place] &= ~bit
        return True

    def _take_range(self) -> None:
        """Counters for this process alone. The counter moves first: if the process dies between
        the two steps, its range is lost, and nothing that was spent turns good."""
        with self._locked():
            start = self._counter()
            _U64.pack_into(self._map, _COUNTER, start + RANGE)
            place = _RING + start % WINDOW // 8
            self._map[place : place + RANGE // 8] = b"\xff" * (RANGE // 8)
        self._next, self._end, self._owner = start, start + RANGE, os.getpid()

    def _is_stale(self) -> bool:
        """The others have moved so far ahead that the rest of the range will soon be too old."""
        return self._counter() - self._next > WINDOW // 2

    def _counter(self) -> int:
        counter: int = _U64.unpack_from(self._map, _COUNTER)[0]
        return counter

    def _current_cipher(self) -> AESSIV:
        """The cipher of the key in the file, which another process may have replaced."""
        key = self._map[_KEY]
        if key != self._key:
            self._key, self._cipher = key, AESSIV(key)
            self._next = self._end = 0
        return self._cipher

    def _renew(self) -> None:
        """A new key and no counter handed out; the file's mark comes last."""
        self._map[:8] = bytes(8)
        self._map[_KEY] = self._random_bytes(64)
        self._map[_COUNTER:] = bytes(_SIZE - _COUNTER)
        self._map[_BOOT] = self._boot
        self._map[:8] = _MAGIC

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)


def _boot(boot_id: Path) -> bytes:
    """What tells this run of the machine from others. Where the system does not say, the file is
    trusted until `reset`."""
    return hashlib.sha256(boot_id.read_bytes() if boot_id.exists() else b"").digest()[:16]
