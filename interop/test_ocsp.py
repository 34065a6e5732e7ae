"""The OCSP clients of OpenSSL, GnuTLS and NSS, and pkilint, over CAs of several kinds of keys: good
before, revoked at once after. Each CA is a server of its own."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from interop import openssl, relying_party, tools
from interop.processes import free_ports, listening, run, service
from interop.results import NewRow

KINDS = ("rsa-2048", "p256", "p384", "ed25519")


@dataclass(frozen=True)
class Leaf:
    """A certificate of the CA under test: the PEM files of its chain, its own and its key."""

    chain: Path
    certificate: Path
    key: Path


@dataclass(frozen=True)
class CA:
    """A running server whose root and issuing CA have keys of one kind."""

    kind: str
    command: Path
    home: Path
    http_port: int

    @property
    def root(self) -> Path:
        return self.home / "root.pem"

    @property
    def issuer(self) -> Path:
        path = self.home.parent / "issuing.pem"
        if not path.exists():
            run([self.command, "ca", "export", "issuing", "--home", self.home, "--out", path],
                cwd=self.home.parent)  # fmt: skip
        return path

    def url(self, authority: str = "issuing") -> str:
        return f"http://127.0.0.1:{self.http_port}/ocsp/{authority}"

    def issue(self, name: str) -> Leaf:
        base = self.home.parent / name
        words = [self.command, "cert", "issue", "--home", self.home, "--profile", "tls-server"]
        run([*words, "--dns", f"{name}.example.test", "--out", base], cwd=self.home.parent)
        chain = base.with_suffix(".crt")
        return Leaf(chain, openssl.split(chain)[0], base.with_suffix(".key"))

    def ask(self, *options: object) -> str:
        """`openssl ocsp` to the server, with the signature checked; its output."""
        words = ["ocsp", "-issuer", self.issuer, "-url", self.url(), "-timeout", "10"]
        words += ["-CAfile", self.root, "-verify_other", self.issuer, *map(str, options)]
        output = openssl.openssl(self.home.parent, *words)
        assert "Response verify OK" in output, output
        return output

    def revoke(self, leaf: Leaf) -> None:
        words = [self.command, "cert", "revoke", openssl.serial(leaf.chain), "--home", self.home]
        run([*words, "--reason", "superseded"], cwd=self.home.parent)


@contextlib.contextmanager
def _serving(folder: Path, kind: str) -> Iterator[CA]:
    https, http = free_ports(2)
    command = Path(sys.executable).with_name("pkiserver")
    home = folder / "pki"
    words = [command, "init", "--home", home, "--root-key", kind, "--issuing-key", kind]
    run([*words, "--https", f"127.0.0.1:{https}", "--http", f"127.0.0.1:{http}"], cwd=folder)
    with service([command, "serve", "--home", home], cwd=folder) as running:
        running.wait_until(lambda: listening(http), 60, "listener")
        yield CA(kind, command, home, http)


@pytest.fixture(params=KINDS, scope="module")
def ca(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CA]:
    with _serving(tmp_path_factory.mktemp(request.param), request.param) as made:
        yield made


def test_openssl(ca: CA, row: NewRow) -> None:
    """With and without a nonce, by each hash, about two certificates, signed."""
    leaf, other = ca.issue("one"), ca.issue("two")
    one, two = leaf.certificate, other.certificate
    version = openssl.openssl(ca.home.parent, "version").split()[1]
    seen = row("openssl ocsp", version, f"{ca.kind} CA: nonce, none, SHA-256, two, signed request")
    asked: list[list[object]] = [
        ["-cert", one],
        ["-no_nonce", "-cert", one],
        *(["-no_nonce", f"-{digest}", "-cert", one] for digest in ("sha256", "sha384", "sha512")),
        ["-signer", one, "-signkey", leaf.key, "-cert", one],
    ]
    for options in asked:
        output = ca.ask(*options)
        assert f"{one}: good" in output and "no nonce in response" not in output, output
    both = ca.ask("-cert", one, "-sha256", "-cert", two)
    assert f"{one}: good" in both and f"{two}: good" in both, both
    seen.passed("obtain")
    ca.revoke(leaf)
    for options in asked:
        assert f"{one}: revoked" in ca.ask(*options)
    both = ca.ask("-cert", one, "-sha256", "-cert", two)
    assert f"{one}: revoked" in both and f"{two}: good" in both, both
    seen.passed("revoke")


def test_the_parent_answers_for_a_ca(ca: CA) -> None:
    words = ["ocsp", "-issuer", ca.root, "-cert", ca.issuer, "-url", ca.url("root")]
    output = openssl.openssl(ca.home.parent, *words, "-CAfile", ca.root)
    assert "Response verify OK" in output and f"{ca.issuer}: good" in output, output


def test_gnutls(ca: CA, row: NewRow) -> None:
    tools.need(tools.debian("ocsptool", "gnutls-bin"))
    version = tools.debian_version("gnutls-bin")
    seen = row("ocsptool", version, f"{ca.kind} CA: POST with a nonce")
    leaf = ca.issue("gnutls")
    assert _ocsptool(ca, leaf) == "good"
    seen.passed("obtain")
    ca.revoke(leaf)
    assert _ocsptool(ca, leaf) == "revoked"
    seen.passed("revoke")


def _ocsptool(ca: CA, leaf: Leaf) -> str:
    words = ["ocsptool", f"--ask={ca.url()}", "--nonce", "--load-cert", leaf.certificate]
    words += ["--load-issuer", ca.issuer, "--load-trust", ca.issuer]
    output = run(words, cwd=ca.home.parent, status=None)
    assert "Verifying OCSP Response: Success" in output, output
    found = {
        line.partition(":")[2].strip()
        for line in output.splitlines()
        if line.strip().startswith("Certificate Status:")
    }
    assert len(found) == 1, output
    return found.pop()


def test_nss(ca: CA, row: NewRow) -> None:
    """NSS asks by GET first, at the URL in the certificate."""
    tools.need(tools.debian("ocspclnt", "libnss3-tools"))
    if ca.kind == "ed25519":
        pytest.skip("NSS of Debian 12 knows no Ed25519 certificates")
    seen = row("NSS ocspclnt", tools.debian_version("libnss3-tools"), f"{ca.kind} CA: GET")
    leaf = ca.issue("nss")
    folder = ca.home.parent / "store"
    folder.mkdir()
    store = f"sql:{folder}"
    run(["certutil", "-N", "-d", store, "--empty-password"], cwd=folder)
    for name, trust, file in (
        ("root", "CT,C,C", ca.root), ("issuing", ",,", ca.issuer), ("leaf", ",,", leaf.certificate),
    ):  # fmt: skip
        run(["certutil", "-A", "-d", store, "-n", name, "-t", trust, "-i", file], cwd=folder)
    ask = ["ocspclnt", "-S", "leaf", "-d", store]
    assert "succeeded" in run(ask, cwd=folder, status=None)
    seen.passed("obtain")
    ca.revoke(leaf)
    assert "has been revoked" in run(ask, cwd=folder, status=None)
    seen.passed("revoke")


def test_pkilint(ca: CA) -> None:
    """No finding in the answers about a certificate that is good, and then revoked."""
    leaf = ca.issue("lint")
    file = ca.home.parent / "answer.der"
    for status in ("good", "revoked"):
        ca.ask("-no_nonce", "-sha256", "-cert", leaf.certificate, "-respout", file)
        relying_party.lint("lint_ocsp_response", file)
        if status == "good":
            ca.revoke(leaf)
