"""dns-persist-01 (draft-ietf-acme-dns-persist-01): a lasting TXT record at
`_validation-persist.DOMAIN` that names this CA and one account, such as

    ca.example; accounturi=https://ca.example/acct/1; policy=wildcard; persistUntil=1893456000

There is no token and no key authorization: the account's key is the proof. Subdomains are not
validated by their parent's record, though the draft would allow it with `policy=wildcard`.
"""

import datetime as dt
import re

from pkiserver.clock import epoch
from pkiserver.errors import MalformedMessage
from protocols.acme.challenges.dns import existing_txt, txt_record
from protocols.acme.challenges.issue_value import IssueValue, parse_issue_value
from protocols.acme.challenges.model import (
    ChallengeContext,
    ChallengeType,
    FailureKind,
    Proof,
    Validation,
    ValidationFailed,
)

_SECONDS = re.compile(r"[0-9]{1,15}")


def dns_persist01(context: ChallengeContext) -> Validation:
    """One record that names this CA and the account, and has not lapsed, is enough."""
    name = f"_validation-persist.{context.identifier_value}"
    answer = yield from existing_txt(name)
    refusals: list[tuple[FailureKind, str]] = []
    for record in answer.records:
        try:
            if _authorizes(record, context):
                detail = f"TXT record at {name} names the account"
                return Proof(ChallengeType.DNS_PERSIST_01, detail, (txt_record(name, answer),))
        except ValidationFailed as failure:
            refusals.append((failure.kind, failure.detail))
    raise _refusal(name, context, refusals)


def _authorizes(record: bytes, context: ChallengeContext) -> bool:
    """Whether `record` authorizes the account. False for another CA's record, which says nothing
    to us; one of ours that does not authorize raises with the reason."""
    try:
        value = parse_issue_value(record)
        if value.issuer not in {domain.lower() for domain in context.issuer_domains}:
            return False
        _check_parameters(value, context)
    except MalformedMessage as malformed:
        if _names_us(record, context):
            raise ValidationFailed(FailureKind.INCORRECT_RESPONSE, malformed.detail) from malformed
        return False
    return True


def _names_us(record: bytes, context: ChallengeContext) -> bool:
    issuer = record.partition(b";")[0].strip().lower()
    return issuer in {domain.lower().encode("ascii") for domain in context.issuer_domains}


def _check_parameters(value: IssueValue, context: ChallengeContext) -> None:
    # RFC 3986 section 6.2.1, simple string comparison: no folding, no normalisation.
    if value.get("accounturi") != context.account_url or not context.account_url:
        raise _unauthorized(f"accounturi is not {context.account_url}")
    policy = value.get("policy")
    # Any policy but "wildcard" counts as none.
    if context.wildcard and (policy is None or policy.lower() != "wildcard"):
        raise _unauthorized("policy=wildcard is missing")
    until = value.get("persistuntil")
    if until is not None and _lapsed(until, context.now):
        raise _unauthorized(f"persistUntil={until} has passed")


def _lapsed(until: str, now: dt.datetime) -> bool:
    if not _SECONDS.fullmatch(until):
        raise MalformedMessage("persistUntil is not a number of seconds since 1970")
    return epoch(now) > int(until)


def _unauthorized(detail: str) -> ValidationFailed:
    return ValidationFailed(FailureKind.UNAUTHORIZED, detail)


def _refusal(
    name: str, context: ChallengeContext, refusals: list[tuple[FailureKind, str]]
) -> ValidationFailed:
    if not refusals:
        ours = " or ".join(context.issuer_domains) or "this CA, which has no issuer domain name"
        return _unauthorized(f"No TXT record at {name} names {ours}")
    reasons = "; ".join(detail for _, detail in refusals[:5])
    return ValidationFailed(refusals[0][0], f"TXT record at {name}: {reasons}")
