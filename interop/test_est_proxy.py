"""nginx in front of EST, as docs/recipes/est-proxy.md and config/proxy/nginx.conf have it: TLS that
ends there, for passwords; and TLS that is passed through, for client certificates."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from interop import openssl
from interop.est_pki import RECIPES, Client, EstPKI, Held, est_pki, fenced
from interop.ports import free_ports
from interop.processes import listening, run, service
from interop.results import NewRow
from interop.tools import TOP, ToolMissing, debian, debian_version, need

ENDING = TOP / "config" / "proxy" / "nginx.conf"
STREAM = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def stream_module() -> Path:
    """Debian's; its packages enable it for the whole system, which is not looked at here."""
    if not STREAM.exists():
        raise ToolMissing("nginx stream: apt-get install libnginx-mod-stream")
    return STREAM


@pytest.fixture(scope="module")
def passed_on(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EstPKI, int]]:
    """A server that believes nginx on 127.0.0.1, and the port where only client certificates are
    asked for."""
    need(debian("nginx"))
    (port,) = free_ports(1)
    server = {"mtls": f"127.0.0.1:{port}", "trusted_proxies": json.dumps(["127.0.0.1/32"])}
    folder = tmp_path_factory.mktemp("est-proxy")
    with est_pki(folder, server=server, failures_per_address="2/1h") as running:
        yield running, port


@contextlib.contextmanager
def nginx(folder: Path, body: str, port: int, module: Path | None = None) -> Iterator[None]:
    """Running with `body` as its configuration, until the end."""
    home = folder / "nginx"
    home.mkdir()
    user = "user root;\n" if os.getuid() == 0 else ""
    load = f"load_module {module};\n" if module else ""
    (home / "nginx.conf").write_text(
        f"{user}{load}daemon off;\npid {home}/pid;\nerror_log {home}/error;\n"
        f"events {{ worker_connections 64; }}\n{body}"
    )
    with service(["nginx", "-c", home / "nginx.conf", "-p", home], cwd=home) as running:
        running.wait_until(lambda: listening(port), 60, "listener")
        yield


def replaced(text: str, changes: Mapping[str, str]) -> str:
    """The sample with what is different here."""
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


@contextlib.contextmanager
def ending_tls(est: EstPKI, folder: Path) -> Iterator[str]:
    """Beginning of the URLs of EST at the proxy of the sample."""
    https, http = free_ports(2)
    held = est.issue(folder, "tls-server", "localhost")
    own = replaced(
        ENDING.read_text(),
        {
            "listen 443": f"listen 127.0.0.1:{https}",
            "listen 80": f"listen 127.0.0.1:{http}",
            "127.0.0.1:8443": f"127.0.0.1:{est.https_port}",
            "127.0.0.1:8080": f"127.0.0.1:{est.http_port}",
            "/etc/nginx/pki.crt": str(held.certificate),
            "/etc/nginx/pki.key": str(held.key),
            "/etc/nginx/pki-root.pem": str(est.root),
            "pki.example.com": "localhost",
        },
    )
    paths = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in _TEMPORARY)
    body = f"http {{\naccess_log off;\n{paths}{own}}}\n"
    with nginx(folder, body, https):
        yield f"https://localhost:{https}/.well-known/est"


@contextlib.contextmanager
def passing_through(est: EstPKI, mtls_port: int, folder: Path) -> Iterator[int]:
    """The port of the proxy of the recipe: "localhost" is the name that leads to EST."""
    (port,) = free_ports(1)
    (block,) = fenced(RECIPES / "est-proxy.md", "text")
    body = replaced(
        block,
        {
            "listen 443": f"listen 127.0.0.1:{port}",
            "est.example.com": "localhost",
            "127.0.0.1:9443": f"127.0.0.1:{mtls_port}",
            "127.0.0.1:8443": f"127.0.0.1:{est.https_port}",
        },
    )
    with nginx(folder, body, port, need(stream_module)):
        yield port


def status(client: Client, url: str, csr: Path, *options: object, out: str = "answer") -> int:
    words = ["curl", "-sS", "--http1.1", "--cacert", client.pki.root, "-o", client.folder / out]
    words += ["-w", "%{http_code}", "-H", "Content-Type: application/pkcs10"]
    return int(run([*words, "--data-binary", f"@{csr}", *options, url], cwd=client.folder)[-3:])


def held(client: Client, key: Path, answer: str = "answer") -> Held:
    """What came, beside its key."""
    message, path = client.folder / "answer.p7", key.with_suffix(".crt")
    words = ["base64", "-d", "-A", "-in", client.folder / answer, "-out", message]
    openssl.openssl(client.folder, *words)
    words = ["pkcs7", "-inform", "DER", "-in", message, "-print_certs", "-out", path]
    openssl.openssl(client.folder, *words)
    return Held(key, path)


def test_tls_that_ends_at_the_proxy(
    passed_on: tuple[EstPKI, int], workdir: Path, row: NewRow
) -> None:
    """Passwords work, and are counted by the client's own address; certificates shown to the proxy
    are worth nothing."""
    seen = row("nginx", debian_version("nginx"), "EST: ends TLS, passwords")
    est = passed_on[0]
    client = Client(workdir, est)
    name = "behind"
    login = ("-u", f"{name}:{est.add_user(name, subject=name, dns='*.example.test')}")
    with ending_tls(est, workdir) as base:
        url = f"{base}/simpleenroll"
        key, csr = client.request(name)
        assert status(client, url, csr, *login) == 200
        own = held(client, key)
        client.check(own, name)
        seen.passed("obtain")
        shown = ("--cert", own.certificate, "--key", own.key)
        assert status(client, f"{base}/simplereenroll", csr, *shown) == 401
        fresh = client.request(name)[1]
        guesses = [
            status(client, url, fresh, "-u", f"x{number}:y", "--interface", "127.0.0.5")
            for number in range(3)
        ]
        assert guesses == [401, 401, 429]
        assert status(client, url, fresh, *login, "--interface", "127.0.0.6") == 200


def test_tls_that_is_passed_through(
    passed_on: tuple[EstPKI, int], workdir: Path, row: NewRow
) -> None:
    """By the name that the client asks for: EST with client certificates, and all the rest."""
    seen = row("nginx", debian_version("nginx"), "EST: passes TLS through, client certificates")
    est, mtls_port = passed_on
    client = Client(workdir, est)
    name = "through"
    login = ("-u", f"{name}:{est.add_user(name, subject=name, dns='*.example.test')}")
    with passing_through(est, mtls_port, workdir) as port:
        base = f"https://localhost:{port}/.well-known/est"
        key, csr = client.request(name)
        assert status(client, f"{base}/simpleenroll", csr, *login) == 200
        old = held(client, key)
        client.check(old, name)
        seen.passed("obtain")
        shown = ("--cert", old.certificate, "--key", old.key)
        key, csr = client.request(name)
        assert status(client, f"{base}/simplereenroll", csr, *shown) == 200
        client.check(held(client, key), name)
        seen.passed("renew")
        # Another name is another backend, which does not ask for certificates.
        elsewhere = ("--connect-to", f"other.test:{port}:127.0.0.1:{port}", "-k")
        url = f"https://other.test:{port}/.well-known/est/simplereenroll"
        assert status(client, url, csr, *shown, *elsewhere) == 401
