"""SCEP enrolments against Debian's `scepserver` (micromdm, in Go), in one run:
`python -m interop.bench.scep [--enrolments 200] [--write]`.

Each is one process with a static challenge. `scepserver` has one RSA key, of 4096 bits by itself,
with which it does everything; we have a CA of the same size, and a registration authority of 2048
bits, as it is by itself, or of that size as well. The client is the same one, with messages made
beforehand (RSA 2048, SHA-256, AES-128), POSTed one after the other over a connection that stays
open: of several at once `scepserver` refuses some. CPU is that of the server's processes, from
/proc. `scepserver` listens on every address there is, so all of it runs in a network namespace of
its own. `--write` puts the table into docs/performance.md."""

import argparse
import contextlib
import http.client
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AttributeOID, NameOID

from interop.bench import page
from interop.bench.ocsp import cpu_seconds
from interop.ports import free_ports
from interop.processes import InteropError, listening, run, service
from pkiserver.clock import SystemClock
from pkiserver.cms import certs_only, enveloped_data, oids, signed_data
from pkiserver.pkix import cert, der

CHALLENGE = "a challenge for the benchmark"
KEYS = 8
OURS = (
    ("rsa-4096", "rsa-2048"),
    ("rsa-4096", "rsa-4096"),
    ("rsa-2048", "rsa-2048"),
    ("p256", "rsa-2048"),
)
"""Kinds of keys of the CA and of the registration authority."""
GOAL = 0.5
"""Our CPU per enrolment over theirs, at most."""
_VERISIGN = "2.16.840.1.113733.1.9"


@dataclass(frozen=True)
class Server:
    """A running server, and the process it was started as."""

    name: str
    port: int
    path: str
    pid: int


@dataclass(frozen=True)
class Result:
    """One server: certificates a second, milliseconds of CPU for each."""

    server: str
    keys: str
    rate: float
    milliseconds: float


@cache
def _key(number: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def message(number: int, recipient: x509.Certificate, challenge: str = CHALLENGE) -> bytes:
    """A PKCSReq of a device of its own; a key serves every eighth of them."""
    key = _key(number % KEYS)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"device-{secrets.token_hex(8)}")])
    now = SystemClock().now()
    own = x509.CertificateBuilder(name, name, key.public_key(), 1 + number, now, now)
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    builder = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, challenge.encode())
    request = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    envelope = enveloped_data.encrypt(request, recipient, "aes128-cbc")
    sent = [
        (f"{_VERISIGN}.2", der.encode(der.PRINTABLE_STRING, b"19")),
        (f"{_VERISIGN}.5", der.encode(der.OCTET_STRING, secrets.token_bytes(16))),
        (f"{_VERISIGN}.7", der.encode(der.PRINTABLE_STRING, secrets.token_hex(16).encode())),
    ]
    tbs = signed_data.to_be_signed(envelope, oids.DATA, "sha256", sent)
    signature = key.sign(tbs.data, padding.PKCS1v15(), hashes.SHA256())
    return signed_data.encode(tbs, signature, own.sign(key, hashes.SHA256()))


def recipient(server: Server) -> x509.Certificate:
    """Whom devices encrypt for: the first certificate of GetCACert, or the only one."""
    with _connection(server) as connection:
        connection.request("GET", f"{server.path}?operation=GetCACert")
        answer = connection.getresponse()
        data = answer.read()
    if answer.headers["Content-Type"] == "application/x-x509-ca-cert":
        return cert.parse_certificate(data)
    return certs_only.parse(data)[0]


@contextlib.contextmanager
def _connection(server: Server) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        yield connection
    finally:
        connection.close()


def _enrol(server: Server, batch: Sequence[bytes]) -> None:
    with _connection(server) as connection:
        for each in batch:
            connection.request("POST", f"{server.path}?operation=PKIOperation", each)
            body = connection.getresponse().read()
            (signer,) = signed_data.parse(body).signers
            (status,) = signer.attributes[f"{_VERISIGN}.3"]
            if status != der.encode(der.PRINTABLE_STRING, b"0"):
                raise InteropError(f"{server.name}: pkiStatus {status!r}")


