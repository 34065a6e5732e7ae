"""Servers that obtain and renew by themselves: Caddy, Traefik, Apache with mod_md."""

import base64
import json
import pwd
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from interop import openssl, tools
from interop.ports import free_ports
from interop.processes import Service, service
from interop.results import NewRow
from interop.target import Target

WAIT_SECONDS = 120


def _wait_for_serial(
    running: Service, serial: Callable[[], str | None], previous: str | None = None
) -> None:
    """Until there is a certificate, another one than `previous`."""
    what = "certificate" if previous is None else "renewed certificate"
    running.wait_until(lambda: serial() not in (None, previous), WAIT_SECONDS, what)


def _serial_in(chain: Path, key: Path) -> Callable[[], str | None]:
    """Serial in a file that a server writes; None while there is none."""
    return lambda: openssl.serial(chain) if chain.exists() and key.exists() else None


# Caddy


def _caddy_config(target: Target, home: Path, name: str, challenge: str) -> Path:
    """A site for `name` that renews at each look, every other second."""
    http_port = target.http01_port if challenge == "http-01" else free_ports(1)[0]
    https_port = target.tls_alpn01_port if challenge == "tls-alpn-01" else free_ports(1)[0]
    unused = {"http-01": "tls-alpn", "tls-alpn-01": "http"}[challenge]
    issuer = {
        "module": "acme",
        "ca": target.directory_url,
        "email": "caddy@example.test",
        "trusted_roots_pem_files": [str(target.ca_bundle)],
        "challenges": {unused: {"disabled": True}},
    }
    policy = {"subjects": [name], "issuers": [issuer], "renewal_window_ratio": 1}
    site = {
        "listen": [f"127.0.0.1:{https_port}"],
        "routes": [{"match": [{"host": [name]}], "terminal": True}],
    }
    redirects = {"listen": [f"127.0.0.1:{http_port}"], "routes": []}
    config = {
        "admin": {"disabled": True, "config": {"persist": False}},
        "storage": {"module": "file_system", "root": str(home / "storage")},
        "apps": {
            "http": {
                "http_port": http_port,
                "https_port": https_port,
                "servers": {"site": site, "plain": redirects},
            },
            "tls": {"automation": {"policies": [policy], "renew_interval": "2s"}},
        },
    }
    path = home / "caddy.json"
    path.write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("challenge", ["http-01", "tls-alpn-01"])
def test_caddy(target: Target, workdir: Path, row: NewRow, challenge: str) -> None:
    caddy = tools.need(tools.pypi(tools.CADDY, "caddy"))
    seen = row("Caddy", tools.pinned(tools.CADDY), challenge)
    name = f"{challenge}.caddy.example.test"
    config = _caddy_config(target, workdir, name, challenge)
    with service([caddy, "run", "--config", config], cwd=workdir) as running:
        found = workdir / "storage" / "certificates"
        running.wait_until(lambda: any(found.rglob("*.crt")), WAIT_SECONDS, "certificate")
        chain = next(found.rglob("*.crt"))
        key = chain.with_suffix(".key")
        first = openssl.verify(chain, target.roots, hostname=name)
        seen.passed("obtain")
        _wait_for_serial(running, _serial_in(chain, key), first)
    openssl.verify(chain, target.roots, key, hostname=name)
    seen.passed("renew")


# Traefik


def _traefik_files(target: Target, home: Path, name: str, challenge: str) -> Path:
    """Static and dynamic configuration, in JSON, which is YAML too; the static one."""
    web = target.http01_port if challenge == "http-01" else free_ports(1)[0]
    websecure = target.tls_alpn01_port if challenge == "tls-alpn-01" else free_ports(1)[0]
    answers: dict[str, dict[str, dict[str, str]]] = {
        "http-01": {"httpChallenge": {"entryPoint": "web"}},
        "tls-alpn-01": {"tlsChallenge": {}},
    }
    router = {
        "rule": f"Host(`{name}`)",
        "entryPoints": ["websecure"],
        "service": "noop@internal",
        "tls": {"certResolver": "ours"},
    }
    dynamic = home / "dynamic.yml"
    dynamic.write_text(json.dumps({"http": {"routers": {"site": router}}}))
    acme = {
        "email": "traefik@example.test",
        "storage": str(home / "acme.json"),
        "caServer": target.directory_url,
        "caCertificates": [str(target.ca_bundle)],
        "keyType": "EC256",
        **answers[challenge],
    }
    static = {
        "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
        "log": {"level": "DEBUG"},
        "entryPoints": {
            "web": {"address": f"127.0.0.1:{web}"},
            "websecure": {"address": f"127.0.0.1:{websecure}"},
        },
        "providers": {"file": {"filename": str(dynamic)}},
        "certificatesResolvers": {"ours": {"acme": acme}},
    }
    path = home / "traefik.yml"
    path.write_text(json.dumps(static))
    return path


def _json(text: str) -> dict[str, Any]:
    """The object; empty while it is being written."""
    try:
        found: dict[str, Any] = json.loads(text)
    except ValueError:
        return {}
    return found


