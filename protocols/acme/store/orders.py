"""Orders (RFC 8555 section 7.4) in the database."""

import json
from collections.abc import Iterable
from typing import Any

from pkiserver.storage import Reader, Transaction
from protocols.acme import records
from protocols.acme.records import Order
from protocols.acme.states import OrderStatus
from protocols.acme.store.base import won


def order(reader: Reader, order_id: str) -> Order | None:
    return records.maybe(
        records.order,
        reader.one(f"SELECT {records.ORDER} FROM acme_orders WHERE id = ?", (order_id,)),
    )


def order_authorizations(reader: Reader, order_id: str) -> list[str]:
    """The ids of an order's authorizations, in the order of its identifiers."""
    rows = reader.all(
        "SELECT authorization_id FROM acme_order_authorizations "
        "WHERE order_id = ? ORDER BY position",
        (order_id,),
    )
    return [row[0] for row in rows]


def insert_order(
    tx: Transaction, new: Order, authorizations: Iterable[str], status: OrderStatus
) -> None:
    """Raises `IntegrityError` if another live order replaces the same certificate."""
    error = None if new.error is None else json.dumps(new.error)
    tx.execute(
        f"INSERT INTO acme_orders ({records.ORDER}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        (
            new.id, new.account, status, records.identifiers_to_json(new.identifiers),
            new.profile, int(new.profile_sent), new.not_before, new.not_after, new.expires, error,
            new.csr_sha256, new.certificate, new.replaces, new.replaces_sent, new.created,
            new.approval,
        ),
    )  # fmt: skip
    tx.execute_many(
        "INSERT INTO acme_order_authorizations (order_id, position, authorization_id) "
        "VALUES (?,?,?)",
        [(new.id, position, item) for position, item in enumerate(authorizations)],
    )


def was_named(reader: Reader, account_id: str, certificate_id: str | None) -> bool:
    """Whether any order of the account, whatever became of it, replaces the certificate."""
    row = reader.one(
        "SELECT 1 FROM acme_orders WHERE account = ? AND replaces = ? LIMIT 1",
        (account_id, certificate_id),
    )
    return row is not None


def expire_replacement(tx: Transaction, certificate_id: str, now: int) -> None:
    """An order that expired unfinished does not replace anything any more."""
    tx.execute(
        "UPDATE acme_orders SET status = 'invalid' "
        "WHERE replaces = ? AND status IN ('pending', 'ready') AND expires <= ?",
        (certificate_id, now),
    )


def orders_of(
    reader: Reader, account_id: str, before: tuple[int, str] | None, now: int, limit: int
) -> list[tuple[int, str]]:
    """(created, id) of an account's orders that are not invalid, newest first, after `before`
    (section 7.1.2.1)."""
    created, order_id = before or (1 << 62, "")
    rows = reader.all(
        "SELECT created, id FROM acme_orders "
        "WHERE account = ? AND status <> 'invalid' "
        "AND NOT (status IN ('pending', 'ready') AND expires <= ?) "
        "AND (created < ? OR (created = ? AND id < ?)) ORDER BY created DESC, id DESC LIMIT ?",
        (account_id, now, created, created, order_id, limit),
    )
    return [(row[0], row[1]) for row in rows]


def orders(reader: Reader, limit: int) -> list[Order]:
    rows = reader.all(
        f"SELECT {records.ORDER} FROM acme_orders ORDER BY created DESC LIMIT ?", (limit,)
    )
    return [records.order(row) for row in rows]


def begin_issuance(
    tx: Transaction, order_id: str, csr_sha256: bytes, certificate: str, now: int
) -> bool:
    """Ready to processing, before it expires."""
    return won(
        tx.execute(
            "UPDATE acme_orders SET status = 'processing', csr_sha256 = ?, certificate = ? "
            "WHERE id = ? AND status = 'ready' AND expires > ?",
            (csr_sha256, certificate, order_id, now),
        )
    )


def await_approval(
    tx: Transaction, order_id: str, csr_sha256: bytes, approval: str, now: int
) -> bool:
    """Ready to processing, before it expires; a second person decides how it goes on."""
    return won(
        tx.execute(
            "UPDATE acme_orders SET status = 'processing', csr_sha256 = ?, approval = ? "
            "WHERE id = ? AND status = 'ready' AND expires > ?",
            (csr_sha256, approval, order_id, now),
        )
    )


def begin_approved(tx: Transaction, order_id: str, certificate: str) -> bool:
    """The certificate of an order that waited; still processing."""
    return won(
        tx.execute(
            "UPDATE acme_orders SET certificate = ? WHERE id = ? AND status = 'processing' "
            "AND approval IS NOT NULL AND certificate IS NULL",
            (certificate, order_id),
        )
    )


def approval_refused(tx: Transaction, order_id: str, error: dict[str, Any]) -> bool:
    """Processing to invalid, for one that still waits."""
    return won(
        tx.execute(
            "UPDATE acme_orders SET status = 'invalid', error = ? WHERE id = ? "
            "AND status = 'processing' AND approval IS NOT NULL AND certificate IS NULL",
            (json.dumps(error), order_id),
        )
    )


def order_issued(tx: Transaction, order_id: str) -> bool:
    """Processing to valid."""
    return won(
        tx.execute(
            "UPDATE acme_orders SET status = 'valid' WHERE id = ? AND status = 'processing'",
            (order_id,),
        )
    )


def order_failed(tx: Transaction, order_id: str, error: dict[str, Any]) -> bool:
    """Processing to invalid, with the reason."""
    return won(
        tx.execute(
            "UPDATE acme_orders SET status = 'invalid', error = ? "
            "WHERE id = ? AND status = 'processing'",
            (json.dumps(error), order_id),
        )
    )


def orders_processing(reader: Reader) -> list[Order]:
    """Those whose certificate is being made."""
    rows = reader.all(
        f"SELECT {records.ORDER} FROM acme_orders WHERE status = 'processing' "
        "AND (certificate IS NOT NULL OR approval IS NULL)"
    )
    return [records.order(row) for row in rows]


def orders_decided(reader: Reader, now: int) -> list[Order]:
    """Those that wait for an approval which is not pending any more."""
    rows = reader.all(
        f"SELECT {records.ORDER} FROM acme_orders WHERE status = 'processing' "
        "AND certificate IS NULL AND approval IS NOT NULL AND NOT EXISTS (SELECT 1 FROM approvals "
        "WHERE approvals.id = acme_orders.approval AND approvals.status = 'pending' "
        "AND approvals.expires > ?)",
        (now,),
    )
    return [records.order(row) for row in rows]
