"""Counting for rate limits, and deleting what is over."""

from collections.abc import Sequence

from pkiserver.storage import Reader, Transaction


def crowded_since(
    reader: Reader, sql_source: str, params: Sequence[str], since: int, count: int
) -> int | None:
    """When the oldest of the newest `count` events happened, if that many lie after `since`.
    `sql_source` is one of the constants below."""
    row = reader.one(
        f"{sql_source} AND {_TIMES[sql_source]} > ? ORDER BY 1 DESC LIMIT 1 OFFSET ?",
        (*params, since, count - 1),
    )
    return None if row is None else int(row[0])


BATCH = 500
"""Rows deleted in one transaction."""

ACCOUNTS_OF_ADDRESS = "SELECT created FROM acme_accounts WHERE address = ?"
ORDERS_OF_ACCOUNT = "SELECT created FROM acme_orders WHERE account = ?"
FAILURES_OF_NAME = "SELECT at FROM acme_failures WHERE account = ? AND value = ?"
_TIMES = {ACCOUNTS_OF_ADDRESS: "created", ORDERS_OF_ACCOUNT: "created", FAILURES_OF_NAME: "at"}


def record_failure(tx: Transaction, account_id: str, value: str, now: int) -> None:
    tx.execute(
        "INSERT INTO acme_failures (account, value, at) VALUES (?,?,?)", (account_id, value, now)
    )


def delete_expired(tx: Transaction, before: int, batch: int = BATCH) -> int:
    """Delete orders that expired before a moment, authorizations likewise that no order names any
    more, and old failures. Accounts and certificates stay. The number of rows of orders and
    authorizations deleted; call again while it is `batch` or more."""
    expired = "SELECT id FROM acme_orders WHERE expires < ? AND status <> 'processing' LIMIT ?"
    tx.execute(
        f"DELETE FROM acme_order_authorizations WHERE order_id IN ({expired})", (before, batch)
    )
    orders_gone = tx.execute(f"DELETE FROM acme_orders WHERE id IN ({expired})", (before, batch))
    unused = (
        "SELECT a.id FROM acme_authorizations a WHERE a.expires < ? AND NOT EXISTS "
        "(SELECT 1 FROM acme_order_authorizations l WHERE l.authorization_id = a.id) LIMIT ?"
    )
    tx.execute(f"DELETE FROM acme_challenges WHERE authorization_id IN ({unused})", (before, batch))
    authorizations_gone = tx.execute(
        f"DELETE FROM acme_authorizations WHERE id IN ({unused})", (before, batch)
    )
    tx.execute("DELETE FROM acme_failures WHERE at < ?", (before,))
    return orders_gone + authorizations_gone
