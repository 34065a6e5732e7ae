"""What has to be true of a home and its services after a crash."""

import asyncio
import hashlib
import http.client
import json
import shutil
import sqlite3
import tempfile
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from interop.bench.witness import Known, Revocation
from interop.processes import InteropError

CRL_SECONDS = 60
"""A list that shows every acknowledged revocation is out by then."""

_NOTHING_FOUND = {
    "foreign key violations": "PRAGMA foreign_key_check",
    "certificates still being signed": "SELECT id FROM certificates WHERE status = 'signing'",
    "orders still processing": "SELECT id FROM acme_orders WHERE status = 'processing'",
    "serials used twice": (
        "SELECT issuer, hex(serial) FROM certificates GROUP BY issuer, serial HAVING count(*) > 1"
    ),
    "valid orders without a certificate": (
        "SELECT o.id FROM acme_orders o LEFT JOIN certificates c ON c.id = o.certificate "
        "WHERE o.status = 'valid' AND (c.status IS NULL OR c.status <> 'issued')"
    ),
    "certificates whose issue is not in the audit log": (
        "SELECT id FROM certificates c WHERE status = 'issued' AND requester LIKE 'acme:%' AND "
        "(SELECT count(*) FROM audit WHERE object = c.id AND action = 'certificate.issue') <> 1"
    ),
    "revocations on one side only": (
        "SELECT id FROM certificates c WHERE (revoked_at IS NULL) = EXISTS "
        "(SELECT 1 FROM revocations r WHERE r.issuer = c.issuer AND r.serial = c.serial)"
    ),
    "CRL numbers that did not grow": (
        "SELECT object, number FROM (SELECT object, json_extract(detail, '$.number') AS number, "
        "lag(json_extract(detail, '$.number')) OVER (PARTITION BY object ORDER BY sequence) "
        "AS previous FROM audit WHERE action = 'crl.publish') WHERE number <= previous"
    ),
}
"""Statements that return a row for everything that is wrong."""


_UNDER_WAY = " UNION ALL ".join(
    f"SELECT '{what}', count(*) FROM {table} WHERE status = '{status}'"
    for what, table, status in (
        ("orders pending", "acme_orders", "pending"),
        ("orders ready", "acme_orders", "ready"),
        ("orders processing", "acme_orders", "processing"),
        ("challenges processing", "acme_challenges", "processing"),
        ("certificates between serial and signature", "certificates", "signing"),
    )
)


def query(database: Path, sql: str, mode: str = "ro") -> list[tuple[Any, ...]]:
    """Rows of a statement that only reads."""
    uri = f"file:{database}?mode={mode}"
    with closing(sqlite3.connect(uri, uri=True, timeout=30)) as connection:
        return connection.execute(sql).fetchall()


def audit_head(database: Path) -> str:
    """The newest committed audit row as `pkiserver audit verify --anchor` takes it."""
    newest = "SELECT sequence, hash FROM audit ORDER BY sequence DESC LIMIT 1"
    sequence, digest = query(database, newest)[0]
    return f"{sequence}:{bytes(digest).hex()}"


def under_way(database: Path, mode: str = "ro") -> Counter[str]:
    """How many orders, challenges and certificates have begun and not ended."""
    return Counter(dict(query(database, _UNDER_WAY, mode)))


def left_behind(database: Path) -> Counter[str]:
    """What was under way when the server died. It looks at a copy, so that the server itself is the
    first to open the database again."""
    with tempfile.TemporaryDirectory(dir=database.parent.parent) as folder:
        copy = Path(folder) / database.name
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                shutil.copyfile(f"{database}{suffix}", f"{copy}{suffix}")
        return under_way(copy, "rwc")


def check_database(database: Path) -> None:
    """Raises InteropError for the first thing that is wrong."""
    found = query(database, "PRAGMA integrity_check")
    if found != [("ok",)]:
        raise InteropError(f"integrity_check: {found[:10]}")
    for what, sql in _NOTHING_FOUND.items():
        if rows := query(database, sql):
            raise InteropError(f"{what}: {len(rows)}, such as {rows[:5]}")


def check_stored(database: Path, orders: Iterable[Known]) -> None:
    """Every certificate a client has is in the database, as issued."""
    stored = "SELECT der FROM certificates WHERE status = 'issued'"
    known = {hashlib.sha256(der).digest() for (der,) in query(database, stored)}
    for order in orders:
        if order.leaf.fingerprint(hashes.SHA256()) not in known:
            raise InteropError(f"the certificate of {order.url} is not in the database")


