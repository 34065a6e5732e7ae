"""dns-01, dns-account-01 and dns-persist-01: the dialogues, played without a network."""

import base64
import datetime as dt
import hashlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.errors import MalformedMessage
from protocols.acme.challenges.dns import (
    account_label,
    dns01,
    dns_account01,
    key_authorization_digest,
)
from protocols.acme.challenges.dns_persist import dns_persist01
from protocols.acme.challenges.issue_value import IssueValue, parse_issue_value
from protocols.acme.challenges.model import (
    ChallengeContext,
    ChallengeType,
    FailureKind,
    ResolveTXT,
    ValidationFailed,
)
from tests.test_acme.challenge_support import (
    ACCOUNT,
    CONTEXT,
    KEY_AUTHORIZATION,
    NOW,
    play,
    txt,
)

DIGEST = base64.urlsafe_b64encode(hashlib.sha256(KEY_AUTHORIZATION.encode()).digest()).rstrip(b"=")
PERSIST = f"ca.example; accounturi={ACCOUNT}".encode()
EPOCH = int(NOW.timestamp())


def test_section_8_4_any_matching_record_is_enough() -> None:
    proof, requests = play(dns01(CONTEXT), txt(b"other", DIGEST, b"x"))
    assert requests == [ResolveTXT("_acme-challenge.www.example.test")]
    assert proof.challenge_type is ChallengeType.DNS_01
    assert proof.records[0].resolver == "192.0.2.53:53"


def test_aliases_are_recorded() -> None:
    proof, _ = play(dns01(CONTEXT), txt(DIGEST, aliases=("a.test", "b.test")))
    assert proof.records[0].hostname == "b.test"


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (txt(nxdomain=True, aliases=("gone.test",)), FailureKind.DNS, "via gone.test"),
        (txt(), FailureKind.UNAUTHORIZED, "No TXT record found"),
        (txt(b"x", b"internal"), FailureKind.INCORRECT_RESPONSE, "None of 2 TXT records"),
        (txt(b"A" * 43), FailureKind.INCORRECT_RESPONSE, "A" * 43),
        (txt(DIGEST + b"="), FailureKind.INCORRECT_RESPONSE, "expected"),
        (txt(KEY_AUTHORIZATION.encode()), FailureKind.INCORRECT_RESPONSE, "expected"),
    ],
)
def test_dns01_failures(answer: object, kind: FailureKind, words: str) -> None:
    with pytest.raises(ValidationFailed, match=words) as caught:
        play(dns01(CONTEXT), answer)  # type: ignore[arg-type]
    assert caught.value.kind is kind
    assert "internal" not in caught.value.detail


def test_a_failed_lookup_passes_through() -> None:
    failure = ValidationFailed(FailureKind.DNS, "SERVFAIL")
    with pytest.raises(ValidationFailed) as caught:
        play(dns01(CONTEXT), failure)
    assert caught.value is failure


def test_an_empty_key_authorization_proves_nothing() -> None:
    with pytest.raises(ValidationFailed) as caught:
        play(dns01(replace(CONTEXT, key_authorization="")), txt(b""))
    assert caught.value.kind is FailureKind.SERVER_INTERNAL


def test_dns_account_label_vector_of_the_draft() -> None:
    """draft-ietf-acme-dns-account-label section 3.1, example."""
    label = account_label("https://example.com/acme/acct/ExampleAccount")
    assert label == "ujmmovf2vn55tgye"


def test_dns_account01_asks_at_the_accounts_own_label() -> None:
    proof, requests = play(dns_account01(CONTEXT), txt(DIGEST))
    label = account_label(ACCOUNT)
    assert requests == [ResolveTXT(f"_{label}._acme-challenge.www.example.test")]
    assert proof.challenge_type is ChallengeType.DNS_ACCOUNT_01


def test_digest_has_no_padding() -> None:
    assert key_authorization_digest(KEY_AUTHORIZATION).encode() == DIGEST


WILD = replace(CONTEXT, wildcard=True)


@pytest.mark.parametrize(
    ("context", "record"),
    [
        (CONTEXT, PERSIST),
        (replace(CONTEXT, token="", key_authorization=""), PERSIST),
        (CONTEXT, PERSIST.replace(b"ca.example;", b"CA.Example;")),
        (CONTEXT, PERSIST.replace(b"accounturi", b"AccountURI")),
        (CONTEXT, PERSIST + b"; policy=other; unknown=1"),
        (WILD, PERSIST + b"; policy=wildcard"),
        (WILD, PERSIST + b";Policy=WildCard"),
        (CONTEXT, PERSIST + f"; persistUntil={EPOCH}".encode()),
    ],
)
def test_dns_persist01_accepts(context: ChallengeContext, record: bytes) -> None:
    proof, requests = play(dns_persist01(context), txt(b"v=spf1 -all", record))
    assert requests == [ResolveTXT("_validation-persist.www.example.test")]
    assert proof.challenge_type is ChallengeType.DNS_PERSIST_01


