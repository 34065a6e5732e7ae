"""PyScep, as a library in an environment of its own (`interop/pyscep/driver.py`): everything it
knows of RFC 8894. It reads RSA CAs alone."""

import json
from dataclasses import dataclass
from pathlib import Path

from interop import openssl, tools
from interop.processes import run
from interop.results import NewRow
from interop.scep_server import SCEPServer

_DRIVER = Path(__file__).with_name("pyscep") / "driver.py"
_NEEDS = (
    "asn1crypto==1.5.1", "certbuilder==0.14.2", "cryptography==50.0.2", "csrbuilder==0.10.1",
    "oscrypto==1.3.0", "requests==2.34.2", "six==1.17.0",
)  # fmt: skip


@dataclass(frozen=True)
class PyScep:
    """The driver in a directory, with a key for each name."""

    python: Path
    server: SCEPServer
    folder: Path
    label: str = "default"

    def __call__(self, operation: str, name: str, *words: str) -> dict[str, str]:
        command = [self.python, "-W", "ignore", _DRIVER, self.server.url(self.label), operation]
        result: dict[str, str] = json.loads(run([*command, name, *words], cwd=self.folder))
        return result

    def key(self, name: str) -> Path:
        return self.folder / f"{name}.key"

    def certificate(self, name: str) -> Path:
        return self.folder / f"{name}.crt"

    def verify(self, name: str) -> str:
        return self.server.verify(self.certificate(name), self.key(name))


def _pyscep(server: SCEPServer, folder: Path, label: str = "default") -> PyScep:
    return PyScep(tools.need(tools.pypi(tools.PYSCEP, "python", *_NEEDS)), server, folder, label)


def test_enrol_renew_and_queries(scep: dict[str, SCEPServer], workdir: Path, row: NewRow) -> None:
    """PKCSReq, a renewal signed with the old certificate, GetCert and GetCRL."""
    client, name = _pyscep(scep["rsa-2048"], workdir), "pyscep.example.test"
    seen = row("PyScep", tools.pinned(tools.PYSCEP), "SCEP, rsa-2048 CA: GetCert and GetCRL too")
    openssl.new_key(client.key(name), "RSA")
    assert client("enrol", name, "wrong") == {"status": "failure", "failInfo": "2"}
    assert client("enrol", name, client.server.challenge()) == {"status": "success"}
    first = client.verify(name)
    old = client.certificate(name).read_text()
    seen.passed("obtain")
    assert client("renew", name) == {"status": "success"}
    assert client.verify(name) != first
    seen.passed("renew")
    assert client("getcert", name, first) == {"status": "success"}
    assert client.certificate(f"{name}.found").read_text() == old
    client.server.revoke(openssl.joined(workdir / "old.crt", workdir / f"{name}.found.crt"))
    assert client("getcrl", name, first) == {"status": "success"}
    crl = ["crl", "-in", workdir / f"{name}.crl", "-inform", "DER", "-text", "-noout"]
    output = openssl.openssl(workdir, *crl, "-CAfile", client.server.issuing)
    assert "verify OK" in output and f"Serial Number: {first}" in output, output


def test_it_polls(scep: dict[str, SCEPServer], workdir: Path, row: NewRow) -> None:
    client, name = _pyscep(scep["rsa-2048"], workdir, "approved"), "waits.pyscep.example.test"
    seen = row("PyScep", tools.pinned(tools.PYSCEP), "SCEP, rsa-2048 CA: polls for an approval")
    openssl.new_key(client.key(name), "RSA")
    assert client("enrol", name, client.server.challenge("approved")) == {"status": "pending"}
    assert client("poll", name) == {"status": "pending"}
    client.server.approve(name)
    assert client("poll", name) == {"status": "success"}
    client.verify(name)
    seen.passed("obtain")
