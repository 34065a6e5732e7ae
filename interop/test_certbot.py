"""certbot, the current one from PyPI and Debian's, over each challenge it can answer."""

from pathlib import Path

import pytest

from interop import openssl, tools
from interop.processes import InteropError, python_script, run
from interop.results import NewRow
from interop.target import Target

_HOOK = """
import os, runpy, sys
name = "_acme-challenge." + os.environ["CERTBOT_DOMAIN"]
sys.argv = ["{hook}", "{action}", name, os.environ["CERTBOT_VALIDATION"]]
runpy.run_path("{hook}")
"""


class Certbot:
    """One certbot with directories of its own."""

    def __init__(self, command: Path, target: Target, home: Path) -> None:
        self.command = command
        self.target = target
        self.home = home

    def __call__(self, *words: str | Path, status: int | None = 0) -> str:
        places = ("config", "work", "logs")
        common = [item for name in places for item in (f"--{name}-dir", self.home / name)]
        env = {"REQUESTS_CA_BUNDLE": str(self.target.ca_bundle)}
        command = [self.command, *words, "--non-interactive", *common]
        return run(command, cwd=self.home, env=env, status=status)

    def obtain(self, *words: str | Path, name: str, directory: str = "") -> Path:
        """`certonly` into the lineage `name`; its full chain."""
        self(
            "certonly", "--agree-tos", "--register-unsafely-without-email",
            "--server", directory or self.target.directory_url, "--cert-name", name, *words,
        )  # fmt: skip
        return self.live(name)

    def standalone(self) -> tuple[str, ...]:
        return (
            "--standalone", "--http-01-address", "127.0.0.1",
            "--http-01-port", str(self.target.http01_port),
        )  # fmt: skip

    def live(self, name: str) -> Path:
        return self.home / "config" / "live" / name / "fullchain.pem"

    def key(self, name: str) -> Path:
        return self.live(name).with_name("privkey.pem")

    def last_log(self) -> str:
        return (self.home / "logs" / "letsencrypt.log").read_text()


@pytest.fixture(params=["pypi", "debian"])
def certbot(request: pytest.FixtureRequest, target: Target, workdir: Path) -> Certbot:
    loaders = {"pypi": tools.pypi(tools.CERTBOT, "certbot"), "debian": tools.debian("certbot")}
    return Certbot(tools.need(loaders[request.param]), target, workdir)


@pytest.fixture
def current(target: Target, workdir: Path) -> Certbot:
    return Certbot(tools.need(tools.pypi(tools.CERTBOT, "certbot")), target, workdir)


def version(certbot: Certbot) -> str:
    return certbot("--version").split()[-1]


def test_http_01_obtain_renew_revoke(certbot: Certbot, target: Target, row: NewRow) -> None:
    seen = row("certbot", version(certbot), "http-01, two names, account key revokes")
    name = "certbot.example.test"
    chain = certbot.obtain(*certbot.standalone(), "-d", name, "-d", f"www.{name}", name=name)
    first = openssl.verify(chain, target.roots, certbot.key(name), hostname=f"www.{name}")
    seen.passed("obtain")

    certbot("renew", "--force-renewal", "--no-random-sleep-on-renew")
    second = openssl.verify(chain, target.roots, certbot.key(name), hostname=name)
    assert first != second
    assert target.operator.status(second, chain) == "good"
    seen.passed("renew")

    certbot(
        "revoke", "--cert-path", chain, "--reason", "superseded", "--no-delete-after-revoke",
        "--server", target.directory_url,
    )  # fmt: skip
    assert target.operator.status(second, chain) == "revoked"
    seen.passed("revoke")


def test_revocation_with_the_certificate_key(certbot: Certbot, target: Target, row: NewRow) -> None:
    """RFC 8555 section 7.6: the certificate's own key authorises its revocation."""
    seen = row("certbot", version(certbot), "http-01, certificate key revokes")
    name = "bykey.example.test"
    chain = certbot.obtain(*certbot.standalone(), "-d", name, name=name)
    number = openssl.verify(chain, target.roots, certbot.key(name), hostname=name)
    seen.passed("obtain")
    certbot(
        "revoke", "--cert-path", chain, "--key-path", certbot.key(name),
        "--reason", "keycompromise", "--no-delete-after-revoke",
        "--server", target.directory_url,
    )  # fmt: skip
    assert target.operator.status(number, chain) == "revoked"
    seen.passed("revoke")


