"""The values the CA core and the protocols exchange. Frozen; nothing here touches the database."""

import datetime as dt
import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cryptography import x509

from pkiserver.addresses import site
from pkiserver.pkix.names import AltName
from pkiserver.storage import Transaction

TxHook = Callable[[Transaction], None]
"""Work a protocol adds to one of the core's transactions; raising takes everything back."""


class Reason(enum.StrEnum):
    """RFC 5280 section 5.3.1, by its ASN.1 names."""

    UNSPECIFIED = "unspecified"
    KEY_COMPROMISE = "keyCompromise"
    CA_COMPROMISE = "cACompromise"
    AFFILIATION_CHANGED = "affiliationChanged"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessationOfOperation"
    CERTIFICATE_HOLD = "certificateHold"
    REMOVE_FROM_CRL = "removeFromCRL"
    PRIVILEGE_WITHDRAWN = "privilegeWithdrawn"
    AA_COMPROMISE = "aACompromise"

    @property
    def code(self) -> int:
        """The CRLReason number; 7 is not used."""
        return _REASON_CODES[self]


_REASON_CODES = {
    reason: code for code, reason in zip((0, 1, 2, 3, 4, 5, 6, 8, 9, 10), Reason, strict=True)
}
REASONS_BY_CODE = {code: reason for reason, code in _REASON_CODES.items()}


class AuthorityStatus(enum.StrEnum):
    """`pending`: its certificate is awaited from outside; `retired`: signs status only; `closed`:
    its key is destroyed."""

    PENDING = "pending"
    ACTIVE = "active"
    RETIRED = "retired"
    CLOSED = "closed"


class Turn(enum.StrEnum):
    """Where an authority stands in its line: each generation of a CA's key is an authority of its
    own, and one of them issues."""

    NEXT = "next"
    CURRENT = "current"
    PREVIOUS = "previous"


@dataclass(frozen=True, slots=True)
class Authority:
    """A certification authority. `certificate` is None only while pending. `outside` are the
    certificates above it that are not ours, nearest first; the key provider knows `key_id`."""

    name: str
    parent: str | None
    certificate: x509.Certificate | None
    outside: tuple[x509.Certificate, ...]
    key_id: str
    spki_sha256: bytes
    status: AuthorityStatus
    created: dt.datetime


@dataclass(frozen=True, slots=True)
class Requester:
    """Who asks: `protocol` ("acme", "cli", ...) and its name for the party (an account, a token).
    In the database and the audit log it is `protocol:party`."""

    protocol: str
    party: str
    address: str | None = None

    def __str__(self) -> str:
        return f"{self.protocol}:{self.party}"

    @property
    def sources(self) -> tuple[str, ...]:
        """What its refusals are counted by."""
        return (str(self),) if self.address is None else (str(self), site(self.address))


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """What a protocol asks of issuance, after it has authenticated and authorised.

    `names` are the authorised names: the certificate gets exactly these, and a CSR that names
    anything else, or lacks one, is refused. None: the protocol leaves the names to the CSR and the
    profile. `not_before` and `not_after` are wishes within the profile. `subject_cn` is used by
    the profile's subject template; default: the CSR's first common name.

    `renewal_of` is a certificate of ours that the requester has proven to hold: the new one gets
    exactly its subject and its names, whatever the templates say now, and a CSR with any other is
    refused; `names` and `subject_cn` are not looked at. The rules of the profile for names hold.
    `names_beside_csr`: `names` and `subject_cn` are what was asked for in another place than the
    CSR's own, whose names are not looked at (RFC 6402 section 2.8); the rules for names hold.
    `allow_legacy_hash` accepts a CSR signed over SHA-1 or MD5.
    """

    profile: str
    requester: Requester
    csr: bytes
    names: Sequence[AltName] | None = None
    not_before: dt.datetime | None = None
    not_after: dt.datetime | None = None
    subject_cn: str | None = None
    renewal_of: x509.Certificate | None = None
    allow_legacy_hash: bool = False
    names_beside_csr: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """A single-use token: policy, template and lint have passed, nothing is signed yet. Only
    `Issuance.issue` of the instance that made it accepts it, once."""

    id: str
    issuer: str
    profile: str
    serial: int
    tbs: bytes = field(repr=False)
    signature_algorithm: bytes = field(repr=False)
    names: tuple[AltName, ...]
    subject: str
    spki_sha256: bytes
    not_before: dt.datetime
    not_after: dt.datetime
    requester: Requester
    approval: str | None = None
    """The id of the approval it uses up."""
    renewal_of: x509.Certificate | None = field(default=None, repr=False)
    """What it renews, if anything."""


class ApprovalStatus(enum.StrEnum):
    """`used`: a certificate was made of it; `expired`: not decided, or not used, in time."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    USED = "used"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Approval:
    """A request under a profile that needs a second person, and what was decided. `subject`,
    `names` and `key_kind` are what the certificate would say. `why` is the reason of a rejection.
    `certificate` is the inventory's id of the one that was made of it."""

    id: str
    profile: str
    requester: str
    subject: str
    names: tuple[str, ...]
    status: ApprovalStatus
    created: dt.datetime
    expires: dt.datetime
    decided_by: str | None
    why: str | None
    certificate: str | None
    reference: str
    key_kind: str
    address: str | None
    decided: dt.datetime | None
    csr: bytes = field(repr=False)


class CertificateStatus(enum.StrEnum):
    """`signing`: serial and to-be-signed bytes are durable, the certificate is not there yet."""

    SIGNING = "signing"
    ISSUED = "issued"
    ABANDONED = "abandoned"


@dataclass(frozen=True, slots=True)
class CertificateRecord:
    """A row of the inventory. `der` is None unless issued."""

    id: str
    issuer: str
    serial: int
    status: CertificateStatus
    profile: str
    requester: str
    subject: str
    spki_sha256: bytes
    not_before: dt.datetime
    not_after: dt.datetime
    created: dt.datetime
    der: bytes | None = field(repr=False)
    revoked_at: dt.datetime | None
    reason: Reason | None
