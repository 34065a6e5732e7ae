"""`pkiserver serve` as a process of its own, with two workers: signals, the death of a worker,
mistakes in one line."""

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from interop.ports import free_ports
from pkiserver.home import Home
from pkiserver.initialise import NewHome, initialise

SECONDS = 30.0
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.upper().startswith("PKISERVER_")}


@pytest.fixture(scope="session")
def made_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a P-384 issuing CA, whose signatures are made in threads: they do not cross a fork."""
    home = tmp_path_factory.mktemp("served") / "pki"
    initialise(home, NewHome(root_key="p256", issuing_key="p384"))
    return home


@dataclass(frozen=True)
class Ports:
    https: int
    http: int


@pytest.fixture
def ports() -> Ports:
    return Ports(*free_ports(2))


@pytest.fixture
def home(made_home: Path, tmp_path: Path, ports: Ports) -> Path:
    copy = tmp_path / "pki"
    shutil.copytree(made_home, copy)
    configure(copy, ports)
    return copy


def configure(home: Path, ports: Ports, more: str = "") -> None:
    text = (
        f'[server]\nworkers = 2\nhttps = "127.0.0.1:{ports.https}"\n'
        f'http = "127.0.0.1:{ports.http}"\nshutdown_timeout = "2s"\n{more}\n[acme.default]\n'
    )
    (home / "pkiserver.toml").write_text(text, encoding="utf-8")


def command(*words: str | Path) -> list[str]:
    code = "from pkiserver.cli.main import run; run()"
    return [sys.executable, "-c", code, *map(str, words)]


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited too long: {what}"
        time.sleep(0.02)


@dataclass(frozen=True)
class Served:
    process: "subprocess.Popen[bytes]"
    home: Path
    ports: Ports

    def workers(self) -> set[int]:
        pid = self.process.pid
        return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))

    def ready(self) -> bool:
        assert self.process.poll() is None, "the server ended"
        try:
            url = f"http://127.0.0.1:{self.ports.http}/readyz"
            return httpx.get(url, timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def certificate(self) -> x509.Certificate:
        """Of a new connection, verified."""
        context = ssl.create_default_context(cafile=str(Home(self.home).root_pem))
        with (
            socket.create_connection(("127.0.0.1", self.ports.https), timeout=5) as sock,
            context.wrap_socket(sock, server_hostname="localhost") as tls,
        ):
            return x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS)


@contextmanager
def served(home: Path, ports: Ports) -> Iterator[Served]:
    log = home.parent / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command("serve", "--home", home), stdout=file, stderr=file, env=ENVIRONMENT
        )
    try:
        running = Served(process, home, ports)
        wait_until(lambda: b'"serving"' in log.read_bytes(), "every worker")
        wait_until(running.ready, "ready")
        yield running
    finally:
        process.kill()
        process.wait()
    assert b"Traceback" not in log.read_bytes(), log.read_text()


def test_its_life(home: Path, ports: Ports) -> None:
    """Two workers serve; one that is killed is replaced while the other serves on; SIGHUP takes a
    new certificate up; SIGTERM ends it all."""
    with served(home, ports) as server:
        crl = httpx.get(f"http://127.0.0.1:{ports.http}/crl/issuing.crl", timeout=5)
        x509.load_der_x509_crl(crl.content)
        before = server.workers()
        assert len(before) == 2

        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        assert server.certificate()
        wait_until(lambda: len(server.workers() - {victim}) == 2, "another worker")
        wait_until(server.ready, "ready again")

        shown = server.certificate()
        renew = (
            "import asyncio, sys\nfrom pathlib import Path\n"
            "from pkiserver.app import load_settings, open_runtime\n"
            "from pkiserver.server_certificate import ServerCertificate\n"
            "async def main():\n"
            "    async with open_runtime(load_settings(Path(sys.argv[1]))) as runtime:\n"
            "        await ServerCertificate(runtime.services, runtime.keys).ensure()\n"
            "asyncio.run(main())\n"
        )
        Home(home).server_pem.unlink()
        subprocess.run([sys.executable, "-c", renew, home], check=True, env=ENVIRONMENT)
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: server.certificate() != shown, "the new certificate")

        workers = server.workers()
        assert server.stop() == 0
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), "the end")


def test_workers_end_with_their_parent_and_a_new_server_starts(home: Path, ports: Ports) -> None:
    with served(home, ports) as server:
        workers = server.workers()
        server.process.kill()
        server.process.wait()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), "the end")
    with served(home, ports) as server:
        assert server.stop() == 0


def failing(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        command(*words), capture_output=True, text=True, timeout=SECONDS, env=ENVIRONMENT
    )
    assert "Traceback" not in done.stderr
    return done


def test_a_port_in_use_is_one_line(home: Path, ports: Ports) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", ports.https))
        sock.listen()
        done = failing("serve", "--home", home)
    assert done.returncode == 2
    assert done.stderr == (
        f"pkiserver: cannot listen on 127.0.0.1:{ports.https}: the port is in use; "
        "stop the other program or choose another port\n"
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('certificate = "none.pem"', "none.pem: No such file or directory"),
        ("wrokers = 2", "server.wrokers: unknown key; see docs/configuration.md"),
        ('[profiles.tls-server]\ndns.allow = ["*.example.com"]', "localhost"),
        ('[profiles.x]\nissuer = "nobody"\n[acme.x]\nprofile = "y"', "acme.x"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    home: Path, ports: Ports, more: str, message: str
) -> None:
    Home(home).server_pem.unlink()
    configure(home, ports, more)
    done = failing("serve", "--home", home)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("pkiserver: ")]
    assert len(lines) == 1 and message in lines[0]


def test_no_home_and_a_home_of_somebody_else(tmp_path: Path) -> None:
    done = failing("serve", "--home", tmp_path / "nowhere")
    assert done.returncode == 2 and "run 'pkiserver init" in done.stderr
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "file").touch()
    done = failing("init", "--home", tmp_path / "x")
    assert done.returncode == 2 and "is not empty" in done.stderr