def check_log(text: str) -> None:
    """A server that starts after a crash has nothing to complain about."""
    for line in text.splitlines():
        if line.startswith("Traceback") or _level(line) in ("error", "critical"):
            raise InteropError(f"the server's log has an error:\n{text[-4000:]}")


def _level(line: str) -> str:
    with suppress(ValueError, AttributeError):
        return str(json.loads(line).get("level"))
    return ""


@dataclass
class RelyingParty:
    """Asks OCSP and fetches CRLs, and remembers each list it got by its number."""

    crl_url: str
    issuer: x509.Certificate
    lists: dict[int, bytes] = field(default_factory=dict)
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock)

    async def watch(self) -> None:
        """Fetch the list again and again, until cancelled; the server may be away."""
        while True:
            with suppress(OSError, http.client.HTTPException):
                await asyncio.to_thread(self.fetch)
            await asyncio.sleep(0.1)

    def fetch(self) -> x509.CertificateRevocationList:
        """The present list. Raises InteropError if its number goes back or stood for another."""
        with self._one_at_a_time:
            return self._fetch()

    def _fetch(self) -> x509.CertificateRevocationList:
        der = get(self.crl_url)
        found = x509.load_der_x509_crl(der)
        if not found.is_signature_valid(cast(ec.EllipticCurvePublicKey, self.issuer.public_key())):
            raise InteropError("the CRL is not signed by the issuer")
        number = found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        if number < max(self.lists, default=0) or self.lists.setdefault(number, der) != der:
            raise InteropError(f"CRL number {number} after {max(self.lists)}, or with other bytes")
        return found

    async def check(self, orders: Sequence[Known]) -> None:
        """OCSP says what the clients know, and the list soon says so too. A revocation that was
        acknowledged is never good again."""
        await asyncio.to_thread(self._check_ocsp, orders)
        revoked = {
            order.leaf.serial_number
            for order in orders
            if order.revocation is Revocation.ACKNOWLEDGED
        }
        missing = revoked
        try:
            async with asyncio.timeout(CRL_SECONDS):
                while missing:
                    current = await asyncio.to_thread(self.fetch)
                    missing = revoked - {entry.serial_number for entry in current}
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise InteropError(f"{len(missing)} revocations are on no list") from None

    def _check_ocsp(self, orders: Sequence[Known]) -> None:
        for order in orders:
            expected = "REVOKED" if order.revocation is Revocation.ACKNOWLEDGED else "GOOD"
            found = self._ocsp_status(order.leaf)
            if found != expected:
                raise InteropError(f"OCSP says {found} for {order.certificate}, not {expected}")

    def _ocsp_status(self, leaf: x509.Certificate) -> str:
        builder = ocsp.OCSPRequestBuilder().add_certificate(leaf, self.issuer, hashes.SHA256())
        request = builder.build().public_bytes(Encoding.DER)
        response = ocsp.load_der_ocsp_response(get(_ocsp_url(leaf), request))
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            return response.response_status.name
        if response.serial_number != leaf.serial_number:
            raise InteropError("the OCSP response is for another certificate")
        self._check_signature(response)
        return response.certificate_status.name

    def _check_signature(self, response: ocsp.OCSPResponse) -> None:
        """By a responder that the issuer made (RFC 6960 section 4.2.2.2)."""
        responder = response.certificates[0]
        responder.verify_directly_issued_by(self.issuer)
        usage = responder.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        if ExtendedKeyUsageOID.OCSP_SIGNING not in usage:
            raise InteropError("the OCSP response is not signed by a responder")
        algorithm = response.signature_hash_algorithm or hashes.SHA256()
        key = cast(ec.EllipticCurvePublicKey, responder.public_key())
        key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(algorithm))


def _ocsp_url(leaf: x509.Certificate) -> str:
    access = leaf.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    return next(
        str(item.access_location.value)
        for item in access
        if item.access_method == AuthorityInformationAccessOID.OCSP
    )


def get(url: str, body: bytes | None = None) -> bytes:
    """The body at a URL, or what an OCSP request posted there is answered with."""
    headers = {"Content-Type": "application/ocsp-request"} if body else {}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, body, headers), timeout=10
        ) as answer:
            data: bytes = answer.read()
    except urllib.error.HTTPError as error:
        raise InteropError(f"{url}: {error.code}") from error
    return data
