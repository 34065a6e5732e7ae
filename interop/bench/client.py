"""A load client for ACME: whole issuances over kept-alive connections, doing as little as it can
itself. It answers http-01 in its own process and polls as lego does: not at all when the challenge
response is already valid."""

import asyncio
import base64
import hashlib
import json
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

POLL_SECONDS = 0.02
PREFIX = "/.well-known/acme-challenge/"
JOSE = {"Content-Type": "application/jose+json"}


Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Refused(Exception):
    """The server answered with an error."""


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Connection:
    """One kept-alive HTTP/1.1 connection, one request at a time."""

    def __init__(self, url: str, context: ssl.SSLContext) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 443
        self._authority = parts.netloc
        self._context = context
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(
        self, method: str, url: str, body: bytes = b"", headers: Mapping[str, str] = JOSE
    ) -> Answer:
        if self._streams is None:
            self._streams = await asyncio.open_connection(
                "127.0.0.1", self._port, ssl=self._context, server_hostname=self._host
            )
        reader, writer = self._streams
        parts = urlsplit(url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        fields = {"Host": self._authority, "User-Agent": "bench", **headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        head = f"{method} {target} HTTP/1.1\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        try:
            raw = await reader.readuntil(b"\r\n\r\n")
            answer = _parse_head(raw)
            answer.body = await self._body(reader, answer, method)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.close()
            raise
        return answer

    async def _body(self, reader: asyncio.StreamReader, answer: Answer, method: str) -> bytes:
        if method == "HEAD" or answer.status == 204:
            return b""
        if "chunked" not in answer.headers.get("transfer-encoding", ""):
            return await reader.readexactly(int(answer.headers.get("content-length", "0")))
        whole = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            whole += (await reader.readexactly(size + 2))[:-2]
        await reader.readuntil(b"\r\n")
        return whole

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def _parse_head(raw: bytes) -> Answer:
    lines = raw.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines[1:] if line)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    return Answer(int(lines[0].split()[1]), headers, b"")


@dataclass
class Client:
    """An account on one connection; until there is one, a key that signs for itself."""

    directory_url: str
    context: ssl.SSLContext
    tokens: dict[str, str]
    key: Key = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    leaf_key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )
    kid: str = ""
    nonce: str = ""
    requests: int = 0

    def __post_init__(self) -> None:
        self._connection = Connection(self.directory_url, self.context)
        self._jwk = _jwk(self.key)
        canonical = json.dumps(self._jwk, separators=(",", ":"), sort_keys=True).encode()
        self._thumbprint = b64(hashlib.sha256(canonical).digest())
        self._directory: dict[str, str] = {}

    async def look_around(self) -> None:
        """The directory, and a nonce to begin with."""
        answer = await self._connection.request("GET", self.directory_url)
        directory = answer.json()
        new_nonce = await self._connection.request("HEAD", directory["newNonce"])
        self.nonce = new_nonce.headers["replay-nonce"]
        self._directory = directory

    async def register(self) -> None:
        await self.look_around()
        made = await self.post(self._directory["newAccount"], {"termsOfServiceAgreed": True})
        self.kid = made.headers["location"]

    async def post(self, url: str, payload: dict[str, Any] | None) -> Answer:
        """A signed request; one that meets a stale nonce is sent again."""
        for _ in range(3):
            answer = await self._connection.request("POST", url, self._sign(url, payload))
            self.requests += 1
            self.nonce = answer.headers.get("replay-nonce", "")
            if answer.status < 400:
                return answer
            if b":badNonce" not in answer.body:
                break
        raise Refused(f"{url}: {answer.status} {answer.body[:300]!r}")

    def _sign(self, url: str, payload: dict[str, Any] | None) -> bytes:
        signer = {"kid": self.kid} if self.kid else {"jwk": self._jwk}
        algorithm = "RS256" if isinstance(self.key, rsa.RSAPrivateKey) else "ES256"
        header = {"alg": algorithm, "nonce": self.nonce, "url": url, **signer}
        protected = b64(json.dumps(header).encode())
        body = "" if payload is None else b64(json.dumps(payload).encode())
        signature = b64(_signature(self.key, f"{protected}.{body}".encode()))
        message = {"protected": protected, "payload": body, "signature": signature}
        return json.dumps(message).encode()

    async def order(self, name: str) -> bytes:
        """A whole issuance for one name; the PEM chain."""
        identifiers = [{"type": "dns", "value": name}]
        made = await self.post(self._directory["newOrder"], {"identifiers": identifiers})
        order_url, order = made.headers["location"], made.json()
        for url in order["authorizations"]:
            await self._authorize(url)
        csr = new_csr(self.leaf_key, name)
        order = (await self.post(order["finalize"], {"csr": b64(csr)})).json()
        order = await self._poll(order_url, order, ("processing", "ready"))
        return (await self.post(order["certificate"], None)).body

    async def _authorize(self, url: str) -> None:
        authorization = (await self.post(url, None)).json()
        if authorization["status"] == "valid":
            return
        challenge = next(c for c in authorization["challenges"] if c["type"] == "http-01")
        token = challenge["token"]
        self.tokens[token] = f"{token}.{self._thumbprint}"
        try:
            answered = (await self.post(challenge["url"], {})).json()
            if answered["status"] != "valid":
                await self._poll(url, authorization, ("pending", "processing"))
        finally:
            del self.tokens[token]

    async def _poll(self, url: str, found: dict[str, Any], waiting: tuple[str, ...]) -> Any:
        while found["status"] in waiting:
            await asyncio.sleep(POLL_SECONDS)
            found = (await self.post(url, None)).json()
        if found["status"] != "valid":
            raise Refused(f"{url}: {found}")
        return found

    def close(self) -> None:
        self._connection.close()


