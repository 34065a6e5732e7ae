"""Files of the operator's that are read again when they change."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from pkiserver.errors import MalformedMessage, PKIError, configuration_error

log = structlog.get_logger("protocols.est")

Item = TypeVar("Item")


class WatchedFiles(Generic[Item]):
    """What is in files that a `key` of the configuration names. `parse` makes it of the octets of
    one, or raises `MalformedMessage`."""

    def __init__(
        self, key: str, paths: Sequence[Path], parse: Callable[[bytes], Sequence[Item]]
    ) -> None:
        self._key = key
        self._paths = tuple(paths)
        self._parse = parse
        self._seen: object = None
        self._items: tuple[Item, ...] = ()
        self._trouble = ""
        self._reading = asyncio.Lock()

    def __bool__(self) -> bool:
        return bool(self._paths)

    def read(self) -> None:
        """`PKIError` CONFIGURATION names what cannot be used. What could be read is not read again
        before it changes."""
        stamp = self._stamp()
        octets = {path: self._octets(path) for path in self._paths}
        self._seen = stamp
        found = [item for path in self._paths for item in self._parsed(path, octets[path])]
        self._items = tuple(dict.fromkeys(found))

    def known(self) -> tuple[Item, ...]:
        """What was in them the last time that all could be used; that they cannot be is in the
        log."""
        if self._stamp() != self._seen:
            trouble = ""
            try:
                self.read()
            except PKIError as error:
                trouble = error.detail
            if trouble and trouble != self._trouble:
                log.error("what was in the files before stays in use", detail=trouble)
            self._trouble = trouble
        return self._items

    async def known_large(self) -> tuple[Item, ...]:
        """The same, read in a thread, one after the other. Who leaves does not end the thread, so
        the next one waits for it: else what is older could come last."""
        return await asyncio.shield(self._known_in_thread())

    async def _known_in_thread(self) -> tuple[Item, ...]:
        async with self._reading:
            return await asyncio.to_thread(self.known)

    def _stamp(self) -> list[tuple[int, ...] | None]:
        return [_stamp(path) for path in self._paths]

    def _octets(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise configuration_error(f"{self._key}: {path}: {error.strerror}") from error

    def _parsed(self, path: Path, octets: bytes) -> Sequence[Item]:
        try:
            return self._parse(octets)
        except MalformedMessage as error:
            raise configuration_error(f"{self._key}: {path}: {error.detail}") from error


def _stamp(path: Path) -> tuple[int, ...] | None:
    """Without the date of its contents, which a copy may have from elsewhere: its status changes
    with everything."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns, found.st_size
