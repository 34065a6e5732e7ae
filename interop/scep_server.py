"""A server for SCEP clients: an issuing CA of one kind of key, and sections for what devices do.

/scep/default    one-time challenges
/scep/approved   one-time challenges, then a person's approval
/scep/legacy     as default, for clients that sign with SHA-1
"""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from interop import openssl
from interop.ports import free_ports
from interop.processes import listening, run, service
from interop.target import START_SECONDS, PkiserverOperator

_SECTIONS = """
[profiles.approved]
requires_approval = true
extended_key_usage = ["clientAuth", "serverAuth"]
dns = { allow = ["*"] }
[scep.approved]
profile = "approved"
[scep.legacy]
legacy = true
"""


@dataclass(frozen=True)
class SCEPServer:
    """Running. Certificates and keys are PEM files."""

    kind: str
    command: Path
    home: Path
    http_port: int

    @property
    def root(self) -> Path:
        return self.home / "root.pem"

    @property
    def issuing(self) -> Path:
        return self.home.parent / "issuing.pem"

    def url(self, label: str = "default") -> str:
        return f"http://127.0.0.1:{self.http_port}/scep/{label}"

    def challenge(self, label: str = "default") -> str:
        """A new one-time challenge."""
        return self.cli("scep", "challenge", "--label", label).splitlines()[-1]

    def approve(self, name: str) -> None:
        """Wait for the request for that DNS name, and approve it from another process."""
        PkiserverOperator(self.command, self.home, "", {}).approve(name)

    def revoke(self, certificate: Path) -> None:
        self.cli("cert", "revoke", openssl.serial(certificate), "--reason", "superseded")

    def verify(self, certificate: Path, key: Path, **expected: str) -> str:
        """Check what a client got up to the root, with its key and names; the serial."""
        chain = certificate.with_name(f"{certificate.name}.chain")
        openssl.joined(chain, certificate, self.issuing)
        return openssl.verify(chain, self.root, key, **expected)

    def cli(self, *words: object) -> str:
        return run([self.command, *words, "--home", self.home], cwd=self.home.parent)


@contextlib.contextmanager
def scep_server(
    folder: Path, kind: str, *, sections: str = _SECTIONS, env: Mapping[str, str] | None = None
) -> Iterator[SCEPServer]:
    """Made in `folder` and served until the end, with `sections` in its configuration and `env`
    in its environment."""
    https, http = free_ports(2)
    command = Path(sys.executable).with_name("pkiserver")
    home = folder / "pki"
    words = [command, "init", "--home", home, "--root-key", kind, "--issuing-key", kind]
    # pkilint takes a host without a dot for a mistake in a URI
    words += ["--hostname", "127.0.0.1"]
    run([*words, "--https", f"127.0.0.1:{https}", "--http", f"127.0.0.1:{http}"], cwd=folder)
    with (home / "pkiserver.toml").open("a") as file:
        file.write(sections)
    with service([command, "serve", "--home", home], cwd=folder, env=env) as running:
        running.wait_until(lambda: listening(http), START_SECONDS, "listener")
        made = SCEPServer(kind, command, home, http)
        made.cli("ca", "export", "issuing", "--out", made.issuing)
        yield made
