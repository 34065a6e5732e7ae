"""The table of validators, the context, and the decision what can prove what."""

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest

from protocols.acme.challenges import VALIDATORS, ChallengeType, start_validation
from protocols.acme.challenges.model import (
    HTTPAnswer,
    IdentifierType,
    ResolveTXT,
    ask,
)
from tests.test_acme.challenge_support import CONTEXT, IP_CONTEXT, txt

PROVES = {
    ("dns", False): set(ChallengeType),
    ("dns", True): {
        ChallengeType.DNS_01,
        ChallengeType.DNS_ACCOUNT_01,
        ChallengeType.DNS_PERSIST_01,
    },
    ("ip", False): {ChallengeType.HTTP_01, ChallengeType.TLS_ALPN_01},
    ("ip", True): set(),
}


def test_every_type_has_a_validator() -> None:
    assert set(VALIDATORS) == set(ChallengeType)


@pytest.mark.parametrize("identifier_type", ["dns", "ip"])
@pytest.mark.parametrize("wildcard", [False, True])
def test_what_can_prove_what(identifier_type: IdentifierType, wildcard: bool) -> None:
    """RFC 8555 sections 8.3 and 8.4, RFC 8737 section 3, RFC 8738 section 7."""
    able = {t for t, v in VALIDATORS.items() if v.can_prove(identifier_type, wildcard=wildcard)}
    assert able == PROVES[identifier_type, wildcard]


@pytest.mark.parametrize("challenge_type", [ChallengeType.HTTP_01, ChallengeType.TLS_ALPN_01])
def test_a_wildcard_is_not_validated_by_a_server(challenge_type: ChallengeType) -> None:
    with pytest.raises(ValueError, match="cannot prove"):
        start_validation(challenge_type, replace(CONTEXT, wildcard=True))


def test_an_address_is_not_validated_by_dns() -> None:
    with pytest.raises(ValueError, match="cannot prove"):
        start_validation(ChallengeType.DNS_01, IP_CONTEXT)


@pytest.mark.parametrize("challenge_type", list(ChallengeType))
def test_start(challenge_type: ChallengeType) -> None:
    assert next(start_validation(challenge_type, CONTEXT))


@pytest.mark.parametrize(
    "change",
    [
        {"identifier_value": "*.example.test"},
        {"identifier_value": ""},
        {"identifier_type": "ip"},
        {"identifier_type": "ip", "identifier_value": "192.0.2.1", "wildcard": True},
        {"token": "../../etc/passwd"},
        {"token": "abc\n"},
        {"now": dt.datetime(2030, 1, 1)},  # noqa: DTZ001
    ],
)
def test_a_senseless_context_cannot_be_made(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        replace(CONTEXT, **change)


def test_an_answer_of_the_wrong_kind_is_a_fault() -> None:
    dialogue = ask(ResolveTXT("a.test"), HTTPAnswer)
    next(dialogue)
    with pytest.raises(TypeError, match="ResolveTXT was answered with TXTAnswer"):
        dialogue.send(txt())
