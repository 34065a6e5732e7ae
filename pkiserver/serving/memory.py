"""What a worker tells Python's garbage collector and the C library's allocator when it is ready."""

import ctypes
import gc
from contextlib import suppress

LARGE = 1 << 20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of mallopt(3)."""


def settle() -> None:
    calm_collector()
    return_large_blocks()


def calm_collector() -> None:
    """What was made for the start stays for good: the garbage collector need not look at it again
    and again. Requests make little that refers to itself, so it may also look less often."""
    gc.collect()
    gc.freeze()
    # The oldest are only looked at when a quarter of them came since the last time: of these none.
    gc.collect()
    gc.set_threshold(10_000, 10, 10)


def return_large_blocks() -> None:
    """Blocks of a megabyte and more go back to the system as soon as they are free. glibc moves
    that bound up to the largest block it has seen freed, such as the 19 MiB of Argon2, and keeps
    as much for each thread from then on. Other C libraries have no such bound."""
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, LARGE)
        mallopt(_M_TRIM_THRESHOLD, 4 * LARGE)
