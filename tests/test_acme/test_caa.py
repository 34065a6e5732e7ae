"""CAA, RFC 8659 and RFC 8657, played without a network."""

from dataclasses import replace

import pytest

from protocols.acme.caa import check_caa
from protocols.acme.challenges.model import (
    CAAAnswer,
    CAARecord,
    ChallengeType,
    FailureKind,
    ResolveCAA,
    ValidationFailed,
)
from tests.test_acme.challenge_support import ACCOUNT, CONTEXT, IP_CONTEXT, play

OURS = b"ca.example"
OTHER = b"other.example"
NONE = CAAAnswer((), "192.0.2.53:53")
WILD = replace(CONTEXT, wildcard=True)


def caa(*records: tuple[int, str, bytes]) -> CAAAnswer:
    return CAAAnswer(tuple(CAARecord(*record) for record in records), "192.0.2.53:53")


def test_rfc_8659_section_3_climbs_to_the_top_level_and_not_to_the_root() -> None:
    decision, requests = play(check_caa(CONTEXT, ChallengeType.HTTP_01), NONE, NONE, NONE)
    assert requests == [
        ResolveCAA("www.example.test"),
        ResolveCAA("example.test"),
        ResolveCAA("test"),
    ]
    assert decision.found_at is None


def test_section_3_the_nearest_records_decide() -> None:
    decision, requests = play(
        check_caa(CONTEXT, ChallengeType.HTTP_01), NONE, caa((0, "issue", OURS))
    )
    assert decision.found_at == "example.test"
    assert len(requests) == 2


def test_addresses_have_no_caa() -> None:
    with pytest.raises(StopIteration):
        next(check_caa(IP_CONTEXT, ChallengeType.HTTP_01))


def test_a_failed_lookup_forbids() -> None:
    failure = ValidationFailed(FailureKind.DNS, "SERVFAIL")
    with pytest.raises(ValidationFailed) as caught:
        play(check_caa(CONTEXT, ChallengeType.HTTP_01), NONE, failure)
    assert caught.value.kind is FailureKind.DNS


@pytest.mark.parametrize(
    "records",
    [
        [(0, "issue", OURS)],
        [(128, "issue", OURS)],
        [(0, "ISSUE", b" CA.Example ")],
        [(0, "issue", OTHER), (0, "issue", OURS)],
        [(0, "iodef", b"mailto:a@example.test")],
        [(128, "iodef", b"mailto:a@example.test")],
        [(128, "issuemail", b";")],
        [(0, "issuewild", b";")],
        [(0, "future", b"x"), (0, "issue", OURS)],
        [(0, "issue", OURS + b"; unknown=1")],
        [(0, "issue", OURS + f"; accounturi={ACCOUNT}".encode())],
        [(0, "issue", OURS + b"; validationmethods=dns-01,http-01")],
        [(0, "issue", OURS + b"; validationmethods=dns-01"), (0, "issue", OURS)],
    ],
)
def test_section_4_allowed(records: list[tuple[int, str, bytes]]) -> None:
    play(check_caa(CONTEXT, ChallengeType.HTTP_01), caa(*records))


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([(0, "issue", b";")], "authorizes nobody"),
        ([(0, "issue", b"")], "authorizes nobody"),
        ([(0, "issue", OTHER)], "other.example"),
        ([(0, "issue", b"%%%%%")], "malformed"),
        ([(0, "issue", OURS + b"; =")], "malformed"),
        ([(0, "issuewild", OURS), (0, "issue", OTHER)], "other.example"),
        ([(128, "future", b"x"), (0, "issue", OURS)], "critical"),
        ([(255, "future", b"x")], "critical"),
        ([(0, "issue", OURS + b"; accounturi=https://ca.example/2")], "accounturi"),
        ([(0, "issue", OURS + b"; accounturi=")], "accounturi"),
        ([(0, "issue", OURS + f"; accounturi={ACCOUNT}; accounturi=x".encode())], "malformed"),
        ([(0, "issue", OURS + b"; validationmethods=dns-01")], "validationmethods"),
        ([(0, "issue", OURS + b"; validationmethods=")], "malformed"),
        ([(0, "issue", OURS + b"; validationmethods=http-01,")], "malformed"),
        ([(0, "issue", OURS + b"; validationmethods=HTTP-01")], "validationmethods"),
    ],
)
def test_section_4_forbidden(records: list[tuple[int, str, bytes]], words: str) -> None:
    with pytest.raises(ValidationFailed, match=words) as caught:
        play(check_caa(CONTEXT, ChallengeType.HTTP_01), caa(*records))
    assert caught.value.kind is FailureKind.CAA
    assert "www.example.test" in caught.value.detail


def test_section_4_3_issuewild_replaces_issue_for_wildcards_only() -> None:
    records = caa((0, "issue", OTHER), (0, "issuewild", OURS))
    play(check_caa(WILD, ChallengeType.DNS_01), records)
    play(check_caa(WILD, ChallengeType.DNS_01), caa((0, "issue", OURS)))
    with pytest.raises(ValidationFailed):
        play(
            check_caa(WILD, ChallengeType.DNS_01),
            caa((0, "issue", OURS), (0, "issuewild", b";")),
        )


def test_without_identities_no_property_names_us() -> None:
    with pytest.raises(ValidationFailed):
        play(
            check_caa(replace(CONTEXT, issuer_domains=()), ChallengeType.DNS_01),
            caa((0, "issue", OURS)),
        )
