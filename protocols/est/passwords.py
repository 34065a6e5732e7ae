"""Passwords of users: Argon2id (RFC 9106), made and checked off the event loop, a few at a time.

A client that polls sends its password with every request: what was right a moment ago is known
again by an HMAC under a key of this process, so that only the first costs memory and time. The
stored hash is part of what is known, so a user who was removed or made anew is out at once.
"""

import asyncio
import datetime as dt
import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from pkiserver.clock import Clock

# OWASP's and RFC 9106's smaller choice: 19 MiB, two passes.
MEMORY_KIB = 19 * 1024
PASSES = 2
# Nobody's: a name that does not exist takes as long as one that does.
NOBODY = f"$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p=1${'A' * 22}${'A' * 43}"
_AT_ONCE = 2
# Of their own: the allocator keeps what a hash took for each thread that ever made one.
_THREADS = ThreadPoolExecutor(_AT_ONCE, "argon2")
_KNOWN_FOR = dt.timedelta(minutes=5)
_MOST_KNOWN = 4096
_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"


def generate(random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> str:
    """Six groups of four characters that are not taken for one another: 118 bits."""
    characters: list[str] = []
    while len(characters) < 24:
        # Without bias: 31 * 8 = 248 values of an octet are used.
        characters += [_ALPHABET[octet % 31] for octet in random_bytes(32) if octet < 248]
    text = "".join(characters[:24])
    return "-".join(text[start : start + 4] for start in range(0, 24, 4))


def derive(password: str, random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> str:
    """The PHC string to store. Takes some 25 ms."""
    return Argon2id(
        salt=random_bytes(16), length=32, iterations=PASSES, lanes=1, memory_cost=MEMORY_KIB
    ).derive_phc_encoded(password.encode())


def matches(password: str, stored: str) -> bool:
    """Whether the PHC string is of this password; compared in constant time by the library."""
    try:
        Argon2id.verify_phc_encoded(password.encode(), stored)
    except InvalidKey:
        return False
    return True


class PasswordChecker:
    """Checks passwords. One per process."""

    def __init__(
        self, clock: Clock, random_bytes: Callable[[int], bytes] = secrets.token_bytes
    ) -> None:
        self._clock = clock
        self._key = random_bytes(32)
        self.slots = asyncio.Semaphore(_AT_ONCE)
        """To be held around `check`: each takes memory and a processor for a while."""
        self._known: OrderedDict[bytes, dt.datetime] = OrderedDict()

    def is_known(self, stored: str | None, password: str) -> bool:
        """Whether this password was found right for this hash a short while ago."""
        if stored is None:
            return False
        until = self._known.get(self._digest(stored, password))
        return until is not None and self._clock.now() < until

    async def check(self, stored: str | None, password: str) -> bool:
        """Whether the password is right; `stored` None: there is no such user."""
        loop = asyncio.get_running_loop()
        right = await loop.run_in_executor(_THREADS, matches, password, stored or NOBODY)
        if stored is None or not right:
            return False
        self._known[self._digest(stored, password)] = self._clock.now() + _KNOWN_FOR
        if len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)
        return True

    def _digest(self, stored: str, password: str) -> bytes:
        text = stored.encode() + b"\0" + password.encode()
        return hmac.digest(self._key, text, hashlib.sha256)
