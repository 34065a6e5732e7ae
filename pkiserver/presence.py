"""Whether other processes of this host serve a home. What a crash left half done is ended at the
start, but not while somebody else may be in the middle of it: an embedding application has several
processes that start one after the other."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path


class Presence:
    """A lock file in the home's `run` folder: shared by those who serve. The kernel takes the lock
    of a process that dies."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "serving.lock"

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether nobody serves; if so, nobody begins to within the context."""
        with self._open() as descriptor:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Be one of those who serve; waits for whoever is `alone`."""
        with self._open() as descriptor:
            await asyncio.to_thread(fcntl.flock, descriptor, fcntl.LOCK_SH)
            yield

    @contextmanager
    def _open(self) -> Iterator[int]:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
