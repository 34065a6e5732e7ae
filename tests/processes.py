"""Work in processes of their own, which may be killed there.

They are forked off a server that has imported what most of them need, and has opened nothing."""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any, TypeVar

from pkiserver.storage import Database, Transaction

T = TypeVar("T")
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["pytest", "tests.ca.status_support", "tests.ca.world", "tests.test_scep_challenges.world"]
)


async def run_elsewhere(work: Callable[..., None], *args: object) -> int:
    """How the process ended that called `work`, a function of a module: its exit status, or the
    signal's number, negative."""
    return await asyncio.to_thread(_run, work, args)


def _run(work: Callable[..., None], args: tuple[object, ...]) -> int:
    process = _CONTEXT.Process(target=work, args=args)
    process.start()
    process.join()
    assert process.exitcode is not None
    status = process.exitcode
    process.close()
    return status


def kill_at(database: Database, when: str, number: int) -> Callable[[], int]:
    """This process dies "before" or "after" the n-th transaction of `database`, from 1. What comes
    back says how many there were so far."""
    real, count = database.write, 0

    async def write(work: Callable[[Transaction], T]) -> T:
        nonlocal count
        count += 1
        if (when, count) == ("before", number):
            die()
        result = await real(work)
        if (when, count) == ("after", number):
            die()
        return result

    changed: Any = database
    changed.write = write
    return lambda: count


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
