"""RFC 8555 section 6.7: problem types, documents, and what the core's refusals become."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.errors import ErrorCode, PKIError
from protocols.acme.challenges import FailureKind
from protocols.acme.problems import (
    DEFAULT_STATUS,
    Problem,
    ProblemType,
    WireIdentifier,
    bad_nonce,
    from_json,
    internal,
    malformed,
    problem_from,
    unauthorized,
)

RICH = Problem(
    ProblemType.COMPOUND,
    "several",
    status=403,
    algorithms=("ES256",),
    instance="https://pki.example.com/terms",
    subproblems=[
        Problem(ProblemType.CAA, "no", identifier=WireIdentifier("dns", "a.example")),
        Problem(ProblemType.DNS, "gone", identifier=WireIdentifier("ip", "192.0.2.1")),
    ],
    retry_after=7,
    location="https://pki.example.com/acct/1",
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner),
    max_leaves=10,
)
MEMBER = st.sampled_from(
    ["type", "status", "detail", "instance", "algorithms", "identifier", "subproblems", "value"]
)


@pytest.mark.parametrize("type_", ProblemType)
def test_every_type_has_an_error_status_and_a_urn(type_: ProblemType) -> None:
    assert 400 <= DEFAULT_STATUS[type_] <= 599
    assert type_.value == f"urn:ietf:params:acme:error:{type_.token}"
    assert Problem(type_, "x").to_json() == {
        "type": type_.value,
        "status": DEFAULT_STATUS[type_],
        "detail": "x",
    }


def test_the_registry_is_complete() -> None:
    """RFC 8555 section 6.7 has 23 types; alreadyReplaced and invalidProfile came later."""
    assert {type_.token for type_ in ProblemType} == {
        "accountDoesNotExist", "alreadyRevoked", "badCSR", "badNonce", "badPublicKey",
        "badRevocationReason", "badSignatureAlgorithm", "caa", "compound", "connection", "dns",
        "externalAccountRequired", "incorrectResponse", "invalidContact", "malformed",
        "orderNotReady", "rateLimited", "rejectedIdentifier", "serverInternal", "tls",
        "unauthorized", "unsupportedContact", "unsupportedIdentifier", "userActionRequired",
        "alreadyReplaced", "invalidProfile",
    }  # fmt: skip


def test_status_codes_clients_insist_on() -> None:
    """Items 5, 21, 25, 42 and 47 of the client checklist."""
    assert DEFAULT_STATUS[ProblemType.BAD_NONCE] == 400
    assert DEFAULT_STATUS[ProblemType.ORDER_NOT_READY] == 403
    assert DEFAULT_STATUS[ProblemType.RATE_LIMITED] == 429
    assert DEFAULT_STATUS[ProblemType.ALREADY_REVOKED] == 400
    assert DEFAULT_STATUS[ProblemType.ALREADY_REPLACED] == 409


def test_bad_nonce_has_the_words_acme_sh_looks_for() -> None:
    """Item 6."""
    assert "JWS has an invalid anti-replay nonce" in bad_nonce().detail


@pytest.mark.parametrize("code", ErrorCode)
def test_every_core_refusal_is_a_problem(code: ErrorCode) -> None:
    problem = problem_from(PKIError(code, "the detail", retry_after=3, names=("a.example",)))
    document = problem.to_json()
    assert document["type"].startswith("urn:ietf:params:acme:error:")
    assert document["status"] == problem.status
    if code in (ErrorCode.INTERNAL, ErrorCode.CONFIGURATION):
        assert "the detail" not in json.dumps(document)
        assert problem.status == 500
    else:
        assert problem.detail == "the detail"
        assert problem.retry_after == 3


def test_only_our_own_faults_are_5xx() -> None:
    """Item 26: clients repeat what ends with 5xx."""
    ours = {ErrorCode.INTERNAL, ErrorCode.CONFIGURATION, ErrorCode.UNAVAILABLE}
    faults = {c for c in ErrorCode if problem_from(PKIError(c, "x")).status >= 500}
    assert faults == ours


def test_causes_become_subproblems_with_identifiers() -> None:
    """RFC 8555 section 6.7.1."""
    causes = [
        PKIError(ErrorCode.REFUSED_NAME, "not this one", names=("a.example",)),
        PKIError(ErrorCode.REFUSED_NAME, "nor this", names=("2001:db8::1",)),
        PKIError(ErrorCode.REFUSED_NAME, "nor both", names=("b.example", "c.example")),
    ]
    document = problem_from(PKIError(ErrorCode.REFUSED_NAME, "names", causes=causes)).to_json()
    assert [item.get("identifier") for item in document["subproblems"]] == [
        {"type": "dns", "value": "a.example"},
        {"type": "ip", "value": "2001:db8::1"},
        None,
    ]


@pytest.mark.parametrize("kind", FailureKind)
def test_every_validation_failure_has_its_type(kind: FailureKind) -> None:
    assert kind in {type_.token for type_ in ProblemType}


def test_stored_problems_read_back_the_same() -> None:
    """cert-manager#4889: what is stored must be readable. Header fields are not stored."""
    document = json.loads(json.dumps(RICH.to_json()))
    assert from_json(document).to_json() == RICH.to_json()
    assert from_json(document).retry_after is None


@given(st.dictionaries(MEMBER, JSON, max_size=6))
@settings(max_examples=100)
def test_any_stored_document_reads_back_to_a_problem(document: dict[str, Any]) -> None:
    problem = from_json(document)
    assert from_json(problem.to_json()).to_json() == problem.to_json()
    assert None not in problem.to_json().values()


def test_short_forms() -> None:
    assert malformed("x", 404).status == 404
    assert unauthorized("x").type is ProblemType.UNAUTHORIZED
    assert internal().status == 500
    assert str(malformed("what")) == "malformed: what"
