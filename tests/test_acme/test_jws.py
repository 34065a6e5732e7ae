"""RFC 8555 section 6 and RFC 7515: signed requests, good and bad; inner JWS of key changes."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.acme import jwk, jws
from protocols.acme.problems import Problem, ProblemType
from tests.test_acme.client import (
    CONTENT_TYPE,
    Signer,
    b64,
    dump,
    flattened,
    new_key,
    public_jwk,
    raw_signature,
)

URL = "https://pki.example.com/acme/default/new-order"
KID = "https://pki.example.com/acme/default/acct/1"
NONCE = "bm9uY2U"
SIGNERS = {algorithm: Signer(new_key(algorithm), algorithm) for algorithm in jws.Algorithm}
ES256 = SIGNERS[jws.Algorithm.ES256]
ACCOUNT = dataclasses.replace(ES256, kid=KID)
PUBLIC = ES256.key.public_key()
PAYLOAD = {"identifiers": [{"type": "dns", "value": "a.example"}]}


def body(signer: Signer = ACCOUNT, payload: object = PAYLOAD, **options: Any) -> bytes:
    return signer.sign(URL, payload, nonce=NONCE, **options)


def refusal(data: bytes, content_type: str | None = CONTENT_TYPE) -> Problem:
    with pytest.raises(Problem) as caught:
        jws.verify(jws.parse(data, content_type), PUBLIC)
    return caught.value


@pytest.mark.parametrize("algorithm", jws.Algorithm)
def test_every_algorithm_signs_and_verifies(algorithm: jws.Algorithm) -> None:
    """Item 39."""
    signer = SIGNERS[algorithm]
    request = jws.parse(body(signer), CONTENT_TYPE)
    assert (request.algorithm, request.nonce, request.url) == (algorithm, NONCE, URL)
    assert request.kid is None
    assert request.jwk == signer.jwk
    assert json.loads(jws.verify(request, jwk.parse(request.jwk))) == PAYLOAD


def test_an_account_signs_with_its_kid_and_reads_with_an_empty_payload() -> None:
    request = jws.parse(body(payload=None), "Application/Jose+JSON; charset=utf-8")
    assert (request.kid, request.jwk) == (KID, None)
    assert jws.verify(request, PUBLIC) == b""


@pytest.mark.parametrize("content_type", [None, "", "application/json", "application/jose"])
def test_another_content_type_is_415(content_type: str | None) -> None:
    """RFC 8555 section 6.2; item 54."""
    problem = refusal(body(), content_type)
    assert (problem.type, problem.status) == (ProblemType.MALFORMED, 415)


def test_a_long_body_is_413() -> None:
    assert refusal(b" " * (jws.MAX_BODY + 1)).status == 413


def _unprotected(name: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda form: form.update({name: value})


FORMS: dict[str, Callable[[dict[str, Any]], object]] = {
    "header": _unprotected("header", {"kid": KID}),
    "empty header": _unprotected("header", {}),
    "signatures": _unprotected("signatures", []),
    "no signature": lambda form: form.pop("signature") and None,
    "no payload": lambda form: form.pop("payload") and None,
    "no protected": lambda form: form.pop("protected") and None,
    "general form": lambda form: {"payload": form["payload"], "signatures": [form]},
    "josepy's trap": lambda form: {"signatures": [], "payload": "e30"},
    "null": lambda form: form.update(signature=None),
    "number": lambda form: form.update(payload=1),
    "list": lambda form: [form],
    "compact form": lambda form: ".".join(form.values()).encode(),
    "padded payload": lambda form: form.update(payload=form["payload"] + "="),
    "padded signature": lambda form: form.update(signature=form["signature"] + "=="),
    "line break": lambda form: form.update(payload=form["payload"] + "\n"),
    "base64": lambda form: form.update(signature="+/" + form["signature"][2:]),
    "left-over bits": lambda form: form.update(protected=b64(b"{}")[:-1] + "R"),
    "not ASCII": lambda form: form.update(payload="ä"),
    "lone surrogate": lambda form: b'{"protected":"\\ud800","payload":"","signature":""}',
    "duplicate": lambda form: json.dumps(form).encode()[:-1] + b',"payload":""}',
    "UTF-16": lambda form: json.dumps(form).encode("utf-16"),
    "byte order mark": lambda form: b"\xef\xbb\xbf" + json.dumps(form).encode(),
    "trailing": lambda form: json.dumps(form).encode() + b"x",
    "nested": lambda form: b"[" * 100_000,
    "nested objects": lambda form: b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    "empty": lambda form: b" ",
    "not a number": lambda form: b'{"payload":NaN}',
    "huge number": lambda form: b'{"payload":' + b"9" * 10_000 + b"}",
    "long header": lambda form: form.update(protected="A" * (jws.MAX_HEADER + 4)),
    "other payload": lambda form: form.update(payload=b64(b"{}")),
    "other header": lambda form: form.update(
        protected=b64(json.dumps({"alg": "ES256", "kid": KID, "url": URL, "nonce": "AA"}).encode())
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_other_form_is_malformed(name: str) -> None:
    """Item 55 and RFC 8555 section 6.2: one signature, nothing unprotected."""
    assert refusal(body(tamper=FORMS[name])).type is ProblemType.MALFORMED


HEADERS: dict[str, dict[str, Any]] = {
    "crit": {"crit": ["exp"]},
    "b64": {"b64": False, "crit": ["b64"]},
    "b64 true": {"b64": True},
    "both jwk and kid": {"jwk": ES256.jwk},
    "neither": {"kid": None},
    "kid a list": {"kid": [KID]},
    "kid not ASCII": {"kid": KID + "é"},
    "kid with a control character": {"kid": KID + "\n"},
    "long kid": {"kid": "k" * 3000},
    "alg missing": {"alg": None},
    "alg a list": {"alg": ["ES256"]},
    "url missing": {"url": None},
    "url an object": {"url": {}},
    "long url": {"url": "u" * 3000},
    "nonce a number": {"nonce": 7},
    "nonce empty": {"nonce": ""},
    "nonce padded": {"nonce": "bm9uY2U="},
    "nonce with two values": {"nonce": "abc,def"},
    "nonce long": {"nonce": "a" * 300},
    "deep": {"x": [[[[[[[[[[]]]]]]]]]]},
}


@pytest.mark.parametrize("name", HEADERS)
def test_protected_headers_that_are_malformed(name: str) -> None:
    assert refusal(body(header=HEADERS[name])).type is ProblemType.MALFORMED


def test_unknown_protected_members_are_ignored() -> None:
    request = jws.parse(body(header={"typ": "JWT", "x": {"y": [1]}}), CONTENT_TYPE)
    assert jws.verify(request, PUBLIC)


def test_a_missing_nonce_is_bad_nonce() -> None:
    """RFC 8555 section 6.5; the client tries again with the fresh one."""
    assert refusal(ACCOUNT.sign(URL, {}, nonce=None)).type is ProblemType.BAD_NONCE


@pytest.mark.parametrize("algorithm", ["none", "HS256", "HS512", "ES256K", "RS1", "es256", ""])
def test_algorithms_outside_the_list(algorithm: str) -> None:
    """RFC 8555 section 6.2 and item 55: no MAC, no `none`; the answer lists what is supported."""
    problem = refusal(body(header={"alg": algorithm}))
    assert problem.type is ProblemType.BAD_SIGNATURE_ALGORITHM
    assert problem.to_json()["algorithms"] == [
        "ES256", "ES384", "ES512", "RS256", "PS256", "EdDSA",
    ]  # fmt: skip


@pytest.mark.parametrize("claimed", jws.Algorithm)
@pytest.mark.parametrize("owner", jws.Algorithm)
def test_the_algorithm_belongs_to_the_key(owner: jws.Algorithm, claimed: jws.Algorithm) -> None:
    """RFC 7518: curve and hash go together; a key of one type is never used as another."""
    signer = SIGNERS[owner]
    key = signer.key.public_key()
    request = jws.parse(body(signer, header={"alg": claimed}), CONTENT_TYPE)
    both_rsa = owner.endswith("S256") and claimed.endswith("S256") and "E" not in owner + claimed
    if owner is claimed:
        jws.verify(request, key)
        return
    with pytest.raises(Problem) as caught:
        jws.verify(request, key)
    expected = ProblemType.MALFORMED if both_rsa else ProblemType.BAD_SIGNATURE_ALGORITHM
    assert caught.value.type is expected


def test_a_jwk_may_name_its_algorithm_but_no_other() -> None:
    """RFC 7517 section 4.4; item 39."""
    jws.parse(body(ES256, header={"jwk": ES256.jwk | {"alg": "ES256"}}), CONTENT_TYPE)
    problem = refusal(body(ES256, header={"jwk": ES256.jwk | {"alg": "ES384"}}))
    assert problem.type is ProblemType.BAD_SIGNATURE_ALGORITHM


@pytest.mark.parametrize("bit", range(0, 512, 37))
def test_a_changed_signature_is_refused(bit: int) -> None:
    signature = bytearray(_signature_of(body()))
    signature[bit // 8] ^= 1 << bit % 8
    assert refusal(_with_signature(bytes(signature))).type is ProblemType.MALFORMED


@pytest.mark.parametrize("length", [0, 1, 32, 61, 65, 128])
def test_signatures_of_other_lengths_are_refused(length: int) -> None:
    assert refusal(_with_signature(b"\x01" * length)).type is ProblemType.MALFORMED


def test_zero_signature_is_refused() -> None:
    """CVE-2022-21449: r and s of zero verify nothing."""
    assert refusal(_with_signature(bytes(64))).type is ProblemType.MALFORMED


def _signature_of(data: bytes) -> bytes:
    form = json.loads(data)
    return raw_signature(ES256.key, "ES256", f"{form['protected']}.{form['payload']}".encode())


def _with_signature(signature: bytes) -> bytes:
    return body(tamper=lambda form: form.update(signature=b64(signature)))


@pytest.mark.parametrize("short_half", ["r", "s"])
def test_apples_short_signatures_are_repaired(short_half: str) -> None:
    """Item 11 of the complaints: leading zero octets of a half are missing in ES256."""
    while True:
        form = json.loads(body())
        data = f"{form['protected']}.{form['payload']}".encode()
        signature = raw_signature(ES256.key, "ES256", data)
        r, s = signature[:32], signature[32:]
        if (r if short_half == "r" else s)[0] == 0:
            break
    short = r[1:] + s if short_half == "r" else r + s[1:]
    repaired = dump(form | {"signature": b64(short)})
    assert jws.verify(jws.parse(repaired, CONTENT_TYPE), PUBLIC)


def test_the_repair_accepts_nothing_that_does_not_verify() -> None:
    signature = _signature_of(body())
    for short in (signature[1:], signature[:-1], signature[2:], signature[:-2], signature[3:]):
        if signature[0] and signature[32]:
            assert refusal(_with_signature(short)).type is ProblemType.MALFORMED


def test_other_curves_are_not_repaired() -> None:
    """The quirk is known of ES256 only."""
    signer = SIGNERS[jws.Algorithm.ES384]
    short = body(signer, tamper=lambda form: form.update(signature=b64(b"\x01" * 95)))
    with pytest.raises(Problem):
        jws.verify(jws.parse(short, CONTENT_TYPE), signer.key.public_key())


def test_another_key_of_the_same_kind_did_not_sign() -> None:
    request = jws.parse(body(), CONTENT_TYPE)
    with pytest.raises(Problem) as caught:
        jws.verify(request, ec.generate_private_key(ec.SECP256R1()).public_key())
    assert caught.value.type is ProblemType.MALFORMED


def test_pss_takes_the_salt_length_of_the_hash() -> None:
    """RFC 7518 section 3.5; a PKCS #1 v1.5 signature is no PSS signature."""
    signer = SIGNERS[jws.Algorithm.PS256]
    assert isinstance(signer.key, rsa.RSAPrivateKey)
    confused = dataclasses.replace(signer, algorithm="RS256")
    request = jws.parse(body(confused, header={"alg": "PS256"}), CONTENT_TYPE)
    with pytest.raises(Problem):
        jws.verify(request, signer.key.public_key())


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@settings(max_examples=100)
def test_any_octets_are_a_problem(data: bytes) -> None:
    with pytest.raises(Problem):
        jws.parse(data, CONTENT_TYPE)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(
    st.dictionaries(
        st.sampled_from(["alg", "nonce", "url", "kid", "jwk", "crit"]),
        st.sampled_from(["ES256", NONCE, URL, PUBLIC, ES256.jwk]) | JSON,
    )
)
@settings(max_examples=100)
def test_any_protected_header_is_a_request_or_a_problem(header: dict[str, Any]) -> None:
    form = flattened({k: v for k, v in header.items() if v is not PUBLIC}, b"{}", lambda _: b"x")
    try:
        request = jws.parse(dump(form), CONTENT_TYPE)
        jws.verify(request, jwk.parse(request.jwk) if request.jwk is not None else PUBLIC)
    except Problem:
        pass


