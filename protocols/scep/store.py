"""The transactions table. Where a transaction stands is derived from it and from its certificate:
no status of its own that a crash could leave behind.

    awaiting   no certificate yet: an approval decides
    running    its certificate is being signed, or whoever decided has yet to agree
    issued     the certificate may be handed out, as often as it is asked for
    over       expired, revoked or never signed: the next request begins anew
"""

import enum
from dataclasses import dataclass, field

from pkiserver.storage import Reader, Row, Transaction

BATCH = 500
UNDELIVERED = 600
"""Seconds after which a certificate that was not handed out is given up by its transaction."""


class Standing(enum.StrEnum):
    """Where a transaction stands."""

    AWAITING = "awaiting"
    RUNNING = "running"
    ISSUED = "issued"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class Key:
    """What makes two requests one: the transactionID and the key to certify; for renewals also the
    certificate (its id) that is renewed, since devices may keep key and transactionID for life.
    `content_sha256` is of what is asked for: another subject is another request."""

    label: str
    transaction_id: str
    spki_sha256: bytes
    renewal_of: str
    content_sha256: bytes


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A row. `signer_sha256` is of the key that signed the request, and has to sign its polls."""

    id: str
    key: Key
    signer_sha256: bytes
    party: str
    profile: str
    address: str
    csr: bytes = field(repr=False)
    approval: str | None
    certificate: str | None
    delivered: bool
    created: int


@dataclass(frozen=True, slots=True)
class Known:
    """An enrolment and where it stands; `der` is the certificate if it is issued."""

    enrolment: Enrolment
    standing: Standing
    der: bytes | None = field(repr=False)


_COLUMNS = (
    "t.id, t.label, t.transaction_id, t.spki_sha256, t.renewal_of, t.content_sha256, "
    "t.signer_sha256, t.party, t.profile, t.address, t.csr, t.approval, t.certificate, "
    "t.delivered, t.created"
)
_SELECT = (
    f"SELECT {_COLUMNS}, c.status, c.der, c.revoked_at, c.not_after FROM scep_transactions t "
    "LEFT JOIN certificates c ON c.id = t.certificate "
)


def find(reader: Reader, key: Key, now: int) -> Known | None:
    """The enrolment of a repeated request."""
    row = reader.one(
        f"{_SELECT} WHERE t.label = ? AND t.transaction_id = ? AND t.spki_sha256 = ? "
        "AND t.renewal_of = ?",
        (key.label, key.transaction_id, key.spki_sha256, key.renewal_of),
    )
    return None if row is None else _known(row, now)


def awaiting(reader: Reader, key: Key, now: int) -> Known | None:
    """An enrolment of the same key and content that awaits its approval, under whatever
    transactionID: RFC 8894 section 5.2 lets a client that lost its own begin with a new one."""
    row = reader.one(
        f"{_SELECT} WHERE t.label = ? AND t.spki_sha256 = ? AND t.renewal_of = ? "
        "AND t.content_sha256 = ? AND t.certificate IS NULL ORDER BY t.created DESC LIMIT 1",
        (key.label, key.spki_sha256, key.renewal_of, key.content_sha256),
    )
    return None if row is None else _known(row, now)


def polled(
    reader: Reader, label: str, transaction_id: str, signer_sha256: bytes, now: int
) -> Known | None:
    """The newest enrolment of a transactionID that this key signed."""
    row = reader.one(
        f"{_SELECT} WHERE t.label = ? AND t.transaction_id = ? AND t.signer_sha256 = ? "
        "ORDER BY t.created DESC, t.id DESC LIMIT 1",
        (label, transaction_id, signer_sha256),
    )
    return None if row is None else _known(row, now)


def begin(tx: Transaction, enrolment: Enrolment, replacing: str | None) -> bool:
    """Record an enrolment, in place of the one with the id `replacing` if there is one; whether
    this call did it. Somebody else's meanwhile stays."""
    key = enrolment.key
    changed = tx.execute(
        "INSERT INTO scep_transactions (id, label, transaction_id, spki_sha256, renewal_of, "
        "content_sha256, signer_sha256, party, profile, address, csr, approval, certificate, "
        "delivered, created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (label, transaction_id, spki_sha256, renewal_of) DO UPDATE SET "
        "id = excluded.id, content_sha256 = excluded.content_sha256, "
        "signer_sha256 = excluded.signer_sha256, party = excluded.party, "
        "profile = excluded.profile, address = excluded.address, csr = excluded.csr, "
        "approval = excluded.approval, certificate = excluded.certificate, "
        "delivered = excluded.delivered, created = excluded.created "
        "WHERE scep_transactions.id = ?",
        (
            enrolment.id, key.label, key.transaction_id, key.spki_sha256, key.renewal_of,
            key.content_sha256, enrolment.signer_sha256, enrolment.party, enrolment.profile,
            enrolment.address, enrolment.csr, enrolment.approval, enrolment.certificate,
            int(enrolment.delivered), enrolment.created, replacing or "",
        ),
    )  # fmt: skip
    return changed == 1


