"""Profiles: compiled whole, and every mistake named by its key."""

from pathlib import Path
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from pkiserver.ca.name_rules import CompiledRules, compile_rules, has_second_spelling
from pkiserver.ca.profiles import compile_profiles
from pkiserver.config import NameRules
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix.names import NameType
from tests.ca.world import settings_of


def test_shipped_profiles_compile() -> None:
    profiles = compile_profiles(settings_of(Path("home")))
    assert set(profiles) >= {"tls-server", "tls-client", "device", "smime", "code-signing"}
    server = profiles["tls-server"]
    assert server.extended_key_usage == (ExtendedKeyUsageOID.SERVER_AUTH,)
    assert server.names_hosts
    assert not profiles["code-signing"].names_hosts


def test_key_usage_depends_on_the_kind_of_key() -> None:
    """RFC 8410 section 5, RFC 3279 section 2.3: EC and Edwards keys encipher nothing."""
    usages = compile_profiles(settings_of(Path("home")))["tls-server"].key_usages
    assert usages["rsa-2048"].key_encipherment
    assert not usages["p256"].key_encipherment
    assert usages["ed25519"].digital_signature


@pytest.mark.parametrize(
    ("profile", "key"),
    [
        ({"extended_key_usage": ["serverAuht"]}, "extended_key_usage"),
        ({"extended_key_usage": ["serverAuth", "1.3.6.1.5.5.7.3.1"]}, "extended_key_usage"),
        ({"extended_key_usage": ["1.3.6.1.5.5.7.3.9"]}, "extended_key_usage"),
        ({"extended_key_usage": ["2.5.29.37.0"]}, "extended_key_usage"),
        ({"policies": ["one.two"]}, "policies"),
        ({"validity": "1s"}, "validity"),
        ({"validity": "999y"}, "validity"),
        ({"backdate": "91d"}, "backdate"),
        ({"subject": "CN={nobody}"}, "subject"),
        ({"key_usage": ["keyEncipherment"]}, "key_usage"),
        ({"key_kinds": []}, "key_kinds"),
        ({"must_staple": "always", "ocsp_url": False}, "must_staple"),
        ({"dns": {"allow": ["exa mple"]}}, "dns.allow"),
        ({"dns": {"deny": ["a.*.example"]}}, "dns.deny"),
        ({"ip": {"allow": ["10.0.0.1/8"]}}, "ip.allow"),
        ({"email": {"allow": ["example.com"]}}, "email.allow"),
        ({"upn": {"allow": ["@"]}}, "upn.allow"),
        ({"uri": {"allow": ["https://example.com*"]}}, "uri.allow"),
        ({"uri": {"allow": ["no scheme"]}}, "uri.allow"),
    ],
)
def test_a_mistake_is_named_by_its_key(profile: dict[str, Any], key: str) -> None:
    with pytest.raises(PKIError) as caught:
        compile_profiles(settings_of(Path("home"), {"mine": profile}))
    assert caught.value.code is ErrorCode.CONFIGURATION
    assert f"pkiserver.toml: profiles.mine.{key}: " in caught.value.detail


def test_every_mistake_has_a_line_of_its_own() -> None:
    profile = {"backdate": "91d", "policies": ["x"], "dns": {"allow": ["..", "-"]}}
    with pytest.raises(PKIError) as caught:
        compile_profiles(settings_of(Path("home"), {"mine": profile}))
    assert len(caught.value.detail.splitlines()) == 4


def rules(
    name_type: NameType, allow: tuple[str, ...] = ("*",), deny: tuple[str, ...] = ()
) -> CompiledRules:
    problems: list[str] = []
    compiled = compile_rules(
        name_type, NameRules(allow=allow, deny=deny), lambda key, text: problems.append(text)
    )
    assert problems == []
    return compiled


@pytest.mark.parametrize(
    ("name_type", "pattern", "matching", "other"),
    [
        (NameType.DNS, "host.example.com", "host.example.com", "ahost.example.com"),
        (NameType.DNS, "host.example.com", "host.example.com", "a.host.example.com"),
        (NameType.DNS, "*.example.com", "a.b.example.com", "example.com"),
        (NameType.DNS, "*.example.com", "*.example.com", "badexample.com"),
        (NameType.DNS, "*.example.com", "a.example.com", "a.example.com.evil"),
        (NameType.DNS, "bücher.example", "xn--bcher-kva.example", "bcher.example"),
        (NameType.IP, "10.0.0.0/8", "10.1.2.3", "11.0.0.1"),
        (NameType.IP, "2001:db8::/32", "2001:db8::1", "10.0.0.1"),
        (NameType.EMAIL, "user@example.com", "User@example.com", "user@mail.example.com"),
        (NameType.EMAIL, "@example.com", "a.b@example.com", "a@badexample.com"),
        (NameType.EMAIL, "@example.com", "a@example.com", "a@mail.example.com"),
        (NameType.UPN, "@Corp.Example", "alice@corp.example", "alice@evilcorp.example"),
        (NameType.URI, "spiffe://a.example/*", "spiffe://a.example/x", "spiffe://a.example.b/x"),
        (NameType.URI, "https://a.example/x", "https://a.example/x", "https://a.example/xy"),
        (NameType.URI, "urn:uuid:*", "urn:uuid:1", "urn:oid:1"),
        (NameType.URI, "https:*", "https://a.example/", "http://a.example/"),
    ],
)
def test_patterns(name_type: NameType, pattern: str, matching: str, other: str) -> None:
    allowed = rules(name_type, (pattern,))
    assert allowed.refusal(matching) is None
    assert allowed.refusal(other)
    denied = rules(name_type, deny=(pattern,))
    assert denied.refusal(matching)
    assert denied.refusal(other) is None


def test_nothing_is_allowed_unless_it_says_so() -> None:
    assert rules(NameType.DNS, ()).refusal("a.example")


def test_a_wildcard_is_denied_if_it_covers_a_denied_host() -> None:
    denied = rules(NameType.DNS, deny=("secret.example.com",))
    assert denied.refusal("*.example.com")
    assert denied.refusal("www.example.com") is None
    assert denied.refusal("*.www.example.com") is None


@pytest.mark.parametrize(
    ("uri", "second"),
    [
        ("https://a.example/b/../c", True),
        ("https://a.example/./c", True),
        ("https://a.example/b/..", True),
        ("https://a.example/%73ecret", True),
        ("https://a.example/a%2Fb", False),
        ("https://a.example/a..b/.well-known", False),
        ("spiffe://a.example/ns/x", False),
    ],
)
def test_uris_with_a_second_spelling(uri: str, second: bool) -> None:
    assert has_second_spelling(uri) is second


@given(st.text(max_size=40), st.sampled_from([t for t in NameType if t is not NameType.OTHER]))
def test_any_pattern_compiles_or_is_reported(text: str, name_type: NameType) -> None:
    problems: list[str] = []
    compiled = compile_rules(
        name_type, NameRules(allow=(text,)), lambda key, problem: problems.append(problem)
    )
    assert len(problems) + len(compiled.allow) == 1
