"""RFC 8555 section 6.5: nonces that several processes of a host mint and redeem, each once."""

import asyncio
import datetime as dt
import os
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pkiserver.clock import FixedClock
from protocols.acme import nonces
from protocols.acme.nonces import SharedNonces

NOW = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(NOW)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "nonces"


@pytest.fixture
def source(path: Path, clock: FixedClock) -> Iterator[SharedNonces]:
    opened = SharedNonces(path, clock)
    yield opened
    opened.close()


@pytest.fixture
def other(path: Path, clock: FixedClock, source: SharedNonces) -> Iterator[SharedNonces]:
    """The file opened once more."""
    opened = SharedNonces(path, clock)
    yield opened
    opened.close()


def redeem(source: SharedNonces, nonce: str) -> bool:
    return asyncio.run(source.redeem(nonce))


def test_a_nonce_is_good_once(source: SharedNonces) -> None:
    """Items 3 and 4: base64url without padding, no comma."""
    minted = [source.mint() for _ in range(3 * nonces.RANGE)]
    assert len(set(minted)) == len(minted)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{38}", nonce) for nonce in minted)
    assert [redeem(source, nonce) for nonce in minted[:50]] == [True] * 50
    assert [redeem(source, nonce) for nonce in minted[:50]] == [False] * 50
    assert redeem(source, minted[-1])


def test_one_process_redeems_what_another_minted(source: SharedNonces, other: SharedNonces) -> None:
    mine, theirs = source.mint(), other.mint()
    assert mine != theirs
    assert redeem(other, mine) and redeem(source, theirs)
    assert not redeem(source, mine) and not redeem(other, theirs)


@given(st.text(max_size=60) | st.from_regex(r"[A-Za-z0-9_-]{0,60}", fullmatch=True))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_not_minted_is_not_good(source: SharedNonces, text: str) -> None:
    assert not redeem(source, text)


@pytest.mark.parametrize("place", [0, 5, 20, 37])
def test_a_changed_nonce_is_not_good(source: SharedNonces, place: int) -> None:
    nonce = source.mint()
    changed = nonce[:place] + ("A" if nonce[place] != "A" else "Q") + nonce[place + 1 :]
    assert not redeem(source, changed)
    assert not redeem(source, nonce + "A") and not redeem(source, nonce + "==")
    assert redeem(source, nonce)


@pytest.mark.parametrize(
    ("seconds", "good"),
    [(0, True), (3600, True), (3601, False), (-60, True), (-61, False), (10**7, False)],
)
def test_nonces_age(source: SharedNonces, clock: FixedClock, seconds: int, good: bool) -> None:
    nonce = source.mint()
    clock.advance(dt.timedelta(seconds=seconds))
    assert redeem(source, nonce) is good


def test_nonces_leave_the_window(source: SharedNonces, other: SharedNonces) -> None:
    """An old counter shares its bit with a new one, which must not make the old nonce good, nor
    may a process that was idle go on with counters that are too old."""
    old, spent = source.mint(), source.mint()
    assert redeem(source, spent)
    per_range = range(nonces.WINDOW // nonces.RANGE)
    for _ in per_range:
        for _ in range(nonces.RANGE):
            last = other.mint()
    assert not redeem(source, old)
    assert not redeem(source, spent)
    assert redeem(source, last)
    assert redeem(other, source.mint())


def test_reset_makes_all_nonces_invalid(source: SharedNonces, other: SharedNonces) -> None:
    """At the start of a server nothing from before is good, whoever minted it."""
    before = [source.mint(), other.mint()]
    source.reset()
    assert not any(redeem(s, nonce) for s in (source, other) for nonce in before)
    after = [source.mint(), other.mint(), other.mint(), source.mint()]
    assert len(set(after)) == 4
    assert all(redeem(other, nonce) for nonce in after)


def test_a_restart_without_a_reset_keeps_what_is_spent(path: Path, clock: FixedClock) -> None:
    first = SharedNonces(path, clock)
    spent, unspent = first.mint(), first.mint()
    assert redeem(first, spent)
    first.close()
    second = SharedNonces(path, clock)
    assert not redeem(second, spent)
    assert redeem(second, unspent)
    assert second.mint() not in (spent, unspent)
    second.close()


def test_after_a_crash_of_the_machine_the_file_is_made_anew(
    tmp_path: Path, path: Path, clock: FixedClock
) -> None:
    """What the disk then holds may be older than what was redeemed."""
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("one\n")
    first = SharedNonces(path, clock, boot_id=boot_id)
    nonce = first.mint()
    first.close()
    boot_id.write_text("two\n")
    second = SharedNonces(path, clock, boot_id=boot_id)
    assert not redeem(second, nonce)
    assert redeem(second, second.mint())
    second.close()


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 140_000, bytes(1 << 17)])
def test_a_file_that_is_none_of_ours_is_made_anew(
    path: Path, clock: FixedClock, content: bytes
) -> None:
    path.write_bytes(content)
    opened = SharedNonces(path, clock, boot_id=path.with_name("missing"))
    assert redeem(opened, opened.mint())
    opened.close()