def rename(tx: Transaction, enrolment_id: str, transaction_id: str, signer_sha256: bytes) -> bool:
    """Go on under a new transactionID; whether it still awaits its approval."""
    changed = tx.execute(
        "UPDATE scep_transactions SET transaction_id = ?, signer_sha256 = ? "
        "WHERE id = ? AND certificate IS NULL",
        (transaction_id, signer_sha256, enrolment_id),
    )
    return changed == 1


def attach(tx: Transaction, enrolment_id: str, certificate: str) -> bool:
    """Awaiting to running; whether this call did it."""
    changed = tx.execute(
        "UPDATE scep_transactions SET certificate = ? WHERE id = ? AND certificate IS NULL",
        (certificate, enrolment_id),
    )
    return changed == 1


def deliver(tx: Transaction, enrolment_id: str) -> bool:
    """The certificate may be handed out from now on; whether this call said so."""
    changed = tx.execute(
        "UPDATE scep_transactions SET delivered = 1 WHERE id = ? AND delivered = 0",
        (enrolment_id,),
    )
    return changed == 1


def issued_since(reader: Reader, label: str, device: bytes, since: int, count: int) -> int | None:
    """When the oldest of the `count` newest of a device was, if so many are later than `since`."""
    row = reader.one(
        "SELECT at FROM scep_issued WHERE label = ? AND device = ? AND at > ? "
        "ORDER BY at DESC LIMIT 1 OFFSET ?",
        (label, device, since, count - 1),
    )
    return None if row is None else int(row[0])


def insert_issued(
    tx: Transaction, enrolment: str, label: str, device: bytes, at: int, until: int
) -> None:
    tx.execute(
        "INSERT INTO scep_issued (enrolment, label, device, at, until) VALUES (?, ?, ?, ?, ?)",
        (enrolment, label, device, at, until),
    )


def delete_issued(tx: Transaction, now: int) -> int:
    """Delete a batch of those that do not count any more; how many."""
    return tx.execute(
        "DELETE FROM scep_issued WHERE enrolment IN "
        "(SELECT enrolment FROM scep_issued WHERE until < ? LIMIT ?)",
        (now, BATCH),
    )


def recent(reader: Reader, label: str | None, now: int, limit: int) -> list[Known]:
    """The newest first."""
    where = "" if label is None else "WHERE t.label = ? "
    params = () if label is None else (label,)
    rows = reader.all(
        f"{_SELECT} {where}ORDER BY t.created DESC, t.id DESC LIMIT ?", (*params, limit)
    )
    return [_known(row, now) for row in rows]


def delete_old(tx: Transaction, label: str, before: int) -> int:
    """Delete a batch of those from before that moment; how many."""
    return tx.execute(
        "DELETE FROM scep_transactions WHERE id IN (SELECT id FROM scep_transactions "
        "WHERE label = ? AND created < ? LIMIT ?)",
        (label, before, BATCH),
    )


def related(reader: Reader, name: str) -> list[str]:
    """For `pkiserver why`: of a transactionID, an approval or a certificate, the other two."""
    rows = reader.all(
        "SELECT transaction_id, approval, certificate FROM scep_transactions "
        "WHERE transaction_id = ? OR certificate = ? OR approval = ? ORDER BY created LIMIT 20",
        (name, name, name),
    )
    return list(dict.fromkeys(part for row in rows for part in row if part is not None))


def _known(row: Row, now: int) -> Known:
    (
        identifier, label, transaction_id, spki, renewal_of, content, signer, party, profile,
        address, csr, approval, certificate, delivered, created, status, der, revoked, not_after,
    ) = row  # fmt: skip
    enrolment = Enrolment(
        id=identifier,
        key=Key(label, transaction_id, bytes(spki), renewal_of, bytes(content)),
        signer_sha256=bytes(signer),
        party=party,
        profile=profile,
        address=address,
        csr=bytes(csr),
        approval=approval,
        certificate=certificate,
        delivered=bool(delivered),
        created=created,
    )
    if certificate is None:
        return Known(enrolment, Standing.AWAITING, None)
    abandoned = not delivered and created <= now - UNDELIVERED
    if status not in ("signing", "issued") or revoked is not None or not_after <= now or abandoned:
        return Known(enrolment, Standing.OVER, None)
    if status == "signing" or not delivered:
        return Known(enrolment, Standing.RUNNING, None)
    return Known(enrolment, Standing.ISSUED, bytes(der))
