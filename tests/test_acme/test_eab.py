"""RFC 8555 section 7.3.4: external account binding."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.acme import eab
from protocols.acme.problems import Problem, ProblemType
from tests.test_acme.client import Signer, b64, external_account_binding

URL = "https://pki.example.com/acme/default/new-account"
KEY = bytes(range(32))
SIGNER = Signer()


def make(**options: Any) -> dict[str, Any]:
    jwk, url = options.pop("jwk", SIGNER.jwk), options.pop("url", URL)
    key_id, key = options.pop("key_id", "kid-1"), options.pop("key", KEY)
    return external_account_binding(jwk, url, key_id, key, **options)


def parse(binding: dict[str, Any]) -> eab.Binding:
    return eab.parse(binding, new_account_url=URL, jwk=SIGNER.jwk)


@pytest.mark.parametrize("algorithm", eab.MACAlgorithm)
def test_bindings_verify(algorithm: eab.MACAlgorithm) -> None:
    """Item 40."""
    binding = parse(make(algorithm=algorithm))
    assert (binding.key_id, binding.algorithm) == ("kid-1", algorithm)
    eab.verify(binding, KEY)


def test_the_key_may_be_spelt_otherwise() -> None:
    """Item 2 of the complaints: Proxmox sends other members in another order."""
    other = dict(reversed(SIGNER.jwk.items())) | {"alg": "ES256", "use": "sig"}
    eab.verify(parse(make(jwk=other)), KEY)


@pytest.mark.parametrize("key", [b"", KEY[:-1], bytes(32)])
def test_another_mac_key_is_unauthorized(key: bytes) -> None:
    with pytest.raises(Problem) as caught:
        eab.verify(parse(make(key=key)), KEY)
    assert caught.value.type is ProblemType.UNAUTHORIZED


@pytest.mark.parametrize("signature", ["", "AAAA", "A" * 43])
def test_another_mac_is_unauthorized(signature: str) -> None:
    with pytest.raises(Problem) as caught:
        eab.verify(parse(make() | {"signature": signature}), KEY)
    assert caught.value.type is ProblemType.UNAUTHORIZED


@pytest.mark.parametrize(
    "options",
    [
        {"url": URL + "/"},
        {"nonce": "bm9uY2U"},
        {"header_jwk": True},
        {"jwk": Signer().jwk},
        {"jwk": {}},
        {"jwk": []},
        {"key_id": ""},
        {"key_id": "k" * 300},
        {"key_id": "schlüssel"},
        {"key_id": "a\nb"},
        {"key_id": 7},
        {"crit": ["x"]},
    ],
)
def test_bindings_that_do_not_fit_are_malformed(options: dict[str, Any]) -> None:
    if "header_jwk" in options:
        binding = make()
        header = {"alg": "HS256", "kid": "kid-1", "url": URL, "jwk": SIGNER.jwk}
        binding["protected"] = _encode(header)
    else:
        binding = make(**options)
    with pytest.raises(Problem) as caught:
        parse(binding)
    assert caught.value.type is ProblemType.MALFORMED


def _encode(header: dict[str, Any]) -> str:
    return b64(json.dumps(header).encode())


@pytest.mark.parametrize("algorithm", ["none", "ES256", "HS1", "", "hs256"])
def test_only_macs_are_taken(algorithm: str) -> None:
    """An account's own signature is no binding, and `none` is nothing."""
    with pytest.raises(Problem) as caught:
        parse(make() | {"protected": _encode({"alg": algorithm, "kid": "kid-1", "url": URL})})
    assert caught.value.type is ProblemType.MALFORMED


@pytest.mark.parametrize("change", [{"header": {}}, {"payload": None}, {"protected": "e30="}])
def test_other_forms_are_malformed(change: dict[str, Any]) -> None:
    with pytest.raises(Problem) as caught:
        parse(make() | change)
    assert caught.value.type is ProblemType.MALFORMED


@given(
    st.dictionaries(
        st.sampled_from(["protected", "payload", "signature", "header"]),
        st.sampled_from(list(make().values())) | st.text(max_size=20) | st.none(),
    )
)
@settings(max_examples=100)
def test_any_object_is_a_binding_or_a_problem(binding: dict[str, Any]) -> None:
    try:
        parse(binding)
    except Problem as problem:
        assert problem.type is ProblemType.MALFORMED


def test_the_mac_stays_out_of_repr() -> None:
    binding = make()
    assert binding["signature"] not in repr(parse(binding))
