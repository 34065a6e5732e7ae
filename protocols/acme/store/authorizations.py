"""Authorizations and challenges (RFC 8555 sections 7.5 and 8) in the database."""

import json
from collections.abc import Iterable
from typing import Any

from pkiserver.storage import Reader, Transaction
from protocols.acme import records
from protocols.acme.records import Authorization, Challenge
from protocols.acme.states import AuthorizationStatus
from protocols.acme.store.base import won

_PROOF = "SELECT 1 FROM acme_challenges c WHERE c.status = 'valid' AND c.started IS NOT NULL"
"""A challenge that was carried out, which one given on trust was not."""


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
    reader: Reader, account_id: str, kind: str, value: str, wildcard: bool, until: int,
    status: AuthorizationStatus = AuthorizationStatus.VALID, proven: bool = False,
) -> Authorization | None:  # fmt: skip
    """An authorization of the account for exactly this name that lasts beyond `until`; `proven`:
    one that a challenge was carried out for."""
    by_challenge = f"AND EXISTS ({_PROOF} AND c.authorization_id = acme_authorizations.id) "
    return records.maybe(
        records.authorization,
        reader.one(
            f"SELECT {records.AUTHORIZATION} FROM acme_authorizations "
            "WHERE account = ? AND type = ? AND value = ? AND wildcard = ? "
            "AND status = ? AND expires > ? "
            f"{by_challenge if proven else ''}ORDER BY expires DESC LIMIT 1",
            (account_id, kind, value, int(wildcard), status, until),
        ),
    )


def has_proven(
    reader: Reader, account_id: str, kind: str, value: str, wildcard: bool, now: int
) -> bool:
    """Whether the account holds a valid authorization for this name that a challenge was carried
    out for, and not one that was given on trust."""
    row = reader.one(
        "SELECT 1 FROM acme_authorizations a JOIN acme_challenges c ON c.authorization_id = a.id "
        "WHERE a.account = ? AND a.type = ? AND a.value = ? AND a.wildcard = ? "
        "AND a.status = 'valid' AND a.expires > ? "
        "AND c.status = 'valid' AND c.started IS NOT NULL LIMIT 1",
        (account_id, kind, value, int(wildcard), now),
    )
    return row is not None


def deactivate_authorization(tx: Transaction, authorization_id: str, error: dict[str, Any]) -> bool:
    """Pending or valid to deactivated (section 7.5.2); orders that need it become invalid, with
    that error."""
    done = won(
        tx.execute(
            "UPDATE acme_authorizations SET status = 'deactivated' "
            "WHERE id = ? AND status IN ('pending', 'valid')",
            (authorization_id,),
        )
    )
    if done:
        _fail_orders(tx, authorization_id, error)
    return done


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
    return won(
        tx.execute(
            "UPDATE acme_challenges SET status = 'processing', started = ? "
            "WHERE id = ? AND status = 'pending' AND EXISTS (SELECT 1 FROM acme_authorizations a "
            "WHERE a.id = authorization_id AND a.status = 'pending' AND a.expires > ?)",
            (now, challenge_id, now),
        )
    )


def release_challenges(tx: Transaction) -> int:
    """Let the sweep have every processing challenge at once."""
    return tx.execute("UPDATE acme_challenges SET started = 0 WHERE status = 'processing'")


def take_over_challenge(tx: Transaction, item: Challenge, now: int) -> bool:
    """Claim a processing challenge whose process is gone: one sweeper gets it."""
    return won(
        tx.execute(
            "UPDATE acme_challenges SET started = ? "
            "WHERE id = ? AND status = 'processing' AND started = ?",
            (now, item.id, item.started),
        )
    )


def note_challenge_error(tx: Transaction, challenge_id: str, error: dict[str, Any]) -> bool:
    """Show why an attempt failed while others follow (section 8.2)."""
    return won(
        tx.execute(
            "UPDATE acme_challenges SET error = ? WHERE id = ? AND status = 'processing'",
            (json.dumps(error), challenge_id),
        )
    )


def challenge_succeeded(tx: Transaction, item: Challenge, now: int, expires: int) -> bool:
    """Challenge processing to valid, its authorization pending to valid and every order that
    waited for nothing else pending to ready: one transaction, so that nobody sees one without
    the other."""
    done = won(
        tx.execute(
            "UPDATE acme_challenges SET status = 'valid', validated = ?, error = NULL "
            "WHERE id = ? AND status = 'processing' AND EXISTS (SELECT 1 FROM "
            "acme_authorizations a WHERE a.id = authorization_id "
            "AND a.status = 'pending' AND a.expires > ?)",
            (now, item.id, now),
        )
    )
    if done:
        tx.execute(
            "UPDATE acme_authorizations SET status = 'valid', expires = ? "
            "WHERE id = ? AND status = 'pending'",
            (expires, item.authorization),
        )
        _ready_orders(tx, item.authorization, now)
    return done


def _ready_orders(tx: Transaction, authorization_id: str, now: int) -> None:
    """An order is not ready for longer than the authorizations it stands on are valid."""
    earliest = (
        "(SELECT MIN(a.expires) FROM acme_order_authorizations l JOIN acme_authorizations a "
        "ON a.id = l.authorization_id WHERE l.order_id = acme_orders.id)"
    )
    tx.execute(
        "UPDATE acme_orders SET status = 'ready', "
        f"expires = CASE WHEN expires <= {earliest} THEN expires ELSE {earliest} END "
        "WHERE status = 'pending' AND id IN "
        "(SELECT order_id FROM acme_order_authorizations WHERE authorization_id = ?) "
        "AND NOT EXISTS (SELECT 1 FROM acme_order_authorizations l "
        "JOIN acme_authorizations a ON a.id = l.authorization_id "
        "WHERE l.order_id = acme_orders.id AND (a.status <> 'valid' OR a.expires <= ?))",
        (authorization_id, now),
    )


def challenge_failed(tx: Transaction, item: Challenge, error: dict[str, Any]) -> bool:
    """Challenge processing to invalid, its authorization and the orders that need it with it."""
    done = won(
        tx.execute(
            "UPDATE acme_challenges SET status = 'invalid', error = ? "
            "WHERE id = ? AND status = 'processing'",
            (json.dumps(error), item.id),
        )
    )
    if done and won(
        tx.execute(
            "UPDATE acme_authorizations SET status = 'invalid' WHERE id = ? AND status = 'pending'",
            (item.authorization,),
        )
    ):
        _fail_orders(tx, item.authorization, error)
    return done


def _fail_orders(tx: Transaction, authorization_id: str, error: dict[str, Any]) -> None:
    tx.execute(
        "UPDATE acme_orders SET status = 'invalid', error = ? "
        "WHERE status IN ('pending', 'ready') AND id IN "
        "(SELECT order_id FROM acme_order_authorizations WHERE authorization_id = ?)",
        (json.dumps(error), authorization_id),
    )
