"""The table of certificates that Intune consented to.

awaiting --> confirmed    Intune took the success notification: it may be handed out
awaiting --> withdrawn    it was revoked, or never signed
"""

from dataclasses import dataclass, field

from pkiserver.storage import Reader, Transaction

BATCH = 100


@dataclass(frozen=True, slots=True)
class Awaiting:
    """A certificate nobody has yet, as Intune has not confirmed it."""

    certificate: str
    label: str
    transaction_id: str
    csr: bytes = field(repr=False)


def insert(tx: Transaction, row: Awaiting, now: int) -> None:
    tx.execute(
        "INSERT INTO scep_intune (certificate, label, transaction_id, csr, status, created) "
        "VALUES (?,?,?,?,'awaiting',?)",
        (row.certificate, row.label, row.transaction_id, row.csr, now),
    )


def confirm(tx: Transaction, certificate: str) -> bool:
    """Compare and set: whether it was still awaited. Its transaction is delivered with it, or a
    crash in between would leave the device waiting."""
    confirmed = _swap(tx, certificate, "confirmed")
    if confirmed:
        tx.execute(
            "UPDATE scep_transactions SET delivered = 1 WHERE certificate = ?", (certificate,)
        )
    return confirmed


def withdraw(tx: Transaction, certificate: str) -> bool:
    """Compare and set: whether it was still awaited."""
    return _swap(tx, certificate, "withdrawn")


def section(reader: Reader, certificate: str) -> str | None:
    """The section that asked Intune about it; None for a certificate Intune does not know of."""
    row = reader.one("SELECT label FROM scep_intune WHERE certificate = ?", (certificate,))
    return None if row is None else str(row[0])


def awaiting(reader: Reader, label: str, before: int) -> list[Awaiting]:
    """At most `BATCH` that were begun up to a moment and are neither confirmed nor withdrawn, whose
    signature is settled."""
    rows = reader.all(
        "SELECT i.certificate, i.label, i.transaction_id, i.csr FROM scep_intune i "
        "JOIN certificates c ON c.id = i.certificate "
        "WHERE i.status = 'awaiting' AND i.label = ? AND i.created <= ? AND c.status <> 'signing' "
        "ORDER BY i.created, i.certificate LIMIT ?",
        (label, before, BATCH),
    )
    return [
        Awaiting(identifier, name, transaction, bytes(csr))
        for identifier, name, transaction, csr in rows
    ]


def delete_expired(tx: Transaction, now: int) -> int:
    """Delete at most `BATCH` rows of certificates that have expired; how many."""
    return tx.execute(
        "DELETE FROM scep_intune WHERE certificate IN (SELECT i.certificate FROM scep_intune i "
        "JOIN certificates c ON c.id = i.certificate "
        "WHERE c.not_after < ? AND i.status <> 'awaiting' LIMIT ?)",
        (now, BATCH),
    )


def _swap(tx: Transaction, certificate: str, new: str) -> bool:
    changed = tx.execute(
        "UPDATE scep_intune SET status = ? WHERE certificate = ? AND status = 'awaiting'",
        (new, certificate),
    )
    return changed == 1
