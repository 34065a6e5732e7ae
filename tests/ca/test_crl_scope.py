"""Which lists there are, how they are called, and which of them a certificate names (RFC 5280
sections 4.2.1.13, 4.2.1.15 and 5.2.5)."""

import datetime as dt

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pkiserver.ca import crl
from pkiserver.ca.crl_scope import (
    BUCKETS,
    CAS,
    FULL,
    USERS,
    Distribution,
    Point,
    Scope,
    bucket_of,
    file_name,
    parse_file,
    parse_scope,
)
from pkiserver.config import CRLSettings

DAY = dt.timedelta(days=1)
BASE = "http://pki.example.com"
SCOPES = [FULL, CAS, USERS, *(Scope("user", 16, i) for i in range(16)), Scope("user", 1024, 1023)]


def distribution(**settings: object) -> Distribution:
    return Distribution("issuing", BASE, CRLSettings.model_validate(settings))


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("delta", [False, True])
def test_file_names_read_back(scope: Scope, delta: bool) -> None:
    name = file_name("issuing", scope, delta=delta)
    assert parse_file(name) == ("issuing", scope, delta)
    assert parse_scope(scope.name) == scope


@pytest.mark.parametrize(
    "name",
    ["", "crl", ".crl", "issuing", "issuing.cer", "issuing.3.0.crl", "issuing.16.16.crl",
     "issuing.016.3.crl", "issuing.16.03.crl", "issuing.1.0.crl", "issuing.2048.0.crl",
     "issuing.16.crl", "issuing.users.crl", "issuing.delta.delta.crl", "issuing.crl.delta",
     "Issuing.crl", "a/b.crl", "issuing.16.3.ca.crl", "issuing.crl\n", "issuing..crl",
     "issuing.9999999999.0.crl", "issuing.\u0661\u0666.\u0663.crl", "-issuing.crl"],
)  # fmt: skip
def test_what_is_no_name_of_a_list(name: str) -> None:
    assert parse_file(name) is None


@settings(max_examples=100)
@given(st.text(max_size=40) | st.from_regex(r"[a-z0-9.-]{0,12}\.crl", fullmatch=True))
def test_any_file_name_is_understood_or_not(name: str) -> None:
    found = parse_file(name)
    assert found is None or file_name(found[0], found[1], delta=found[2]) == name


def test_no_partial_list_can_be_an_authority() -> None:
    """Names of authorities have no dot, so `issuing-delta` is somebody else."""
    assert parse_file("issuing-delta.crl") == ("issuing-delta", FULL, False)
    assert parse_file("ca.crl") == ("ca", FULL, False)


@pytest.mark.parametrize("shards", [2, 16, 128, 1024])
def test_shards_are_all_of_the_end_entities_once(shards: int) -> None:
    seen: list[int] = []
    for index in range(shards):
        for low, high in Scope("user", shards, index).ranges():
            seen += range(low, high + 1)
    assert seen == list(range(BUCKETS))


@pytest.mark.parametrize("scope", [FULL, CAS, USERS])
def test_ranges_are_the_buckets_in_order(scope: Scope) -> None:
    low, high = scope.buckets
    seen = [bucket for a, b in scope.ranges() for bucket in range(a, b + 1)]
    assert seen == list(range(low, high + 1))


@settings(max_examples=100)
@given(st.integers(1, (1 << 159) - 1), st.sampled_from([2, 4, 64, 1024]))
def test_a_certificate_names_the_shard_it_is_in(serial: int, shards: int) -> None:
    scope = distribution(shards=shards).scope(serial, ca=False)
    low, high = scope.buckets
    assert low <= bucket_of(serial, ca=False) <= high


def test_a_plain_issuer_has_one_list_without_a_critical_extension() -> None:
    plain = distribution()
    assert plain.scope(7, ca=False) == plain.scope(7, ca=True) == FULL
    assert plain.point(7, ca=False) is None
    assert plain.scopes((), ()) == (FULL,)
    assert crl.form("all", plain.urls(FULL, ()), None) == crl.Form()
    ((point, critical),) = plain.extensions(plain.scope(7, ca=False))
    assert isinstance(point, x509.CRLDistributionPoints) and not critical
    assert plain.url(FULL) == f"{BASE}/crl/issuing.crl"


def test_split_with_and_without_shards() -> None:
    split = distribution(scopes="split")
    assert (split.scope(7, ca=True), split.scope(7, ca=False)) == (CAS, USERS)
    assert split.scopes((), ()) == (CAS, USERS, FULL)
    both = distribution(scopes="split", shards=2)
    assert (both.scope(7, ca=True), both.scope(513, ca=False)) == (CAS, Scope("user", 2, 1))
    assert both.scopes((), ()) == (CAS, FULL)


def test_what_certificates_point_to_goes_on() -> None:
    """Whatever the configuration says later; the lists of CAs and users with their issuer."""
    plain = distribution()
    points = (Point("2", BASE, delta=False), Point("4", "http://old.example", delta=True))
    scopes = plain.scopes(points, (CAS,))
    assert [each.name for each in scopes] == ["2.0", "2.1", "4.0", "4.1", "4.2", "4.3", "ca", ""]
    assert plain.has_delta(Scope("user", 4, 1), points)
    assert not plain.has_delta(Scope("user", 2, 1), points)
    assert plain.urls(Scope("user", 4, 1), points) == (
        f"{BASE}/crl/issuing.4.1.crl",
        "http://old.example/crl/issuing.4.1.crl",
    )


def test_freshest_crl_is_in_certificates_while_there_are_deltas() -> None:
    split = distribution(delta=DAY, shards=16)
    found = dict(split.extensions(split.scope(0, ca=False)))
    (freshest,) = (each for each in found if isinstance(each, x509.FreshestCRL))
    names = freshest[0].full_name
    assert names is not None and names[0].value == f"{BASE}/crl/issuing.16.0.delta.crl"
    assert not any(found.values())


@pytest.mark.parametrize("wrong", [{"shards": 3}, {"shards": 0}, {"shards": 2048}, {"delta": "8d"}])
def test_settings_that_make_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CRLSettings.model_validate(wrong)
