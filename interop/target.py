"""The server under test behind one shape: Debian's `pebble`, or `pkiserver up`."""

import contextlib
import importlib.metadata
import json
import ssl
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from interop import openssl
from interop.dns import ChallengeDNS
from interop.ports import free_ports
from interop.processes import InteropError, run, service

START_SECONDS = 120


@dataclass(frozen=True)
class EabDirectory:
    """A directory that requires external account binding, and one unused key (base64url)."""

    directory_url: str
    kid: str
    hmac_key: str


class Operator(Protocol):
    """What only the operator of a server can do or know."""

    def external_account(self) -> EabDirectory:
        """A fresh external account key."""
        ...

    def status(self, serial: str, chain: Path) -> str:
        """`good` or `revoked` for a serial (upper-case hex) whose PEM chain is at `chain`."""
        ...


@dataclass(frozen=True)
class Target:
    """A running ACME server; all ports are on 127.0.0.1."""

    name: str
    version: str
    directory_url: str
    ca_bundle: Path
    roots: Path
    http01_port: int
    tls_alpn01_port: int
    dns: ChallengeDNS
    operator: Operator

    def get(self, url: str) -> bytes:
        """The body at an HTTPS URL of the server."""
        return https_get(url, self.ca_bundle)

    def directory(self) -> dict[str, Any]:
        """The directory object (RFC 8555 section 7.1.1)."""
        directory: dict[str, Any] = json.loads(self.get(self.directory_url))
        return directory

    def profiles(self) -> tuple[str, ...]:
        """Names of the profiles it offers, in order."""
        return tuple(sorted(self.directory().get("meta", {}).get("profiles", {})))

    def serves_revocation(self) -> bool:
        """Whether the OCSP and CRL URLs in its certificates are to be checked."""
        return self.name == "pkiserver"


def https_get(url: str, ca_bundle: Path) -> bytes:
    """GET with the server's certificate checked against `ca_bundle`."""
    context = ssl.create_default_context(cafile=str(ca_bundle))
    with urllib.request.urlopen(url, context=context, timeout=30) as answer:
        body: bytes = answer.read()
    return body


def _answers(url: str, ca_bundle: Path) -> bool:
    try:
        https_get(url, ca_bundle)
    except (OSError, ssl.SSLError):
        return False
    return True


# pebble


@dataclass(frozen=True)
class PebbleOperator:
    """Pebble's management interface; its key list is fixed in the configuration."""

    management_url: str
    ca_bundle: Path
    eab: EabDirectory | None

    def external_account(self) -> EabDirectory:
        if self.eab is None:
            raise InteropError("this pebble was started without external account keys")
        return self.eab

    def status(self, serial: str, chain: Path) -> str:
        number = f"{int(serial, 16):x}"
        url = f"{self.management_url}/cert-status-by-serial/{number}"
        answer: dict[str, str] = json.loads(https_get(url, self.ca_bundle))
        return {"Valid": "good", "Revoked": "revoked"}[answer["Status"]]


_EAB_KID = "kid-1"
_EAB_KEY = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"


@contextlib.contextmanager
def _pebble_process(
    home: Path, dns: ChallengeDNS, ports: Sequence[int], eab: bool
) -> Iterator[tuple[str, str]]:
    """A pebble; its directory URL and its management URL."""
    acme, management, http01, tls_alpn01 = ports
    settings = {
        "listenAddress": f"127.0.0.1:{acme}",
        "managementListenAddress": f"127.0.0.1:{management}",
        "certificate": str(home / "tls.crt"),
        "privateKey": str(home / "tls.key"),
        "httpPort": http01,
        "tlsPort": tls_alpn01,
        "ocspResponderURL": "",
        "externalAccountBindingRequired": eab,
        "externalAccountMACKeys": {_EAB_KID: _EAB_KEY} if eab else {},
    }
    config = home / f"pebble-{acme}.json"
    config.write_text(json.dumps({"pebble": settings}))
    quick = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0", "PEBBLE_AUTHZREUSE": "0"}
    command = ["pebble", "-config", config, "-dnsserver", dns.resolver, "-strict"]
    with service(command, cwd=home, env=quick) as running:
        url = f"https://localhost:{acme}/dir"
        running.wait_until(lambda: _answers(url, home / "tls.crt"), START_SECONDS, "directory")
        yield url, f"https://localhost:{management}"


