"""Files that are read again when they change."""

import os
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


def _refused(path: Path) -> bytes:
    raise PermissionError(13, "Permission denied", str(path))
