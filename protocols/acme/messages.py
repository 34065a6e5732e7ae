"""Payloads of ACME requests and bodies of the answers (RFC 8555 section 7).

Parsers take the octets of a verified payload and raise `Problem` and nothing else. Members they do
not know are ignored (section 6.1); an optional member that is null counts as absent. Limits are
hard ones; settings may be tighter.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pkiserver.clock import rfc3339
from protocols.acme.ari import parse_cert_id
from protocols.acme.identifiers import (
    Identifier,
    parse_identifier,
    parse_identifiers,
    parse_wire,
)
from protocols.acme.members import contacts, der, flag, optional, read_members, text, time
from protocols.acme.problems import Problem, ProblemType, malformed

_REVOCATION_REASONS = frozenset({0, 1, 2, 3, 4, 5, 6, 8, 9, 10})


@dataclass(frozen=True, slots=True)
class NewAccount:
    """Section 7.3. `external_account_binding` is the JWS of section 7.3.4, not looked at yet."""

    contact: tuple[str, ...]
    terms_of_service_agreed: bool
    only_return_existing: bool
    external_account_binding: dict[str, Any] | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class UpdateAccount:
    """Sections 7.3.2 and 7.3.6. `contact` None: unchanged; empty: none any more."""

    contact: tuple[str, ...] | None
    terms_of_service_agreed: bool
    deactivate: bool


@dataclass(frozen=True, slots=True)
class NewOrder:
    """Section 7.4, `replaces` of RFC 9773 section 5, `profile` of draft-ietf-acme-profiles.
    Times are aware UTC."""

    identifiers: tuple[Identifier, ...]
    not_before: dt.datetime | None
    not_after: dt.datetime | None
    replaces: str | None
    profile: str | None


@dataclass(frozen=True, slots=True)
class NewAuthorization:
    """Section 7.4.1."""

    identifier: Identifier


@dataclass(frozen=True, slots=True)
class Finalize:
    """Section 7.4: the CSR in DER, not looked at yet."""

    csr: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Revoke:
    """Section 7.6: the certificate in DER, not looked at yet, and a CRLReason number."""

    certificate: bytes = field(repr=False)
    reason: int | None


@dataclass(frozen=True, slots=True)
class KeyChange:
    """Section 7.3.5: the account's URL and the JWK it has now, as sent."""

    account: str
    old_key: dict[str, Any]


def require_post_as_get(payload: bytes) -> None:
    """Section 6.3: a POST that reads has the empty payload, which is not `{}`."""
    if payload:
        raise malformed("This resource is read with POST-as-GET, whose payload is empty")


def parse_new_account(payload: bytes) -> NewAccount:
    """Section 7.3.1: with `onlyReturnExisting` nothing is registered, so contacts are not read."""
    members = read_members(payload)
    only_return_existing = flag(members, "onlyReturnExisting")
    return NewAccount(
        () if only_return_existing else contacts(members) or (),
        flag(members, "termsOfServiceAgreed"),
        only_return_existing,
        optional(members, "externalAccountBinding", dict),
    )


def parse_update_account(payload: bytes) -> UpdateAccount:
    """Section 7.3.2: whatever else the client sends of its account object is ignored, as is any
    status but `deactivated`."""
    members = read_members(payload)
    return UpdateAccount(
        contacts(members),
        flag(members, "termsOfServiceAgreed"),
        optional(members, "status", str) == "deactivated",
    )


def parse_new_order(payload: bytes, *, max_identifiers: int) -> NewOrder:
    members = read_members(payload)
    items = optional(members, "identifiers", list)
    if not items or len(items) > max_identifiers:
        raise malformed(f"'identifiers' has 1 to {max_identifiers} elements")
    return NewOrder(
        parse_identifiers([parse_wire(item) for item in items]),
        time(members, "notBefore"),
        time(members, "notAfter"),
        _replaces(members),
        text(members, "profile"),
    )


def _replaces(members: Mapping[str, Any]) -> str | None:
    """RFC 9773 section 5. Clients look for the word `replaces` to try again without."""
    value = text(members, "replaces")
    try:
        if value is not None:
            parse_cert_id(value)
    except Problem as problem:
        raise malformed(f"'replaces': {problem.detail}") from problem
    return value


def parse_new_authz(payload: bytes) -> NewAuthorization:
    return NewAuthorization(parse_identifier(parse_wire(read_members(payload).get("identifier"))))


def parse_update_authz(payload: bytes) -> None:
    """Section 7.5.2: deactivation is all a client can ask for."""
    if read_members(payload).get("status") != "deactivated":
        raise malformed("An authorization takes no change but the status 'deactivated'")


def parse_challenge_response(payload: bytes) -> None:
    """Section 7.5.1: an object. What older clients put into it (`keyAuthorization`, `resource`)
    says nothing and is ignored."""
    read_members(payload)


def parse_finalize(payload: bytes) -> Finalize:
    return Finalize(der(read_members(payload), "csr"))


