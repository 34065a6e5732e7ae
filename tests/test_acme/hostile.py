"""A server to attack: `pkiserver up` as processes of its own, two workers, over TLS, with a
challenge directory, a trusted one and one that wants a binding. Its log is read back, so a test
sees what a client does not."""

import asyncio
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from interop.ports import free_ports
from pkiserver.initialise import NewHome, initialise
from tests.test_acme.client import ACMEClient, Signer

START_SECONDS = 60
ANSWER_SECONDS = 5
DIRECTORIES = """
[acme.trusted]
authorization = "trusted"
accounts_per_address = "100000/1h"

[acme.bound]
external_account_required = true
"""
_RUN = "import sys; from pkiserver.cli.main import main; sys.exit(main())"


@dataclass
class Prey:
    """The running server."""

    home: Path
    port: int
    process: subprocess.Popen[bytes]
    log: Path
    seen: int = field(default=0)

    @property
    def base(self) -> str:
        return f"https://localhost:{self.port}"

    def tls(self, *alpn: str) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.home / "root.pem"))
        context.set_alpn_protocols(list(alpn or ["http/1.1"]))
        return context

    def http(self, *, http2: bool = False) -> httpx.AsyncClient:
        return httpx.AsyncClient(verify=self.tls("h2" if http2 else "http/1.1"), http2=http2)

    async def client(
        self, http: httpx.AsyncClient, directory: str = "trusted", signer: Signer | None = None
    ) -> ACMEClient:
        url = f"{self.base}/acme/{directory}/directory"
        return await ACMEClient(http, url, signer).start()

    async def account(self, http: httpx.AsyncClient, directory: str = "trusted") -> ACMEClient:
        client = await self.client(http, directory)
        response = await client.new_account()
        assert response.status_code == 201, response.text
        return client

    async def talk(self, *data: bytes, pause: float = 0.0) -> bytes:
        """Everything the server says to these octets, until it closes the connection."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.tls(), server_hostname="localhost"
        )
        try:
            for part in data:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(pause)
            async with asyncio.timeout(ANSWER_SECONDS):
                return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.transport.abort()

    def records(self) -> list[dict[str, Any]]:
        """What was logged since the last call."""
        with self.log.open("rb") as file:
            file.seek(self.seen)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self.seen += len(whole)
        return [json.loads(line) for line in whole.splitlines() if line.startswith(b"{")]

    def memory(self) -> int:
        """KiB that the processes have in memory."""
        group = [pid for pid in Path("/proc").iterdir() if pid.name.isdigit()]
        return sum(_resident(pid) for pid in group if _parent(pid) == self.process.pid)


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _resident(process: Path) -> int:
    pages = int((process / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


@contextmanager
def prey(directory: Path) -> Iterator[Prey]:
    """Starts the server in a new home; stops it at the end, which has to be in good order."""
    home, log = directory / "pki", directory / "log"
    port, plain = free_ports(2)
    new = NewHome(https=f"127.0.0.1:{port}", http=f"127.0.0.1:{plain}", root_key="p256")
    initialise(home, new)
    with (home / "pkiserver.toml").open("a") as config:
        config.write(DIRECTORIES)
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", _RUN, "up", "--home", str(home), "--workers", "2"],
            stdout=subprocess.PIPE, stderr=file, cwd=directory,
        )  # fmt: skip
    try:
        _wait(process)
        yield Prey(home, port, process, log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(START_SECONDS) == 0, log.read_text()[-4000:]
    finally:
        process.kill()
        process.communicate()


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Until the server says that it is up."""
    assert process.stdout is not None
    deadline = time.monotonic() + START_SECONDS
    while b"is up" not in (line := process.stdout.readline()):
        assert line or process.poll() is None, "the server did not start"
        assert time.monotonic() < deadline
