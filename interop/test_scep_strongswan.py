"""strongSwan's `pki --scepca` and `pki --scep` over plain HTTP: it polls, it renews with the old
certificate, and it keeps one transactionID per key for life (S39)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from interop import openssl, tools
from interop.processes import meanwhile, run
from interop.results import NewRow
from interop.scep_server import SCEPServer


@dataclass(frozen=True)
class StrongSwan:
    """`pki` in a directory of its own, with the certificates it fetched."""

    server: SCEPServer
    folder: Path
    label: str = "default"

    def fetch(self) -> None:
        """`--scepca`: it builds the chain of the registration authority itself."""
        output = self._pki("--scepca", "--caout", "ca.pem", "--raout", "ra.pem", "--force")
        assert "RA cert is trusted" in output and "Sub CA cert is trusted" in output, output
        fetched = (self.folder / "ca.pem").read_text()
        assert fetched == self.server.root.read_text(), "the root is what we fetched"

    def enrol(self, name: str, key: Path, *options: object) -> Path:
        """`--scep`: the certificate, which it found trusted."""
        words = ["--in", key, "--dn", f"CN={name}", "--san", name]
        words += ["--cacert-enc", "ra.pem", "--cacert-sig", "ca.pem", "--cacert", "ca-1.pem"]
        output = self._pki("--scep", *words, *options)
        assert "Issued certificate is trusted" in output, output
        certificate = self.folder / f"{name}-{key.stem}.pem"
        (found,) = openssl.PEM.findall(output)
        certificate.write_text(found)
        self.server.verify(certificate, key, hostname=name)
        return certificate

    def _pki(self, command: str, *words: object) -> str:
        url = self.server.url(self.label)
        words = (command, "--url", url, *words, "--outform", "pem")
        return run(["pki", *words], cwd=self.folder, seconds=240)


@pytest.fixture
def version() -> str:
    tools.need(tools.debian("pki", "strongswan-pki libstrongswan-extra-plugins"))
    return tools.debian_version("strongswan-pki")


@pytest.fixture
def swan(
    request: pytest.FixtureRequest, scep: dict[str, SCEPServer], workdir: Path, version: str
) -> StrongSwan:
    made = StrongSwan(scep[getattr(request, "param", "p256")], workdir)
    made.fetch()
    return made


WAYS: Sequence[Sequence[str]] = (
    ("--cipher", "aes", "--digest", "sha256"),
    ("--cipher", "aes", "--digest", "sha384"),
    ("--cipher", "des3", "--digest", "sha512"),
)


@pytest.mark.parametrize("swan", ("rsa-2048", "p256"), indirect=True)
def test_enrol_and_renew(swan: StrongSwan, version: str, row: NewRow) -> None:
    """S28: a renewal is authorised by the old certificate, with a new key and no challenge."""
    seen = row("strongSwan pki", version, f"SCEP, {swan.server.kind} CA: AES and 3DES, SHA-2")
    for number, way in enumerate(WAYS):
        name = f"swan{number}.example.test"
        old_key, key = (openssl.new_key(swan.folder / f"{name}.{n}.key", "RSA") for n in (1, 2))
        old = swan.enrol(name, old_key, "--password", swan.server.challenge(), *way)
        new = swan.enrol(name, key, "--cert", old, "--key", old_key, *way)
        assert openssl.serial(new) != openssl.serial(old)
    seen.passed("obtain")
    seen.passed("renew")


def test_the_same_request_again(swan: StrongSwan) -> None:
    """S27, S39: the same key and names, the same transaction, the same certificate. The challenge
    is used, and need not be another."""
    key = openssl.new_key(swan.folder / "again.key", "RSA")
    words = ("again.example.test", key, "--password", swan.server.challenge())
    first = openssl.serial(swan.enrol(*words))
    assert openssl.serial(swan.enrol(*words)) == first


def test_refused(swan: StrongSwan) -> None:
    """S9: FAILURE with its failInfo for a wrong challenge, and for a revoked old certificate."""
    name = "refused.example.test"
    old_key, key = (openssl.new_key(swan.folder / f"refused.{n}.key", "RSA") for n in (1, 2))
    with pytest.raises(AssertionError, match="badRequest"):
        swan.enrol(name, old_key, "--password", "wrong")
    old = swan.enrol(name, old_key, "--password", swan.server.challenge())
    swan.server.revoke(old)
    with pytest.raises(AssertionError, match="failInfo"):
        swan.enrol(name, key, "--cert", old, "--key", old_key)


@pytest.mark.parametrize("swan", ("rsa-2048", "p256"), indirect=True)
def test_it_polls_until_somebody_approves(swan: StrongSwan, version: str, row: NewRow) -> None:
    """S26: PENDING, CertPoll every second, and the certificate once it is approved."""
    seen = row("strongSwan pki", version, f"SCEP, {swan.server.kind} CA: polls for an approval")
    waiting = StrongSwan(swan.server, swan.folder, "approved")
    name, key = "polls.example.test", openssl.new_key(swan.folder / "polls.key", "RSA")
    challenge = swan.server.challenge("approved")
    with meanwhile(lambda: swan.server.approve(name)):
        waiting.enrol(name, key, "--password", challenge, "--interval", "1", "--maxpolltime", "200")
    seen.passed("obtain")