@pytest.mark.parametrize(
    ("context", "record", "kind"),
    [
        (CONTEXT, b"ca.example", FailureKind.UNAUTHORIZED),
        (CONTEXT, PERSIST + b"0", FailureKind.UNAUTHORIZED),
        (CONTEXT, PERSIST.replace(b"https", b"HTTPS"), FailureKind.UNAUTHORIZED),
        (CONTEXT, PERSIST.replace(b"ca.example;", b"other.example;"), FailureKind.UNAUTHORIZED),
        (CONTEXT, b"", FailureKind.UNAUTHORIZED),
        (replace(CONTEXT, issuer_domains=()), PERSIST, FailureKind.UNAUTHORIZED),
        (
            replace(CONTEXT, account_url=""),
            b"ca.example; accounturi=",
            FailureKind.UNAUTHORIZED,
        ),
        (WILD, PERSIST, FailureKind.UNAUTHORIZED),
        (WILD, PERSIST + b"; policy=wild", FailureKind.UNAUTHORIZED),
        (CONTEXT, PERSIST + f"; persistUntil={EPOCH - 1}".encode(), FailureKind.UNAUTHORIZED),
        (CONTEXT, PERSIST + b"; persistUntil=soon", FailureKind.INCORRECT_RESPONSE),
        (CONTEXT, PERSIST + b"; persistUntil=-1", FailureKind.INCORRECT_RESPONSE),
        (CONTEXT, PERSIST + b"; persistUntil=\xd9\xa1", FailureKind.INCORRECT_RESPONSE),
        (CONTEXT, PERSIST + b"; persistUntil=" + b"9" * 99, FailureKind.INCORRECT_RESPONSE),
        (CONTEXT, PERSIST + b";", FailureKind.INCORRECT_RESPONSE),
        (
            CONTEXT,
            PERSIST + b"; accounturi=" + ACCOUNT.encode(),
            FailureKind.INCORRECT_RESPONSE,
        ),
        (WILD, PERSIST + b"; policy=wildcard; policy=x", FailureKind.INCORRECT_RESPONSE),
    ],
)
def test_dns_persist01_refuses(context: ChallengeContext, record: bytes, kind: FailureKind) -> None:
    with pytest.raises(ValidationFailed) as caught:
        play(dns_persist01(context), txt(record))
    assert caught.value.kind is kind


def test_dns_persist01_one_good_record_outweighs_bad_ones() -> None:
    play(dns_persist01(CONTEXT), txt(b"ca.example;;", b"ca.example", PERSIST))


def test_persist_until_uses_the_given_time() -> None:
    record = PERSIST + f"; persistUntil={EPOCH}".encode()
    later = replace(CONTEXT, now=NOW + dt.timedelta(seconds=1))
    with pytest.raises(ValidationFailed, match="has passed"):
        play(dns_persist01(later), txt(record))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", IssueValue("", ())),
        (b";", IssueValue("", ())),
        (b" ca.example ; ", IssueValue("ca.example", ())),
        (b"ca1.example;a=b", IssueValue("ca1.example", (("a", "b"),))),
        (b"CA;A-1 = x=y ;\tb=", IssueValue("ca", (("a-1", "x=y"), ("b", "")))),
        (b"; policy=ev", IssueValue("", (("policy", "ev"),))),
    ],
)
def test_rfc_8659_section_4_2_issue_value(data: bytes, expected: IssueValue) -> None:
    assert parse_issue_value(data) == expected


@pytest.mark.parametrize(
    "data",
    [
        b"ca.example.",
        b".ca",
        b"ca..example",
        b"-ca.example",
        b"ca-.example",
        b"ca_1.example",
        b"%%%%%",
        b"ca example",
        b"ca;a",
        b"ca;=b",
        b"ca;a=b;",
        b"ca;;a=b",
        b"ca;a=b c",
        b"ca;a_b=c",
        b"ca;a=\xff",
        b"ca\n",
        b"c\xc3\xa4.example",
    ],
)
def test_rfc_8659_section_4_2_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        parse_issue_value(data)


@settings(max_examples=100)
@given(st.binary(max_size=80) | st.text("ca.;= \t-0a", max_size=40).map(str.encode))
def test_property_issue_value_parses_or_is_malformed(data: bytes) -> None:
    try:
        value = parse_issue_value(data)
    except MalformedMessage:
        return
    text = "; ".join([value.issuer, *(f"{tag}={text}" for tag, text in value.parameters)])
    assert parse_issue_value(text.encode()) == value
