"""What authorises an enrolment, as the service sees it: one `Validator` per `[scep.NAME]`.

    validate -> (policy, lint) -> on_reserved in issuance's first transaction -> deliver -> answer

`failed` is told of every refusal or failure after `validate` accepted.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from pkiserver.ca.issuance import Issued
from pkiserver.errors import PKIError
from pkiserver.pkix.csr import CertificationRequest
from pkiserver.storage import Transaction

OnReserved = Callable[[Transaction, str | None], None]
"""The second argument is the certificate's id (`Prepared.id`), None while there is none."""


@dataclass(frozen=True, slots=True)
class ChallengeRequest:
    """A PKCSReq whose signature and proof of possession have been verified. `challenge` is the
    challengePassword of any length and string type, None if there is none; `label` the name of the
    section, `address` the client's."""

    transaction_id: str
    csr: CertificationRequest
    csr_der: bytes = field(repr=False)
    challenge: str | None = field(repr=False)
    label: str
    address: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """`party` is who was authenticated, for the requester `scep:PARTY`. `profile` replaces the
    section's.

    `on_reserved` consumes what may be used once, by compare-and-set: it raises `PKIError` if
    somebody was faster. It runs in issuance's first transaction, or in the one that files the
    request for approval: what is issued after that needs no challenge any more. `deliver` runs
    after the certificate is stored and before it is handed out; if it raises, the certificate is
    revoked and the answer is FAILURE. `failed` must not raise.
    """

    party: str
    on_reserved: OnReserved | None = None
    deliver: Callable[[Issued], Awaitable[None]] | None = None
    failed: Callable[[PKIError], Awaitable[None]] | None = None
    profile: str | None = None


class Validator(Protocol):
    """May be called concurrently."""

    async def validate(self, request: ChallengeRequest) -> Accepted:
        """Raises `PKIError` to refuse: UNAUTHORIZED for a wrong challenge, UNAVAILABLE when who
        decides cannot be asked. What it waits for is bounded."""
        ...
