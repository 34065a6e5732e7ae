"""A server that can be killed: `pkiserver up` with sections for every protocol."""

import asyncio
import json
import os
import signal
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from interop.bench.acme import descendants
from interop.bench.device_witness import Login
from interop.ports import free_ports
from interop.processes import InteropError, Service, environment, run, service
from interop.target import START_SECONDS, https_get

APPROVED = "approved"
"""The label of SCEP and EST, and the profile, where a person has to approve."""
_SETTINGS = {
    "CRL__DELTA": "1h",
    "ACME__DEFAULT__ORDERS_PER_ACCOUNT": "1000000/1h",
    "ACME__DEFAULT__ACCOUNTS_PER_ADDRESS": "1000000/1h",
    "SCEP__DEFAULT__FAILURES_PER_ADDRESS": "1000000/1h",
    "SCEP__APPROVED__FAILURES_PER_ADDRESS": "1000000/1h",
    "SCEP__APPROVED__PROFILE": APPROVED,
    "EST__APPROVED__PROFILE": APPROVED,
    "EST__DEFAULT__REPEAT": "1d",
    "EST__APPROVED__REPEAT": "1d",
    "PROFILES__APPROVED__REQUIRES_APPROVAL": "true",
    "PROFILES__APPROVED__EXTENDED_KEY_USAGE": '["clientAuth"]',
    "PROFILES__APPROVED__DNS": '{"allow": ["*"]}',
}


class Server:
    """`pkiserver up` on one home and one set of ports, to be killed and started again."""

    def __init__(self, base: Path, resolver: str) -> None:
        https, http, http01 = free_ports(3)
        self.http01_port = http01
        self._base = base
        self.home = base / "pki"
        self.database = self.home / "pki.db"
        self.root = self.home / "root.pem"
        self.base_url = f"https://localhost:{https}"
        self.http_url = f"http://localhost:{http}"
        self._command = Path(sys.executable).with_name("pkiserver")
        self._listeners = ["--https", f"127.0.0.1:{https}", "--http", f"127.0.0.1:{http}"]
        acme = {"HTTP01_PORT": str(http01), "DNS_RESOLVERS": json.dumps([resolver])}
        self._env = {f"PKISERVER_{key}": text for key, text in _SETTINGS.items()}
        self._env |= {f"PKISERVER_ACME__DEFAULT__{key}": text for key, text in acme.items()}
        self._stack = ExitStack()
        self._running: Service | None = None

    def start(self, workers: int) -> float:
        """Until it is ready; how many seconds that took."""
        began = time.monotonic()
        self.launch(workers).wait_until(self._ready, START_SECONDS, "readyz")
        return time.monotonic() - began

    def launch(self, workers: int) -> Service:
        words = [str(self._command), "up", "--home", str(self.home), "--hostname", "localhost"]
        words += [*self._listeners, "--workers", str(workers)]
        running = self._stack.enter_context(service(words, cwd=self._base, env=self._env))
        self._running = running
        return running

    def _ready(self) -> bool:
        try:
            https_get(f"{self.base_url}/readyz", self.root)
        except OSError:
            return False
        return True

    def kill(self) -> str:
        """SIGKILL to the parent and every worker; what they had logged, when all are gone."""
        if self._running is None:
            raise InteropError("the server was not started")
        process = self._running.process
        pids = [process.pid, *descendants(process.pid)]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        while any(_alive(pid) for pid in pids):
            time.sleep(0.005)
        return self._running.output()

    def stop(self) -> str:
        """SIGTERM; everything the last start logged."""
        self._stack.close()
        return "" if self._running is None else self._running.output()

    def verify_audit(self, anchor: str) -> None:
        """The chain holds, and the row that was the newest before the crash is in it."""
        self.cli("audit", "verify", "--anchor", anchor)

    def cli(self, *words: str) -> str:
        """A command on the home, whether the server runs or not; its output."""
        return run([self._command, *words, "--home", self.home], cwd=self._base, env=self._env)

    def login(self, protocol: str, label: str) -> Login:
        """A new one: a user of EST, or somebody who may fetch challenges for SCEP."""
        kind = {"est": "user", "scep": "login"}[protocol]
        made = self.cli(protocol, kind, "add", f"crash-{label}", "--label", label)
        return Login(label, self.base_url, f"crash-{label}", made.splitlines()[-1])

    async def approve(self, identifier: str) -> bool:
        """By the command, which dies if this is cancelled; whether it says that it is done."""
        words = [str(self._command), "approvals", "approve", identifier, "--home", str(self.home)]
        nowhere = asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(
            *words, cwd=self._base, env=environment(self._base, self._env), stdin=nowhere,
            stdout=nowhere, stderr=nowhere,
        )  # fmt: skip
        try:
            return await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


def _alive(pid: int) -> bool:
    """Not gone, and not merely waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
