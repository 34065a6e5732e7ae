"""Counting for rate limits, and deleting what is over."""

from collections.abc import Sequence

from pkiserver.storage import Reader, Transaction


def crowded_since(
    reader: Reader, sql_source: str, params: Sequence[str], now: int, period: int, count: int
) -> int | None:
    """When the oldest of the newest `count` events happened, if that many lie within a `period`,
    seconds. What lies further ahead of `now` than that was dated by a wrong clock. `sql_source` is
    one of the constants below."""
    at = _TIMES[sql_source]
    row = reader.one(
        f"{sql_source} AND {at} > ? AND {at} <= ? ORDER BY 1 DESC LIMIT 1 OFFSET ?",
        (*params, now - period, now + period, count - 1),
    )
    return None if row is None else int(row[0])


BATCH = 100
"""Rows deleted in one transaction."""

ACCOUNTS_OF_SITE = "SELECT created FROM acme_accounts WHERE site = ?"
ORDERS_OF_ACCOUNT = "SELECT created FROM acme_orders WHERE account = ?"
PRE_AUTHORIZATIONS_OF_ACCOUNT = (
    "SELECT created FROM acme_authorizations WHERE account = ? AND NOT EXISTS (SELECT 1 FROM "
    "acme_order_authorizations l WHERE l.authorization_id = acme_authorizations.id)"
)
FAILURES_OF_NAME = "SELECT at FROM acme_failures WHERE account = ? AND value = ?"
_TIMES = {
    ACCOUNTS_OF_SITE: "created",
    ORDERS_OF_ACCOUNT: "created",
    PRE_AUTHORIZATIONS_OF_ACCOUNT: "created",
    FAILURES_OF_NAME: "at",
}


def record_failure(tx: Transaction, account_id: str, value: str, now: int) -> None:
    tx.execute(
        "INSERT INTO acme_failures (account, value, at) VALUES (?,?,?)", (account_id, value, now)
    )


def delete_expired(tx: Transaction, directory: str, before: int, batch: int = BATCH) -> int:
    """Delete orders of a directory that expired before a moment, authorizations likewise that no
    order names any more, and old failures. Accounts and certificates stay, and so do orders that
    replaced a certificate for as long as it could be replaced again (RFC 9773 section 5). The
    number of rows of orders and authorizations deleted; call again while it is `batch` or more."""
    ours = "(SELECT id FROM acme_accounts WHERE directory = ?)"
    expired = (
        "SELECT id FROM acme_orders o WHERE expires < ? AND status <> 'processing' "
        f"AND account IN {ours} AND NOT (status = 'valid' AND EXISTS (SELECT 1 FROM certificates c "
        "WHERE c.id = o.replaces AND c.not_after >= ?)) "
        "ORDER BY expires, id LIMIT ?"
    )
    unused = (
        f"SELECT a.id FROM acme_authorizations a WHERE a.expires < ? AND a.account IN {ours} "
        "AND NOT EXISTS "
        "(SELECT 1 FROM acme_order_authorizations l WHERE l.authorization_id = a.id) "
        "ORDER BY a.expires, a.id LIMIT ?"
    )
    which = (before, directory, before, batch)
    tx.execute(f"DELETE FROM acme_order_authorizations WHERE order_id IN ({expired})", which)
    orders_gone = tx.execute(f"DELETE FROM acme_orders WHERE id IN ({expired})", which)
    idle = (before, directory, batch)
    tx.execute(f"DELETE FROM acme_challenges WHERE authorization_id IN ({unused})", idle)
    authorizations_gone = tx.execute(
        f"DELETE FROM acme_authorizations WHERE id IN ({unused})", idle
    )
    tx.execute(f"DELETE FROM acme_failures WHERE at < ? AND account IN {ours}", (before, directory))
    return orders_gone + authorizations_gone
