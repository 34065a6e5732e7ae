"""strongSwan's `pki`: TLS 1.2, its own TLS stack, OCSP on every connection, no base64 in lines."""

from pathlib import Path

import pytest

from interop import openssl, relying_party
from interop.est_pki import Client, EstPKI, Held
from interop.processes import InteropError, meanwhile, run
from interop.results import NewRow
from interop.tools import debian, debian_version, need

PACKAGE = "strongswan-pki"
KINDS = {"rsa": "RSA", "ecdsa": "P-256"}


@pytest.fixture
def command() -> Path:
    """HTTP, which `pki` needs for OCSP, is in libstrongswan-extra-plugins."""
    return need(debian("pki", f"{PACKAGE} libstrongswan-extra-plugins"))


@pytest.fixture
def est(est_by_address: EstPKI) -> EstPKI:
    """`pki` gives up at ::1, which localhost is first on most machines."""
    return est_by_address


class Strongswan:
    """`pki` in a folder, with the CA certificates it got."""

    def __init__(self, command: Path, client: Client) -> None:
        self._command = command
        self._client = client
        self.folder = client.folder

    def pki(self, *words: object, status: int | None = 0) -> str:
        return run([self._command, *words], cwd=self.folder, status=status)

    def ca_certificates(self) -> list[Path]:
        """`--estca`: the root, which has to be the one of TLS, and those below it."""
        server = self._client.pki
        words = ["--estca", "--url", server.base, "--cacert", server.root, "--outform", "pem"]
        said = self.pki(*words, "--caout", "ca.pem", "--force")
        assert "Root CA equals trusted TLS Root CA" in said
        return [self.folder / "ca.pem", self.folder / "ca-1.pem"]

    def request(self, name: str, kind: str) -> tuple[Path, Path]:
        """A key and a request, as `pki` writes them."""
        key = self._client.folder / f"{name}-{len(list(self.folder.iterdir()))}.key"
        csr = key.with_suffix(".csr")
        size = "2048" if kind == "rsa" else "256"
        self._to_file(key, "--gen", "--type", kind, "--size", size)
        names = ("--dn", f"CN={name}", "--san", f"{name}.example.test")
        self._to_file(csr, "--req", "--in", key, "--type", kind, *names)
        return key, csr

    def enrol(self, key: Path, csr: Path, *words: object) -> Held:
        """`--est` checks the chain of what it gets. With 202 it waits and asks again."""
        server, certificate = self._client.pki, csr.with_suffix(".crt")
        trust = ("--cacert", server.root, "--cacert", self.folder / "ca-1.pem")
        self._to_file(certificate, "--est", "--url", server.base, *trust, "--in", csr, *words)
        return Held(key, certificate)

    def _to_file(self, path: Path, *words: object) -> None:
        """It writes to standard output, and what it does to standard error."""
        script = 'out=$1; shift; exec "$@" --outform pem > "$out"'
        run(["sh", "-c", script, "sh", path, self._command, *words], cwd=self.folder)


@pytest.mark.parametrize("kind", KINDS)
def test_enrol_and_renew(
    command: Path, est: EstPKI, est_client: Client, row: NewRow, kind: str
) -> None:
    """E4, E5, E9, E20, E28: a password, then the certificate."""
    seen = row(
        "strongSwan pki", debian_version(PACKAGE), f"EST: password, certificate; {KINDS[kind]}"
    )
    strongswan = Strongswan(command, est_client)
    strongswan.ca_certificates()
    name = f"swan-{kind}"
    password = est.add_user(name, subject=name, dns=f"{name}.example.test")
    first = strongswan.enrol(*strongswan.request(name, kind), "--userpass", f"{name}:{password}")
    before = est_client.check(first, name)
    relying_party.lint("lint_pkix_cert", first.certificate)
    seen.passed("obtain")
    old = ("--cert", first.certificate, "--key", first.key)
    renewed = strongswan.enrol(*strongswan.request(name, kind), *old)
    assert est_client.check(renewed, name) != before
    relying_party.lint("lint_pkix_cert", renewed.certificate)
    seen.passed("renew")
    est.revoke(before)
    assert (est_client.status(first), est_client.status(renewed)) == ("revoked", "good")
    seen.passed("revoke")
    with pytest.raises(InteropError, match="HTTP 40[13]"):
        strongswan.enrol(*strongswan.request(name, kind), *old)


def test_refusals(command: Path, est: EstPKI, est_client: Client) -> None:
    """A wrong password, and names of somebody else."""
    strongswan = Strongswan(command, est_client)
    strongswan.ca_certificates()
    password = est.add_user("swan-own", subject="swan-own")
    for name, secret, status in (("swan-own", "wrong", 401), ("swan-other", password, 403)):
        request = strongswan.request(name, "ecdsa")
        with pytest.raises(InteropError, match=f"HTTP {status}"):
            strongswan.enrol(*request, "--userpass", f"swan-own:{secret}")


@pytest.mark.parametrize("verb", ["approve", "reject"])
def test_waits_for_an_approval(
    command: Path, reviewed: EstPKI, workdir: Path, row: NewRow, verb: str
) -> None:
    """E13, RFC 7030 section 4.2.3: 202 and Retry-After, the same request on a new connection."""
    seen = row("strongSwan pki", debian_version(PACKAGE), f"EST: waits for a person to {verb}")
    client = Client(workdir, reviewed)
    strongswan = Strongswan(command, client)
    strongswan.ca_certificates()
    name = f"swan-{verb}"
    password = reviewed.add_user(name)
    why = ("--why", "no such device") if verb == "reject" else ()
    with meanwhile(lambda: reviewed.decide(verb, name, *why)):
        words = ("--userpass", f"{name}:{password}", "--interval", "1", "--maxpolltime", "100")
        request = strongswan.request(name, "ecdsa")
        if verb == "approve":
            held = strongswan.enrol(*request, *words)
            openssl.openssl(workdir, "x509", "-in", held.certificate, "-noout", "-checkend", "60")
            seen.passed("obtain")
        else:
            with pytest.raises(InteropError, match="HTTP 403"):
                strongswan.enrol(*request, *words)
