"""DNS against a real name server on loopback."""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TypeVar

import dns.flags
import dns.rcode
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.errors import ErrorCode, PKIError
from protocols.acme.caa import check_caa
from protocols.acme.challenges import ChallengeType, start_validation
from protocols.acme.challenges.dns import key_authorization_digest
from protocols.acme.challenges.model import (
    Dialogue,
    FailureKind,
    ResolveCAA,
    ResolveTXT,
    ValidationFailed,
)
from protocols.acme.network import NetworkPolicy
from protocols.acme.probe import NetworkProber, ProbeSettings, run
from protocols.acme.probe.dns import DNSClient, Nameserver, parse_nameserver, system_nameservers
from tests.test_acme.challenge_support import (
    CONTEXT,
    KEY_AUTHORIZATION,
    Zone,
    name_server,
)

CHALLENGE = "_acme-challenge.www.example.test"
DIGEST = key_authorization_digest(KEY_AUTHORIZATION)
LOOPBACK = NetworkPolicy(allow_loopback=True)
R = TypeVar("R")


@contextlib.asynccontextmanager
async def resolving(zone: Zone) -> AsyncIterator[NetworkProber]:
    async with name_server(zone) as port:
        yield NetworkProber(
            ProbeSettings(LOOPBACK, resolvers=(f"127.0.0.1:{port}",), dns_timeout=0.6)
        )


async def validated(zone: Zone, dialogue: Dialogue[R]) -> R:
    async with resolving(zone) as prober:
        return await run(dialogue, prober)


async def test_dns01_end_to_end() -> None:
    zone = Zone()
    zone.add(CHALLENGE, "TXT", '"another"', f'"{DIGEST}"')
    proof = await validated(zone, start_validation(ChallengeType.DNS_01, CONTEXT))
    assert proof.challenge_type is ChallengeType.DNS_01
    assert zone.asked == {f"{CHALLENGE} TXT udp": 1}
    assert zone.queries[0].flags & dns.flags.RD


async def test_strings_of_one_record_are_joined() -> None:
    zone = Zone()
    zone.add(CHALLENGE, "TXT", f'"{DIGEST[:20]}" "{DIGEST[20:]}"')
    await validated(zone, start_validation(ChallengeType.DNS_01, CONTEXT))


@pytest.mark.parametrize("chase", [True, False])
async def test_section_8_4_aliases_are_followed(chase: bool) -> None:
    """Also where the server leaves the following to us."""
    zone = Zone(chase=chase)
    zone.add(CHALLENGE, "CNAME", "one.other.test.")
    zone.add("one.other.test", "CNAME", "two.other.test.")
    zone.add("two.other.test", "TXT", f'"{DIGEST}"')
    proof = await validated(zone, start_validation(ChallengeType.DNS_01, CONTEXT))
    assert proof.records[0].hostname == "two.other.test"


async def test_records_of_another_name_in_the_answer_are_not_believed() -> None:
    zone = Zone(chase=True)
    zone.add(CHALLENGE, "CNAME", "victim.test.")
    zone.add("victim.test", "TXT", '"x"')
    async with resolving(zone) as prober:
        await prober.resolve_txt(ResolveTXT(CHALLENGE))
    assert zone.asked["victim.test TXT udp"] == 1


async def test_alias_loops_end() -> None:
    zone = Zone()
    zone.add("a.test", "CNAME", "b.test.")
    zone.add("b.test", "CNAME", "a.test.")
    async with resolving(zone) as prober:
        with pytest.raises(ValidationFailed, match="more than 8 aliases") as caught:
            await prober.resolve_txt(ResolveTXT("a.test"))
    assert caught.value.kind is FailureKind.DNS
    assert sum(zone.asked.values()) == 9


async def test_no_name_and_no_records_are_told_apart() -> None:
    zone = Zone()
    zone.add("here.test", "A", "192.0.2.1")
    async with resolving(zone) as prober:
        assert (await prober.resolve_txt(ResolveTXT("gone.test"))).nxdomain
        here = await prober.resolve_txt(ResolveTXT("here.test"))
    assert (here.nxdomain, here.records) == (False, ())


@pytest.mark.parametrize("failure", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, None])
async def test_item_6_a_failure_is_tried_again(failure: dns.rcode.Rcode | None) -> None:
    zone = Zone(failures={CHALLENGE: [failure]})
    zone.add(CHALLENGE, "TXT", f'"{DIGEST}"')
    await validated(zone, start_validation(ChallengeType.DNS_01, CONTEXT))
    assert zone.asked[f"{CHALLENGE} TXT udp"] == 2


