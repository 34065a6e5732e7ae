"""RFC 8555 section 7: payloads of requests, and bodies of answers as real clients read them."""

import datetime as dt
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.pkix.names import AltName, NameType
from protocols.acme import members as reading
from protocols.acme import messages
from protocols.acme.problems import Problem, ProblemType
from tests.test_acme.client import b64, dump

NOW = dt.datetime(2026, 5, 1, 12, 30, 5, 999, tzinfo=dt.UTC)
CERT_ID = "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"


def new_order(payload: bytes) -> messages.NewOrder:
    return messages.parse_new_order(payload, max_identifiers=3)


PARSERS: list[Callable[[bytes], object]] = [
    messages.parse_new_account,
    messages.parse_update_account,
    new_order,
    messages.parse_new_authz,
    messages.parse_update_authz,
    messages.parse_challenge_response,
    messages.parse_finalize,
    messages.parse_revoke,
    messages.parse_key_change,
]


def problem(parse: Callable[[bytes], object], payload: object) -> Problem:
    with pytest.raises(Problem) as caught:
        parse(dump(payload))
    return caught.value


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize("payload", [b"", b"[]", b'"x"', b"null", b"{", b'{"a":1,"a":1}', b"\xff"])
def test_what_is_no_object_is_malformed(parse: Callable[[bytes], object], payload: bytes) -> None:
    assert problem(parse, payload).type is ProblemType.MALFORMED


def test_post_as_get_has_the_empty_payload() -> None:
    """RFC 8555 section 6.3; item 36: `{}` is not it."""
    messages.require_post_as_get(b"")
    with pytest.raises(Problem):
        messages.require_post_as_get(b"{}")


def test_new_account() -> None:
    """RFC 8555 section 7.3. Members we do not know, status and orders are ignored."""
    payload = {
        "contact": ["mailto:a@example.com", "MAILTO:B@Example.com"],
        "termsOfServiceAgreed": True,
        "externalAccountBinding": {"payload": "x"},
        "status": "revoked",
        "orders": 7,
        "extra": [{}],
    }
    assert messages.parse_new_account(dump(payload)) == messages.NewAccount(
        ("mailto:a@example.com", "MAILTO:B@Example.com"), True, False, {"payload": "x"}
    )


@pytest.mark.parametrize("payload", [{}, {"contact": None, "externalAccountBinding": None}])
def test_new_account_with_nothing_in_it(payload: dict[str, Any]) -> None:
    assert messages.parse_new_account(dump(payload)) == messages.NewAccount((), False, False, None)


def test_looking_for_an_account_reads_no_contacts() -> None:
    """Item 13: nothing else is checked when a client looks for its account."""
    message = messages.parse_new_account(dump({"onlyReturnExisting": True, "contact": ["tel:1"]}))
    assert message.only_return_existing
    assert message.contact == ()


@pytest.mark.parametrize(
    "payload",
    [
        {"contact": "mailto:a@example.com"},
        {"contact": [7]},
        {"contact": ["mailto:" + "a" * 400]},
        {"termsOfServiceAgreed": "true"},
        {"onlyReturnExisting": 1},
        {"externalAccountBinding": "x"},
        {"externalAccountBinding": []},
    ],
)
def test_members_of_the_wrong_type_are_malformed(payload: dict[str, Any]) -> None:
    assert problem(messages.parse_new_account, payload).type is ProblemType.MALFORMED


@pytest.mark.parametrize(
    ("contact", "type_"),
    [
        ("tel:+41790000000", ProblemType.UNSUPPORTED_CONTACT),
        ("https://example.com", ProblemType.UNSUPPORTED_CONTACT),
        ("a@example.com", ProblemType.INVALID_CONTACT),
        ("", ProblemType.INVALID_CONTACT),
        ("mailto:", ProblemType.INVALID_CONTACT),
        ("mailto:a", ProblemType.INVALID_CONTACT),
        ("mailto:a@example.com?subject=x", ProblemType.INVALID_CONTACT),
        ("mailto:a@example.com,b@example.com", ProblemType.INVALID_CONTACT),
        ("mailto:a@b@example.com", ProblemType.INVALID_CONTACT),
        ("mailto:a%40example.com", ProblemType.INVALID_CONTACT),
        ("mailto:a@ex ample.com", ProblemType.INVALID_CONTACT),
        ("mailto:a@example.com\r\nBcc: b@example.com", ProblemType.INVALID_CONTACT),
        ("mailto:ä@example.com", ProblemType.INVALID_CONTACT),
    ],
)
def test_contacts_are_single_mailboxes(contact: str, type_: ProblemType) -> None:
    """RFC 8555 section 7.3."""
    assert problem(messages.parse_new_account, {"contact": [contact]}).type is type_