def load(server: Server, keys: str, count: int) -> Result:
    """Every message has to be answered with a certificate."""
    authority = recipient(server)
    _enrol(server, [message(0, authority)])
    messages = [message(number, authority) for number in range(count)]
    before, start = cpu_seconds(server.pid), time.monotonic()
    _enrol(server, messages)
    took, used = time.monotonic() - start, cpu_seconds(server.pid) - before
    return Result(server.name, keys, count / took, used / count * 1000)


@contextlib.contextmanager
def pkiserver(home: Path, issuing: str, registration: str) -> Iterator[Server]:
    https, plain = free_ports(2)
    command, pki = Path(sys.executable).with_name("pkiserver"), home / "pki"
    words = ["--https", f"127.0.0.1:{https}", "--http", f"127.0.0.1:{plain}"]
    run([command, "init", "--home", pki, "--issuing-key", issuing, *words], cwd=home)
    section = (
        '\n[scep.bench]\nchallenge = "static"\nchallenge_secret_env = "CHALLENGE"\n'
        f'registration_key = "{registration}"\n'
    )
    with (pki / "pkiserver.toml").open("a") as file:
        file.write(section)
    with service(
        [command, "serve", "--home", pki], cwd=home, env={"CHALLENGE": CHALLENGE}
    ) as running:
        running.wait_until(lambda: listening(plain), 60, "listener")
        yield Server("pkiserver", plain, "/scep/bench", running.process.pid)


@contextlib.contextmanager
def scepserver(home: Path, bits: str) -> Iterator[Server]:
    (port,) = free_ports(1)
    depot = home / "depot"
    run(["scepserver", "ca", "-init", "-keySize", bits, "-depot", depot], cwd=home)
    words = ["scepserver", "-depot", depot, "-port", port, "-challenge", CHALLENGE]
    with service(words, cwd=home) as running:
        running.wait_until(lambda: listening(port), 60, "listener")
        yield Server("scepserver", port, "/scep", running.process.pid)


def measure(count: int) -> list[Result]:
    """Each server with each of its keys."""
    found = []
    with tempfile.TemporaryDirectory(prefix="bench-scep-") as folder:
        for bits in ("4096", "2048"):
            home = Path(folder) / bits
            home.mkdir()
            with scepserver(home, bits) as server:
                found.append(load(server, f"RSA {bits}", count))
        for issuing, registration in OURS:
            home = Path(folder) / f"{issuing}-{registration}"
            home.mkdir()
            with pkiserver(home, issuing, registration) as server:
                found.append(load(server, f"CA {issuing}, RA {registration}", count))
    return found


def table(results: Sequence[Result]) -> tuple[str, bool]:
    """Markdown, and whether the goal is met where both are as they are by themselves, with a CA of
    the same size."""
    ratio = results[2].milliseconds / results[0].milliseconds
    lines = [
        "| server | keys | enrolments/s | CPU per enrolment |",
        "|---|---|---|---|",
        *(f"| {r.server} | {r.keys} | {r.rate:.0f} | {r.milliseconds:.1f} ms |" for r in results),
        "",
        f"CPU per enrolment, CAs of 4096 bits: {ratio:.2f} of `scepserver`'s (goal: {GOAL}).",
    ]
    return "\n".join(lines), ratio <= GOAL


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--enrolments", type=int, default=200)
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if shutil.which("scepserver") is None or shutil.which("unshare") is None:
        print("SKIPPED: scepserver (Debian's scep) or unshare is not installed", file=sys.stderr)
        return 0
    if not given.inside:
        words = [sys.executable, "-m", "interop.bench.scep", "--inside"]
        words += ["--enrolments", str(given.enrolments), *(["--write"] if given.write else [])]
        inner = 'ip link set lo up && exec "$0" "$@"'
        os.execvp("unshare", ["unshare", "-rn", "sh", "-c", inner, *words])
    text, met = table(measure(given.enrolments))
    print(text)
    if given.write:
        page.write("scep", text)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
