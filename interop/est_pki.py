"""An EST server for clients: `pkiserver serve` with two workers and a label of each kind, what its
operator does on the command line, and the CA of a manufacturer."""

import asyncio
import contextlib
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from interop import openssl
from interop.bench import aftermath
from interop.ports import free_ports
from interop.processes import InteropError, listening, run, service
from interop.target import START_SECONDS
from interop.tools import TOP
from pkiserver.app import load_settings, open_runtime
from pkiserver.clock import epoch
from pkiserver.initialise import NewHome, initialise
from protocols.est import passwords, store

APPROVAL_SECONDS = 100
RECIPE_SECONDS = 240
RECIPES = TOP / "docs" / "recipes"
WORKERS = 2
_CONFIGURATION = """
[profiles.reviewed]
requires_approval = true
extended_key_usage = ["clientAuth", "serverAuth"]
subject = "CN={{cn}}"
dns = {{ allow = ["*"] }}

# [est.default] is there already
[est.factory]
auth = ["mtls"]
client_ca = ["{anchors}"]
client_crl = ["factory-root.crl", "factory-ca.crl"]

[est.reviewed]
profile = "reviewed"
retry_after = "1s"

[est.linked]
proof_of_possession = "required"

[est.rsa]
server_keys = "rsa-2048"
"""


@dataclass(frozen=True)
class Held:
    """A private key and a certificate (others may follow it), in PEM."""

    key: Path
    certificate: Path


@dataclass(frozen=True)
class EstPKI:
    """The running server. `factory` is the manufacturer's CA: its root, and an issuing CA."""

    command: Path
    folder: Path
    home: Path
    https_port: int
    http_port: int
    factory: "Factory"
    hostname: str

    @property
    def base(self) -> str:
        return f"https://{self.hostname}:{self.https_port}"

    @property
    def est(self) -> str:
        """Beginning of every URL of EST."""
        return f"{self.base}/.well-known/est"

    @property
    def root(self) -> Path:
        return self.home / "root.pem"

    def cli(self, *words: object) -> str:
        """A command on the home of the running server; its output."""
        return run([self.command, *words, "--home", self.home], cwd=self.folder)

    def add_user(self, name: str, subject: str = "", dns: str = "", label: str = "default") -> str:
        """The password. `subject` and `dns` are patterns of names; without any, all names. Done in
        this process, which is quicker than the command that the recipes use."""
        names = {kind: [each] for kind, each in (("cn", subject), ("dns", dns)) if each} or None
        password = passwords.generate()
        stored = passwords.derive(password)

        async def work() -> None:
            async with open_runtime(load_settings(self.home)) as runtime:
                now = epoch(runtime.services.clock.now())
                new = store.User(secrets.token_hex(16), label, name, stored, names, now)
                await runtime.services.database.write(lambda tx: store.insert_user(tx, new))

        with ThreadPoolExecutor(1) as apart:
            apart.submit(asyncio.run, work()).result()
        return password

    def issue(self, folder: Path, profile: str, name: str) -> Held:
        """A certificate from the command line, with its chain."""
        base = folder / name
        self.cli("cert", "issue", "--profile", profile, "--dns", name, "--out", base)
        return Held(base.with_name(f"{name}.key"), base.with_name(f"{name}.crt"))

    def revoke(self, serial: str) -> None:
        self.cli("cert", "revoke", serial, "--reason", "keyCompromise")

    def decide(self, verb: str, name: str, *options: str) -> None:
        """`approve` or `reject` the request of that common name, once it is there."""
        deadline = time.monotonic() + APPROVAL_SECONDS
        sql = f"SELECT id FROM approvals WHERE status = 'pending' AND subject LIKE '%{name}'"
        while not (found := aftermath.query(self.home / "pki.db", sql)):
            if time.monotonic() > deadline:
                raise InteropError(f"nobody asked for {name} in {APPROVAL_SECONDS} s")
            time.sleep(0.2)
        self.cli("approvals", verb, found[0][0], *options)

    def recipe(self, name: str, folder: Path, **more: str) -> str:
        """Run every `sh` block of a recipe in `folder`, one after the other, in one shell that
        stops at the first failure; its output."""
        return self.script("\n".join(fenced(RECIPES / name, "sh")), folder, **more)

    def script(self, text: str, folder: Path, **more: str) -> str:
        """The variables are those that recipes use, and `more`."""
        environment = {
            "EST": self.est,
            "ROOT": str(self.root),
            "HTTP": f"http://127.0.0.1:{self.http_port}",
            "PKISERVER_HOME": str(self.home),
            "FACTORY": self.factory.folder.as_uri(),
            "PATH": f"{self.command.parent}:{os.environ['PATH']}",
            **more,
        }
        words = ["bash", "-euo", "pipefail", "-c", text]
        return run(words, cwd=folder, env=environment, seconds=RECIPE_SECONDS)


@dataclass(frozen=True)
class Client:
    """A folder of a client's own, and what it does with OpenSSL."""

    folder: Path
    pki: EstPKI

    def request(self, name: str, kind: str = "EC") -> tuple[Path, Path]:
        """A new key, and a request in PEM for that common name and `NAME.example.test`."""
        base = self.folder / f"{name}-{len(list(self.folder.iterdir()))}"
        key = openssl.new_key(base.with_suffix(".key"), kind)
        csr = base.with_suffix(".csr")
        words = ["req", "-new", "-key", key, "-subj", f"/CN={name}", "-out", csr]
        openssl.openssl(self.folder, *words, "-addext", f"subjectAltName=DNS:{name}.example.test")
        return key, csr

    def check(self, held: Held, name: str) -> str:
        """The certificate is a TLS client's, for that request, with its chain good to the root;
        its serial number."""
        issuer = self.folder / "issuing.pem"
        if not issuer.exists():
            url = f"http://127.0.0.1:{self.pki.http_port}/ca/issuing.pem"
            run(["curl", "-fsS", "-o", issuer, url], cwd=self.folder)
        chain = held.certificate.with_suffix(".chain")
        openssl.joined(chain, openssl.split(held.certificate)[0], issuer)
        options = {"hostname": f"{name}.example.test"}
        return openssl.verify(chain, self.pki.root, held.key, **options)

    def status(self, held: Held) -> str:
        """`good` or `revoked`, by OCSP."""
        return openssl.ocsp_status(held.certificate.with_suffix(".chain"), self.pki.root)