def test_too_many_contacts() -> None:
    contact = ["mailto:a@example.com"] * (reading.MAX_CONTACTS + 1)
    refused = problem(messages.parse_update_account, {"contact": contact})
    assert refused.type is ProblemType.INVALID_CONTACT


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({}, messages.UpdateAccount(None, False, False)),
        ({"contact": []}, messages.UpdateAccount((), False, False)),
        ({"status": "deactivated"}, messages.UpdateAccount(None, False, True)),
        ({"status": "valid", "orders": "x"}, messages.UpdateAccount(None, False, False)),
        ({"termsOfServiceAgreed": True}, messages.UpdateAccount(None, True, False)),
        (
            {"contact": ["mailto:a@example.com"], "status": "deactivated"},
            messages.UpdateAccount(("mailto:a@example.com",), False, True),
        ),
    ],
)
def test_account_updates(payload: dict[str, Any], expected: messages.UpdateAccount) -> None:
    """RFC 8555 sections 7.3.2 and 7.3.6: what may not be changed is ignored."""
    assert messages.parse_update_account(dump(payload)) == expected


def test_new_order() -> None:
    """RFC 8555 section 7.4; item 17: the client's spelling is kept beside the normal form."""
    payload = {
        "identifiers": [
            {"type": "dns", "value": "*.Example.COM"},
            {"type": "ip", "value": "2001:DB8:0::1", "ignored": 1},
        ],
        "notBefore": "2026-05-01T14:30:05.5+02:00",
        "notAfter": "2026-06-01t00:00:00z",
        "replaces": CERT_ID,
        "profile": "tls-server",
    }
    message = new_order(dump(payload))
    assert [i.sent for i in message.identifiers] == ["*.Example.COM", "2001:DB8:0::1"]
    assert [i.name for i in message.identifiers] == [
        AltName(NameType.DNS, "*.example.com"), AltName(NameType.IP, "2001:db8::1"),
    ]  # fmt: skip
    assert [(i.base, i.wildcard) for i in message.identifiers] == [
        ("example.com", True), ("2001:db8::1", False),
    ]  # fmt: skip
    assert message.not_before == dt.datetime(2026, 5, 1, 12, 30, 5, 500_000, tzinfo=dt.UTC)
    assert message.not_after == dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
    assert (message.replaces, message.profile) == (CERT_ID, "tls-server")


def test_equal_identifiers_are_one() -> None:
    """Item 17: the load generator of Boulder sends duplicates."""
    names = ["a.example", "A.Example", "*.a.example"]
    items = [{"type": "dns", "value": name} for name in names]
    found = new_order(dump({"identifiers": items})).identifiers
    assert [identifier.sent for identifier in found] == ["a.example", "*.a.example"]


IDENTIFIERS: list[tuple[Any, ProblemType]] = [
    (None, ProblemType.MALFORMED),
    ("a.example", ProblemType.MALFORMED),
    ({"type": "dns"}, ProblemType.MALFORMED),
    ({"type": "dns", "value": ""}, ProblemType.MALFORMED),
    ({"type": "dns", "value": ["a.example"]}, ProblemType.MALFORMED),
    ({"type": 1, "value": "a.example"}, ProblemType.MALFORMED),
    ({"type": "dns", "value": "a" * 300}, ProblemType.MALFORMED),
    ({"type": "dns", "value": "a_b.example"}, ProblemType.MALFORMED),
    ({"type": "dns", "value": "a.example."}, ProblemType.MALFORMED),
    ({"type": "dns", "value": "a.*.example"}, ProblemType.MALFORMED),
    ({"type": "dns", "value": "*.*.example"}, ProblemType.MALFORMED),
    ({"type": "dns", "value": "*"}, ProblemType.MALFORMED),
    ({"type": "dns", "value": "bücher.example"}, ProblemType.MALFORMED),
    ({"type": "dns", "value": "a.example\x00.evil"}, ProblemType.MALFORMED),
    ({"type": "dns", "value": "192.0.2.1"}, ProblemType.REJECTED_IDENTIFIER),
    ({"type": "dns", "value": "xn--a.example"}, ProblemType.REJECTED_IDENTIFIER),
    ({"type": "ip", "value": "*.192.0.2.1"}, ProblemType.MALFORMED),
    ({"type": "ip", "value": "192.0.2.0/24"}, ProblemType.MALFORMED),
    ({"type": "ip", "value": "fe80::1%eth0"}, ProblemType.MALFORMED),
    ({"type": "ip", "value": "a.example"}, ProblemType.MALFORMED),
    ({"type": "ip", "value": "::ffff:192.0.2.1"}, ProblemType.REJECTED_IDENTIFIER),
    ({"type": "email", "value": "a@example.com"}, ProblemType.UNSUPPORTED_IDENTIFIER),
    ({"type": "DNS", "value": "a.example"}, ProblemType.UNSUPPORTED_IDENTIFIER),
]


