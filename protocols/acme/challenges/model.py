"""The vocabulary of challenge validation (RFC 8555 section 8): what a validator is told, what it
may ask of the outside world, what it gets back, and how it ends.

A validator is a generator: it yields a `Request`, is sent the matching `Answer`, and returns a
`Proof` or raises `ValidationFailed`. It touches no socket and no clock, so a validation can be
replayed from its answers.
"""

import datetime as dt
import enum
import ipaddress
import re
from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal, TypeVar

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IdentifierType = Literal["dns", "ip"]

_TOKEN = re.compile(r"[A-Za-z0-9_-]*\Z")
"""RFC 8555 section 8: base64url only. Empty for dns-persist-01, which has no token."""


class ChallengeType(enum.StrEnum):
    """Values are the names in the ACME Validation Methods registry."""

    HTTP_01 = "http-01"
    DNS_01 = "dns-01"
    TLS_ALPN_01 = "tls-alpn-01"
    DNS_ACCOUNT_01 = "dns-account-01"
    DNS_PERSIST_01 = "dns-persist-01"


class FailureKind(enum.StrEnum):
    """Why a validation failed. Values are the ACME error types of RFC 8555 section 6.7."""

    CAA = "caa"
    """A CAA record forbids issuance."""
    CONNECTION = "connection"
    """The target could not be reached, or the conversation with it broke off."""
    DNS = "dns"
    """A look-up failed."""
    INCORRECT_RESPONSE = "incorrectResponse"
    """Something was presented for the challenge, and it is not what the challenge demands."""
    SERVER_INTERNAL = "serverInternal"
    """Our fault."""
    TLS = "tls"
    """The TLS handshake failed."""
    UNAUTHORIZED = "unauthorized"
    """Nothing is presented for the challenge, or what is speaks for someone else."""


