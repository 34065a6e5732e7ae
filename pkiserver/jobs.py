"""Work on a schedule. Every process has the timers; a lease in the database lets one of all the
processes and nodes do the work of each period."""

import asyncio
import datetime as dt
import secrets
from collections.abc import Iterable

import structlog

from pkiserver.ca import leases
from pkiserver.clock import Clock
from pkiserver.plugin import Job
from pkiserver.storage import Database, Transaction

log = structlog.get_logger("pkiserver.jobs")


class Scheduler:
    """Runs jobs until it is stopped. A job that fails is logged and tried again in its next
    period."""

    def __init__(self, database: Database, clock: Clock, jobs: Iterable[Job]) -> None:
        self._database = database
        self._clock = clock
        self._jobs = tuple(jobs)
        self._holder = secrets.token_hex(8)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._repeat(job)) for job in self._jobs]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _repeat(self, job: Job) -> None:
        # Spread out, so that jobs and processes of one start do not all fall on one moment.
        await asyncio.sleep(secrets.randbelow(1000) / 1000 * min(2.0, job.every.total_seconds()))
        while True:
            await self.run_if_due(job)
            await asyncio.sleep(job.every.total_seconds())

    async def run_if_due(self, job: Job) -> bool:
        """Run a job unless somebody did in this period; whether it was run, even if it failed."""
        try:
            if not await self._database.write(lambda tx: self._take(tx, job)):
                return False
        except Exception:
            log.exception("cannot look for work", job=job.name)
            return False
        try:
            await job.run()
        except Exception:
            log.exception("job failed", job=job.name)
        return True

    def _take(self, tx: Transaction, job: Job) -> bool:
        # A little early: the timer of the process that ran it last time must find it free again.
        length = job.every - dt.timedelta(seconds=1)
        return leases.take(tx, job.name, self._holder, self._clock.now(), length)
