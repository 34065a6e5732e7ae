"""lego, Debian's, over http-01, dns-01 and tls-alpn-01; the library is also Traefik's."""

from pathlib import Path

import pytest

from interop import openssl, tools
from interop.processes import run
from interop.results import NewRow
from interop.target import Target


class Lego:
    """lego with a directory of its own."""

    def __init__(self, command: Path, target: Target, home: Path) -> None:
        self.command = command
        self.target = target
        self.home = home

    def __call__(self, how: list[str], *words: str, directory: str = "") -> str:
        env = {
            "LEGO_CA_CERTIFICATES": str(self.target.ca_bundle),
            "EXEC_PATH": str(self.target.dns.hook(self.home / "txt.py")),
            "EXEC_SEQUENCE_INTERVAL": "1",
            "EXEC_POLLING_INTERVAL": "1",
        }
        server = directory or self.target.directory_url
        common = ["--server", server, "--accept-tos", "--email", "lego@example.test"]
        common += ["--http-timeout", "60", "--cert.timeout", "100"]
        command = [self.command, *common, "--path", self.home / "lego", *how, *words]
        return run(command, cwd=self.home, env=env)

    def files(self, name: str) -> tuple[Path, Path]:
        """Chain and key of the certificate for `name`."""
        base = self.home / "lego" / "certificates" / name.replace("*", "_")
        return base.with_name(f"{base.name}.crt"), base.with_name(f"{base.name}.key")

    def answers(self, challenge: str) -> list[str]:
        """The options with which it answers one type of challenge itself."""
        return {
            "http-01": ["--http", "--http.port", f"127.0.0.1:{self.target.http01_port}"],
            "tls-alpn-01": ["--tls", "--tls.port", f"127.0.0.1:{self.target.tls_alpn01_port}"],
            "dns-01": [
                "--dns", "exec", "--dns.disable-cp", "--dns.resolvers", self.target.dns.resolver,
            ],
        }[challenge]  # fmt: skip


@pytest.fixture
def lego(target: Target, workdir: Path) -> Lego:
    return Lego(tools.need(tools.debian("lego")), target, workdir)


@pytest.mark.parametrize("challenge", ["http-01", "dns-01", "tls-alpn-01"])
def test_obtain_renew_revoke(lego: Lego, target: Target, row: NewRow, challenge: str) -> None:
    seen = row("lego", tools.debian_version("lego"), challenge)
    name = f"{challenge}.lego.example.test"
    how = [*lego.answers(challenge), "--domains", name, "--domains", f"www.{name}"]
    lego(how, "run")
    chain, key = lego.files(name)
    first = openssl.verify(chain, target.roots, key, hostname=f"www.{name}")
    seen.passed("obtain")

    lego(how, "renew", "--days", "10000", "--no-random-sleep")
    second = openssl.verify(chain, target.roots, key, hostname=name)
    assert first != second
    seen.passed("renew")

    lego(how, "revoke", "--keep")
    assert target.operator.status(second, chain) == "revoked"
    seen.passed("revoke")


@pytest.mark.parametrize("kind", ["rsa2048", "ec384"])
def test_wildcard_by_dns_01(lego: Lego, target: Target, row: NewRow, kind: str) -> None:
    seen = row("lego", tools.debian_version("lego"), f"dns-01, wildcard, {kind}")
    name = f"*.{kind}.example.test"
    how = [*lego.answers("dns-01"), "--domains", name, "--key-type", kind]
    lego(how, "run")
    chain, key = lego.files(name)
    openssl.verify(chain, target.roots, key, hostname=f"any.{kind}.example.test")
    seen.passed("obtain")


def test_own_csr(lego: Lego, target: Target, row: NewRow, workdir: Path) -> None:
    """A CSR with an empty subject, so the name is in the SAN alone."""
    seen = row("lego", tools.debian_version("lego"), "http-01, own CSR")
    key = openssl.new_key(workdir / "own.key")
    csr = openssl.new_csr(workdir / "own.csr", key, "csr.example.test")
    lego([*lego.answers("http-01"), "--csr", str(csr)], "run")
    chain, _ = lego.files("csr.example.test")
    openssl.verify(chain, target.roots, key, hostname="csr.example.test")
    seen.passed("obtain")


def test_external_account_binding(lego: Lego, target: Target, row: NewRow) -> None:
    """RFC 8555 section 7.3.4."""
    seen = row("lego", tools.debian_version("lego"), "http-01, external account binding")
    eab = target.operator.external_account()
    name = "eab.lego.example.test"
    how = [*lego.answers("http-01"), "--domains", name]
    how += ["--eab", "--kid", eab.kid, "--hmac", eab.hmac_key]
    lego(how, "run", directory=eab.directory_url)
    chain, key = lego.files(name)
    openssl.verify(chain, target.roots, key, hostname=name)
    seen.passed("obtain")
