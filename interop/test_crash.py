"""SIGKILL under load, a few rounds; `python -m interop.bench.crash` does as many as one likes."""

import random
from pathlib import Path

from interop.bench import crash
from interop.bench.witness import Revocation
from interop.tools import debian, need

ROUNDS = 3
SEED = 2
NEXT_SWEEP = 15
"""Seconds: whoever waits for longer after a start waited for the schedule, unless the machine is so
slow that starting takes a fifth of it."""


async def test_nothing_is_lost_in_a_crash(tmp_path: Path) -> None:
    """Invariants 1 to 4 and 7 over SIGKILL of every process, by the word of clients and of an
    independent relying party."""
    need(debian("pebble-challtestsrv", "pebble"))
    tally = await crash.crash(tmp_path, ROUNDS, random.Random(SEED))
    assert tally.kills == ROUNDS
    assert set(tally.certificates + tally.settled) == {"ACME", "SCEP", "EST"}
    assert tally.approved > 0 and tally.asked > 0 and tally.duplicates > 0
    assert tally.certificates.total() > 0 and tally.revocations[Revocation.ACKNOWLEDGED] > 0
    assert tally.left_behind.total() > 0
    assert tally.slowest_end < max(NEXT_SWEEP, 5 * tally.slowest_start)