def parse_revoke(payload: bytes) -> Revoke:
    members = read_members(payload)
    reason = optional(members, "reason", int)
    if reason is not None and reason not in _REVOCATION_REASONS:
        raise Problem(ProblemType.BAD_REVOCATION_REASON, "'reason' is no CRLReason of RFC 5280")
    return Revoke(der(members, "certificate"), reason)


def parse_key_change(payload: bytes) -> KeyChange:
    members = read_members(payload)
    account, old_key = optional(members, "account", str), optional(members, "oldKey", dict)
    if account is None or old_key is None:
        raise malformed("A key change has the members 'account' and 'oldKey'")
    return KeyChange(account, old_key)


@dataclass(frozen=True, slots=True)
class AccountView:
    """An account as its owner sees it (section 7.1.2). `orders` is a URL."""

    status: str
    contact: Sequence[str]
    terms_of_service_agreed: bool
    external_account_binding: Mapping[str, Any] | None
    orders: str


@dataclass(frozen=True, slots=True)
class OrderView:
    """An order (section 7.1.3). `identifiers` are (type, value) as the client sent them,
    `authorizations`, `finalize` and `certificate` URLs, `error` a stored problem document."""

    status: str
    expires: dt.datetime
    identifiers: Sequence[tuple[str, str]]
    authorizations: Sequence[str]
    finalize: str
    not_before: dt.datetime | None = None
    not_after: dt.datetime | None = None
    error: Mapping[str, Any] | None = None
    certificate: str | None = None
    profile: str | None = None
    replaces: str | None = None


@dataclass(frozen=True, slots=True)
class ChallengeView:
    """A challenge (section 8). `token` is None for types without one; `issuer_domain_names` and
    `account_uri` belong to dns-persist-01."""

    type: str
    url: str
    status: str
    token: str | None = field(repr=False)
    validated: dt.datetime | None = None
    error: Mapping[str, Any] | None = None
    issuer_domain_names: Sequence[str] = ()
    account_uri: str | None = None


@dataclass(frozen=True, slots=True)
class AuthorizationView:
    """An authorization (section 7.1.4). `identifier` is (type, value), never with `*.`."""

    status: str
    identifier: tuple[str, str]
    expires: dt.datetime
    wildcard: bool
    challenges: Sequence[ChallengeView]


def account_json(view: AccountView) -> dict[str, Any]:
    """No member of any answer is null or an empty object: clients trip over both."""
    return _present(
        status=view.status,
        contact=list(view.contact),
        termsOfServiceAgreed=view.terms_of_service_agreed or None,
        externalAccountBinding=view.external_account_binding,
        orders=view.orders,
    )


def order_json(view: OrderView) -> dict[str, Any]:
    return _present(
        status=view.status,
        expires=rfc3339(view.expires),
        identifiers=[_identifier_json(identifier) for identifier in view.identifiers],
        profile=view.profile,
        replaces=view.replaces,
        notBefore=_time_json(view.not_before),
        notAfter=_time_json(view.not_after),
        error=view.error,
        authorizations=list(view.authorizations),
        finalize=view.finalize,
        certificate=view.certificate,
    )


def authorization_json(view: AuthorizationView) -> dict[str, Any]:
    """`identifier` comes first: acme.sh takes the first "value" in the body for its value."""
    return _present(
        identifier=_identifier_json(view.identifier),
        status=view.status,
        expires=rfc3339(view.expires),
        challenges=[challenge_json(challenge) for challenge in view.challenges],
        wildcard=view.wildcard or None,
    )


def challenge_json(view: ChallengeView) -> dict[str, Any]:
    """`error` comes last, and before the challenge is decided it holds no object: acme.sh reads a
    challenge up to the first brace."""
    error = view.error
    if error is not None and view.status not in ("valid", "invalid"):
        error = {key: value for key, value in error.items() if isinstance(value, str | int)}
    persistent = {
        "accounturi": view.account_uri,
        "issuer-domain-names": list(view.issuer_domain_names) or None,
    }
    return {
        **_present(type=view.type, url=view.url, token=view.token, status=view.status),
        **_present(**persistent),
        **_present(validated=_time_json(view.validated), error=error),
    }


def directory_json(
    urls: Mapping[str, str],
    *,
    terms_of_service: str | None,
    website: str | None,
    caa_identities: Sequence[str],
    external_account_required: bool,
    profiles: Mapping[str, str],
) -> dict[str, Any]:
    """The directory (section 7.1.1): `urls` by resource name, those that work and no others.
    `meta` is never empty, since some clients do without neither it nor its members."""
    meta = _present(
        termsOfService=terms_of_service,
        website=website,
        caaIdentities=list(caa_identities) or None,
        profiles=dict(profiles),
    )
    return {**urls, "meta": {**meta, "externalAccountRequired": external_account_required}}


def _present(**members: Any) -> dict[str, Any]:
    """Without those that are None or an empty object; empty arrays stay."""
    return {name: value for name, value in members.items() if value is not None and value != {}}


def _identifier_json(identifier: tuple[str, str]) -> dict[str, str]:
    return {"type": identifier[0], "value": identifier[1]}


def _time_json(moment: dt.datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment)
