"""The certificates table: every serial that was ever reserved. All writing to it is here.

Issuing is two transactions: `reserve` makes serial and to-be-signed bytes durable before a CA key
signs them, `complete` stores the certificate before it is handed out.
"""

from collections.abc import Sequence
from typing import Any

from pkiserver.ca.model import (
    CertificateRecord,
    CertificateStatus,
    Prepared,
    Reason,
)
from pkiserver.clock import epoch, from_epoch
from pkiserver.pkix.cert import serial_bytes
from pkiserver.pkix.names import NameType, reversed_dns
from pkiserver.storage import Reader, Row, Transaction

COLUMNS = (
    "id, issuer, serial, status, profile, requester, subject, spki_sha256, not_before, not_after, "
    "created, der, revoked_at, reason"
)


def reserve(tx: Transaction, prepared: Prepared, now: int) -> None:
    """Record the intent to sign. Raises `IntegrityError` if the serial is taken."""
    tx.execute(
        "INSERT INTO certificates (id, issuer, serial, status, profile, requester, subject, "
        "spki_sha256, not_before, not_after, created, tbs, signature_algorithm) "
        "VALUES (?, ?, ?, 'signing', ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            prepared.id, prepared.issuer, serial_bytes(prepared.serial), prepared.profile,
            str(prepared.requester), prepared.subject, prepared.spki_sha256,
            epoch(prepared.not_before), epoch(prepared.not_after), now, prepared.tbs,
            prepared.signature_algorithm,
        ),
    )  # fmt: skip
    tx.execute_many(
        "INSERT INTO certificate_names (certificate, type, value, reversed) VALUES (?, ?, ?, ?)",
        [
            (prepared.id, name.type, name.value,
             reversed_dns(name.value) if name.type is NameType.DNS else name.value)
            for name in prepared.names
        ],
    )  # fmt: skip


def complete(tx: Transaction, certificate_id: str, der: bytes) -> bool:
    """Signing to issued; whether this call did it."""
    changed = tx.execute(
        "UPDATE certificates SET status = 'issued', der = ? WHERE id = ? AND status = 'signing'",
        (der, certificate_id),
    )
    return changed == 1


def issued(reader: Reader, certificate_id: str) -> bytes | None:
    """The certificate, DER; None unless it is issued."""
    row = reader.one(
        "SELECT der FROM certificates WHERE id = ? AND status = 'issued'", (certificate_id,)
    )
    return None if row is None else bytes(row[0])


def abandon(tx: Transaction, certificate_id: str) -> bool:
    """Signing to abandoned: the serial stays used, a certificate never came of it."""
    changed = tx.execute(
        "UPDATE certificates SET status = 'abandoned' WHERE id = ? AND status = 'signing'",
        (certificate_id,),
    )
    return changed == 1


def record(row: Row | Sequence[Any]) -> CertificateRecord:
    """A row of `COLUMNS` as a value."""
    (
        identifier, issuer, serial, status, profile, requester, subject, spki_sha256, not_before,
        not_after, created, der, revoked_at, reason,
    ) = row  # fmt: skip
    return CertificateRecord(
        id=identifier,
        issuer=issuer,
        serial=int.from_bytes(serial, "big"),
        status=CertificateStatus(status),
        profile=profile,
        requester=requester,
        subject=subject,
        spki_sha256=spki_sha256,
        not_before=from_epoch(not_before),
        not_after=from_epoch(not_after),
        created=from_epoch(created),
        der=der,
        revoked_at=None if revoked_at is None else from_epoch(revoked_at),
        reason=None if reason is None else Reason(reason),
    )
