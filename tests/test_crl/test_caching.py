"""Conditional requests (RFC 9110 section 13): whatever a client sends in a date or a tag."""

import datetime as dt

from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.web.caching import http_date, not_modified

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
ETAG = '"abc"'


def asked(name: bytes, value: bytes) -> bool:
    return not_modified({"headers": [(name, value)]}, ETAG, NOW)


@settings(max_examples=100)
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode()))
def test_any_date_is_understood_or_ignored(value: bytes) -> None:
    assert asked(b"if-modified-since", value) in (True, False)


@settings(max_examples=100)
@given(
    st.lists(
        st.sampled_from(
            [
                "Sun",
                ",",
                " ",
                "01",
                "Mar",
                "2026",
                "99999",
                "12:00:00",
                "25:61:61",
                "GMT",
                "-0000",
                "+9999",
                "::",
                "-",
                "0",
            ]
        ),
        max_size=9,
    )  # fmt: skip
)
def test_anything_like_a_date_is_understood_or_ignored(parts: list[str]) -> None:
    assert asked(b"if-modified-since", " ".join(parts).encode()) in (True, False)


@settings(max_examples=60)
@given(st.binary(max_size=60))
def test_any_tag_list_is_compared(value: bytes) -> None:
    assert asked(b"if-none-match", value) or b'"abc"' not in value


@given(st.integers(-3600, 3600))
def test_dates_compare_to_the_second(seconds: int) -> None:
    value = http_date(NOW + dt.timedelta(seconds=seconds))
    assert asked(b"if-modified-since", value) is (seconds >= 0)


def test_all_three_forms_of_a_date() -> None:
    """RFC 9110 section 5.6.7: IMF-fixdate, RFC 850 and asctime are to be accepted."""
    for value in (
        b"Sun, 01 Mar 2026 12:00:00 GMT",
        b"Sunday, 01-Mar-26 12:00:00 GMT",
        b"Sun Mar  1 12:00:00 2026",
    ):
        assert asked(b"if-modified-since", value), value
    assert not asked(b"if-modified-since", b"Sun, 01 Mar 2026 11:59:59 GMT")