def _jwk(key: Key) -> dict[str, str]:
    """RFC 7638 section 3.2: the required members alone."""
    if isinstance(key, rsa.RSAPrivateKey):
        public = key.public_key().public_numbers()
        return {"e": _number(public.e), "kty": "RSA", "n": _number(public.n)}
    point = key.public_key().public_numbers()
    return {"crv": "P-256", "kty": "EC", "x": _number(point.x, 32), "y": _number(point.y, 32)}


def _number(value: int, size: int = 0) -> str:
    return b64(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


def _signature(key: Key, data: bytes) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def new_csr(key: Key, name: str) -> bytes:
    """A CSR in DER for one DNS name."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    names = x509.SubjectAlternativeName([x509.DNSName(name)])
    return builder.add_extension(names, False).sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


async def responder(
    port: int, tokens: dict[str, str], delay: Callable[[], float] = lambda: 0.0
) -> asyncio.Server:
    """Answers http-01 on loopback, each time after so many seconds."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(delay())
            token = head.split(b" ", 2)[1].decode().removeprefix(PREFIX)
            body = tokens.get(token, "").encode()
            status = b"200 OK" if body else b"404 Not Found"
            lines = (b"HTTP/1.1 ", status, b"\r\nContent-Length: %d\r\n" % len(body))
            writer.write(b"".join(lines) + b"Connection: close\r\n\r\n" + body)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    return await asyncio.start_server(answer, "127.0.0.1", port)


@dataclass
class Load:
    """What a load did: one latency in seconds per order, requests sent, seconds in all."""

    latencies: list[float] = field(default_factory=list)
    requests: int = 0
    seconds: float = 0.0


async def drive(
    directory_url: str, ca_bundle: Path, http01_port: int, *,
    orders: int, concurrency: int, started: Callable[[], None], label: str,
) -> Load:  # fmt: skip
    """`orders` issuances by `concurrency` clients, after one each to warm up; `started` is called
    when the measuring begins. Every certificate is checked for its name."""
    context = ssl.create_default_context(cafile=str(ca_bundle))
    tokens: dict[str, str] = {}
    server = await responder(http01_port, tokens)
    clients = [Client(directory_url, context, tokens) for _ in range(concurrency)]
    load, numbers = Load(), iter(range(orders))

    async def work(client: Client) -> None:
        for number in numbers:
            name = f"{label}-{number}.bench.test"
            began = time.perf_counter()
            chain = await client.order(name)
            load.latencies.append(time.perf_counter() - began)
            _check(chain, name)

    async with server:
        await asyncio.gather(*(client.register() for client in clients))
        warm = (c.order(f"{label}-warm{n}.bench.test") for n, c in enumerate(clients))
        await asyncio.gather(*warm)
        before = sum(client.requests for client in clients)
        started()
        began = time.perf_counter()
        await asyncio.gather(*(work(client) for client in clients))
        load.seconds = time.perf_counter() - began
        load.requests = sum(client.requests for client in clients) - before
        for client in clients:
            client.close()
    return load


def _check(chain: bytes, name: str) -> None:
    leaf = x509.load_pem_x509_certificates(chain)[0]
    found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    if found.get_values_for_type(x509.DNSName) != [name]:
        raise Refused(f"the certificate is for {found}, not for {name}")