async def test_three_failures_are_enough_and_named() -> None:
    zone = Zone(failures={CHALLENGE: [dns.rcode.SERVFAIL, None, dns.rcode.SERVFAIL]})
    with pytest.raises(ValidationFailed) as caught:
        await validated(zone, start_validation(ChallengeType.DNS_01, CONTEXT))
    assert caught.value.kind is FailureKind.DNS
    for words in (f"TXT for {CHALLENGE}", "SERVFAIL from 127.0.0.1:", "no answer from 127.0.0.1:"):
        assert words in caught.value.detail
    assert zone.asked[f"{CHALLENGE} TXT udp"] == 3


async def test_the_next_resolver_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a name, which stands for ::1 first on most machines."""

    async def both(host: str, port: int) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        families = ((socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1"))
        return [(family, 0, 0, "", (address, port)) for family, address in families]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", both)
    broken, good = Zone(failures={CHALLENGE: [dns.rcode.SERVFAIL] * 9}), Zone()
    good.add(CHALLENGE, "TXT", f'"{DIGEST}"')
    async with name_server(broken) as first, name_server(good) as second:
        prober = NetworkProber(
            ProbeSettings(LOOPBACK, resolvers=(f"127.0.0.1:{first}", f"localhost:{second}"))
        )
        await run(start_validation(ChallengeType.DNS_01, CONTEXT), prober)
    assert (sum(broken.asked.values()), sum(good.asked.values())) == (1, 1)


async def test_a_truncated_answer_is_fetched_by_tcp() -> None:
    zone = Zone(truncate=True)
    zone.add(CHALLENGE, "TXT", *(f'"{"x" * 200}{number}"' for number in range(100)))
    zone.add(CHALLENGE, "TXT", f'"{DIGEST}"')
    await validated(zone, start_validation(ChallengeType.DNS_01, CONTEXT))
    assert zone.asked[f"{CHALLENGE} TXT tcp"] == 1


@pytest.mark.parametrize("garbage", [b"\x00", b"\xff" * 40, b"\x00" * 600])
async def test_garbage_is_no_answer(garbage: bytes) -> None:
    async with name_server(Zone(garbage=garbage)) as port:
        client = DNSClient((Nameserver("127.0.0.1", port),), timeout=0.02, tries=2)
        with pytest.raises(ValidationFailed, match="no answer"):
            await client.addresses("a.test")


async def test_nothing_is_cached_between_validations() -> None:
    zone = Zone()
    async with resolving(zone) as prober:
        assert (await prober.resolve_txt(ResolveTXT("a.test"))).nxdomain
        zone.add("a.test", "TXT", '"now"')
        assert (await prober.resolve_txt(ResolveTXT("a.test"))).records == (b"now",)


async def test_addresses_ipv6_first_and_mapped_ones_as_what_they_are() -> None:
    zone = Zone()
    zone.add("a.test", "A", "192.0.2.1")
    zone.add("a.test", "AAAA", "2001:db8::1", "::ffff:127.0.0.1")
    async with name_server(zone) as port:
        client = DNSClient((Nameserver("127.0.0.1", port),))
        found = await client.addresses("a.test")
    assert {str(address) for address in found} == {"2001:db8::1", "127.0.0.1", "192.0.2.1"}
    assert str(found[-1]) == "192.0.2.1"


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("gone.test", "NXDOMAIN"),
        ("text.test", "no A or AAAA records"),
        ("a" * 64 + ".test", "not a domain name"),
        ("a..test", "not a domain name"),
        (".".join(["a" * 60] * 5), "not a domain name"),
        ("b\u00fcro.test", "not a domain name"),
    ],
)
async def test_hosts_without_addresses(host: str, words: str) -> None:
    zone = Zone()
    zone.add("text.test", "TXT", '"x"')
    async with name_server(zone) as port:
        client = DNSClient((Nameserver("127.0.0.1", port),))
        with pytest.raises(ValidationFailed, match=words) as caught:
            await client.addresses(host)
    assert caught.value.kind is FailureKind.DNS


async def test_without_any_resolver_look_ups_fail_and_addresses_do_not() -> None:
    client = DNSClient(())
    assert await client.addresses("192.0.2.1") == (ipaddress.ip_address("192.0.2.1"),)
    assert len(await client.addresses("a.localhost")) == 2
    with pytest.raises(ValidationFailed, match="dns_resolvers"):
        await client.addresses("a.test")


async def test_caa_end_to_end() -> None:
    zone = Zone()
    zone.add("www.example.test", "A", "192.0.2.1")
    zone.add("example.test", "CNAME", "policy.test.")
    zone.add("policy.test", "CAA", '0 issue "other.example"', '0 issue "ca.example"')
    decision = await validated(zone, check_caa(CONTEXT, ChallengeType.HTTP_01))
    assert decision.found_at == "example.test"
    with pytest.raises(ValidationFailed) as caught:
        await validated(
            zone,
            check_caa(replace(CONTEXT, issuer_domains=("x.example",)), ChallengeType.HTTP_01),
        )
    assert caught.value.kind is FailureKind.CAA


async def test_caa_servfail_forbids() -> None:
    zone = Zone(failures={"www.example.test": [dns.rcode.SERVFAIL] * 3})
    with pytest.raises(ValidationFailed) as caught:
        await validated(zone, check_caa(CONTEXT, ChallengeType.HTTP_01))
    assert caught.value.kind is FailureKind.DNS


async def test_caa_flags_and_values_arrive_unchanged() -> None:
    zone = Zone()
    zone.add("a.test", "CAA", '128 tbs "Unknown; \\255"')
    async with resolving(zone) as prober:
        answer = await prober.resolve_caa(ResolveCAA("a.test"))
    assert [(r.flags, r.tag, r.value) for r in answer.records] == [(128, "tbs", b"Unknown; \xff")]


@contextlib.asynccontextmanager
async def delegated(
    zone: Zone, policy: NetworkPolicy = LOOPBACK
) -> AsyncIterator[tuple[NetworkProber, Zone]]:
    """A resolver that knows the delegation of example.test to `zone`, and has stale answers."""
    resolver = Zone()
    resolver.add("example.test", "NS", "ns1.host.test.", "gone.host.test.")
    resolver.add("ns1.host.test", "A", "127.0.0.1")
    async with name_server(resolver) as port, name_server(zone) as own:
        yield (
            NetworkProber(
                ProbeSettings(
                    policy,
                    resolvers=(f"127.0.0.1:{port}",),
                    authoritative=True,
                    authoritative_port=own,
                    dns_timeout=0.2,
                )
            ),
            resolver,
        )


async def test_item_6_the_zones_own_servers_are_asked() -> None:
    """The resolver would say that the name does not exist."""
    zone = Zone(authoritative=True)
    zone.add(CHALLENGE, "TXT", f'"{DIGEST}"')
    async with delegated(zone) as (prober, resolver):
        await run(start_validation(ChallengeType.DNS_01, CONTEXT), prober)
    assert zone.asked == {f"{CHALLENGE} TXT udp": 1}
    assert not zone.queries[0].flags & dns.flags.RD
    assert f"{CHALLENGE} TXT udp" not in resolver.asked


async def test_authoritative_servers_are_believed_for_the_name_asked_only() -> None:
    zone = Zone(authoritative=True, chase=True)
    zone.add(CHALLENGE, "CNAME", "victim.other.test.")
    zone.add("victim.other.test", "TXT", f'"{DIGEST}"')
    async with delegated(zone) as (prober, _):
        with pytest.raises(ValidationFailed, match="No zone was found for victim.other.test"):
            await run(start_validation(ChallengeType.DNS_01, CONTEXT), prober)


async def test_an_answer_without_authority_is_none() -> None:
    zone = Zone()
    zone.add(CHALLENGE, "TXT", f'"{DIGEST}"')
    async with delegated(zone) as (prober, _):
        with pytest.raises(ValidationFailed, match="no authoritative answer"):
            await run(start_validation(ChallengeType.DNS_01, CONTEXT), prober)


async def test_the_policy_holds_for_name_servers_too() -> None:
    zone = Zone(authoritative=True)
    async with delegated(zone, NetworkPolicy()) as (prober, _):
        with pytest.raises(ValidationFailed, match="refused by network policy"):
            await run(start_validation(ChallengeType.DNS_01, CONTEXT), prober)
    assert not zone.asked


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.53", Nameserver("192.0.2.53", 53)),
        ("192.0.2.53:5353", Nameserver("192.0.2.53", 5353)),
        ("[2001:db8::53]:5353", Nameserver("2001:db8::53", 5353)),
        ("[2001:db8::53]", Nameserver("2001:db8::53", 53)),
        ("2001:db8::53", Nameserver("2001:db8::53", 53)),
        ("dns.internal:53", Nameserver("dns.internal", 53)),
    ],
)
def test_resolver_addresses(text: str, expected: Nameserver) -> None:
    assert parse_nameserver(text) == expected
    assert parse_nameserver(str(expected)) == expected


@pytest.mark.parametrize(
    "text", ["", ":53", "a:0", "a:65536", "a:b", "[a", "[zz]:53", "a b", "1:2:3"]
)
def test_resolver_addresses_refused_name_the_mistake(text: str) -> None:
    with pytest.raises(PKIError, match="DNS resolver") as caught:
        NetworkProber(ProbeSettings(resolvers=(text,)))
    assert caught.value.code is ErrorCode.CONFIGURATION


@settings(max_examples=100)
@given(st.text(max_size=30) | st.text("[]:.0123456789abf", max_size=20))
def test_property_parse_nameserver(text: str) -> None:
    try:
        server = parse_nameserver(text)
    except PKIError as error:
        assert error.code is ErrorCode.CONFIGURATION
    else:
        assert 0 < server.port < 65536


def test_the_systems_resolvers_are_read() -> None:
    assert all(isinstance(server, Nameserver) for server in system_nameservers())