def test_wildcard_by_dns_01(certbot: Certbot, target: Target, workdir: Path, row: NewRow) -> None:
    """Base name and wildcard put two TXT values at one name (RFC 8555 section 8.4)."""
    seen = row("certbot", version(certbot), "dns-01, wildcard and base name")
    hook = target.dns.hook(workdir / "txt.py")
    hooks = {
        action: python_script(workdir / f"{action}.py", _HOOK.format(hook=hook, action=action))
        for action in ("present", "cleanup")
    }
    name = "wild.example.test"
    chain = certbot.obtain(
        "--manual", "--preferred-challenges", "dns",
        "--manual-auth-hook", hooks["present"], "--manual-cleanup-hook", hooks["cleanup"],
        "-d", name, "-d", f"*.{name}", name=name,
    )  # fmt: skip
    openssl.verify(chain, target.roots, certbot.key(name), hostname=f"any.{name}")
    seen.passed("obtain")


def test_account_update_and_deactivation(certbot: Certbot, target: Target, row: NewRow) -> None:
    """RFC 8555 sections 7.3.2 and 7.3.6."""
    seen = row("certbot", version(certbot), "account: register, update contact, deactivate")
    server = ("--server", target.directory_url)
    certbot("register", "--agree-tos", "--email", "first@example.test", *server)
    certbot("update_account", "--email", "second@example.test", *server)
    certbot("unregister", *server)
    assert not list((certbot.home / "config" / "accounts").rglob("regr.json"))
    assert seen.steps == []


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_renewal_with_another_key_kind(
    current: Certbot, target: Target, row: NewRow, kind: str
) -> None:
    seen = row("certbot", version(current), f"http-01, {kind} key kept, then new key")
    name = f"{kind}.example.test"
    words = (*current.standalone(), "-d", name, "--key-type", kind)
    chain = current.obtain(*words, "--reuse-key", name=name)
    openssl.verify(chain, target.roots, current.key(name), hostname=name)
    seen.passed("obtain")
    before = current.key(name).read_bytes()
    current("renew", "--force-renewal", "--no-random-sleep-on-renew")
    assert current.key(name).read_bytes() == before
    current.obtain(*words, "--reuse-key", "--new-key", "--force-renewal", name=name)
    assert current.key(name).read_bytes() != before
    openssl.verify(chain, target.roots, current.key(name), hostname=name)
    seen.passed("renew")


def test_external_account_binding(certbot: Certbot, target: Target, row: NewRow) -> None:
    """RFC 8555 section 7.3.4: with the key it works, without it the account is refused."""
    seen = row("certbot", version(certbot), "http-01, external account binding")
    eab = target.operator.external_account()
    name = "eab.example.test"
    with pytest.raises(InteropError, match=r"(?i)external account"):
        certbot.obtain(*certbot.standalone(), "-d", name, name=name, directory=eab.directory_url)
    words = ("--eab-kid", eab.kid, "--eab-hmac-key", eab.hmac_key)
    chain = certbot.obtain(
        *certbot.standalone(), *words, "-d", name, name=name, directory=eab.directory_url
    )
    openssl.verify(chain, target.roots, certbot.key(name), hostname=name)
    seen.passed("obtain")


def test_ip_address_certificate(current: Certbot, target: Target, row: NewRow) -> None:
    """RFC 8738, over http-01."""
    if target.name == "pebble":
        pytest.skip("this pebble repeats the address as common name, which certbot 5 refuses")
    seen = row("certbot", version(current), "http-01, IP address identifier")
    chain = current.obtain(*current.standalone(), "--ip-address", "127.0.0.1", name="ip")
    openssl.verify(chain, target.roots, current.key("ip"), ip="127.0.0.1")
    seen.passed("obtain")


def test_profile_and_renewal_information(current: Certbot, target: Target, row: NewRow) -> None:
    """RFC 9773 and the profiles extension, where the directory offers them."""
    if "renewalInfo" not in target.directory():
        pytest.skip(f"{target.name} {target.version} offers no renewalInfo")
    seen = row("certbot", version(current), "http-01, profile, renewal information (ARI)")
    name = "ari.example.test"
    profiles = [word for item in target.profiles()[:1] for word in ("--required-profile", item)]
    chain = current.obtain(*current.standalone(), *profiles, "-d", name, name=name)
    first = openssl.verify(chain, target.roots, current.key(name), hostname=name)
    seen.passed("obtain")
    assert "not due for renewal" in current("renew", "--no-random-sleep-on-renew")
    assert target.directory()["renewalInfo"] in current.last_log()
    assert openssl.serial(chain) == first
    current("renew", "--force-renewal", "--no-random-sleep-on-renew")
    assert openssl.verify(chain, target.roots, current.key(name), hostname=name) != first
    seen.passed("renew")
