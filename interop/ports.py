"""TCP and UDP ports for servers under test, which nobody else takes before the server has them.

A port from `bind(0)` is free for an instant only: once it is let go, any outgoing connection of the
machine may get it as its source port. These come from below the range the kernel gives away, and
each is claimed by a lock until this process ends, so that test processes side by side differ.
"""

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

_FIRST, _LAST = 10_000, 32_767
_KERNEL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_claims: list[int] = []
"""Open files, whose locks end with this process."""


def free_ports(count: int) -> tuple[int, ...]:
    """`count` different ports on 127.0.0.1, free for TCP and UDP, kept for this process."""
    folder = Path(tempfile.gettempdir()) / f"pkiserver-test-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    candidates = range(_FIRST, _last())
    found: list[int] = []
    for port in random.sample(candidates, len(candidates)):
        if _claimed(folder / str(port)) and _is_free(port):
            found.append(port)
            if len(found) == count:
                return tuple(found)
    raise OSError("no free port on 127.0.0.1")


def _last() -> int:
    """Below the kernel's range, unless that leaves too few."""
    if not _KERNEL_RANGE.exists():
        return _LAST
    low = int(_KERNEL_RANGE.read_text().split()[0])
    return min(low, _LAST) if low > _FIRST + 1000 else _LAST


def _claimed(path: Path) -> bool:
    claim = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(claim)
        return False
    _claims.append(claim)
    return True


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True
