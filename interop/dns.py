"""`pebble-challtestsrv` as the resolver of the server under test: every name is 127.0.0.1."""

import contextlib
import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from interop.ports import free_ports
from interop.processes import listening, python_script, service

_HOOK = """
import json, sys, urllib.request
action, host, *value = sys.argv[1:]
path = {{"present": "set-txt", "cleanup": "clear-txt"}}[action]
body = {{"host": host.rstrip(".") + "."}}
if action == "present":
    body["value"] = value[-1]
url = "{management_url}/" + path
urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode()), timeout=30).close()
"""


@dataclass(frozen=True)
class ChallengeDNS:
    """A mock resolver, `resolver` as host:port over UDP and TCP, and its management URL."""

    resolver: str
    management_url: str

    def post(self, path: str, body: dict[str, object]) -> None:
        """One call of the management interface: `set-txt`, `clear-txt`, `add-caa`..."""
        request = urllib.request.Request(f"{self.management_url}/{path}", json.dumps(body).encode())
        urllib.request.urlopen(request, timeout=30).close()

    def set_txt(self, name: str, value: str) -> None:
        """Add a TXT record at `name`."""
        self.post("set-txt", {"host": f"{name}.", "value": value})

    def clear_txt(self, name: str) -> None:
        """Remove all TXT records at `name`."""
        self.post("clear-txt", {"host": f"{name}."})

    def hook(self, path: Path) -> Path:
        """A program for clients: `present NAME VALUE`, `cleanup NAME ...`."""
        return python_script(path, _HOOK.format(management_url=self.management_url))


@contextlib.contextmanager
def challenge_dns(home: Path) -> Iterator[ChallengeDNS]:
    """Run pebble-challtestsrv with DNS alone; its other mocks are off."""
    port, management = free_ports(2)
    command = ["pebble-challtestsrv", "-dns01", f"127.0.0.1:{port}", "-defaultIPv6", ""]
    command += ["-management", f"127.0.0.1:{management}"]
    command += ["-http01", "", "-https01", "", "-tlsalpn01", ""]
    with service(command, cwd=home) as running:
        running.wait_until(lambda: listening(management), 60, "management interface")
        yield ChallengeDNS(f"127.0.0.1:{port}", f"http://127.0.0.1:{management}")
