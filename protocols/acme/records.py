"""Rows of the ACME tables as frozen values. Times are seconds since 1970 UTC."""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pkiserver.storage import Row
from protocols.acme.states import (
    AccountStatus,
    AuthorizationStatus,
    ChallengeStatus,
    OrderStatus,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ExternalAccount:
    """A key identifier for external account binding (RFC 8555 section 7.3.4). `uses_left` and
    `expires` are None where there is no bound; `names` are patterns, empty: no further bound."""

    id: str
    directory: str
    uses_left: int | None
    expires: int | None
    profile: str | None
    names: tuple[str, ...]
    trusted: bool
    note: str
    created: int
    revoked: int | None


@dataclass(frozen=True, slots=True)
class Account:
    """An account; `jwk` is the canonical JSON of its public key, `names` the patterns an operator
    bound it to, empty: none."""

    id: str
    directory: str
    status: AccountStatus
    jwk: str
    thumbprint: str
    contact: tuple[str, ...]
    terms_agreed: bool
    external_account: str | None
    external_binding: dict[str, Any] | None
    names: tuple[str, ...]
    address: str
    created: int


@dataclass(frozen=True, slots=True)
class NamedIdentifier:
    """An identifier of an order: the client's spelling and the normalised base name."""

    type: str
    sent: str
    value: str
    wildcard: bool


@dataclass(frozen=True, slots=True)
class Order:
    """An order as stored; `states.order_status` says what it is now."""

    id: str
    account: str
    status: OrderStatus
    identifiers: tuple[NamedIdentifier, ...]
    profile: str
    profile_sent: bool
    not_before: int | None
    not_after: int | None
    expires: int
    error: dict[str, Any] | None
    csr_sha256: bytes | None
    certificate: str | None
    replaces: str | None
    replaces_sent: str | None
    created: int
    approval: str | None = None

    @property
    def waits(self) -> bool:
        """For a second person to decide, or to be issued since one approved."""
        processing = self.status is OrderStatus.PROCESSING
        return processing and self.approval is not None and self.certificate is None


@dataclass(frozen=True, slots=True)
class Authorization:
    """An authorization as stored; `value` is the normalised base name, `sent` how the client
    first spelt it."""

    id: str
    account: str
    type: str
    value: str
    sent: str
    wildcard: bool
    status: AuthorizationStatus
    expires: int
    created: int


@dataclass(frozen=True, slots=True)
class Challenge:
    """A challenge of an authorization."""

    id: str
    authorization: str
    position: int
    type: str
    token: str = field(repr=False)
    status: ChallengeStatus
    started: int | None
    validated: int | None
    error: dict[str, Any] | None


EXTERNAL_ACCOUNT = (
    "id, directory, uses_left, expires, profile, names, trusted, note, created, revoked"
)
ACCOUNT = (
    "id, directory, status, jwk, thumbprint, contact, terms_agreed, external_account, "
    "external_binding, names, address, created"
)
ORDER = (
    "id, account, status, identifiers, profile, profile_sent, not_before, not_after, expires, "
    "error, csr_sha256, certificate, replaces, replaces_sent, created, approval"
)
AUTHORIZATION = "id, account, type, value, sent, wildcard, status, expires, created"
CHALLENGE = "id, authorization_id, position, type, token, status, started, validated, error"


def _json(text: str | None) -> dict[str, Any] | None:
    return None if text is None else json.loads(text)


def external_account(row: Row) -> ExternalAccount:
    identifier, directory, uses_left, expires, profile, names, trusted, note, *times = row
    return ExternalAccount(
        identifier, directory, uses_left, expires, profile, tuple(json.loads(names)),
        bool(trusted), note, times[0], times[1],
    )  # fmt: skip


@functools.lru_cache(maxsize=4096)
def account(row: Row) -> Account:
    """Kept as long as the row stays as it is: every request of an account reads it."""
    return Account(
        row[0], row[1], AccountStatus(row[2]), row[3], row[4], tuple(json.loads(row[5])),
        bool(row[6]), row[7], _json(row[8]), tuple(json.loads(row[9])), row[10], row[11],
    )  # fmt: skip


def identifiers_to_json(identifiers: tuple[NamedIdentifier, ...]) -> str:
    return json.dumps([[i.type, i.sent, i.value, i.wildcard] for i in identifiers])


def order(row: Row) -> Order:
    identifiers = tuple(NamedIdentifier(*item) for item in json.loads(row[3]))
    return Order(
        row[0], row[1], OrderStatus(row[2]), identifiers, row[4], bool(row[5]), row[6], row[7],
        row[8], _json(row[9]), row[10], row[11], row[12], row[13], row[14], row[15],
    )  # fmt: skip


def authorization(row: Row) -> Authorization:
    return Authorization(
        row[0], row[1], row[2], row[3], row[4], bool(row[5]), AuthorizationStatus(row[6]),
        row[7], row[8],
    )  # fmt: skip


def challenge(row: Row) -> Challenge:
    return Challenge(
        row[0], row[1], row[2], row[3], row[4], ChallengeStatus(row[5]), row[6], row[7],
        _json(row[8]),
    )  # fmt: skip


def maybe(build: Callable[[Row], T], row: Row | None) -> T | None:
    """`build(row)`, or None where there is no row."""
    return None if row is None else build(row)
