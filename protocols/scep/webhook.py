"""Somebody else's decision about an enrolment, in the form of step-ca's webhook SCEPCHALLENGE, so
that services written for it work here.

We post JSON, signed by HMAC-SHA-256 over the body with a shared key; 200 with `{"allow": true}` is
the only answer that lets the enrolment pass.
"""

import base64
import binascii
import datetime as dt
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pkiserver.clock import Clock, rfc3339
from pkiserver.errors import ErrorCode, MalformedMessage, PKIError, configuration_error
from pkiserver.pkix.names import NameType
from protocols.scep.challenge import Accepted, ChallengeRequest
from protocols.scep.outgoing import Outgoing
from protocols.scep.secret import Secret

MOST_BYTES = 64 * 1024
_SHORTEST_KEY = 16
_MOST_REASON = 200
_NAMES: Mapping[NameType, str] = {
    NameType.DNS: "dnsNames",
    NameType.IP: "ipAddresses",
    NameType.EMAIL: "emailAddresses",
    NameType.URI: "uris",
}


@dataclass(frozen=True, slots=True)
class Decision:
    """What the service said. `reason` is printable, for the device and the audit log."""

    allow: bool
    reason: str | None = None
    profile: str | None = None


class Webhook:
    """Asks the service; a `Validator`."""

    def __init__(
        self, label: str, url: str, secret: Secret, outgoing: Outgoing, clock: Clock
    ) -> None:
        self._label = label
        self._url = url
        self._secret = secret
        self._outgoing = outgoing
        self._clock = clock

    def check(self) -> None:
        """Raises `PKIError` CONFIGURATION if a secret or a file is missing."""
        self._key()
        self._outgoing.check()

    async def validate(self, request: ChallengeRequest) -> Accepted:
        """UNAUTHORIZED if the service says no; UNAVAILABLE for anything but a decision."""
        body = encode(request, self._clock.now())
        try:
            key = self._key()
        except PKIError as error:
            raise _unavailable("the webhook's key cannot be read", error.detail) from error
        headers = {
            "Content-Type": "application/json",
            "X-Smallstep-Webhook-ID": self._label,
            "X-Smallstep-Signature": hmac.new(key, body, "sha256").hexdigest(),
        }
        decision = await self._ask(headers, body)
        if not decision.allow:
            why = f": {decision.reason}" if decision.reason else ""
            raise PKIError(
                ErrorCode.UNAUTHORIZED,
                f"the enrolment was not allowed{why}",
                rule="scep.challenge.webhook",
            )
        return Accepted(party=f"{self._label}/webhook", profile=decision.profile)

    async def _ask(self, headers: Mapping[str, str], body: bytes) -> Decision:
        """What went wrong is for the audit log: devices need not know who decides."""
        try:
            answer = await self._outgoing.call("POST", self._url, headers=headers, content=body)
            if answer.status != 200:
                raise MalformedMessage(f"HTTP {answer.status}")
            return parse(answer.body)
        except PKIError as error:
            raise _unavailable("the enrolment cannot be decided now", error.detail) from error

    def _key(self) -> bytes:
        text = self._secret.read()
        try:
            key = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) < _SHORTEST_KEY:
            raise configuration_error(
                f"{self._secret.place}: not base64 of at least {_SHORTEST_KEY} bytes; "
                "make one with: openssl rand -base64 32"
            )
        return key


def encode(request: ChallengeRequest, now: dt.datetime) -> bytes:
    """The body: step-ca's members, with `address` and `certificateRequestPEM` of our own."""
    raw = base64.b64encode(request.csr_der).decode("ascii")
    members = {
        "timestamp": rfc3339(now),
        "provisionerName": request.label,
        "scepChallenge": request.challenge or "",
        "scepTransactionID": request.transaction_id,
        "x509CertificateRequest": {"raw": raw, **_names(request)},
        "certificateRequestPEM": _pem(raw),
        "address": request.address,
    }
    return json.dumps(members).encode("ascii")


def _names(request: ChallengeRequest) -> dict[str, Any]:
    csr = request.csr
    common = csr.common_names[0] if csr.common_names else ""
    found: dict[str, Any] = {"subject": {"commonName": common}}
    for name in csr.alt_names:
        if name.type in _NAMES:
            found.setdefault(_NAMES[name.type], []).append(name.value)
    return found


def _pem(raw: str) -> str:
    lines: Sequence[str] = [raw[start : start + 64] for start in range(0, len(raw), 64)]
    label = "CERTIFICATE REQUEST"
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


def parse(body: bytes) -> Decision:
    """The decision in an answer. `allow` has to be there, true or false; `reason` and `profile` are
    ours, other members are step-ca's and ignored. Raises `MalformedMessage`."""
    if len(body) > MOST_BYTES:
        raise MalformedMessage("the answer is too long")
    try:
        members = json.loads(body)
    except (ValueError, RecursionError):
        raise MalformedMessage("the answer is not JSON") from None
    if not isinstance(members, dict) or not isinstance(members.get("allow"), bool):
        raise MalformedMessage("the answer does not say allow")
    reason, profile = members.get("reason"), members.get("profile")
    if not isinstance(reason, str | None) or not isinstance(profile, str | None):
        raise MalformedMessage("reason and profile are texts")
    shown = "".join(c for c in reason[:_MOST_REASON] if c.isprintable()) if reason else None
    return Decision(members["allow"], shown, profile)


def _unavailable(detail: str, cause: str) -> PKIError:
    return PKIError(ErrorCode.UNAVAILABLE, detail, rule=f"scep.challenge.webhook: {cause}"[:255])
