"""The tables of states (RFC 8555 section 7.1.6), and that no statement of the store makes a step
that is not an arrow of them: every statement is tried on every combination of statuses."""

import enum
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from pkiserver.clock import epoch
from pkiserver.storage import Database, Transaction, migrate, open_database
from protocols.acme import states
from protocols.acme.plugin import PLUGIN
from protocols.acme.records import Account, Authorization, Challenge, NamedIdentifier, Order
from protocols.acme.states import (
    AccountStatus,
    AuthorizationStatus,
    ChallengeStatus,
    OrderStatus,
    authorization_status,
    order_status,
)
from protocols.acme.store import accounts, authorizations, orders
from tests.test_acme.world import NOW

pytestmark = pytest.mark.asyncio(loop_scope="module")
NOW_S = epoch(NOW)
LATER = NOW_S + 1000
ERROR: dict[str, Any] = {"type": "urn:ietf:params:acme:error:malformed"}
STORED = [status for status in AuthorizationStatus if status is not AuthorizationStatus.EXPIRED]
"""Expiry is not stored; it is a matter of the time."""

ACCOUNT = Account(
    "account",
    "default",
    AccountStatus.VALID,
    "{}",
    "thumbprint",
    (),
    True,
    "key",
    None,
    (),
    "",
    NOW_S,
)
ORDER = Order(
    "order", "account", OrderStatus.PENDING, (NamedIdentifier("dns", "a.example", "a.example",
    False),), "tls-server", False, None, None, LATER, None, None, None, None, None, NOW_S,
)  # fmt: skip
AUTHORIZATION = Authorization(
    "authorization", "account", "dns", "a.example", "a.example", False,
    AuthorizationStatus.PENDING, LATER, NOW_S,
)  # fmt: skip
CHALLENGE = Challenge(
    "challenge", "authorization", 0, "http-01", "token", ChallengeStatus.PENDING, None, None, None
)
TRANSITIONS: dict[str, Callable[[Transaction], object]] = {
    "deactivate_account": lambda tx: accounts.deactivate_account(tx, "account", ERROR),
    "revoke_external_account": lambda tx: accounts.revoke_external_account(tx, "key", NOW_S, ERROR),
    "update_contact": lambda tx: accounts.update_contact(tx, "account", []),
    "change_key": lambda tx: accounts.change_key(tx, "account", "thumbprint", "other", "{}"),
    "begin_issuance": lambda tx: orders.begin_issuance(tx, "order", b"", "certificate", NOW_S),
    "await_approval": lambda tx: orders.await_approval(tx, "order", b"", "approval", NOW_S),
    "begin_approved": lambda tx: orders.begin_approved(tx, "order", "certificate"),
    "approval_refused": lambda tx: orders.approval_refused(tx, "order", ERROR),
    "order_issued": lambda tx: orders.order_issued(tx, "order"),
    "order_failed": lambda tx: orders.order_failed(tx, "order", ERROR),
    "expire_replacement": lambda tx: orders.expire_replacement(tx, "certificate", LATER),
    "deactivate_authorization": lambda tx: authorizations.deactivate_authorization(
        tx, "authorization", ERROR
    ),
    "begin_challenge": lambda tx: authorizations.begin_challenge(tx, "challenge", NOW_S),
    "release_challenges": lambda tx: authorizations.release_challenges(tx),
    "take_over_challenge": lambda tx: authorizations.take_over_challenge(
        tx, replace(CHALLENGE, started=0), NOW_S
    ),
    "note_challenge_error": lambda tx: authorizations.note_challenge_error(tx, "challenge", ERROR),
    "challenge_succeeded": lambda tx: authorizations.challenge_succeeded(
        tx, CHALLENGE, NOW_S, LATER
    ),
    "challenge_succeeded too late": lambda tx: authorizations.challenge_succeeded(
        tx, CHALLENGE, LATER, LATER + 1000
    ),
    "challenge_failed": lambda tx: authorizations.challenge_failed(tx, CHALLENGE, ERROR),
}
TABLES: Mapping[str, Mapping[Any, frozenset[Any]]] = {
    "acme_accounts": states.ACCOUNT,
    "acme_orders": states.ORDER,
    "acme_authorizations": states.AUTHORIZATION,
    "acme_challenges": states.CHALLENGE,
}