@contextlib.contextmanager
def pebble(home: Path, dns: ChallengeDNS) -> Iterator[Target]:
    """Debian's pebble, and a second one that requires external account binding."""
    bundle = openssl.self_signed(home / "tls", "localhost")
    acme, management, http01, tls_alpn01, eab_acme, eab_management = free_ports(6)
    validation = (http01, tls_alpn01)
    with (
        _pebble_process(home, dns, (acme, management, *validation), eab=False) as (url, manage),
        _pebble_process(home, dns, (eab_acme, eab_management, *validation), eab=True) as second,
    ):
        roots = home / "roots.pem"
        roots.write_bytes(
            https_get(f"{manage}/roots/0", bundle) + https_get(f"{second[1]}/roots/0", bundle)
        )
        eab = EabDirectory(second[0], _EAB_KID, _EAB_KEY)
        version = run(["dpkg-query", "-W", "-f=${Version}", "pebble"], cwd=home)
        operator = PebbleOperator(manage, bundle, eab)
        yield Target("pebble", version, url, bundle, roots, http01, tls_alpn01, dns, operator)


# pkiserver


@dataclass(frozen=True)
class PkiserverOperator:
    """The `pkiserver` command on the home of the running server, and its OCSP responder."""

    command: Path
    home: Path
    base_url: str
    env: dict[str, str]

    def external_account(self) -> EabDirectory:
        text = run(
            [self.command, "acme", "eab", "create", "--home", self.home, "--json"],
            cwd=self.home.parent,
            env=self.env,
        )
        created: dict[str, str] = json.loads(text)
        url = f"{self.base_url}/acme/eab/directory"
        return EabDirectory(url, created["kid"], created["hmac_key"])

    def status(self, serial: str, chain: Path) -> str:
        return openssl.ocsp_status(chain, self.home / "root.pem")

    @property
    def approved_directory_url(self) -> str:
        """A directory whose profile needs a second person."""
        return f"{self.base_url}/acme/approved/directory"

    def approve(self, name: str, seconds: float = START_SECONDS) -> None:
        """Approve the request for that DNS name, once it is there."""
        deadline = time.monotonic() + seconds
        while not (found := [a for a in self._waiting() if f"dns:{name}" in a["names"]]):
            if time.monotonic() > deadline:
                raise InteropError(f"nobody asked for {name} in {seconds} s")
            time.sleep(0.2)
        self._approvals("approve", found[0]["id"])

    def _waiting(self) -> list[dict[str, Any]]:
        waiting: list[dict[str, Any]] = json.loads(self._approvals("list"))
        return waiting

    def _approvals(self, *words: str) -> str:
        command = [self.command, "approvals", *words, "--home", self.home, "--json"]
        return run(command, cwd=self.home.parent, env=self.env)


@contextlib.contextmanager
def pkiserver(home: Path, dns: ChallengeDNS) -> Iterator[Target]:
    """`pkiserver up` in a new home, with the directories `default`, `eab` and `approved`."""
    https, http, http01, tls_alpn01 = free_ports(4)
    command = Path(sys.executable).with_name("pkiserver")
    env = {
        f"PKISERVER_ACME__{name}__{key}": value
        for name in ("DEFAULT", "EAB", "APPROVED")
        for key, value in {
            "HTTP01_PORT": str(http01),
            "TLS_ALPN01_PORT": str(tls_alpn01),
            "DNS_RESOLVERS": json.dumps([dns.resolver]),
        }.items()
    }
    env["PKISERVER_ACME__EAB__EXTERNAL_ACCOUNT_REQUIRED"] = "true"
    env["PKISERVER_ACME__APPROVED__PROFILE"] = "approved"
    env |= {
        f"PKISERVER_PROFILES__APPROVED__{key}": value
        for key, value in {
            "REQUIRES_APPROVAL": "true",
            "DNS": '{"allow": ["*"]}',
            "EXTENDED_KEY_USAGE": '["serverAuth"]',
        }.items()
    }
    # pkilint takes a host without a dot for a mistake in a URI
    env["PKISERVER_SERVER__EXTERNAL_HTTP_URL"] = f"http://127.0.0.1:{http}"
    pki = home / "pki"
    base_url = f"https://localhost:{https}"
    words = [command, "up", "--home", pki, "--hostname", "localhost"]
    words += ["--https", f"127.0.0.1:{https}", "--http", f"127.0.0.1:{http}"]
    with service(words, cwd=home, env=env) as running:
        root = pki / "root.pem"
        running.wait_until(
            lambda: root.exists() and _answers(f"{base_url}/readyz", root), START_SECONDS, "readyz"
        )
        yield Target(
            name="pkiserver",
            version=importlib.metadata.version("pkiserver"),
            directory_url=f"{base_url}/acme/default/directory",
            ca_bundle=root,
            roots=root,
            http01_port=http01,
            tls_alpn01_port=tls_alpn01,
            dns=dns,
            operator=PkiserverOperator(command, pki, base_url, env),
        )


STARTERS = {"pebble": pebble, "pkiserver": pkiserver}