@pytest.mark.parametrize(("item", "type_"), IDENTIFIERS)
def test_bad_identifiers(item: Any, type_: ProblemType) -> None:
    refused = problem(new_order, {"identifiers": [item]})
    assert refused.type is type_
    assert problem(messages.parse_new_authz, {"identifier": item}).type is type_
    assert refused.status < 500


def test_bad_identifiers_are_reported_together() -> None:
    """RFC 8555 section 6.7.1: one subproblem for each, with the identifier as sent."""
    bad = [{"type": "dns", "value": "192.0.2.1"}, {"type": "email", "value": "A@b"}]
    good = {"type": "dns", "value": "a.example"}
    refused = problem(new_order, {"identifiers": [good, *bad]})
    assert refused.type is ProblemType.COMPOUND
    assert [p["identifier"] for p in refused.to_json()["subproblems"]] == bad
    alike = problem(new_order, {"identifiers": [bad[0], good, bad[0] | {"value": "1"}]})
    assert alike.type is ProblemType.REJECTED_IDENTIFIER


@pytest.mark.parametrize("count", [0, 4])
def test_the_number_of_identifiers_is_bounded(count: int) -> None:
    items = [{"type": "dns", "value": f"a{n}.example"} for n in range(count)]
    assert problem(new_order, {"identifiers": items}).type is ProblemType.MALFORMED
    assert problem(new_order, {"Identifiers": []}).type is ProblemType.MALFORMED


@pytest.mark.parametrize(
    "time",
    ["2026-05-01", "2026-05-01T12:00:00", "2026-05-01 12:00:00Z", "2026-05-01T12:00Z",
     "2026-02-30T12:00:00Z", "2026-05-01T24:00:00Z", "2026-05-01T12:00:60Z", "20260501T120000Z",
     "2026-05-01T12:00:00+0200", "2026-05-01T12:00:00+99:00", "0001-01-01T00:00:00+12:00",
     "9999-12-31T23:59:59-12:00", "2026-05-01T12:00:00.Z", "２026-05-01T12:00:00Z", "", 7, True],
)  # fmt: skip
@pytest.mark.parametrize("member", ["notBefore", "notAfter"])
def test_times_are_strict_rfc_3339_with_zone(member: str, time: object) -> None:
    """Item 50: nothing without a zone."""
    payload = {"identifiers": [{"type": "dns", "value": "a.example"}], member: time}
    assert problem(new_order, payload).type is ProblemType.MALFORMED


@given(st.integers(0, 1 << 32), st.integers(0, 999_999), st.integers(-1439, 1439))
@settings(max_examples=50)
def test_times_read_back(seconds: int, microseconds: int, offset: int) -> None:
    zone = dt.timezone(dt.timedelta(minutes=offset))
    moment = dt.datetime.fromtimestamp(seconds, zone).replace(microsecond=microseconds)
    payload = {
        "identifiers": [{"type": "dns", "value": "a.example"}],
        "notBefore": moment.isoformat(),
    }
    assert new_order(dump(payload)).not_before == moment


@pytest.mark.parametrize("value", ["", "x", "é.é", "a.b.c", 5, CERT_ID + "\n"])
def test_bad_replaces_says_replaces(value: object) -> None:
    """Item 47: clients look for the word before they try again without."""
    payload = {"identifiers": [{"type": "dns", "value": "a.example"}], "replaces": value}
    refused = problem(new_order, payload)
    assert refused.type is ProblemType.MALFORMED
    assert "replaces" in refused.detail


@pytest.mark.parametrize("value", ["", 5, "p" * 300, "a\nb", "é"])
def test_bad_profile_names(value: object) -> None:
    payload = {"identifiers": [{"type": "dns", "value": "a.example"}], "profile": value}
    assert problem(new_order, payload).type is ProblemType.MALFORMED


def test_authorizations_are_only_deactivated() -> None:
    """RFC 8555 section 7.5.2."""
    messages.parse_update_authz(b'{"status":"deactivated"}')
    for payload in ({}, {"status": "valid"}, {"status": None}, {"status": ["deactivated"]}):
        assert problem(messages.parse_update_authz, payload).type is ProblemType.MALFORMED


