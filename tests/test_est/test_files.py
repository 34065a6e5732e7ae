"""Files that are read again when they change."""

import asyncio
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from pkiserver.errors import MalformedMessage, PKIError
from protocols.est.files import WatchedFiles


def words(octets: bytes) -> Sequence[bytes]:
    if b"?" in octets:
        raise MalformedMessage("not a word")
    return octets.split()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "words"
    path.write_bytes(b"one")
    return path


def test_another_file_of_the_same_size_and_date(path: Path) -> None:
    """As copied with its date, and put in the place of the one before."""
    files = WatchedFiles("key", [path], words)
    files.read()
    other = path.with_name("other")
    other.write_bytes(b"two")
    old = path.stat()
    os.utime(other, ns=(old.st_atime_ns, old.st_mtime_ns))
    other.replace(path)
    assert files.known() == (b"two",)


def test_what_could_not_be_read_is_tried_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file need not change for that: it was the permissions, or too many files were open."""
    files = WatchedFiles("key", [path], words)
    files.read()
    path.write_bytes(b"three")
    with monkeypatch.context() as broken, capture_logs() as logs:
        broken.setattr(Path, "read_bytes", _refused)
        assert [files.known() for _ in range(3)] == [(b"one",)] * 3
    assert ["Permission denied" in each["detail"] for each in logs] == [True]
    assert files.known() == (b"three",)


def test_what_makes_no_sense_is_not_tried_again(path: Path) -> None:
    files = WatchedFiles("key", [path], words)
    path.write_bytes(b"one ?")
    with pytest.raises(PKIError, match="not a word"):
        files.read()
    with capture_logs() as logs:
        assert files.known() == ()
    assert logs == []


async def test_who_leaves_while_it_is_read(path: Path) -> None:
    """The next one waits for the thread all the same: what it reads is newer, and stays."""
    reading, go_on = threading.Event(), threading.Event()
    seen: list[str] = []

    def slow(octets: bytes) -> Sequence[bytes]:
        seen.append(f"begin {octets!r}")
        reading.set()
        assert go_on.wait(10)
        seen.append(f"end {octets!r}")
        return octets.split()

    files = WatchedFiles("key", [path], slow)
    first = asyncio.create_task(files.known_large())
    assert await asyncio.to_thread(reading.wait, 10)
    first.cancel()
    path.write_bytes(b"three")
    second = asyncio.create_task(files.known_large())
    await asyncio.to_thread(lambda: None)
    go_on.set()
    assert await second == files.known() == (b"three",)
    assert seen == ["begin b'one'", "end b'one'", "begin b'three'", "end b'three'"]


def _refused(path: Path) -> bytes:
    raise PermissionError(13, "Permission denied", str(path))
