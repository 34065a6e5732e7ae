"""RFC 9773: certificate identifiers and the suggested window."""

import datetime as dt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.acme import ari
from protocols.acme.problems import Problem, ProblemType

NOW = dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)
EXAMPLE = "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"


def test_the_example_of_section_4_1() -> None:
    parsed = ari.parse_cert_id(EXAMPLE)
    assert parsed.key_identifier.hex() == "69885b6b87464041e1b37b847ba0ae2cde01c8d4"
    assert parsed.serial == 0x8765_4321
    assert str(parsed) == EXAMPLE


@pytest.mark.parametrize("serial", ["AIdlQyE", "h2VDIQ", "AACHZUMh"])
def test_the_zero_octet_is_tolerated_both_ways(serial: str) -> None:
    """Item 46."""
    assert ari.parse_cert_id(f"aYhba4dGQEHhs3uEe6CuLN4ByNQ.{serial}").serial == 0x8765_4321


@pytest.mark.parametrize(
    "text",
    ["", ".", "a", "YQ", "YQ.", ".YQ", "YQ.YQ.YQ", "YQ==.YQ", "Y+.YQ", "YR.YQ", "YQ.Y",
     "YQ/YQ", "YQ.YQ\n", "é.YQ", "A" * 88 + ".YQ", "YQ." + "A" * 32, "A" * 200 + ".YQ"],
)  # fmt: skip
def test_anything_else_is_malformed(text: str) -> None:
    with pytest.raises(Problem) as caught:
        ari.parse_cert_id(text)
    assert caught.value.type is ProblemType.MALFORMED


@given(st.binary(min_size=1, max_size=64), st.integers(0, (1 << 160) - 1))
@settings(max_examples=100)
def test_identifiers_read_back(key_identifier: bytes, serial: int) -> None:
    text = ari.cert_id(key_identifier, serial)
    assert ari.parse_cert_id(text) == ari.CertID(key_identifier, serial)


@given(st.text(max_size=60) | st.from_regex(r"[\w-]{0,40}\.[\w-]{0,40}", fullmatch=True))
@settings(max_examples=100)
def test_any_text_is_an_identifier_or_a_problem(text: str) -> None:
    try:
        assert ari.parse_cert_id(str(ari.parse_cert_id(text))) == ari.parse_cert_id(text)
    except Problem as problem:
        assert problem.type is ProblemType.MALFORMED


@given(st.integers(60, 400 * 86400))
@settings(max_examples=100)
def test_the_window_lies_within_the_lifetime(seconds: int) -> None:
    """Item 46: start before end by more than a second, also as written."""
    not_after = NOW + dt.timedelta(seconds=seconds)
    start, end = ari.suggested_window(NOW, not_after, NOW, None)
    assert start > NOW and end < not_after
    assert end - start >= dt.timedelta(seconds=2)
    window = ari.renewal_info_json(start, end)["suggestedWindow"]
    assert dt.datetime.fromisoformat(window["end"]) - dt.datetime.fromisoformat(
        window["start"]
    ) >= dt.timedelta(seconds=2)


def test_long_and_short_lifetimes() -> None:
    ninety, three = dt.timedelta(days=90), dt.timedelta(days=3)
    start, end = ari.suggested_window(NOW, NOW + ninety, NOW, None)
    assert start < NOW + dt.timedelta(days=60) < end
    start, end = ari.suggested_window(NOW, NOW + three, NOW, None)
    assert start < NOW + dt.timedelta(days=1.5) < end


@pytest.mark.parametrize("hours", [-5, 0, 5])
def test_a_revoked_certificate_is_renewed_at_once(hours: int) -> None:
    """RFC 9773 section 4.2: a window in the past."""
    revoked_at = NOW + dt.timedelta(hours=hours)
    start, end = ari.suggested_window(NOW, NOW + dt.timedelta(days=90), NOW, revoked_at)
    assert start < end <= NOW


def test_the_object() -> None:
    start, end = NOW, NOW + dt.timedelta(hours=1)
    window = {"start": "2026-05-01T12:00:00Z", "end": "2026-05-01T13:00:00Z"}
    assert ari.renewal_info_json(start, end) == {"suggestedWindow": window}
    explained = ari.renewal_info_json(start, end, "https://pki.example.com/why")
    assert explained["explanationURL"] == "https://pki.example.com/why"
