"""Accounts (RFC 8555 section 7.3) and external accounts (section 7.3.4) in the database."""

import json
from collections.abc import Sequence
from typing import Any

from pkiserver.addresses import site
from pkiserver.storage import Reader, Transaction
from protocols.acme import records
from protocols.acme.records import Account, ExternalAccount
from protocols.acme.store.base import won


def account(reader: Reader, directory: str, account_id: str) -> Account | None:
    return records.maybe(
        records.account,
        reader.one(
            f"SELECT {records.ACCOUNT} FROM acme_accounts WHERE id = ? AND directory = ?",
            (account_id, directory),
        ),
    )


def directory_of(reader: Reader, account_id: str) -> str | None:
    row = reader.one("SELECT directory FROM acme_accounts WHERE id = ?", (account_id,))
    return None if row is None else str(row[0])


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
        f"INSERT INTO acme_accounts ({records.ACCOUNT}, site) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
        (
            new.id, new.directory, new.status, new.jwk, new.thumbprint, json.dumps(new.contact),
            int(new.terms_agreed), new.external_account, binding, json.dumps(new.names),
            new.address, new.created, site(new.address),
        ),
    )  # fmt: skip


def update_contact(tx: Transaction, account_id: str, contact: Sequence[str]) -> bool:
    return won(
        tx.execute(
            "UPDATE acme_accounts SET contact = ? WHERE id = ? AND status = 'valid'",
            (json.dumps(list(contact)), account_id),
        )
    )


def restrict_account(tx: Transaction, account_id: str, names: Sequence[str]) -> bool:
    return won(
        tx.execute(
            "UPDATE acme_accounts SET names = ? WHERE id = ? AND status = 'valid'",
            (json.dumps(list(names)), account_id),
        )
    )


def agree_to_terms(tx: Transaction, account_id: str) -> bool:
    return won(
        tx.execute(
            "UPDATE acme_accounts SET terms_agreed = 1 WHERE id = ? AND status = 'valid'",
            (account_id,),
        )
    )


def deactivate_account(tx: Transaction, account_id: str, error: dict[str, Any]) -> bool:
    """Valid to deactivated, and what it had under way ends (section 7.3.6)."""
    done = won(
        tx.execute(
            "UPDATE acme_accounts SET status = 'deactivated' WHERE id = ? AND status = 'valid'",
            (account_id,),
        )
    )
    if done:
        _end_business(tx, account_id, error, pending="deactivated", valid="deactivated")
    return done


def _end_business(
    tx: Transaction, account_id: str, error: dict[str, Any], *, pending: str, valid: str
) -> None:
    """Orders not yet accepted for issuance become invalid with that error; `pending` and `valid`
    say what becomes of such authorizations."""
    tx.execute(
        "UPDATE acme_orders SET status = 'invalid', error = ? "
        "WHERE account = ? AND status IN ('pending', 'ready')",
        (json.dumps(error), account_id),
    )
    tx.execute(
        "UPDATE acme_authorizations SET status = CASE status WHEN 'valid' THEN ? ELSE ? END "
        "WHERE account = ? AND status IN ('pending', 'valid')",
        (valid, pending, account_id),
    )


def change_key(tx: Transaction, account_id: str, old: str, thumbprint: str, jwk: str) -> bool:
    """Replace the key whose thumbprint is `old`. Raises `IntegrityError` if the new one is taken
    (section 7.3.5)."""
    return won(
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
    return won(
        tx.execute(
            "UPDATE acme_external_accounts SET uses_left = uses_left - 1 "
            "WHERE id = ? AND revoked IS NULL AND (expires IS NULL OR expires > ?) "
            "AND (uses_left IS NULL OR uses_left > 0)",
            (key_id, now),
        )
    )


def revoke_external_account(
    tx: Transaction, key_id: str, now: int, error: dict[str, Any]
) -> list[str] | None:
    """Revoke a key and freeze the accounts bound to it; their ids, or None if there was nothing
    to revoke. Their orders end with `error`."""
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
        _end_business(tx, account_id, error, pending="invalid", valid="revoked")
    return [row[0] for row in rows]