def _from_acme_json(home: Path) -> Callable[[], str | None]:
    """Serial of the first certificate in Traefik's store, which is put in files."""

    def look() -> str | None:
        store = home / "acme.json"
        text = store.read_text() if store.exists() else ""
        content = _json(text)
        certificates = content.get("ours", {}).get("Certificates") or []
        if not certificates:
            return None
        chain = home / "traefik.crt"
        chain.write_bytes(base64.b64decode(certificates[0]["certificate"]))
        (home / "traefik.key").write_bytes(base64.b64decode(certificates[0]["key"]))
        return openssl.serial(chain)

    return look


@pytest.mark.parametrize("challenge", ["http-01", "tls-alpn-01"])
def test_traefik(target: Target, workdir: Path, row: NewRow, challenge: str) -> None:
    """At a start it renews what ends sooner than its renewal period: a long one is told it."""
    traefik = tools.need(tools.pypi(tools.TRAEFIK, "traefik"))
    seen = row("Traefik", tools.pinned(tools.TRAEFIK), challenge)
    name = f"{challenge}.traefik.example.test"
    config = _traefik_files(target, workdir, name, challenge)
    serial = _from_acme_json(workdir)

    def check() -> str:
        chain = workdir / "traefik.crt"
        return openssl.verify(chain, target.roots, workdir / "traefik.key", hostname=name)

    command = [traefik, f"--configFile={config}"]
    with service(command, cwd=workdir) as running:
        _wait_for_serial(running, serial)
    first = check()
    seen.passed("obtain")

    if target.name == "pebble":
        return  # its certificates run for five years, longer than any renewal period of Traefik's
    content = json.loads(config.read_text())
    content["certificatesResolvers"]["ours"]["acme"]["certificatesDuration"] = 10_000
    config.write_text(json.dumps(content))
    with service(command, cwd=workdir) as running:
        _wait_for_serial(running, serial, first)
    check()
    seen.passed("renew")


# Apache mod_md


@pytest.fixture
def apache_home() -> Iterator[Path]:
    """A directory that the server's unprivileged user can write and reach."""
    home = Path(tempfile.mkdtemp(prefix="interop-apache-"))
    try:
        user = pwd.getpwnam("www-data")
        shutil.chown(home, user.pw_uid, user.pw_gid)
        home.chmod(0o755)
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _apache_config(target: Target, home: Path, name: str, challenge: str, window: str) -> Path:
    """mod_md manages `name`; its watchdog looks every few seconds."""
    modules = Path("/usr/lib/apache2/modules")
    wanted = ("mpm_event", "authz_core", "ssl", "md", "socache_shmcb")
    lines = [f"LoadModule {name}_module {modules}/mod_{name}.so" for name in wanted]
    bundle = home / "ca.pem"
    bundle.write_bytes(target.ca_bundle.read_bytes())
    bundle.chmod(0o644)
    lines += [
        f"ServerRoot {home}", "ServerName localhost", f"PidFile {home}/httpd.pid",
        f"DefaultRuntimeDir {home}", f"ErrorLog {home}/error.log", "LogLevel warn md:debug",
        f"Mutex file:{home} default", "User www-data", "Group www-data",
        f"Listen 127.0.0.1:{target.http01_port}", f"Listen 127.0.0.1:{target.tls_alpn01_port}",
        f"MDPortMap http:{target.http01_port} https:{target.tls_alpn01_port}",
        f"MDStoreDir {home}/md", f"MDCertificateAuthority {target.directory_url}",
        "MDCertificateAgreement accepted", f"MDCACertificateFile {bundle}",
        f"MDCAChallenges {challenge}", f"MDRenewWindow {window}", "MDStapling off",
        "MDContactEmail apache@example.test", f"MDomain {name}", "MDCheckInterval 1s",
        f"<VirtualHost 127.0.0.1:{target.tls_alpn01_port}>", f"  ServerName {name}",
        "  SSLEngine on", "  Protocols acme-tls/1 http/1.1", f"  DocumentRoot {home}",
        "</VirtualHost>",
        f"<VirtualHost 127.0.0.1:{target.http01_port}>", f"  ServerName {name}",
        f"  DocumentRoot {home}", "</VirtualHost>",
    ]  # fmt: skip
    path = home / "httpd.conf"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("challenge", ["http-01", "tls-alpn-01"])
def test_apache_mod_md(target: Target, apache_home: Path, row: NewRow, challenge: str) -> None:
    """It fetches into `staging`, and takes the certificate into use at the next start."""
    apache = tools.need(tools.debian("apache2", "apache2-bin"))
    seen = row("Apache mod_md", tools.debian_version("apache2-bin"), challenge)
    name = f"{challenge}.apache.example.test"
    domain = apache_home / "md" / "domains" / name
    chain, key = domain / "pubcert.pem", domain / "privkey.pem"
    staged = apache_home / "md" / "staging" / name / "job.json"

    def finished() -> bool:
        return staged.exists() and _json(staged.read_text()).get("finished") is True

    def fetch(window: str) -> None:
        config = _apache_config(target, apache_home, name, challenge, window)
        command = [apache, "-f", config, "-DFOREGROUND"]
        with service(command, cwd=apache_home) as running:
            running.wait_until(finished, WAIT_SECONDS, "certificate")
        with service(command, cwd=apache_home) as running:
            running.wait_until(lambda: not staged.exists(), WAIT_SECONDS, "activation")

    fetch("33%")
    first = openssl.verify(chain, target.roots, key, hostname=name)
    seen.passed("obtain")
    fetch("10000d")
    assert openssl.verify(chain, target.roots, key, hostname=name) != first
    seen.passed("renew")
