"""A worker's memory stays what it is: nothing is kept for the next time that is not needed."""

import gc
import platform
import subprocess
import sys

import pytest

from pkiserver.serving.memory import calm_collector

HASHES = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from pkiserver.serving.memory import return_large_blocks

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def hash_one(_):
    Argon2id(salt=bytes(16), length=32, iterations=1, lanes=1, memory_cost=20480).derive(b"")

if sys.argv[1] == "settled":
    return_large_blocks()
with ThreadPoolExecutor(1) as threads:
    before = resident()
    list(threads.map(hash_one, range(3)))
    print(resident() - before)
"""


def test_the_collector_goes_on_looking_at_everything_new() -> None:
    """What was there at the start is not counted against it."""
    thresholds = gc.get_threshold()
    try:
        calm_collector()
        gc.set_threshold(10, 1, 1)
        before = gc.get_stats()[2]["collections"]
        kept: list[list[int]] = [[] for _ in range(5000)]
        assert gc.get_stats()[2]["collections"] > before + 1, len(kept)
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="for glibc's allocator")
def test_what_a_password_hash_takes_is_given_back() -> None:
    def growth(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", HASHES, how], capture_output=True, check=True)
        return int(done.stdout)

    assert growth("settled") < 4 << 20
    assert growth("as it comes") > 16 << 20  # or this test shows nothing