class ValidationFailed(Exception):
    """How every unsuccessful validation ends. `detail` is shown to the client and the operator."""

    def __init__(self, kind: FailureKind, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


@dataclass(frozen=True, slots=True)
class ChallengeContext:
    """What is being validated, for whom, and under which settings.

    `identifier_value` is the base name, lower case, without `*.`; `wildcard` says whether it was
    there. `key_authorization` and `token` are as in RFC 8555 section 8.1; `now` is aware UTC;
    `issuer_domains` are the names by which CAA and dns-persist-01 records speak of this CA.
    """

    identifier_type: IdentifierType
    identifier_value: str
    wildcard: bool
    token: str
    key_authorization: str
    account_url: str
    now: dt.datetime
    http01_port: int = 80
    tls_alpn01_port: int = 443
    issuer_domains: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.identifier_type == "ip":
            ipaddress.ip_address(self.identifier_value)
            if self.wildcard:
                raise ValueError("an IP address has no wildcard form")
        elif not self.identifier_value or self.identifier_value.startswith("*."):
            raise ValueError("identifier_value is a base domain name")
        if not _TOKEN.match(self.token):
            raise ValueError("the token is not base64url")
        if self.now.tzinfo is None:
            raise ValueError("now is not timezone-aware")

    def expected_key_authorization(self) -> str:
        """The key authorization to compare with. An empty one would be matched by an empty answer,
        so it ends the validation instead."""
        if not self.token or not self.key_authorization:
            raise ValidationFailed(FailureKind.SERVER_INTERNAL, "the challenge has no token")
        return self.key_authorization


@dataclass(frozen=True, slots=True)
class FetchHTTP:
    """GET one URL, following nothing. `host` is a DNS name or an IP address without brackets;
    `target` is the path with its query."""

    scheme: Literal["http", "https"]
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """Host and, unless it is the scheme's own, port: the Host header (RFC 9110 section 7.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"

    def __str__(self) -> str:
        return f"Fetching {self.url}"


DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class ResolveTXT:
    """Look up the TXT records of `name`, following aliases."""

    name: str

    def __str__(self) -> str:
        return f"Looking up TXT for {self.name}"


@dataclass(frozen=True, slots=True)
class ResolveCAA:
    """Look up the CAA records of `name` itself, following aliases but not climbing."""

    name: str

    def __str__(self) -> str:
        return f"Looking up CAA for {self.name}"


@dataclass(frozen=True, slots=True)
class ProbeALPN:
    """Make a TLS connection to `host` (DNS name or IP address) that offers only `protocol` by ALPN
    and names `server_name` by SNI, and close it."""

    host: str
    port: int
    server_name: str
    protocol: str

    def __str__(self) -> str:
        return f"Connecting to {self.host} port {self.port} for {self.protocol}"


Request = FetchHTTP | ResolveTXT | ResolveCAA | ProbeALPN


@dataclass(frozen=True, slots=True)
class Reached:
    """Which addresses a host has and which one answered."""

    resolved: tuple[IPAddress, ...]
    used: IPAddress
    port: int

    def __str__(self) -> str:
        return show_endpoint(self.used, self.port)


@dataclass(frozen=True, slots=True)
class HTTPAnswer:
    """One HTTP response. `body` is empty unless the status is 200, and cut (`truncated`) at the
    prober's limit."""

    reached: Reached
    status: int
    location: str | None
    content_encoding: str | None
    body: bytes
    truncated: bool


@dataclass(frozen=True, slots=True)
class TXTAnswer:
    """The TXT records of a name, the strings of each joined. `aliases` are the CNAME targets
    passed on the way; `nxdomain` means the name does not exist; `server` answered."""

    records: tuple[bytes, ...]
    nxdomain: bool
    aliases: tuple[str, ...]
    server: str


@dataclass(frozen=True, slots=True)
class CAARecord:
    """One CAA resource record (RFC 8659 section 4.1)."""

    flags: int
    tag: str
    value: bytes


@dataclass(frozen=True, slots=True)
class CAAAnswer:
    """The CAA records of a name; empty if there are none or the name does not exist."""

    records: tuple[CAARecord, ...]
    server: str


@dataclass(frozen=True, slots=True)
class ALPNAnswer:
    """A completed TLS handshake: the protocol selected and the server's certificate in DER."""

    reached: Reached
    protocol: str | None
    certificate: bytes | None


Answer = HTTPAnswer | TXTAnswer | CAAAnswer | ALPNAnswer


@dataclass(frozen=True, slots=True)
class ValidationRecord:
    """One step of a validation, for the audit trail and the `validationRecord` member."""

    hostname: str
    url: str | None = None
    port: int | None = None
    addresses_resolved: tuple[str, ...] = ()
    address_used: str | None = None
    resolver: str | None = None

    def members(self) -> dict[str, str | list[str]]:
        """The JSON members, absent ones left out."""
        found: dict[str, str | list[str] | None] = {
            "url": self.url,
            "hostname": self.hostname,
            "port": None if self.port is None else str(self.port),
            "addressesResolved": list(self.addresses_resolved),
            "addressUsed": self.address_used,
            "resolver": self.resolver,
        }
        return {name: value for name, value in found.items() if value}


@dataclass(frozen=True, slots=True)
class Proof:
    """A successful validation: what was seen, in one line, and the steps that led there."""

    challenge_type: ChallengeType
    detail: str
    records: tuple[ValidationRecord, ...]


A = TypeVar("A", HTTPAnswer, TXTAnswer, CAAAnswer, ALPNAnswer)
R = TypeVar("R")
Dialogue = Generator[Request, Answer, R]
Validation = Generator[Request, Answer, Proof]


def ask(request: Request, kind: type[A]) -> Dialogue[A]:
    """Yield one request and return its answer, of the kind that belongs to it."""
    answer = yield request
    if not isinstance(answer, kind):
        raise TypeError(f"{type(request).__name__} was answered with {type(answer).__name__}")
    return answer


def reached_record(hostname: str, reached: Reached, url: str | None = None) -> ValidationRecord:
    """The record of a step that ended at an address."""
    return ValidationRecord(
        hostname=hostname,
        url=url,
        port=reached.port,
        addresses_resolved=tuple(str(address) for address in reached.resolved),
        address_used=str(reached.used),
    )


def show_endpoint(address: IPAddress, port: int) -> str:
    """`192.0.2.1:80` or `[2001:db8::1]:80`."""
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
