"""Sources that keep being refused."""

import datetime as dt

import pytest

from pkiserver.addresses import site
from pkiserver.clock import FixedClock
from pkiserver.config_types import Rate
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.web.failures import Failures

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def test_a_source_waits_until_its_oldest_failure_is_forgotten() -> None:
    clock = FixedClock(START)
    failures = Failures(Rate(count=2, period=dt.timedelta(minutes=1)), clock, "x.limit")
    failures.count("a")
    clock.advance(dt.timedelta(seconds=40))
    failures.check("a")
    failures.count("a")
    with pytest.raises(PKIError) as refused:
        failures.check("a")
    assert (refused.value.code, refused.value.rule) == (ErrorCode.RATE_LIMITED, "x.limit")
    assert refused.value.retry_after == 21
    failures.check("b")
    clock.advance(dt.timedelta(seconds=21))
    failures.check("a")


def test_a_clock_that_was_ahead_keeps_nobody_out_for_longer() -> None:
    clock = FixedClock(START + dt.timedelta(days=365))
    failures = Failures(Rate(count=2, period=dt.timedelta(minutes=1)), clock, "x.limit")
    failures.count("a")
    failures.count("a")
    clock.advance(dt.timedelta(days=-365))
    failures.check("a")
    failures.count("a")
    failures.count("a")
    with pytest.raises(PKIError):
        failures.check("a")


def test_no_limit() -> None:
    failures = Failures(None, FixedClock(START), "x.limit")
    for _ in range(100):
        failures.count("a")
    failures.check("a")


def test_sources_are_forgotten_before_memory_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pkiserver.web.failures._MOST_SOURCES", 3)
    rate = Rate(count=1, period=dt.timedelta(hours=1))
    failures = Failures(rate, FixedClock(START), "x.limit")
    for source in "abcd":
        failures.count(source)
    failures.check("a")
    with pytest.raises(PKIError):
        failures.check("d")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::9", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("not an address", "not an address"),
        ("", ""),
    ],
)
def test_an_ipv6_site_is_one_source(address: str, expected: str) -> None:
    assert site(address) == expected
