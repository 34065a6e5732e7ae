"""Small clients that leave the challenge to a hook or a web root: uacme, dehydrated, acme-tiny."""

import os
import shlex
from pathlib import Path

import pytest

from interop import openssl, tools
from interop.processes import InteropError, run
from interop.results import NewRow
from interop.target import Target

_UACME_HOOK = """#!/bin/sh
# uacme: METHOD TYPE IDENT TOKEN AUTH; another exit status than 0 declines the challenge type
case "$1:$2" in
    begin:http-01) printf %s "$5" > {challenges}/"$4" ;;
    begin:dns-01) exit 1 ;;
    begin:*) exit 1 ;;
    *:http-01) rm -f {challenges}/"$4" ;;
esac
"""
_SYSTEM_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


@pytest.fixture
def challenges(webroot: Path) -> Path:
    return webroot / ".well-known" / "acme-challenge"


class Uacme:
    """uacme, which trusts only the system's bundle: it gets a mount namespace with ours there."""

    def __init__(self, target: Target, home: Path, challenges: Path) -> None:
        self.target = target
        self.home = home
        self.config = home / "uacme"
        self.hook = home / "hook.sh"
        self.hook.write_text(_UACME_HOOK.format(challenges=shlex.quote(str(challenges))))
        self.hook.chmod(0o755)

    def __call__(self, *words: str | Path) -> str:
        uacme = ["uacme", "-v", "-y", "-c", self.config, "-a", self.target.directory_url]
        uacme += ["-h", self.hook, *words]
        bind = f"mount --bind {shlex.quote(str(self.target.ca_bundle))} {_SYSTEM_BUNDLE}"
        inner = f"{bind} && exec {shlex.join(str(word) for word in uacme)}"
        return run(["unshare", "--mount", "sh", "-c", inner], cwd=self.home)


def _can_bind_mount(home: Path) -> bool:
    if os.geteuid() != 0 or not _SYSTEM_BUNDLE.exists():
        return False
    try:
        run(["unshare", "--mount", "true"], cwd=home)
    except (InteropError, OSError):
        return False
    return True


def test_uacme(target: Target, workdir: Path, challenges: Path, row: NewRow) -> None:
    tools.need(tools.debian("uacme"))
    if not _can_bind_mount(workdir):
        pytest.skip("uacme has no option for a trust anchor and mount namespaces need root here")
    seen = row("uacme", tools.debian_version("uacme"), "http-01; account key rollover")
    uacme = Uacme(target, workdir, challenges)
    name = "uacme.example.test"
    uacme("new", "uacme@example.test")
    uacme("issue", name, f"www.{name}")
    chain = uacme.config / name / "cert.pem"
    key = uacme.config / "private" / name / "key.pem"
    first = openssl.verify(chain, target.roots, key, hostname=f"www.{name}")
    seen.passed("obtain")

    uacme("newkey")
    uacme("--force", "issue", name)
    second = openssl.verify(chain, target.roots, key, hostname=name)
    assert first != second
    seen.passed("renew")

    kept = openssl.joined(workdir / "kept.pem", chain)
    uacme("revoke", chain)
    assert target.operator.status(second, kept) == "revoked"
    seen.passed("revoke")
    uacme("deactivate")


@pytest.mark.parametrize("algorithm", ["rsa", "secp384r1"])
def test_dehydrated(
    target: Target, workdir: Path, challenges: Path, row: NewRow, algorithm: str
) -> None:
    """Bash and curl; polls the challenge URL and reads one link per header line."""
    command = tools.need(tools.debian("dehydrated"))
    seen = row("dehydrated", tools.debian_version("dehydrated"), f"http-01, {algorithm}")
    config = workdir / "config"
    config.write_text(
        f"CA={target.directory_url}\nBASEDIR={workdir}\nWELLKNOWN={challenges}\n"
        f"CURL_OPTS='--cacert {target.ca_bundle}'\nKEY_ALGO={algorithm}\n"
        "CONTACT_EMAIL=dehydrated@example.test\n"
    )
    name = "dehydrated.example.test"

    def dehydrated(*words: str | Path) -> str:
        return run([command, "--config", config, *words], cwd=workdir)

    dehydrated("--register", "--accept-terms")
    domains = ("--domain", f"{name} www.{name}")
    dehydrated("--cron", *domains)
    chain = workdir / "certs" / name / "fullchain.pem"
    key = workdir / "certs" / name / "privkey.pem"
    first = openssl.verify(chain.resolve(), target.roots, key, hostname=f"www.{name}")
    seen.passed("obtain")

    dehydrated("--cron", "--force", *domains)
    second = openssl.verify(chain.resolve(), target.roots, key, hostname=name)
    assert first != second
    seen.passed("renew")

    kept = openssl.joined(workdir / "kept.pem", chain)
    dehydrated("--revoke", chain.with_name("cert.pem"))
    assert target.operator.status(second, kept) == "revoked"
    seen.passed("revoke")
    dehydrated("--deactivate")


def test_dehydrated_by_dns_01(target: Target, workdir: Path, row: NewRow) -> None:
    command = tools.need(tools.debian("dehydrated"))
    seen = row("dehydrated", tools.debian_version("dehydrated"), "dns-01, wildcard")
    txt = target.dns.hook(workdir / "txt.py")
    hook = workdir / "hook.sh"
    hook.write_text(
        "#!/bin/sh\n# dehydrated: OPERATION DOMAIN TOKEN VALUE\n"
        'case "$1" in\n'
        f'    deploy_challenge) exec {txt} present "_acme-challenge.$2" "$4" ;;\n'
        f'    clean_challenge) exec {txt} cleanup "_acme-challenge.$2" ;;\n'
        "esac\n"
    )
    hook.chmod(0o755)
    config = workdir / "config"
    config.write_text(
        f"CA={target.directory_url}\nBASEDIR={workdir}\nHOOK={hook}\nCHALLENGETYPE=dns-01\n"
        f"CURL_OPTS='--cacert {target.ca_bundle}'\n"
    )
    words = [command, "--config", config]
    run([*words, "--register", "--accept-terms"], cwd=workdir)
    domains = ["--domain", "dehydrated-dns.example.test *.dehydrated-dns.example.test"]
    run([*words, "--cron", *domains], cwd=workdir)
    chain = workdir / "certs" / "dehydrated-dns.example.test" / "fullchain.pem"
    openssl.verify(chain.resolve(), target.roots, hostname="any.dehydrated-dns.example.test")
    seen.passed("obtain")


def test_acme_tiny(target: Target, workdir: Path, challenges: Path, row: NewRow) -> None:
    """200 lines of Python and openssl; the account key is always RSA."""
    command = tools.need(tools.pypi(tools.ACME_TINY, "acme-tiny"))
    seen = row("acme-tiny", tools.pinned(tools.ACME_TINY), "http-01")
    account = openssl.new_key(workdir / "account.key", "RSA")
    key = openssl.new_key(workdir / "tiny.key")
    csr = openssl.new_csr(workdir / "tiny.csr", key, "tiny.example.test")
    chain = workdir / "tiny.crt"

    def obtain() -> str:
        words = [command, "--account-key", account, "--csr", csr, "--acme-dir", challenges]
        words += ["--directory-url", target.directory_url, "--disable-check", "--quiet"]
        output = run(words, cwd=workdir, env={"SSL_CERT_FILE": str(target.ca_bundle)})
        chain.write_text(output)
        return openssl.verify(chain, target.roots, key, hostname="tiny.example.test")

    first = obtain()
    seen.passed("obtain")
    assert obtain() != first
    seen.passed("renew")
