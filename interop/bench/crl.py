"""Large CRLs against the library's own builder, in one run:
`python -m interop.bench.crl [--entries N ...] [--write]`.

For each size a home is made whose issuing CA (P-256) has that many certificates revoked, and in a
process of its own a list is published: read from the database, signed, checked and stored. Then
one more certificate is revoked, and it is measured how long after the revocation returned a list is
out that shows it, and for how long the event loop was held up meanwhile. In another process the
library builds, signs and serialises a list of as many entries. Memory is the peak of each process.
`--write` puts the table into docs/performance.md."""

import argparse
import asyncio
import datetime as dt
import gzip
import json
import os
import random
import resource
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from interop.bench import page
from interop.processes import run
from pkiserver.app import load_settings, open_runtime
from pkiserver.ca.crl import encode_entry
from pkiserver.ca.crl_scope import bucket_of
from pkiserver.ca.model import CertificateRequest, Reason, Requester
from pkiserver.clock import epoch, monotonic
from pkiserver.initialise import NewHome, initialise
from pkiserver.pkix.cert import serial_bytes
from pkiserver.pkix.names import dns_name
from pkiserver.storage import Row

SIZES = (100_000, 1_000_000)
SECONDS, MEGABYTES = 2.0, 400.0
"""Goals for a million entries."""
_BATCH = 20_000
_REASONS = (Reason.SUPERSEDED, Reason.KEY_COMPROMISE, Reason.UNSPECIFIED, Reason.SUPERSEDED)
_ACTOR = Requester("bench", "crl")
_TICK = 0.001


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def rows(count: int, now: dt.datetime) -> Iterator[Row]:
    """Revocations as `Revocation` stores them."""
    source = random.Random(1)
    for _ in range(count):
        serial = source.getrandbits(134) | 1 << 134
        reason = source.choice(_REASONS)
        entry = encode_entry(serial, now, reason, None)
        yield (
            "issuing", serial_bytes(serial), epoch(now), reason.value, epoch(now) + 90 * 86400,
            entry, bucket_of(serial, ca=False), 2,
        )  # fmt: skip


async def prepare(home: Path, count: int) -> None:
    async with open_runtime(load_settings(home)) as runtime:
        services = runtime.services
        source = rows(count, services.clock.now())
        while batch := [row for row, _ in zip(source, range(_BATCH), strict=False)]:
            await services.database.write(
                lambda tx, batch=batch: tx.execute_many(  # type: ignore[misc]
                    "INSERT INTO revocations (issuer, serial, revoked_at, reason, not_after, "
                    "entry, bucket, generation) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    batch,
                )
            )
        await services.database.write(
            lambda tx: tx.execute(
                "INSERT INTO crl_changes (issuer, bucket, generation) VALUES ('issuing', 0, 1)"
            )
        )


class Stall:
    """The longest time the event loop did nothing else."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            before = monotonic()
            await asyncio.sleep(_TICK)
            self.longest = max(self.longest, monotonic() - before - _TICK)

    def stop(self) -> float:
        self._task.cancel()
        return self.longest


async def measure(home: Path) -> dict[str, float]:
    """One publication, and one that a revocation brings about."""
    async with open_runtime(load_settings(home)) as runtime:
        services = runtime.services
        issued = await services.issuance.issue(await services.issuance.prepare(_request()))
        stall, began = Stall(), monotonic()
        published = await services.status.publish_crl("issuing")
        seconds = monotonic() - began
        await services.revocation.revoke(
            "issuing", issued.record.serial, Reason.SUPERSEDED, actor=_ACTOR
        )
        revoked = monotonic()
        newest = await services.status.crl("issuing")
        while newest.entries == published.entries:
            await asyncio.sleep(_TICK)
            newest = await services.status.crl("issuing")
        return {
            "seconds": seconds,
            "until_visible": monotonic() - revoked,
            "stall": stall.stop(),
            "megabytes": megabytes(),
            "octets": len(newest.der),
            "compressed": len(gzip.compress(newest.der[:5_000_000], 6))
            / len(newest.der[:5_000_000]),
        }


def _request() -> CertificateRequest:
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder(x509.Name([])).add_extension(
        x509.SubjectAlternativeName([x509.DNSName("a.example")]), critical=False
    )
    data = csr.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    return CertificateRequest("tls-server", _ACTOR, data, (dns_name("a.example"),))


def build_with_library(count: int) -> dict[str, float]:
    """What the library needs from serial numbers to DER."""
    key, name = ec.generate_private_key(ec.SECP256R1()), "Bench CA"
    now = dt.datetime.fromtimestamp(1_800_000_000, dt.UTC)
    source = random.Random(1)
    serials = [source.getrandbits(134) | 1 << 134 for _ in range(count)]
    reason = x509.CRLReason(x509.ReasonFlags.superseded)
    began = monotonic()
    revoked = [
        x509.RevokedCertificateBuilder(serial, now, [x509.Extension(reason.oid, False, reason)])
        .build()
        for serial in serials
    ]  # fmt: skip
    made = x509.CertificateRevocationListBuilder(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
        now,
        now + dt.timedelta(days=7),
        revoked_certificates=revoked,
    ).sign(key, hashes.SHA256())
    octets = len(made.public_bytes(Encoding.DER))
    return {"seconds": monotonic() - began, "megabytes": megabytes(), "octets": octets}


def compare(count: int) -> tuple[dict[str, float], dict[str, float]]:
    """Ours and the library's, each in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "pki"
        initialise(home, NewHome(root_key="p256"))
        asyncio.run(prepare(home, count))
        return _child("--measure", home), _child("--library", count)


def _child(*words: object) -> dict[str, float]:
    command = [sys.executable, "-m", "interop.bench.crl", *words]
    output = run(command, cwd=Path(__file__).parents[2], seconds=900)
    found: dict[str, float] = json.loads(output.strip().splitlines()[-1])
    return found


def table(results: dict[int, tuple[dict[str, float], dict[str, float]]]) -> str:
    head = [
        "entries", "size", "published in", "peak memory", "visible after a revocation",
        "loop held up", "library", "library's memory", "ratio",
    ]  # fmt: skip
    lines = [head, ["---"] * len(head)]
    for count, (ours, library) in results.items():
        lines.append(
            [
                f"{count:,}",
                f"{ours['octets'] / 1e6:.1f} MB",
                f"**{ours['seconds']:.2f} s**",
                f"**{ours['megabytes']:.0f} MB**",
                f"{ours['until_visible']:.2f} s",
                f"{ours['stall'] * 1000:.0f} ms",
                f"{library['seconds']:.1f} s",
                f"{library['megabytes']:.0f} MB",
                f"{library['seconds'] / ours['seconds']:.1f}",
            ]
        )
    text = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    last = results[max(results)][0]
    return (
        f"{text}\n\n{os.cpu_count()} CPUs. gzip makes {last['compressed']:.0%} of such a list: "
        "serial numbers are random."
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--library", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.measure or given.library:
        done: dict[str, Any] = (
            asyncio.run(measure(given.measure))
            if given.measure
            else build_with_library(given.library)
        )
        print(json.dumps(done))
        return 0
    results = {count: compare(count) for count in given.entries}
    text = table(results)
    print(text)
    if given.write:
        page.write("crl", text)
    largest = max(results)
    ours = results[largest][0]
    scale = largest / 1_000_000
    met = ours["seconds"] <= max(SECONDS * scale, 0.5) and ours["megabytes"] <= MEGABYTES
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