def test_truncation_at_every_octet() -> None:
    whole = body(ES256)
    for length in range(len(whole)):
        with pytest.raises(Problem):
            jws.parse(whole[:length], CONTENT_TYPE)


def test_requests_do_not_show_payload_or_signature() -> None:
    request = jws.parse(body(payload={"secret": "hush"}), CONTENT_TYPE)
    assert "hush" not in repr(request)
    assert "signature" not in repr(request)


KEY_CHANGE = "https://pki.example.com/acme/default/key-change"


def key_change(**options: Any) -> bytes:
    signer = options.pop("signer", SIGNERS[jws.Algorithm.ES384])
    payload = {"account": KID, "oldKey": ES256.jwk}
    url = options.pop("url", KEY_CHANGE)
    return bytes(signer.sign(url, payload, nonce=options.pop("nonce", None), **options))


def test_the_inner_jws_of_a_key_change() -> None:
    """RFC 8555 section 7.3.5; item 41."""
    change = jws.parse_key_change(key_change(), url=KEY_CHANGE)
    new = SIGNERS[jws.Algorithm.ES384]
    assert jwk.thumbprint(change.key) == new.thumbprint
    assert json.loads(change.payload) == {"account": KID, "oldKey": ES256.jwk}


@pytest.mark.parametrize(
    "options",
    [
        {"nonce": NONCE},
        {"url": URL},
        {"signer": ACCOUNT},
        {"header": {"kid": KID}},
        {"header": {"jwk": None}},
        {"header": {"jwk": ES256.jwk}},
        {"header": {"alg": "HS256"}},
        {"header": {"url": None}},
        {"tamper": lambda form: form.update(payload="e30")},
        {"tamper": lambda form: form.update(header={})},
        {"tamper": lambda form: b"{}"},
        {"tamper": lambda form: b""},
        {"tamper": lambda form: b"[]"},
    ],
)
def test_other_inner_jws_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(Problem) as caught:
        jws.parse_key_change(key_change(**options), url=KEY_CHANGE)
    assert caught.value.status == 400


@given(st.binary(max_size=80) | JSON.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=50)
def test_any_key_change_payload_is_a_problem(payload: bytes) -> None:
    with pytest.raises(Problem):
        jws.parse_key_change(payload, url=KEY_CHANGE)


def test_public_jwk_helper_matches_the_server() -> None:
    for signer in SIGNERS.values():
        key = jwk.parse(public_jwk(signer.key))
        assert json.loads(jwk.canonical(key)) == signer.jwk