@pytest.mark.parametrize("payload", [{}, {"keyAuthorization": "x"}, {"resource": "challenge"}])
def test_vestigial_challenge_responses_are_tolerated(payload: dict[str, Any]) -> None:
    """Item 36."""
    messages.parse_challenge_response(dump(payload))


@pytest.mark.parametrize("padding", ["", "=", "=="])
def test_padded_csr_and_certificate_are_tolerated(padding: str) -> None:
    """Items 12 of the complaints and 42: Synology and others pad."""
    text = b64(b"0\x82\x01\x00x") + padding
    assert messages.parse_finalize(dump({"csr": text})).csr == b"0\x82\x01\x00x"
    message = messages.parse_revoke(dump({"certificate": text}))
    assert message == messages.Revoke(b"0\x82\x01\x00x", None)


@pytest.mark.parametrize("csr", [None, "", 7, "MII/", "MII +", "=AA", "A=A", "é", "AAAAA"])
def test_bad_base64url_is_malformed(csr: object) -> None:
    assert problem(messages.parse_finalize, {"csr": csr}).type is ProblemType.MALFORMED
    assert problem(messages.parse_revoke, {"certificate": csr}).type is ProblemType.MALFORMED


@pytest.mark.parametrize("reason", [0, 1, 4, 10])
def test_revocation_reasons(reason: int) -> None:
    payload = {"certificate": b64(b"x"), "reason": reason}
    assert messages.parse_revoke(dump(payload)).reason == reason


@pytest.mark.parametrize("reason", [7, 11, -1, 1 << 70])
def test_reasons_outside_rfc_5280(reason: int) -> None:
    refused = problem(messages.parse_revoke, {"certificate": b64(b"x"), "reason": reason})
    assert refused.type is ProblemType.BAD_REVOCATION_REASON


@pytest.mark.parametrize("reason", [True, False, "1", 1.0, [1]])
def test_reasons_that_are_no_integers(reason: object) -> None:
    refused = problem(messages.parse_revoke, {"certificate": b64(b"x"), "reason": reason})
    assert refused.type is ProblemType.MALFORMED


def test_key_change() -> None:
    message = messages.parse_key_change(b'{"account":"https://x/1","oldKey":{"kty":"EC"}}')
    assert message == messages.KeyChange("https://x/1", {"kty": "EC"})
    others: list[object] = [{}, {"account": "x"}, {"oldKey": {}}, {"account": 1, "oldKey": {}}]
    for payload in others:
        assert problem(messages.parse_key_change, payload).type is ProblemType.MALFORMED


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["contact", "status", "identifiers", "identifier", "notBefore", "notAfter", "replaces", "csr",
     "profile", "certificate", "reason", "account", "oldKey", "externalAccountBinding"]
)  # fmt: skip
IDENTIFIER = st.fixed_dictionaries({"type": st.sampled_from(["dns", "ip"]), "value": st.text()})


@given(st.dictionaries(NAMES, JSON | st.lists(JSON | IDENTIFIER, max_size=3) | IDENTIFIER))
@settings(max_examples=100)
def test_any_object_is_a_message_or_a_problem(payload: dict[str, Any]) -> None:
    for parse in PARSERS:
        try:
            parse(dump(payload))
        except Problem as refused:
            assert refused.status in (400, 403)
            json.dumps(refused.to_json()).encode()


@given(st.binary(max_size=50))
@settings(max_examples=100)
def test_any_octets_are_a_message_or_a_problem(payload: bytes) -> None:
    for parse in PARSERS:
        try:
            parse(payload)
        except Problem as refused:
            assert refused.type is ProblemType.MALFORMED


ERROR = {
    "type": "urn:ietf:params:acme:error:dns",
    "status": 400,
    "detail": "gone",
    "identifier": {"type": "dns", "value": "a.example"},
    "subproblems": [{"type": "x"}],
}


def challenge(**changes: Any) -> messages.ChallengeView:
    values = {"type": "http-01", "url": "https://x/chall/1", "status": "pending", "token": "t-_1"}
    return messages.ChallengeView(**{**values, **changes})


def compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def test_account_object() -> None:
    view = messages.AccountView("valid", (), False, None, "https://x/acct/1/orders")
    assert messages.account_json(view) == {
        "status": "valid", "contact": [], "orders": "https://x/acct/1/orders",
    }  # fmt: skip
    bound = messages.AccountView("valid", ("mailto:a@b",), True, {"payload": "x"}, "https://x/o")
    document = messages.account_json(bound)
    assert document["termsOfServiceAgreed"] is True
    assert document["externalAccountBinding"] == {"payload": "x"}


