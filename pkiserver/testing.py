"""A throwaway PKI for tests: pytest fixtures, there as soon as pkiserver is installed.

    def test_my_client(pki):
        order_a_certificate(pki.directory_url, trust=pki.root_pem)

`pki` is one PKI for the whole run, served on free loopback ports by a thread of the test process;
`pki_factory` makes more. Nothing of pkiserver is imported before one of them is asked for.
"""

import ipaddress
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    import asyncio
    import socket

    from pkiserver.app import Runtime
    from pkiserver.ca.model import Requester
    from pkiserver.config import CoreSettings
    from pkiserver.config_types import KeyKind

T = TypeVar("T")

START_SECONDS = 60.0
"""Making keys and starting takes a second or two; a crowded machine may need more."""
CONFIGURATION = """\
[acme.default]
http01_port = {http01_port}
tls_alpn01_port = {tls_alpn01_port}

[acme.trusted]
authorization = "trusted"

[est.default]

[scep.default]
challenge = "static"
challenge_secret_file = "scep-challenge"
"""
"""What stands in pkiserver.toml besides [server] and [log]; the ports are put in."""
SCEP_CHALLENGE = "a challenge for tests"
_SERVER = """\
[server]
hostname = "localhost"
https = "127.0.0.1:{https}"
http = "127.0.0.1:{http}"
shutdown_timeout = "1s"

[log]
requests = false

"""


@dataclass(frozen=True)
class Issued:
    """A certificate as files: its key (PEM, not encrypted), and the leaf with its chain."""

    key: Path
    chain: Path
    serial: str
    issuer: str


class PKI:
    """A PKI that is being served. Its methods may be called from any thread and from tests of any
    kind; they wait for the result."""

    def __init__(self, home: Path, ports: "_Ports", worker: "_Worker") -> None:
        self.home = home
        self.https_base = f"https://localhost:{ports.https}"
        self.http_base = f"http://localhost:{ports.http}"
        self.directory_url = f"{self.https_base}/acme/default/directory"
        """Validates challenges, on `http01_port` and `tls_alpn01_port` of loopback addresses."""
        self.trusted_directory_url = f"{self.https_base}/acme/trusted/directory"
        """Issues without challenges."""
        self.scep_url = f"{self.http_base}/scep/default"
        self.scep_challenge = SCEP_CHALLENGE
        """The challenge password that `scep_url` takes, as often as it is sent."""
        self.est_url = f"{self.https_base}/.well-known/est"
        """EST of the profile `device`; takes client certificates of this PKI, for their names."""
        self.http01_port = ports.http01
        self.tls_alpn01_port = ports.tls_alpn01
        self.root_pem = home / "root.pem"
        self._worker = worker
        self._count = 0

    @property
    def settings(self) -> "CoreSettings":
        return self._worker.runtime.services.settings

    def issue(
        self,
        *dns: str,
        ip: Sequence[str] = (),
        email: Sequence[str] = (),
        uri: Sequence[str] = (),
        upn: Sequence[str] = (),
        common_name: str | None = None,
        profile: str = "tls-server",
        key: "KeyKind" = "p256",
    ) -> Issued:
        """A key and a certificate for these names. Raises `pkiserver.errors.PKIError` for what the
        profile refuses."""
        from pkiserver.cli import issuing
        from pkiserver.keys.generate import generate_key

        known = issuing.alt_names(dns=dns, ip=ip, email=email, uri=uri, upn=upn)
        order = issuing.Order(profile, known, common_name, None, None)
        return self._worker.wait_for(lambda runtime: self._issue(runtime, order, generate_key(key)))

    async def _issue(self, runtime: "Runtime", order: Any, key: Any) -> Issued:
        from pkiserver.cli import files, issuing
        from pkiserver.home import write_public
        from pkiserver.pkix.cert import serial_hex
        from pkiserver.pkix.pem import pem_chain

        now = runtime.services.clock.now()
        request = issuing.certificate_request(order, key, _requester(), now)
        prepared = await runtime.services.issuance.prepare(request)
        issued = await runtime.services.issuance.issue(prepared)
        self._count += 1
        targets = files.Targets(self.home / f"issued-{self._count}", with_key=True)
        with targets.key_written(key):
            chain = runtime.services.authorities.chain(prepared.issuer)
            write_public(targets.certificate, pem_chain([issued.certificate, *chain]))
        return Issued(
            targets.key, targets.certificate, serial_hex(prepared.serial), prepared.issuer
        )

    def revoke(self, issued: Issued, reason: str = "unspecified") -> None:
        """Revoke a certificate; OCSP and the CRL show it when this returns. `reason` is a name of
        RFC 5280 section 5.3.1."""
        from pkiserver.ca.model import Reason

        async def work(runtime: "Runtime") -> None:
            await runtime.services.revocation.revoke(
                issued.issuer, int(issued.serial, 16), Reason(reason), actor=_requester()
            )
            await runtime.services.status.settle()

        self._worker.wait_for(work)

    def ssl_context_server(self, *names: str) -> ssl.SSLContext:
        """For a TLS server with a new certificate for these DNS names and IP addresses
        (`localhost` and `127.0.0.1` if none are given)."""
        names = names or ("localhost", "127.0.0.1")
        addresses = [name for name in names if _is_ip(name)]
        issued = self.issue(*(name for name in names if not _is_ip(name)), ip=addresses)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(issued.chain, issued.key)
        return context

    def ssl_context_client(self, certificate: Issued | None = None) -> ssl.SSLContext:
        """For a TLS client that trusts this PKI's root and nothing else; with a client
        certificate if one is given (see the profile `tls-client`)."""
        context = ssl.create_default_context(cafile=str(self.root_pem))
        if certificate is not None:
            context.load_cert_chain(certificate.chain, certificate.key)
        return context


