"""dns-01 (RFC 8555 section 8.4) and dns-account-01 (draft-ietf-acme-dns-account-label).

Both want a TXT record that holds the base64url of SHA-256 of the key authorization; they differ in
the name it stands at. Any one record that matches is enough: several orders may run at once.
"""

import base64
import hashlib
import hmac
import re

from protocols.acme.challenges.model import (
    ChallengeContext,
    ChallengeType,
    Dialogue,
    FailureKind,
    Proof,
    ResolveTXT,
    TXTAnswer,
    Validation,
    ValidationFailed,
    ValidationRecord,
    ask,
)

_DIGEST = re.compile(rb"[A-Za-z0-9_-]{43}")


def dns01(context: ChallengeContext) -> Validation:
    """The record stands at `_acme-challenge.DOMAIN`."""
    name = f"_acme-challenge.{context.identifier_value}"
    return (yield from _digest_at(ChallengeType.DNS_01, name, context))


def dns_account01(context: ChallengeContext) -> Validation:
    """The record stands at `_LABEL._acme-challenge.DOMAIN`, LABEL being the account's own, so that
    several accounts can hold records for one domain."""
    label = account_label(context.account_url)
    name = f"_{label}._acme-challenge.{context.identifier_value}"
    return (yield from _digest_at(ChallengeType.DNS_ACCOUNT_01, name, context))


def account_label(account_url: str) -> str:
    """Base32 in lower case of the first ten bytes of SHA-256 of the account URL: 16 characters."""
    digest = hashlib.sha256(account_url.encode("utf-8")).digest()
    return base64.b32encode(digest[:10]).decode("ascii").lower()


def key_authorization_digest(key_authorization: str) -> str:
    """Base64url without padding of SHA-256 of the key authorization (RFC 8555 section 8.4)."""
    digest = hashlib.sha256(key_authorization.encode("ascii")).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def existing_txt(name: str) -> Dialogue[TXTAnswer]:
    """The TXT records at `name`, of which there is at least one."""
    answer = yield from ask(ResolveTXT(name), TXTAnswer)
    if answer.nxdomain:
        at = " via ".join((name, *answer.aliases))
        raise ValidationFailed(
            FailureKind.DNS, f"Looking up TXT for {at}: no such name (NXDOMAIN, {answer.server})"
        )
    if not answer.records:
        raise ValidationFailed(
            FailureKind.UNAUTHORIZED, f"No TXT record found at {name} ({answer.server})"
        )
    return answer


def txt_record(name: str, answer: TXTAnswer) -> ValidationRecord:
    """The audit record of a TXT look-up: the name the records stand at and who said so."""
    return ValidationRecord(
        hostname=answer.aliases[-1] if answer.aliases else name, resolver=answer.server
    )


def _digest_at(kind: ChallengeType, name: str, context: ChallengeContext) -> Validation:
    expected = key_authorization_digest(context.expected_key_authorization()).encode("ascii")
    answer = yield from existing_txt(name)
    if not any(hmac.compare_digest(record, expected) for record in answer.records):
        raise ValidationFailed(FailureKind.INCORRECT_RESPONSE, _mismatch(name, answer))
    return Proof(kind, f"TXT record at {name} matches", (txt_record(name, answer),))


def _mismatch(name: str, answer: TXTAnswer) -> str:
    """What was found instead. Only values that look like a digest are repeated: that is the usual
    mistake, a record left over, and other text may be none of the client's business."""
    stale = [record.decode("ascii") for record in answer.records if _DIGEST.fullmatch(record)]
    seen = f', for instance "{stale[0]}"' if stale else ""
    count = f"{len(answer.records)} TXT record{'s' if len(answer.records) > 1 else ''}"
    return f"None of {count} found at {name} ({answer.server}) is the expected one{seen}"
