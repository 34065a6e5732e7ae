"""The SQL of ACME. Functions on a transaction, named after transitions: each change of status is
compare-and-set and says whether it won. No policy here, and nothing of HTTP."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from pkiserver.storage import Reader, Transaction
from protocols.acme import records
from protocols.acme.records import Account, Authorization, Challenge, ExternalAccount, Order

# Accounts (RFC 8555 section 7.3)


def account(reader: Reader, directory: str, account_id: str) -> Account | None:
    return records.maybe(
        records.account,
        reader.one(
            f"SELECT {records.ACCOUNT} FROM acme_accounts WHERE id = ? AND directory = ?",
            (account_id, directory),
        ),
    )


def account_by_key(reader: Reader, directory: str, thumbprint: str) -> Account | None:
    return records.maybe(
        records.account,
        reader.one(
            f"SELECT {records.ACCOUNT} FROM acme_accounts WHERE directory = ? AND thumbprint = ?",
            (directory, thumbprint),
        ),
    )


def insert_account(tx: Transaction, new: Account) -> None:
    """Raises `IntegrityError` if the key has an account in this directory already."""
    binding = None if new.external_binding is None else json.dumps(new.external_binding)
    tx.execute(
        f"INSERT INTO acme_accounts ({records.ACCOUNT}) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
        (
            new.id, new.directory, new.status, new.jwk, new.thumbprint, json.dumps(new.contact),
            int(new.terms_agreed), new.external_account, binding, new.address, new.created,
        ),
    )  # fmt: skip


def update_contact(tx: Transaction, account_id: str, contact: Sequence[str]) -> bool:
    return _won(
        tx.execute(
            "UPDATE acme_accounts SET contact = ? WHERE id = ? AND status = 'valid'",
            (json.dumps(list(contact)), account_id),
        )
    )


def agree_to_terms(tx: Transaction, account_id: str) -> bool:
    return _won(
        tx.execute(
            "UPDATE acme_accounts SET terms_agreed = 1 WHERE id = ? AND status = 'valid'",
            (account_id,),
        )
    )


def deactivate_account(tx: Transaction, account_id: str) -> bool:
    """Valid to deactivated, and what it had under way ends (section 7.3.6)."""
    won = _won(
        tx.execute(
            "UPDATE acme_accounts SET status = 'deactivated' WHERE id = ? AND status = 'valid'",
            (account_id,),
        )
    )
    if won:
        end_account_business(tx, account_id)
    return won


def end_account_business(tx: Transaction, account_id: str) -> None:
    """Orders not yet accepted for issuance become invalid, authorizations deactivated."""
    tx.execute(
        "UPDATE acme_orders SET status = 'invalid' "
        "WHERE account = ? AND status IN ('pending', 'ready')",
        (account_id,),
    )
    tx.execute(
        "UPDATE acme_authorizations SET status = 'deactivated' "
        "WHERE account = ? AND status IN ('pending', 'valid')",
        (account_id,),
    )


def change_key(tx: Transaction, account_id: str, old: str, thumbprint: str, jwk: str) -> bool:
    """Replace the key whose thumbprint is `old`. Raises `IntegrityError` if the new one is taken
    (section 7.3.5)."""
    return _won(
        tx.execute(
            "UPDATE acme_accounts SET thumbprint = ?, jwk = ? "
            "WHERE id = ? AND thumbprint = ? AND status = 'valid'",
            (thumbprint, jwk, account_id, old),
        )
    )


def accounts(reader: Reader, directory: str | None, limit: int) -> list[Account]:
    where, params = ("WHERE directory = ?", [directory]) if directory else ("", [])
    rows = reader.all(
        f"SELECT {records.ACCOUNT} FROM acme_accounts {where} ORDER BY created DESC LIMIT ?",
        (*params, limit),
    )
    return [records.account(row) for row in rows]


# External accounts (section 7.3.4)


def external_account(reader: Reader, directory: str, key_id: str) -> ExternalAccount | None:
    return records.maybe(
        records.external_account,
        reader.one(
            f"SELECT {records.EXTERNAL_ACCOUNT} FROM acme_external_accounts "
            "WHERE id = ? AND directory = ?",
            (key_id, directory),
        ),
    )


def external_accounts(reader: Reader) -> list[ExternalAccount]:
    rows = reader.all(
        f"SELECT {records.EXTERNAL_ACCOUNT} FROM acme_external_accounts ORDER BY created, id"
    )
    return [records.external_account(row) for row in rows]


def insert_external_account(tx: Transaction, new: ExternalAccount) -> None:
    tx.execute(
        f"INSERT INTO acme_external_accounts ({records.EXTERNAL_ACCOUNT}) "
        "VALUES (?,?,?,?,?,?,?,?,?,?)",
        (
            new.id, new.directory, new.uses_left, new.expires, new.profile,
            json.dumps(new.names), int(new.trusted), new.note, new.created, new.revoked,
        ),
    )  # fmt: skip


def use_external_account(tx: Transaction, key_id: str, now: int) -> bool:
    """Spend one use of a key that is neither revoked, expired nor used up."""
    return _won(
        tx.execute(
            "UPDATE acme_external_accounts SET uses_left = uses_left - 1 "
            "WHERE id = ? AND revoked IS NULL AND (expires IS NULL OR expires > ?) "
            "AND (uses_left IS NULL OR uses_left > 0)",
            (key_id, now),
        )
    )


def revoke_external_account(tx: Transaction, key_id: str, now: int) -> list[str] | None:
    """Revoke a key and freeze the accounts bound to it; their ids, or None if there was nothing
    to revoke."""
    if not tx.execute(
        "UPDATE acme_external_accounts SET revoked = ? WHERE id = ? AND revoked IS NULL",
        (now, key_id),
    ):
        return None
    rows = tx.all(
        "UPDATE acme_accounts SET status = 'revoked' "
        "WHERE external_account = ? AND status = 'valid' RETURNING id",
        (key_id,),
    )
    for (account_id,) in rows:
        end_account_business(tx, account_id)
    return [row[0] for row in rows]


# Orders (section 7.4)


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


def insert_order(tx: Transaction, new: Order, authorizations: Iterable[str]) -> None:
    """Raises `IntegrityError` if another live order replaces the same certificate."""
    error = None if new.error is None else json.dumps(new.error)
    tx.execute(
        f"INSERT INTO acme_orders ({records.ORDER}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        (
            new.id, new.account, new.status, records.identifiers_to_json(new.identifiers),
            new.profile, int(new.profile_sent), new.not_before, new.not_after, new.expires, error,
            new.csr_sha256, new.certificate, new.replaces, new.replaces_sent, new.created,
        ),
    )  # fmt: skip
    tx.execute_many(
        "INSERT INTO acme_order_authorizations (order_id, position, authorization_id) "
        "VALUES (?,?,?)",
        [(new.id, position, item) for position, item in enumerate(authorizations)],
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


def begin_issuance(tx: Transaction, order_id: str, csr_sha256: bytes, certificate: str) -> bool:
    """Ready to processing."""
    return _won(
        tx.execute(
            "UPDATE acme_orders SET status = 'processing', csr_sha256 = ?, certificate = ? "
            "WHERE id = ? AND status = 'ready'",
            (csr_sha256, certificate, order_id),
        )
    )


def order_issued(tx: Transaction, order_id: str) -> bool:
    """Processing to valid."""
    return _won(
        tx.execute(
            "UPDATE acme_orders SET status = 'valid' WHERE id = ? AND status = 'processing'",
            (order_id,),
        )
    )


def order_failed(tx: Transaction, order_id: str, error: dict[str, Any]) -> bool:
    """Processing to invalid, with the reason."""
    return _won(
        tx.execute(
            "UPDATE acme_orders SET status = 'invalid', error = ? "
            "WHERE id = ? AND status = 'processing'",
            (json.dumps(error), order_id),
        )
    )


def orders_processing(reader: Reader) -> list[Order]:
    rows = reader.all(f"SELECT {records.ORDER} FROM acme_orders WHERE status = 'processing'")
    return [records.order(row) for row in rows]


# Authorizations and challenges (sections 7.5 and 8)


def authorization(reader: Reader, authorization_id: str) -> Authorization | None:
    return records.maybe(
        records.authorization,
        reader.one(
            f"SELECT {records.AUTHORIZATION} FROM acme_authorizations WHERE id = ?",
            (authorization_id,),
        ),
    )


def insert_authorization(
    tx: Transaction, new: Authorization, challenges: Iterable[Challenge]
) -> None:
    tx.execute(
        f"INSERT INTO acme_authorizations ({records.AUTHORIZATION}) VALUES (?,?,?,?,?,?,?,?,?)",
        (
            new.id, new.account, new.type, new.value, new.sent, int(new.wildcard), new.status,
            new.expires, new.created,
        ),
    )  # fmt: skip
    tx.execute_many(
        f"INSERT INTO acme_challenges ({records.CHALLENGE}) VALUES (?,?,?,?,?,?,?,?,?)",
        [
            (c.id, c.authorization, c.position, c.type, c.token, c.status, c.started, c.validated,
             None)
            for c in challenges
        ],
    )  # fmt: skip


def usable_authorization(
    reader: Reader, account_id: str, kind: str, value: str, wildcard: bool, until: int
) -> Authorization | None:
    """A valid authorization of the account for exactly this name that lasts beyond `until`."""
    return records.maybe(
        records.authorization,
        reader.one(
            f"SELECT {records.AUTHORIZATION} FROM acme_authorizations "
            "WHERE account = ? AND type = ? AND value = ? AND wildcard = ? "
            "AND status = 'valid' AND expires > ? ORDER BY expires DESC LIMIT 1",
            (account_id, kind, value, int(wildcard), until),
        ),
    )


def deactivate_authorization(tx: Transaction, authorization_id: str) -> bool:
    """Pending or valid to deactivated (section 7.5.2); orders that wait for it become invalid."""
    won = _won(
        tx.execute(
            "UPDATE acme_authorizations SET status = 'deactivated' "
            "WHERE id = ? AND status IN ('pending', 'valid')",
            (authorization_id,),
        )
    )
    if won:
        _fail_orders(tx, authorization_id, None)
    return won


def challenges(reader: Reader, authorization_id: str) -> list[Challenge]:
    rows = reader.all(
        f"SELECT {records.CHALLENGE} FROM acme_challenges "
        "WHERE authorization_id = ? ORDER BY position",
        (authorization_id,),
    )
    return [records.challenge(row) for row in rows]


def challenge(reader: Reader, challenge_id: str) -> Challenge | None:
    return records.maybe(
        records.challenge,
        reader.one(
            f"SELECT {records.CHALLENGE} FROM acme_challenges WHERE id = ?", (challenge_id,)
        ),
    )


def challenges_processing(reader: Reader, started_before: int) -> list[Challenge]:
    rows = reader.all(
        f"SELECT {records.CHALLENGE} FROM acme_challenges "
        "WHERE status = 'processing' AND started <= ?",
        (started_before,),
    )
    return [records.challenge(row) for row in rows]


def begin_challenge(tx: Transaction, challenge_id: str, now: int) -> bool:
    """Pending to processing, while the authorization is pending."""
    return _won(
        tx.execute(
            "UPDATE acme_challenges SET status = 'processing', started = ? "
            "WHERE id = ? AND status = 'pending' AND EXISTS (SELECT 1 FROM acme_authorizations a "
            "WHERE a.id = authorization_id AND a.status = 'pending' AND a.expires > ?)",
            (now, challenge_id, now),
        )
    )


def take_over_challenge(tx: Transaction, item: Challenge, now: int) -> bool:
    """Claim a processing challenge whose process is gone: one sweeper gets it."""
    return _won(
        tx.execute(
            "UPDATE acme_challenges SET started = ? "
            "WHERE id = ? AND status = 'processing' AND started = ?",
            (now, item.id, item.started),
        )
    )


def note_challenge_error(tx: Transaction, challenge_id: str, error: dict[str, Any]) -> bool:
    """Show why an attempt failed while others follow (section 8.2)."""
    return _won(
        tx.execute(
            "UPDATE acme_challenges SET error = ? WHERE id = ? AND status = 'processing'",
            (json.dumps(error), challenge_id),
        )
    )


def challenge_succeeded(tx: Transaction, item: Challenge, now: int, expires: int) -> bool:
    """Challenge processing to valid, its authorization pending to valid and every order that
    waited for nothing else pending to ready: one transaction, so that nobody sees one without
    the other."""
    won = _won(
        tx.execute(
            "UPDATE acme_challenges SET status = 'valid', validated = ?, error = NULL "
            "WHERE id = ? AND status = 'processing'",
            (now, item.id),
        )
    ) and _won(
        tx.execute(
            "UPDATE acme_authorizations SET status = 'valid', expires = ? "
            "WHERE id = ? AND status = 'pending' AND expires > ?",
            (expires, item.authorization, now),
        )
    )
    if won:
        _ready_orders(tx, item.authorization)
    return won


def _ready_orders(tx: Transaction, authorization_id: str) -> None:
    tx.execute(
        "UPDATE acme_orders SET status = 'ready' WHERE status = 'pending' AND id IN "
        "(SELECT order_id FROM acme_order_authorizations WHERE authorization_id = ?) "
        "AND NOT EXISTS (SELECT 1 FROM acme_order_authorizations l "
        "JOIN acme_authorizations a ON a.id = l.authorization_id "
        "WHERE l.order_id = acme_orders.id AND a.status <> 'valid')",
        (authorization_id,),
    )


def challenge_failed(tx: Transaction, item: Challenge, error: dict[str, Any]) -> bool:
    """Challenge processing to invalid, its authorization and the orders that need it with it."""
    won = _won(
        tx.execute(
            "UPDATE acme_challenges SET status = 'invalid', error = ? "
            "WHERE id = ? AND status = 'processing'",
            (json.dumps(error), item.id),
        )
    )
    if won and _won(
        tx.execute(
            "UPDATE acme_authorizations SET status = 'invalid' WHERE id = ? AND status = 'pending'",
            (item.authorization,),
        )
    ):
        _fail_orders(tx, item.authorization, error)
    return won


def _fail_orders(tx: Transaction, authorization_id: str, error: dict[str, Any] | None) -> None:
    tx.execute(
        "UPDATE acme_orders SET status = 'invalid', error = ? "
        "WHERE status IN ('pending', 'ready') AND id IN "
        "(SELECT order_id FROM acme_order_authorizations WHERE authorization_id = ?)",
        (None if error is None else json.dumps(error), authorization_id),
    )


# Rates


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


ACCOUNTS_OF_ADDRESS = "SELECT created FROM acme_accounts WHERE address = ?"
ORDERS_OF_ACCOUNT = "SELECT created FROM acme_orders WHERE account = ?"
FAILURES_OF_NAME = "SELECT at FROM acme_failures WHERE account = ? AND value = ?"
_TIMES = {ACCOUNTS_OF_ADDRESS: "created", ORDERS_OF_ACCOUNT: "created", FAILURES_OF_NAME: "at"}


def record_failure(tx: Transaction, account_id: str, value: str, now: int) -> None:
    tx.execute(
        "INSERT INTO acme_failures (account, value, at) VALUES (?,?,?)", (account_id, value, now)
    )


# Cleaning up


def delete_expired(tx: Transaction, before: int, batch: int = 500) -> int:
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


def _won(changed: int) -> bool:
    return changed == 1
