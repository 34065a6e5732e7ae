"""Challenge validators: pure dialogues, one per challenge type, and the table of what each of them
can prove."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from protocols.acme.challenges.dns import dns01, dns_account01
from protocols.acme.challenges.dns_persist import dns_persist01
from protocols.acme.challenges.http01 import http01
from protocols.acme.challenges.model import (
    ChallengeContext,
    ChallengeType,
    FailureKind,
    IdentifierType,
    Proof,
    Validation,
    ValidationFailed,
    ValidationRecord,
)
from protocols.acme.challenges.tls_alpn import tls_alpn01

__all__ = [
    "VALIDATORS",
    "ChallengeContext",
    "ChallengeType",
    "FailureKind",
    "IdentifierType",
    "Proof",
    "Validation",
    "ValidationFailed",
    "ValidationRecord",
    "Validator",
    "start_validation",
]


@dataclass(frozen=True, slots=True)
class Validator:
    """How a challenge type is validated and what it can prove."""

    start: Callable[[ChallengeContext], Validation]
    identifier_types: frozenset[IdentifierType]
    wildcard: bool

    def can_prove(self, identifier_type: IdentifierType, *, wildcard: bool) -> bool:
        return identifier_type in self.identifier_types and (self.wildcard or not wildcard)


_DNS: frozenset[IdentifierType] = frozenset({"dns"})
_DNS_AND_IP: frozenset[IdentifierType] = frozenset({"dns", "ip"})

VALIDATORS: Mapping[ChallengeType, Validator] = MappingProxyType(
    {
        # A server that answers for a name says nothing about the names below it, so only proof
        # by DNS is good for a wildcard; and an address has no DNS of its own (RFC 8738 section 7).
        ChallengeType.HTTP_01: Validator(http01, _DNS_AND_IP, wildcard=False),
        ChallengeType.DNS_01: Validator(dns01, _DNS, wildcard=True),
        ChallengeType.TLS_ALPN_01: Validator(tls_alpn01, _DNS_AND_IP, wildcard=False),
        ChallengeType.DNS_ACCOUNT_01: Validator(dns_account01, _DNS, wildcard=True),
        ChallengeType.DNS_PERSIST_01: Validator(dns_persist01, _DNS, wildcard=True),
    }
)


def start_validation(challenge_type: ChallengeType, context: ChallengeContext) -> Validation:
    """The dialogue for one challenge. Raises ValueError if that type cannot prove the identifier:
    such a challenge is never offered."""
    validator = VALIDATORS[challenge_type]
    if not validator.can_prove(context.identifier_type, wildcard=context.wildcard):
        raise ValueError(f"{challenge_type} cannot prove this identifier")
    return validator.start(context)
