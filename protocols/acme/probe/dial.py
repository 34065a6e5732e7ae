"""Connections to addresses that were resolved, judged by the network policy, and are dialled as
they are: no second look-up can put another in their place (DNS rebinding)."""

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from protocols.acme.challenges.model import (
    FailureKind,
    IPAddress,
    Reached,
    ValidationFailed,
    show_endpoint,
)
from protocols.acme.network import NetworkPolicy

_BUFFER = 16_384
_LOCAL_ERRORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def is_local(address: IPAddress) -> bool:
    """Whether `address` belongs to this host: only then can a socket be bound to it."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError as error:
        return error.errno in _LOCAL_ERRORS
    return True


def candidates(
    addresses: Sequence[IPAddress], port: int, policy: NetworkPolicy
) -> tuple[IPAddress, ...]:
    """The first IPv6 and the first IPv4 address that may be dialled, in that order. Raises
    ValidationFailed if the policy refuses all of them."""
    refusals: list[str] = []
    allowed: list[IPAddress] = []
    for address in addresses:
        refusal = policy.refusal(address, port, is_local)
        if refusal is None:
            allowed.append(address)
        else:
            refusals.append(f"{show_endpoint(address, port)} is {refusal}")
    if not allowed:
        raise ValidationFailed(
            FailureKind.CONNECTION, f"not allowed by network policy: {'; '.join(refusals[:4])}"
        )
    first = {address.version: address for address in reversed(allowed)}
    return tuple(first[version] for version in (6, 4) if version in first)


async def connect(
    addresses: Sequence[IPAddress], port: int, policy: NetworkPolicy, timeout: float
) -> tuple[socket.socket, Reached]:
    """A TCP connection to the first candidate that accepts one, `timeout` seconds for each. The
    next is tried only if the connection cannot be made, never for what the first one says."""
    failures: list[str] = []
    for address in candidates(addresses, port, policy):
        try:
            sock = await _connect_one(address, port, timeout)
        except OSError as error:
            failures.append(describe(error, show_endpoint(address, port), timeout))
        else:
            return sock, Reached(tuple(addresses), address, port)
    raise ValidationFailed(FailureKind.CONNECTION, "; ".join(failures))


async def _connect_one(address: IPAddress, port: int, timeout: float) -> socket.socket:
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        async with asyncio.timeout(timeout):
            await asyncio.get_running_loop().sock_connect(sock, (str(address), port))
    except BaseException:
        sock.close()
        raise
    return sock


def describe(error: OSError, peer: str, timeout: float) -> str:
    """What happened, as an operator would say it."""
    match error:
        case TimeoutError():
            return f"no answer from {peer} within {timeout:g} seconds"
        case ConnectionRefusedError():
            return f"connection refused by {peer}"
        case ConnectionResetError() | BrokenPipeError():
            return f"connection reset by {peer}"
        case OSError(errno=errno.EHOSTUNREACH | errno.ENETUNREACH | errno.EADDRNOTAVAIL):
            return f"no route to {peer}"
        case _:
            return f"cannot talk to {peer}: {_reason(error)}"


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else type(error).__name__


@dataclass(frozen=True, slots=True)
class TLSOptions:
    """How to start TLS: the name for SNI (no SNI for an IP address) and the ALPN protocol."""

    server_name: str
    protocol: str

    def __post_init__(self) -> None:
        try:
            self.server_name.encode("idna")
        except UnicodeError as error:
            raise ValidationFailed(
                FailureKind.TLS, f"SNI cannot carry the name {self.server_name!r}"
            ) from error

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 or later. The certificate is not verified: RFC 8737 section 3 checks it by its
        content, and RFC 8555 section 8.3 lets a redirect to https go without."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols([self.protocol])
        return context


@contextlib.asynccontextmanager
async def streams(
    sock: socket.socket, tls: TLSOptions | None, peer: str, timeout: float
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Reader and writer over a connected socket, after the TLS handshake if there is one. The
    connection is aborted at the end: nothing waits for the peer to say goodbye."""
    try:
        reader, writer = await _open(sock, tls, timeout)
    except ssl.SSLError as error:
        raise ValidationFailed(
            FailureKind.TLS, f"TLS handshake with {peer} failed: {_tls_reason(error)}"
        ) from error
    except OSError as error:
        during = " during the TLS handshake" if tls else ""
        raise ValidationFailed(
            FailureKind.TLS if tls else FailureKind.CONNECTION,
            describe(error, peer, timeout) + during,
        ) from error
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def _open(
    sock: socket.socket, tls: TLSOptions | None, timeout: float
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The socket is asyncio's from here on, and closed by it also on failure."""
    if tls is None:
        return await asyncio.open_connection(sock=sock, limit=_BUFFER)
    async with asyncio.timeout(timeout):
        return await asyncio.open_connection(
            sock=sock, ssl=tls.context(), server_hostname=tls.server_name, limit=_BUFFER
        )


def _tls_reason(error: ssl.SSLError) -> str:
    """OpenSSL's reason in words: TLSV1_ALERT_NO_APPLICATION_PROTOCOL as "tlsv1 alert no ..."."""
    return (error.reason or "unknown reason").replace("_", " ").lower()
