"""micromdm's `scepclient`: Debian's, and today's where Go is. Both sign with SHA-1, so the section
has `legacy = true`; Debian's reads RSA certificates alone and has to be told which one to encrypt
for where the CA has another key."""

from pathlib import Path

import pytest

from interop import openssl, tools
from interop.processes import run
from interop.results import NewRow
from interop.scep_server import SCEPServer


def _enrol(client: Path, server: SCEPServer, folder: Path, name: str, *options: str) -> str:
    folder.mkdir()
    words = [client, "-server-url", server.url("legacy"), "-challenge", server.challenge("legacy")]
    words += ["-cn", name, "-private-key", "dev.key", "-certificate", "dev.crt", *options]
    run(words, cwd=folder)
    subject = openssl.openssl(folder, "x509", "-in", "dev.crt", "-noout", "-subject")
    assert f"CN = {name}" in subject
    return server.verify(folder / "dev.crt", folder / "dev.key")


def _registration_authority(server: SCEPServer, folder: Path) -> str:
    """SHA-256 of its certificate as `-ca-fingerprint` takes it: the first of GetCACert."""
    bag, first = folder / "bag.p7", folder / "chain.pem"
    run(["curl", "-sSf", f"{server.url()}?operation=GetCACert", "-o", bag], cwd=folder)
    words = ["pkcs7", "-inform", "DER", "-in", bag, "-print_certs", "-out", first]
    openssl.openssl(folder, *words)
    certificate = openssl.split(first)[0]
    output = openssl.openssl(
        folder, "x509", "-in", certificate, "-noout", "-fingerprint", "-sha256"
    )
    return output.strip().partition("=")[2].replace(":", "")


@pytest.mark.parametrize("kind", ("rsa-2048", "p256"))
def test_debian(kind: str, scep: dict[str, SCEPServer], workdir: Path, row: NewRow) -> None:
    client, server = tools.need(tools.debian("scepclient", "scep")), scep[kind]
    seen = row("micromdm scepclient", tools.debian_version("scep"), f"SCEP, {kind} CA")
    options = [] if kind == "rsa-2048" else [
        "-ca-fingerprint", _registration_authority(server, workdir),
    ]  # fmt: skip
    first = _enrol(client, server, workdir / "one", "mdm-1", *options)
    assert _enrol(client, server, workdir / "two", "mdm-2", *options) != first
    seen.passed("obtain")


@pytest.mark.parametrize("kind", ("rsa-2048", "p256"))
def test_current(kind: str, scep: dict[str, SCEPServer], workdir: Path, row: NewRow) -> None:
    """It chooses the certificate with keyEncipherment when told to."""
    client, server = tools.need(tools.go_command(tools.SCEPCLIENT), optional=True), scep[kind]
    seen = row("micromdm scepclient", tools.pinned(tools.SCEPCLIENT), f"SCEP, {kind} CA")
    options = ["-key-encipherment-selector", "-dnsname", "mdm.example.test"]
    _enrol(client, server, workdir / "one", "mdm.example.test", *options)
    seen.passed("obtain")
