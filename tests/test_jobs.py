"""Scheduled work: once per period by one of all the processes; who dies at it holds it up for one
period."""

import asyncio
import datetime as dt
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pkiserver.clock import FixedClock
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.jobs import Scheduler
from pkiserver.plugin import Job
from pkiserver.storage import Database, migrate, open_database

NOW = dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)
MINUTE = dt.timedelta(minutes=1)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = open_database("sqlite:///pki.db", tmp_path)
    await migrate(database, {})
    yield database
    await database.close()


class Work:
    """Counts how often it is done."""

    def __init__(self, error: Exception | None = None) -> None:
        self.done = 0
        self.error = error

    async def run(self) -> None:
        self.done += 1
        if self.error is not None:
            raise self.error

    def job(self, every: dt.timedelta = MINUTE) -> Job:
        return Job("work", every, self.run)


async def test_of_many_processes_one_does_the_work_of_a_period(database: Database) -> None:
    clock, work = FixedClock(NOW), Work()
    processes = [Scheduler(database, clock, ()) for _ in range(10)]
    for _ in range(3):
        ran = await asyncio.gather(*(each.run_if_due(work.job()) for each in processes))
        assert sum(ran) == 1
        clock.advance(MINUTE)
    assert work.done == 3


async def test_a_clock_that_was_ahead_does_not_stop_the_work(database: Database) -> None:
    """A machine that started in another year, and was put right, has left leases until then."""
    clock, work = FixedClock(NOW + dt.timedelta(days=400)), Work()
    scheduler, other = Scheduler(database, clock, ()), Scheduler(database, clock, ())
    assert await scheduler.run_if_due(work.job())
    clock.advance(dt.timedelta(days=-400))
    assert await other.run_if_due(work.job())
    assert not await scheduler.run_if_due(work.job())
    clock.advance(dt.timedelta(seconds=-20))  # as much as clocks of two nodes may differ
    assert not await scheduler.run_if_due(work.job())
    assert work.done == 2


async def test_the_timer_of_who_ran_it_last_finds_it_free_again(database: Database) -> None:
    """Whole seconds are compared: a timer that is early by a fraction must not skip a period."""
    clock, work = FixedClock(NOW + dt.timedelta(milliseconds=900)), Work()
    scheduler = Scheduler(database, clock, ())
    assert await scheduler.run_if_due(work.job())
    clock.advance(MINUTE - dt.timedelta(milliseconds=950))
    assert await scheduler.run_if_due(work.job())


async def test_jobs_do_not_wait_for_each_other(database: Database) -> None:
    clock, first, second = FixedClock(NOW), Work(), Work()
    scheduler = Scheduler(database, clock, ())
    assert await scheduler.run_if_due(Job("first", MINUTE, first.run))
    assert await scheduler.run_if_due(Job("second", MINUTE, second.run))


async def test_one_that_fails_is_tried_again_in_the_next_period(database: Database) -> None:
    clock, work = FixedClock(NOW), Work(ValueError("no luck"))
    scheduler = Scheduler(database, clock, ())
    assert await scheduler.run_if_due(work.job())
    assert not await scheduler.run_if_due(work.job())
    clock.advance(MINUTE)
    assert await scheduler.run_if_due(work.job())
    assert work.done == 2


async def test_a_database_that_is_away_ends_no_timer(database: Database) -> None:
    clock, work = FixedClock(NOW), Work(PKIError(ErrorCode.UNAVAILABLE, "away"))
    await database.close()
    assert not await Scheduler(database, clock, ()).run_if_due(work.job())
    assert work.done == 0


async def test_the_timers_run_and_stop(database: Database) -> None:
    clock, work = FixedClock(NOW), Work()
    ran = asyncio.Event()

    async def run() -> None:
        work.done += 1
        ran.set()
        await asyncio.Event().wait()

    scheduler = Scheduler(database, clock, [Job("work", dt.timedelta(seconds=0.01), run)])
    scheduler.start()
    await asyncio.wait_for(ran.wait(), 10)
    await asyncio.wait_for(scheduler.stop(), 10)
    assert work.done == 1


_PROCESS = """
import asyncio, datetime as dt, os, sys
from pathlib import Path
from pkiserver.clock import FixedClock
from pkiserver.jobs import Scheduler
from pkiserver.plugin import Job
from pkiserver.storage import open_database

async def run():
    os.write(1, b"x")
    if sys.argv[2] == "die":
        os.kill(os.getpid(), 9)

async def main():
    database = open_database("sqlite:///pki.db", Path(sys.argv[1]))
    clock = FixedClock(dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC))
    scheduler = Scheduler(database, clock, ())
    for _ in range(20):
        await scheduler.run_if_due(Job("work", dt.timedelta(minutes=1), run))
    await database.close()

asyncio.run(main())
"""


def start(home: Path, how: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", _PROCESS, str(home), how],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
        env={**os.environ},
    )


async def test_one_of_several_real_processes(database: Database, tmp_path: Path) -> None:
    processes = [start(tmp_path, "live") for _ in range(3)]
    outs = [(await asyncio.to_thread(process.communicate, None, 30))[0] for process in processes]
    assert b"".join(outs) == b"x"
    assert [process.returncode for process in processes] == [0, 0, 0]


async def test_who_is_killed_at_work_holds_it_up_for_one_period(
    database: Database, tmp_path: Path
) -> None:
    process = start(tmp_path, "die")
    assert (await asyncio.to_thread(process.communicate, None, 30))[0] == b"x"
    assert process.returncode == -9
    clock, work = FixedClock(NOW), Work()
    scheduler = Scheduler(database, clock, ())
    assert not await scheduler.run_if_due(work.job())
    clock.advance(MINUTE)
    assert await scheduler.run_if_due(work.job())