def fenced(page: Path, kind: str) -> list[str]:
    """The blocks of a page that are fenced as `kind`; InteropError if there are none."""
    found = re.findall(rf"```{kind}\n(.*?)```", page.read_text(), re.DOTALL)
    if not found:
        raise InteropError(f"{page.name} has no block of {kind}")
    return found


@dataclass(frozen=True)
class Factory:
    """A manufacturer's CA, made by OpenSSL."""

    folder: Path
    anchors: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "anchors", self.folder / "factory.pem")

    def make(self) -> None:
        """The root and the CA below it; `anchors` has the root alone."""
        self.folder.mkdir()
        words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        words += ["-days", "9", "-subj", "/O=Factory/CN=Factory Root", "-keyout", "root.key"]
        openssl.openssl(self.folder, *words, "-out", self.anchors)
        self._sign("ca", "/O=Factory/CN=Factory CA", "root", "basicConstraints=critical,CA:TRUE\n"
                   "keyUsage=critical,keyCertSign,cRLSign\n")  # fmt: skip
        for name in ("root", "ca"):
            (self.folder / f"{name}.index").touch()
            (self.folder / f"{name}.conf").write_text(
                f"[ca]\ndefault_ca = own\n[own]\ndatabase = {name}.index\ndefault_md = sha256\n"
                "default_crl_days = 2\n"
            )
            self._publish(name)

    def device(self, folder: Path, serial: str) -> Held:
        """A device's certificate with the CA's after it (IEEE 802.1AR), in `folder`."""
        extensions = "basicConstraints=CA:FALSE\nkeyUsage=critical,digitalSignature\n"
        made = self._sign(f"device-{serial}", f"/O=Factory/CN={serial}", "ca", extensions)
        held = Held(folder / "idevid.key", folder / "idevid.crt")
        held.key.write_bytes(made.key.read_bytes())
        openssl.joined(held.certificate, made.certificate, self.folder / "ca.crt")
        return held

    def revoke(self, device: Held) -> None:
        """From now on it is on the list of the CA."""
        leaf = openssl.split(device.certificate)[0]
        openssl.openssl(self.folder, *self._as_ca("ca"), "-revoke", leaf)
        self._publish("ca")

    def _publish(self, name: str) -> None:
        words = ("-gencrl", "-out", f"factory-{name}.crl")
        openssl.openssl(self.folder, *self._as_ca(name), *words)

    def _as_ca(self, name: str) -> tuple[object, ...]:
        certificate = self.anchors if name == "root" else f"{name}.crt"
        return "ca", "-config", f"{name}.conf", "-cert", certificate, "-keyfile", f"{name}.key"

    def _sign(self, name: str, subject: str, issuer: str, extensions: str) -> Held:
        key = openssl.new_key(self.folder / f"{name}.key")
        csr, certificate = self.folder / f"{name}.csr", self.folder / f"{name}.crt"
        (self.folder / f"{name}.ext").write_text(extensions)
        openssl.openssl(self.folder, "req", "-new", "-key", key, "-subj", subject, "-out", csr)
        above = self.anchors if issuer == "root" else self.folder / f"{issuer}.crt"
        words = ["x509", "-req", "-in", csr, "-CA", above, "-CAkey", self.folder / f"{issuer}.key"]
        words += ["-CAcreateserial", "-days", "8", "-extfile", f"{name}.ext", "-out", certificate]
        openssl.openssl(self.folder, *words)
        return Held(key, certificate)


@contextlib.contextmanager
def est_pki(
    folder: Path,
    *,
    hostname: str = "localhost",
    server: Mapping[str, str] | None = None,
    **default: str,
) -> Iterator[EstPKI]:
    """Made in `folder` and served until the end; `default` are settings of the label without a
    name, `server` some of [server]."""
    https, http = free_ports(2)
    home = folder / "pki"
    factory = Factory(folder / "factory")
    factory.make()
    choices = NewHome(
        hostname, f"127.0.0.1:{https}", f"127.0.0.1:{http}", root_key="p256", workers=WORKERS
    )
    initialise(home, choices)
    for path in factory.folder.glob("*.crl"):
        shutil.copy(path, home)
    configuration = home / "pkiserver.toml"
    # pkilint takes a host without a dot for a mistake in a URI
    more = f'[server]\nexternal_http_url = "http://127.0.0.1:{http}"\n'
    text = configuration.read_text().replace("[server]\n", more)
    configuration.write_text(text + _CONFIGURATION.format(anchors=factory.anchors))
    command = Path(sys.executable).with_name("pkiserver")
    env = {f"PKISERVER_EST__DEFAULT__{key.upper()}": value for key, value in default.items()}
    env |= {f"PKISERVER_SERVER__{key.upper()}": value for key, value in (server or {}).items()}
    with service([command, "serve", "--home", home], cwd=folder, env=env) as running:
        running.wait_until(lambda: listening(https) and listening(http), START_SECONDS, "listener")
        yield EstPKI(command, folder, home, https, http, factory, hostname)