def test_the_file_is_private_and_no_link_is_followed(
    path: Path, clock: FixedClock, source: SharedNonces
) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    link = path.with_name("link")
    link.symlink_to(path)
    with pytest.raises(OSError, match="symbolic"):
        SharedNonces(link, clock)


def in_child(work: Callable[[int], None]) -> tuple[int, int]:
    """Run `work` in a forked process with the writing end of a pipe: (pid, reading end)."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            work(writing)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    return pid, reading


def read_lines(pipe: int) -> list[str]:
    with os.fdopen(pipe) as lines:
        return lines.read().split()


def test_processes_never_redeem_a_nonce_twice(source: SharedNonces) -> None:
    """Invariant 6: of all processes that try a nonce, one is told it was good."""
    minted = [source.mint() for _ in range(2000)]

    def work(pipe: int) -> None:
        won = [nonce for nonce in minted if redeem_now(source, nonce)]
        os.write(pipe, "\n".join(won).encode())

    children = [in_child(work) for _ in range(4)]
    results = [read_lines(pipe) for _, pipe in children]
    assert [os.waitpid(pid, 0)[1] for pid, _ in children] == [0] * 4
    counted = Counter(nonce for won in results for nonce in won)
    assert counted == Counter(minted)


def redeem_now(source: SharedNonces, nonce: str) -> bool:
    """Without an event loop: `redeem` waits for nothing."""
    try:
        source.redeem(nonce).send(None)
    except StopIteration as done:
        return bool(done.value)
    raise AssertionError("redeem waited")


def test_forked_processes_never_mint_the_same(source: SharedNonces) -> None:
    """The children inherit a range that is half used, and must not go on with it."""
    first = source.mint()

    def work(pipe: int) -> None:
        os.write(pipe, "\n".join(source.mint() for _ in range(600)).encode())

    children = [in_child(work) for _ in range(3)]
    results = [nonce for _, pipe in children for nonce in read_lines(pipe)]
    for pid, _ in children:
        os.waitpid(pid, 0)
    everything = [first, *results, *(source.mint() for _ in range(600))]
    assert len(set(everything)) == 2401
    assert all(redeem_now(source, nonce) for nonce in everything)


def test_a_killed_process_leaves_neither_lock_nor_second_chance(source: SharedNonces) -> None:
    """Invariant 6 under SIGKILL: the kernel gives the lock back, and what the dead process had
    redeemed stays spent."""
    minted = [source.mint() for _ in range(5000)]

    def work(pipe: int) -> None:
        for nonce in minted:
            if redeem_now(source, nonce):
                os.write(pipe, f"{nonce}\n".encode())
            source.mint()

    for _ in range(3):
        pid, pipe = in_child(work)
        with os.fdopen(pipe) as lines:
            seen = [lines.readline().strip() for _ in range(200)]
            os.kill(pid, signal.SIGKILL)
            seen += [line.strip() for line in lines if line.endswith("\n")]
        os.waitpid(pid, 0)
        assert not any(redeem_now(source, nonce) for nonce in seen)
        minted = [nonce for nonce in minted if nonce not in set(seen)]
    assert redeem_now(source, source.mint())
