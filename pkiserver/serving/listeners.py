"""Where the server listens: sockets, TLS files and the TLS context made of them."""

import errno
import hashlib
import socket
import ssl
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from pkiserver.errors import configuration_error
from pkiserver.serving.connection import Timeouts
from pkiserver.web.peer import Peer

BACKLOG = 1024
MOST_CHAINS = 4096

# Forward secrecy and AEAD only; TLS 1.3's suites all are and are not named here.
TLS12_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL"


@dataclass(frozen=True, slots=True)
class TLSFiles:
    """The server's certificate: a PEM chain, leaf first, and its key as encrypted PKCS#8 PEM.

    `password` is asked at each load and is never kept.
    """

    cert_path: Path
    key_path: Path
    password: Callable[[], bytes] = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Listener:
    """A bound socket and what is served on it.

    `client_ca` returns the PEM bundle of every CA whose client certificates are accepted; it is
    called again at each look for changes. A client is asked for a certificate only if it is given,
    and turned away without one only if `client_certificate_required`. `http2` offers h2 by ALPN; a
    request costs about six times the CPU it costs over HTTP/1.1.
    """

    sock: socket.socket
    app: ASGIApp
    tls: TLSFiles | None = None
    http2: bool = False
    client_ca: Callable[[], bytes] | None = None
    client_certificate_required: bool = False
    timeouts: Timeouts = Timeouts()
    max_connections: int = 2000

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.sock.getsockname()[:2]
        return host, port


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. PKIError says what to do if it is not possible.

    An empty host means every address of the machine.
    """
    try:
        info = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise configuration_error(f"cannot listen on {host}:{port}: {error}") from None
    family, kind, protocol, _, address = info[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise configuration_error(_bind_problem(host, port, error)) from None
    sock.setblocking(False)
    return sock


def _bind_problem(host: str, port: int, error: OSError) -> str:
    where = f"cannot listen on {host or '*'}:{port}"
    if error.errno == errno.EADDRINUSE:
        return f"{where}: the port is in use; stop the other program or choose another port"
    if error.errno == errno.EACCES:
        return (
            f"{where}: not permitted; ports below 1024 need CAP_NET_BIND_SERVICE"
            " or systemd's AmbientCapabilities"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{where}: this machine has no such address"
    return f"{where}: {error.strerror}"


def tls_context(listener: Listener) -> ssl.SSLContext:
    """A server context: TLS 1.2 and 1.3. PKIError if the files cannot be used."""
    tls = listener.tls
    if tls is None:
        raise configuration_error("this listener has no TLS files")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(TLS12_CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 1
    context.set_alpn_protocols(["h2", "http/1.1"] if listener.http2 else ["http/1.1"])
    load_certificate(context, tls)
    if listener.client_ca is not None:
        _ask_for_certificate(context, listener.client_ca(), listener.client_certificate_required)
    return context


def load_certificate(context: ssl.SSLContext, tls: TLSFiles) -> None:
    """PKIError if the files cannot be used."""
    try:
        # Always a callable: without one OpenSSL would ask for the password on the terminal.
        context.load_cert_chain(tls.cert_path, tls.key_path, password=tls.password)
    except OSError as error:  # ssl.SSLError is one: wrong password, key of another certificate
        raise configuration_error(
            f"cannot use certificate {tls.cert_path} with key {tls.key_path}: {_why(tls, error)}"
        ) from None


def _why(tls: TLSFiles, error: OSError) -> str:
    if not isinstance(error, ssl.SSLError):
        return error.strerror or "not readable"
    if error.reason == "KEY_VALUES_MISMATCH":
        return "the key is that of another certificate"
    if b"ENCRYPTED" in tls.key_path.read_bytes():
        return (
            "the key is encrypted, and not with the passphrase there is for it; "
            f"for a certificate you bring: openssl pkey -in {tls.key_path} -out DECRYPTED"
        )
    return error.reason or "they are not a PEM chain, leaf first, and a PEM key"


def _ask_for_certificate(context: ssl.SSLContext, bundle: bytes, required: bool) -> None:
    try:
        context.load_verify_locations(cadata=bundle.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise configuration_error(f"the client CA bundle is not PEM: {error}") from None
    context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    # An issuing CA is an anchor here although its root may be offline and unknown.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_TRUSTED_FIRST


def tls_stamp(listener: Listener) -> object:
    """Differs when the files or the client CA bundle changed. OSError, PKIError as they come."""
    tls = listener.tls
    if tls is None:
        return None
    bundle = listener.client_ca() if listener.client_ca is not None else b""
    return _file_stamp(tls.cert_path), _file_stamp(tls.key_path), bundle


def _file_stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def peer_of(ssl_object: Any, address: str) -> Peer:
    """What a finished handshake says about the client. `ssl_object` is an `ssl.SSLObject`."""
    version: str = ssl_object.version()
    certificate: bytes | None = ssl_object.getpeercert(binary_form=True)
    return Peer(
        address=address,
        certificate_der=certificate,
        chain_der=_chains.of(certificate, _rest_of_chain(ssl_object)) if certificate else (),
        tls_version=version,
        # RFC 5929's tls-unique is not defined for TLS 1.3 (RFC 8446 appendix C.5).
        tls_unique=None if version == "TLSv1.3" else ssl_object.get_channel_binding("tls-unique"),
    )


class _Chains:
    """A session that is resumed (RFC 8446 section 2.2, RFC 5246 section 7.3) brings back the
    client's certificate and not what was above it, so that is kept for the newest clients."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, tuple[bytes, ...]] = OrderedDict()

    def of(self, certificate: bytes, chain: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """`chain`, or what it was before."""
        digest = hashlib.sha256(certificate).digest()
        if not chain:
            return self._known.get(digest, ())
        self._known[digest] = chain
        self._known.move_to_end(digest)
        if len(self._known) > MOST_CHAINS:
            self._known.popitem(last=False)
        return chain


_chains = _Chains()


def _rest_of_chain(ssl_object: Any) -> tuple[bytes, ...]:
    """The verified chain without the leaf; Python 3.13 made public what 3.10 brought."""
    if hasattr(ssl_object, "get_verified_chain"):
        return tuple(ssl_object.get_verified_chain()[1:])
    chain = ssl_object._sslobj.get_verified_chain() or ()
    return tuple(ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in chain[1:])