def test_order_object() -> None:
    """RFC 8555 section 7.1.3; items 17, 29, 49 and 50."""
    view = messages.OrderView(
        "ready", NOW, [("dns", "A.Example")], ["https://x/authz/1"], "https://x/order/1/finalize"
    )
    assert messages.order_json(view) == {
        "status": "ready",
        "expires": "2026-05-01T12:30:05Z",
        "identifiers": [{"type": "dns", "value": "A.Example"}],
        "authorizations": ["https://x/authz/1"],
        "finalize": "https://x/order/1/finalize",
    }
    full = messages.OrderView(
        "valid", NOW, [("ip", "192.0.2.1")], [], "https://x/f", NOW, NOW, ERROR, "https://x/cert/1",
        "tls-server", CERT_ID,
    )  # fmt: skip
    document = messages.order_json(full)
    assert document["notBefore"] == document["notAfter"] == "2026-05-01T12:30:05Z"
    assert document["error"] == ERROR
    assert document["certificate"] == "https://x/cert/1"
    assert (document["profile"], document["replaces"]) == ("tls-server", CERT_ID)


def test_authorization_object() -> None:
    """Items 29 and 33: `challenges` always, `wildcard` only if true, the name first."""
    view = messages.AuthorizationView("pending", ("dns", "a.example"), NOW, False, [])
    document = messages.authorization_json(view)
    assert document == {
        "identifier": {"type": "dns", "value": "a.example"},
        "status": "pending",
        "expires": "2026-05-01T12:30:05Z",
        "challenges": [],
    }
    wild = messages.AuthorizationView("pending", ("dns", "a.example"), NOW, True, [challenge()])
    text = compact(messages.authorization_json(wild))
    assert '"wildcard":true' in text
    first = re.search(r'"value":"([^"]*)"', text)
    assert first is not None and first[1] == "a.example"


def test_acme_sh_reads_a_challenge_with_a_passing_error() -> None:
    """Item 30: its pattern ends at the first brace and must have met url and token by then."""
    noted = challenge(status="processing", error=ERROR)
    view = messages.AuthorizationView(
        "pending", ("dns", "a.example"), NOW, False, [challenge(type="dns-01"), noted]
    )
    text = compact(messages.authorization_json(view))
    found = re.search(r'[^{]*"type":"http-01"[^}]*', text)
    assert found is not None
    assert '"token":"t-_1"' in found[0] and '"url":"https://x/chall/1"' in found[0]
    assert messages.challenge_json(noted)["error"] == {
        "type": ERROR["type"], "status": 400, "detail": "gone",
    }  # fmt: skip


def test_challenge_object() -> None:
    """Items 30 and 31: members in this order, the error last and whole once it is decided."""
    decided = messages.challenge_json(challenge(status="invalid", error=ERROR, validated=NOW))
    assert list(decided) == ["type", "url", "token", "status", "validated", "error"]
    assert decided["error"] == ERROR
    assert list(messages.challenge_json(challenge(error={}))) == ["type", "url", "token", "status"]


def test_persistent_challenges_have_no_token() -> None:
    view = challenge(
        type="dns-persist-01",
        token=None,
        issuer_domain_names=["ca.example"],
        account_uri="https://a",
    )
    document = messages.challenge_json(view)
    assert "token" not in document
    assert document["issuer-domain-names"] == ["ca.example"]
    assert document["accounturi"] == "https://a"


def test_tokens_stay_out_of_repr() -> None:
    assert "t-_1" not in repr(challenge())


def test_directory_object() -> None:
    """Items 29 and 34: `meta` always, and nothing in it that is empty."""
    urls = {"newNonce": "https://x/new-nonce"}
    bare = messages.directory_json(
        urls, terms_of_service=None, website=None, caa_identities=(),
        external_account_required=False, profiles={},
    )  # fmt: skip
    assert bare == {**urls, "meta": {"externalAccountRequired": False}}
    full = messages.directory_json(
        urls, terms_of_service="https://x/terms", website="https://x", caa_identities=("x",),
        external_account_required=True, profiles={"a": "about a"},
    )  # fmt: skip
    assert full["meta"] == {
        "termsOfService": "https://x/terms",
        "website": "https://x",
        "caaIdentities": ["x"],
        "profiles": {"a": "about a"},
        "externalAccountRequired": True,
    }
