"""Worker processes: start, death and respawn, graceful stop, reload, orphans."""

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from pkiserver.serving.supervisor import LONGEST_BACKOFF, backoff
from tests.server.conftest import Files, write_server_files

ROOT = Path(__file__).parents[2]


@dataclass
class Running:
    process: subprocess.Popen[str]
    base: str
    verify: ssl.SSLContext | bool = True

    def get(self, path: str) -> str:
        return httpx.get(self.base + path, timeout=5, verify=self.verify).text

    def workers(self) -> set[int]:
        """The pids of the parent's children, from /proc."""
        pid = self.process.pid
        return {
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        }

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(10)


def start(**options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.server.supervised", json.dumps(options)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def supervised(scheme: str = "http", **options: Any) -> Iterator[Running]:
    process = start(**options)
    try:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        assert port, process.communicate()[1]
        yield Running(process, f"{scheme}://localhost:{port}")
    finally:
        process.kill()
        process.communicate()


def wait_until(condition: Any, seconds: float = 8) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_one_worker_serves_without_a_child() -> None:
    with supervised(workers=1) as server:
        assert int(server.get("/pid")) == server.process.pid
        assert server.workers() == set()
        assert server.end() == 0
        assert server.process.communicate()[0] == "left 0\n"


def test_a_killed_worker_is_replaced() -> None:
    """Invariants hold under SIGKILL; the service does too."""
    with supervised() as server:
        before = server.workers()
        assert len(before) == 2
        victim = int(server.get("/pid"))
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(server.workers() - {victim}) == 2)
        assert int(server.get("/pid")) in server.workers()
        with pytest.raises(httpx.TransportError):
            server.get("/die")
        wait_until(lambda: len(server.workers()) == 2 and not server.workers() <= before)
        assert server.end() == 0
        assert "worker died" in server.process.communicate()[1]


def test_sigint_and_sigterm_finish_running_requests() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with supervised() as server:
            slow = subprocess.Popen(
                [sys.executable, "-c", f"import urllib.request as u;"
                 f"print(u.urlopen('{server.base}/slow').status)"],
                stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            wait_until(lambda server=server: _connections(server) > 0)
            assert server.end(number) == 0
            assert slow.communicate()[0].strip() == "200"
            left = server.process.communicate()[0].split("\n")
            assert sorted(filter(None, left)) == ["left 0", "left 1"]


def _connections(server: Running) -> int:
    """Established TCP connections of the server's port, from /proc."""
    port = f":{int(server.base.rsplit(':', 1)[1]):04X} "
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(1 for line in lines if port in line.split(": ", 1)[1][:22] and " 01 " in line)


def test_a_worker_that_does_not_stop_tells_what_it_does_and_is_killed() -> None:
    process = start(workers=2, grace=0.1, margin=1.6, late=True)
    assert process.stdout is not None
    assert process.stdout.readline()
    process.terminate()
    _, log = process.communicate(timeout=20)
    assert process.returncode == 1
    assert log.count("the worker does not stop") == 2
    assert "_serve" in log
    assert log.count("most recent call first") >= 2
    assert "workers did not stop in time and are killed" in log


@pytest.mark.parametrize("workers", [1, 2])
def test_a_hanging_request_does_not_keep_the_server_up(workers: int) -> None:
    with supervised(workers=workers, grace=0.2) as server:
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(server.base + "/hang", timeout=0.2)
        began = time.monotonic()
        assert server.end() == 0
        assert time.monotonic() - began < 3


@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_signal_stops_at_once(workers: int) -> None:
    with supervised(workers=workers, grace=60) as server:
        port = int(server.base.rsplit(":", 1)[1])
        with socket.create_connection(("localhost", port)) as hanging:
            hanging.sendall(b"GET /hang HTTP/1.1\r\nHost: h\r\n\r\n")
            server.get("/pid")  # by now the request before it is being served
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: not _accepts(port))
            assert server.process.poll() is None
            assert server.end() == 1


def _accepts(port: int) -> bool:
    """Whether a request is answered; the parent's socket alone would still accept."""
    try:
        httpx.get(f"http://localhost:{port}/pid", timeout=0.2)
    except httpx.TransportError:
        return False
    return True


def test_workers_whose_parent_was_killed_stop_by_themselves() -> None:
    with supervised() as server:
        children = server.workers()
        server.process.kill()
        wait_until(lambda: not any(alive(pid) for pid in children))


@pytest.mark.parametrize(
    "fail,says",
    [
        ("configuration", "configuration the key is wrong"),
        ("crash", "internal worker"),
        ("exit", "status 7 before it was ready"),
    ],
)
def test_a_worker_that_cannot_start_ends_the_start(fail: str, says: str) -> None:
    process = start(fail=fail)
    output, errors = process.communicate(timeout=10)
    assert process.returncode == 2
    assert says in errors
    assert not output.replace("left 0\n", "").replace("left 1\n", "")


def test_sighup_reloads_the_certificate_in_every_worker(files: Files, tmp_path: Path) -> None:
    tls = write_server_files(files.ca, tmp_path)
    options = {"cert": str(tls.cert_path), "key": str(tls.key_path)}
    with supervised("https", **options) as server:
        server.verify = files.client_context()
        port = int(server.base.rsplit(":", 1)[1])

        def served() -> str:
            return ssl.get_server_certificate(("127.0.0.1", port))

        old = served()
        server.get("/pid")
        write_server_files(files.ca, tmp_path)
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: all(served() != old for _ in range(8)))
        server.get("/pid")
        assert server.end() == 0


def test_backoff_grows_and_is_bounded() -> None:
    delays = [backoff(failures) for failures in range(20)]
    assert delays == sorted(delays)
    assert 0 < delays[0] < 1
    assert delays[-1] == LONGEST_BACKOFF


def test_as_many_descriptors_as_the_system_allows_are_taken() -> None:
    with supervised(workers=1, descriptors=[200, 300]) as server:
        limits = Path(f"/proc/{server.process.pid}/limits").read_text()
        assert re.search(r"Max open files +300 +300 ", limits)


def test_connections_leave_descriptors_for_files() -> None:
    """Although nothing ends them."""
    with supervised(workers=1, descriptors=[100, 100]) as server, ExitStack() as held:
        port = int(server.base.rpartition(":")[2])
        connections = [
            held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
            for _ in range(120)
        ]
        with suppress(ConnectionError):
            assert connections[-1].recv(1) == b""
        connections[0].sendall(b"GET /file HTTP/1.1\r\nHost: h\r\n\r\n")
        assert connections[0].recv(15) == b"HTTP/1.1 200 OK"