class _Undo(Exception):
    """Takes back what a test did."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def database(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Database]:
    database = open_database("sqlite:///pki.db", tmp_path_factory.mktemp("states"))
    assert PLUGIN.migrations is not None
    await migrate(database, {"acme": PLUGIN.migrations})
    yield database
    await database.close()


def fill(tx: Transaction) -> None:
    tx.execute(
        "INSERT INTO acme_external_accounts (id, directory, names, trusted, note, created) "
        "VALUES ('key', 'default', '[]', 0, '', 0)"
    )
    tx.execute(
        "INSERT INTO authorities (name, chain, key_id, spki_sha256, status, created, generation) "
        "VALUES ('issuing', ?, 'key', ?, 'active', 0, 1)",
        (b"", b""),
    )
    tx.execute(
        "INSERT INTO certificates (id, issuer, serial, status, profile, requester, subject, "
        "spki_sha256, not_before, not_after, created, tbs, signature_algorithm) VALUES "
        "('certificate', 'issuing', ?, 'signing', '', '', '', ?, 0, 0, 0, ?, ?)",
        (b"\1", b"", b"", b""),
    )
    accounts.insert_account(tx, ACCOUNT)
    authorizations.insert_authorization(tx, AUTHORIZATION, [CHALLENGE])
    orders.insert_order(
        tx, replace(ORDER, replaces="certificate"), ["authorization"], OrderStatus.PENDING
    )


def set_statuses(tx: Transaction, statuses: Mapping[str, str]) -> None:
    for table, status in statuses.items():
        tx.execute(f"UPDATE {table} SET status = ?", (status,))
    tx.execute("UPDATE acme_external_accounts SET revoked = NULL")
    tx.execute("UPDATE acme_challenges SET started = 0")
    tx.execute("UPDATE acme_authorizations SET expires = ?", (LATER,))
    tx.execute("UPDATE acme_orders SET expires = ?, certificate = NULL", (LATER,))
    tx.execute("UPDATE acme_accounts SET thumbprint = 'thumbprint'")


def get_statuses(tx: Transaction) -> dict[str, str]:
    return {table: str((tx.one(f"SELECT status FROM {table}") or ("",))[0]) for table in TABLES}


def every_combination() -> list[dict[str, str]]:
    product = itertools.product(AccountStatus, OrderStatus, STORED, ChallengeStatus)
    return [dict(zip(TABLES, statuses, strict=True)) for statuses in product]


@pytest.mark.parametrize("name", TRANSITIONS)
async def test_every_statement_follows_the_arrows(database: Database, name: str) -> None:
    seen: set[tuple[str, str, str]] = set()

    def work(tx: Transaction) -> None:
        fill(tx)
        for before in every_combination():
            set_statuses(tx, before)
            TRANSITIONS[name](tx)
            after = get_statuses(tx)
            seen.update(
                (table, before[table], after[table])
                for table in TABLES
                if before[table] != after[table]
            )
        raise _Undo

    with pytest.raises(_Undo):
        await database.write(work)
    for table, before, after in seen:
        arrows = TABLES[table]
        kind = type(next(iter(arrows)))
        assert kind(after) in arrows[kind(before)], f"{name}: {table} {before} -> {after}"


async def test_every_stored_arrow_is_made_by_a_statement(database: Database) -> None:
    """No arrow is there for nothing, but for those that time makes."""
    made: set[tuple[str, str, str]] = set()

    def work(tx: Transaction) -> None:
        fill(tx)
        for before in every_combination():
            for transition in TRANSITIONS.values():
                set_statuses(tx, before)
                transition(tx)
                made.update(
                    (table, before[table], after) for table, after in get_statuses(tx).items()
                )
        raise _Undo

    with pytest.raises(_Undo):
        await database.write(work)
    arrows = {
        (table, str(old), str(new))
        for table, rows in TABLES.items()
        for old, targets in rows.items()
        for new in targets
    }
    by_time = {
        ("acme_authorizations", "pending", "expired"),
        ("acme_authorizations", "valid", "expired"),
    }
    assert arrows - made == by_time


@pytest.mark.parametrize("table", TABLES.values())
async def test_tables_name_every_status(table: Mapping[Any, frozenset[Any]]) -> None:
    kind: type[enum.StrEnum] = type(next(iter(table)))
    assert set(table) == set(kind)
    assert all(targets <= set(kind) for targets in table.values())


async def test_terminal_states() -> None:
    """Section 7.1.6."""
    assert {s for s in OrderStatus if not states.ORDER[s]} == {"valid", "invalid"}
    assert {s for s in ChallengeStatus if not states.CHALLENGE[s]} == {"valid", "invalid"}
    assert {s for s in AccountStatus if not states.ACCOUNT[s]} == {"deactivated", "revoked"}


@pytest.mark.parametrize("status", OrderStatus)
async def test_order_status_by_time(status: OrderStatus) -> None:
    unfinished = status in (OrderStatus.PENDING, OrderStatus.READY)
    assert order_status(status, 100, 99) is status
    assert order_status(status, 100, 100) is (OrderStatus.INVALID if unfinished else status)


@pytest.mark.parametrize("status", AuthorizationStatus)
async def test_authorization_status_by_time(status: AuthorizationStatus) -> None:
    late = {
        AuthorizationStatus.PENDING: AuthorizationStatus.INVALID,
        AuthorizationStatus.VALID: AuthorizationStatus.EXPIRED,
    }
    assert authorization_status(status, 100, 99) is status
    assert authorization_status(status, 100, 100) is late.get(status, status)
