"""Child processes: bounded commands, background services ended by their own pid."""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

COMMAND_SECONDS = 120
"""For whoever should answer in a few: a machine may be slow, and busy."""
_TAIL = 4000


class InteropError(AssertionError):
    """A client, a server or a check did not do what it should; the text holds its output."""


def environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """A small, fixed environment, so that the user's own settings change no result."""
    return {
        "PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        **(extra or {}),
    }


def run(
    command: Sequence[object],
    *,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    seconds: float = COMMAND_SECONDS,
    status: int | None = 0,
) -> str:
    """Run to the end and return stdout and stderr as one text; the words are str() of `command`.

    Raises InteropError for another exit status than `status` (None: any) and after `seconds`.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            cwd=cwd,
            env=environment(cwd, env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        output = (error.stdout or b"").decode(errors="replace")
        raise InteropError(
            f"{shlex.join(words)}\nno end in {seconds} s\n{output[-_TAIL:]}"
        ) from None
    output = done.stdout.decode(errors="replace")
    if status is not None and done.returncode != status:
        raise InteropError(f"{shlex.join(words)}\nexit {done.returncode}\n{output[-_TAIL:]}")
    return output


@dataclass(frozen=True)
class Service:
    """A process in the background and the file that takes its output."""

    process: subprocess.Popen[bytes]
    log: Path

    def output(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(errors="replace")

    def wait_until(self, ready: Callable[[], bool], seconds: float, what: str) -> None:
        """Poll `ready`; InteropError with the output when it exits first or `seconds` pass."""
        deadline = time.monotonic() + seconds
        while not ready():
            if self.process.poll() is not None:
                raise InteropError(
                    f"ended ({self.process.returncode}) before {what}\n{self._tail()}"
                )
            if time.monotonic() > deadline:
                raise InteropError(f"no {what} in {seconds} s\n{self._tail()}")
            time.sleep(0.1)

    def _tail(self) -> str:
        return self.output()[-_TAIL:]


@contextlib.contextmanager
def service(
    command: Sequence[object],
    *,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    stop_seconds: float = 15,
) -> Iterator[Service]:
    """Run in the background in a process group of its own; at the end SIGTERM to that pid, SIGKILL
    after `stop_seconds` and to whatever it leaves behind in its group."""
    words = [str(word) for word in command]
    handle, log = tempfile.mkstemp(".log", f"{Path(words[0]).name}-", cwd)
    with os.fdopen(handle, "wb") as output:
        process = subprocess.Popen(
            words,
            cwd=cwd,
            env=environment(cwd, env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Service(process, Path(log))
    finally:
        process.terminate()
        try:
            process.wait(stop_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def meanwhile(work: Callable[[], object]) -> Iterator[None]:
    """`work` in a thread beside the block, which ends before this does; its trouble is raised,
    unless the block has its own."""
    with ThreadPoolExecutor(1) as apart:
        future = apart.submit(work)
        yield
        future.result()


def listening(port: int) -> bool:
    """Whether something accepts TCP connections at this loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def python_script(path: Path, body: str) -> Path:
    """An executable file at `path` that runs `body` with this interpreter; a client's hook."""
    path.write_text(f"#!{sys.executable}\n{body}")
    path.chmod(0o755)
    return path