@dataclass(frozen=True)
class _Ports:
    https: int
    http: int
    http01: int
    tls_alpn01: int


class _Worker:
    """The thread that makes a home and serves it in an event loop of its own."""

    runtime: "Runtime"

    def __init__(self, home: Path, configuration: str) -> None:
        self._home = home
        self._configuration = configuration
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="pkiserver", daemon=True)

    def start(self) -> PKI:
        from pkiserver.server import bind

        self._sockets = [bind("127.0.0.1", 0) for _ in range(4)]
        ports = _Ports(*(sock.getsockname()[1] for sock in self._sockets))
        for challenge_socket in self._sockets[2:]:
            challenge_socket.close()
        self._ports = ports
        self._thread.start()
        if not self._ready.wait(START_SECONDS):
            raise RuntimeError(f"the PKI did not start in {START_SECONDS} seconds")
        if self._failure is not None:
            raise RuntimeError("the PKI did not start") from self._failure
        return PKI(self._home, ports, self)

    def stop(self) -> None:
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_SECONDS)
        for sock in self._sockets:
            sock.close()

    def wait_for(self, work: "Callable[[Runtime], Coroutine[Any, Any, T]]") -> T:
        """Run `work` in the thread's event loop."""
        import asyncio

        if self._loop is None or not self._thread.is_alive():
            raise RuntimeError("the PKI is not being served any more")
        future = asyncio.run_coroutine_threadsafe(work(self.runtime), self._loop)
        return future.result(START_SECONDS)

    def _run(self) -> None:
        import asyncio

        try:
            self._initialise()
            asyncio.run(self._serve())
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()

    def _initialise(self) -> None:
        from pkiserver.home import Home, write_private
        from pkiserver.initialise import NewHome, initialise

        ports = self._ports
        initialise(
            self._home,
            NewHome(
                https=f"127.0.0.1:{ports.https}", http=f"127.0.0.1:{ports.http}", root_key="p256"
            ),
        )
        text = _SERVER.format(https=ports.https, http=ports.http) + self._configuration.format(
            http01_port=ports.http01, tls_alpn01_port=ports.tls_alpn01
        )
        Home(self._home).config.write_text(text, encoding="utf-8")
        write_private(self._home / "scep-challenge", SCEP_CHALLENGE.encode())

    async def _serve(self) -> None:
        import asyncio

        from pkiserver.app import load_settings, open_runtime
        from pkiserver.run import listeners
        from pkiserver.server import Server

        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        https, http = self._sockets[:2]
        async with open_runtime(
            load_settings(self._home), listeners=_addresses(https, http), development=True
        ) as runtime:
            self.runtime = runtime
            await runtime.recover()
            async with runtime.serving():
                server = Server(listeners(runtime, https, http))
                await server.start()
                self._ready.set()
                await self._stop.wait()
                await server.stop(1.0)


def _addresses(*sockets: "socket.socket") -> list[tuple[str, int]]:
    return [(host, port) for host, port in (sock.getsockname()[:2] for sock in sockets)]


def _requester() -> "Requester":
    from pkiserver.ca.model import Requester

    return Requester("test", "pytest")


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


@pytest.fixture(scope="session")
def pki_factory(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., PKI]]:
    """Makes PKIs of their own: `pki_factory(configuration=...)` with the text of a pkiserver.toml
    without [server] and [log], `{http01_port}` and `{tls_alpn01_port}` put in."""
    workers: list[_Worker] = []

    def make(configuration: str = CONFIGURATION) -> PKI:
        worker = _Worker(tmp_path_factory.mktemp("pkiserver") / "pki", configuration)
        workers.append(worker)
        return worker.start()

    yield make
    for worker in workers:
        worker.stop()


@pytest.fixture(scope="session")
def pki(pki_factory: Callable[..., PKI]) -> PKI:
    """A PKI that is served until the end of the run."""
    return pki_factory()
