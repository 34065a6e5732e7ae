"""The codec of Intune's messages: values or `MalformedMessage`, nothing else."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.errors import ErrorCode, MalformedMessage
from protocols.scep import intune_messages as messages

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["value", "code", "errorDescription", "access_token", "expires_in", "token_type",
             "providerName", "uri", "requestContext", "serialNumber"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=8,
)  # fmt: skip
PARSERS: list[Callable[[bytes], object]] = [
    messages.parse_token,
    messages.parse_endpoints,
    messages.parse_result,
    messages.parse_revocations,
    messages.parse_uploaded,
]


@settings(max_examples=100)
@given(
    st.sampled_from(PARSERS), st.binary(max_size=40) | JSON.map(lambda v: json.dumps(v).encode())
)
def test_parsers_return_or_raise_malformed(parse: Callable[[bytes], object], body: bytes) -> None:
    try:
        parse(body)
    except MalformedMessage:
        return


@pytest.mark.parametrize("parse", PARSERS)
def test_depth_is_no_way_out(parse: Callable[[bytes], object]) -> None:
    for body in (b"[" * 100_000, b'{"value":' * 50_000, b"\xff\xfe", b'{"code": NaN'):
        with pytest.raises(MalformedMessage):
            parse(body)


@settings(max_examples=100)
@given(st.integers(min_value=1, max_value=(1 << 160) - 1))
def test_serial_numbers_go_there_and_back(serial: int) -> None:
    assert messages.parse_serial(messages.serial_text(serial)) == serial


@settings(max_examples=100)
@given(st.text(max_size=80))
def test_serial_numbers_of_others(text: str) -> None:
    try:
        assert messages.parse_serial(text) >= 0
    except MalformedMessage:
        return


@pytest.mark.parametrize("code", list(ErrorCode))
@pytest.mark.parametrize("description", ["", "x" * 1000, " \n", "ü\n\tö"])
def test_every_failure_has_an_hresult_and_a_description(code: ErrorCode, description: str) -> None:
    body = json.loads(messages.failure("T", b"csr", "p", code, description))["notification"]
    assert -(1 << 31) <= body["hResult"] < 0
    assert 1 <= len(body["errorDescription"]) <= 255


@pytest.mark.parametrize(
    "members",
    [
        {"access_token": "x", "token_type": "Bearer"},
        {"access_token": "x", "token_type": "Bearer", "expires_in": True},
        {"access_token": "x", "token_type": "Bearer", "expires_in": 0},
        {"access_token": "x", "token_type": "mac", "expires_in": 1},
        {"access_token": "", "token_type": "Bearer", "expires_in": 1},
        {"access_token": "a b", "token_type": "Bearer", "expires_in": 1},
        {"access_token": "a\r\nX: y", "token_type": "Bearer", "expires_in": 1},
    ],
)
def test_tokens_that_cannot_be_used(members: dict[str, object]) -> None:
    with pytest.raises(MalformedMessage):
        messages.parse_token(json.dumps(members).encode())


def test_what_a_service_says_is_cut_and_printable() -> None:
    body = json.dumps({"code": "A\x1b[31m" * 100, "errorDescription": None}).encode()
    result = messages.parse_result(body)
    assert len(result.code) <= 100 and result.code.isprintable() and result.description == ""
