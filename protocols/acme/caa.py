"""CAA (RFC 8659) with accounturi and validationmethods (RFC 8657): may this CA issue for a name?

A dialogue like the validators: it climbs from the name towards the root and judges the first
non-empty record set. A look-up that fails ends it (`FailureKind.DNS`): a record we could not see
may forbid issuance.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pkiserver.errors import MalformedMessage
from protocols.acme.challenges.issue_value import IssueValue, parse_issue_value
from protocols.acme.challenges.model import (
    CAAAnswer,
    CAARecord,
    ChallengeContext,
    ChallengeType,
    Dialogue,
    FailureKind,
    ResolveCAA,
    ValidationFailed,
    ask,
)

_CRITICAL = 128
_UNDERSTOOD = frozenset(
    {"issue", "issuewild", "iodef", "issuemail", "contactemail", "contactphone"}
)
"""Tags whose critical flag does not stop us. All but the first two say nothing about TLS names."""
_METHODS = re.compile(r"[A-Za-z0-9-]+(?:,[A-Za-z0-9-]+)*")


@dataclass(frozen=True, slots=True)
class CAADecision:
    """CAA allows issuance. `found_at` is the name the records stand at, None if there are none."""

    found_at: str | None
    detail: str


def check_caa(context: ChallengeContext, challenge_type: ChallengeType) -> Dialogue[CAADecision]:
    """Raises ValidationFailed (`caa`, or `dns` for a failed look-up) if issuance is forbidden.

    `challenge_type` is how the name was validated, for `validationmethods`.
    """
    if context.identifier_type != "dns":
        return CAADecision(None, "CAA does not apply to IP addresses")
    for name in _climb(context.identifier_value):
        answer = yield from ask(ResolveCAA(name), CAAAnswer)
        if answer.records:
            _judge(name, answer.records, context, challenge_type)
            return CAADecision(name, f"CAA records at {name} allow issuance")
    return CAADecision(None, "there are no CAA records")


def _climb(name: str) -> Iterator[str]:
    """The name and its parents, without the root (RFC 8659 section 3). The parents are those of
    the name itself, wherever an alias pointed on the way."""
    labels = name.split(".")
    for start in range(len(labels)):
        yield ".".join(labels[start:])


def _judge(
    name: str,
    records: Sequence[CAARecord],
    context: ChallengeContext,
    challenge_type: ChallengeType,
) -> None:
    unknown = [r.tag for r in records if r.flags & _CRITICAL and r.tag.lower() not in _UNDERSTOOD]
    # RFC 8659 section 4.1: a critical property that is not understood forbids issuance.
    if unknown:
        raise _forbidden(name, f"the critical property {unknown[0]!r} is unknown")
    properties = _relevant(records, wildcard=context.wildcard)
    if not properties:
        return
    refusals = [_refusal(record.value, context, challenge_type) for record in properties]
    if None not in refusals:
        raise _forbidden(name, "; ".join(dict.fromkeys(r for r in refusals if r))[:500])


def _relevant(records: Sequence[CAARecord], *, wildcard: bool) -> list[CAARecord]:
    """RFC 8659 section 4.3: issuewild, where there is any, replaces issue for a wildcard, and
    says nothing about other names."""
    issue = [record for record in records if record.tag.lower() == "issue"]
    issuewild = [record for record in records if record.tag.lower() == "issuewild"]
    return issuewild if wildcard and issuewild else issue


def _refusal(data: bytes, context: ChallengeContext, challenge_type: ChallengeType) -> str | None:
    """Why one issue or issuewild property does not authorize us; None if it does."""
    try:
        value = parse_issue_value(data)
        return _unmet(value, context, challenge_type)
    except MalformedMessage as malformed:
        # RFC 8659 section 4.2, RFC 8657 section 3: malformed authorizes nobody.
        return f"a malformed property authorizes nobody ({malformed.detail})"


def _unmet(
    value: IssueValue, context: ChallengeContext, challenge_type: ChallengeType
) -> str | None:
    if not value.issuer:
        return "a property authorizes nobody"
    if value.issuer not in {domain.lower() for domain in context.issuer_domains}:
        return f"{value.issuer} may issue, which is not this CA"
    account = value.get("accounturi")
    if account is not None and account != context.account_url:
        return "another account may request certificates (accounturi)"
    methods = value.get("validationmethods")
    if methods is not None and challenge_type not in _methods(methods):
        return f"validation by {challenge_type} is not among validationmethods"
    return None


def _methods(value: str) -> list[str]:
    if not _METHODS.fullmatch(value):
        raise MalformedMessage("validationmethods is not a list of methods")
    return value.split(",")


def _forbidden(name: str, reason: str) -> ValidationFailed:
    return ValidationFailed(
        FailureKind.CAA, f"CAA records at {name} forbid issuance by this CA: {reason}"
    )
