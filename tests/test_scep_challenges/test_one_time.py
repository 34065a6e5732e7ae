"""One-time challenges (S30): issue 5's "no challenge used twice", expiry, bound subjects."""

import asyncio
import datetime as dt
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix.names import dns_name
from protocols.scep.one_time import NewChallenge, OneTimeChallenges, matches
from tests.test_scep_challenges.world import World, open_world, request

HOUR = dt.timedelta(hours=1)


@pytest.fixture
def challenges(world: World) -> OneTimeChallenges:
    return OneTimeChallenges(world.services, "default", HOUR)


async def refused(challenges: OneTimeChallenges, *args: object, **kwargs: object) -> PKIError:
    with pytest.raises(PKIError) as caught:
        await challenges.validate(request(*args, **kwargs))  # type: ignore[arg-type]
    assert caught.value.code is ErrorCode.UNAUTHORIZED
    return caught.value


async def test_a_challenge_is_good_for_one_certificate(
    world: World, challenges: OneTimeChallenges
) -> None:
    new = await challenges.create(actor="cli:op", profile="short")
    first = request(new.secret)
    accepted = await challenges.validate(first)
    issued = await world.issue(first, accepted)
    assert issued.record.profile == "short"
    assert issued.record.requester == f"scep:default/{new.record.id}"
    assert await world.rows("SELECT id, certificate FROM scep_challenges") == [
        (new.record.id, issued.record.id)
    ]
    error = await refused(challenges, new.secret, transaction_id="T-2")
    assert error.rule == "scep.challenge.used"


async def test_validation_consumes_nothing(world: World, challenges: OneTimeChallenges) -> None:
    """What policy refuses afterwards leaves the challenge for the next attempt."""
    new = await challenges.create(actor="cli:op", profile="short")
    for _ in range(2):
        await challenges.validate(request(new.secret))
    wanting = request(new.secret, names=[dns_name("www.example.org")])
    with pytest.raises(PKIError):
        await world.issue(wanting, await challenges.validate(wanting))
    right = request(new.secret)
    await world.issue(right, await challenges.validate(right))


async def test_of_concurrent_enrolments_one_wins_over_two_runtimes(
    challenge_template: Path, tmp_path: Path
) -> None:
    """Invariant 6, over two processes' worth of services on one database."""
    home = tmp_path / "home"
    async with (
        open_world(challenge_template, home) as one,
        open_world(challenge_template, home) as two,
    ):
        new = await OneTimeChallenges(one.services, "default", HOUR).create(actor="cli:op")

        async def enrol(world: World, number: int) -> str:
            validator = OneTimeChallenges(world.services, "default", HOUR)
            asked = request(new.secret, transaction_id=f"T-{number}")
            try:
                return (await world.issue(asked, await validator.validate(asked))).record.id
            except PKIError as error:
                return str(error.rule)

        outcomes = await asyncio.gather(*(enrol((one, two)[n % 2], n) for n in range(8)))
        assert sorted(outcomes)[1:] == ["scep.challenge.used"] * 7
        assert await one.rows("SELECT COUNT(*) FROM certificates WHERE profile = 'device'") == [
            (1,)
        ]


@pytest.mark.parametrize(
    ("after", "rule"),
    [(dt.timedelta(minutes=59), None), (HOUR, "scep.challenge.expired")],
)
async def test_a_challenge_expires(
    world: World, challenges: OneTimeChallenges, after: dt.timedelta, rule: str | None
) -> None:
    new = await challenges.create(actor="cli:op")
    world.clock.advance(after)
    if rule is None:
        await challenges.validate(request(new.secret))
    else:
        assert (await refused(challenges, new.secret)).rule == rule


async def test_one_that_expires_between_validation_and_issuance_is_not_used(
    world: World, challenges: OneTimeChallenges
) -> None:
    new = await challenges.create(actor="cli:op", lifetime=dt.timedelta(seconds=5))
    asked = request(new.secret)
    accepted = await challenges.validate(asked)
    world.clock.advance(dt.timedelta(seconds=5))
    with pytest.raises(PKIError):
        await world.issue(asked, accepted)
    assert await world.rows("SELECT used FROM scep_challenges") == [(None,)]


async def test_a_request_that_waits_for_approval_uses_its_challenge_up(
    world: World, challenges: OneTimeChallenges
) -> None:
    new = await challenges.create(actor="cli:op", profile="approved")
    accepted = await challenges.validate(request(new.secret))
    assert accepted.on_reserved is not None
    consume = accepted.on_reserved
    await world.services.database.write(lambda tx: consume(tx, None))
    assert (await refused(challenges, new.secret)).rule == "scep.challenge.used"


async def test_a_revoked_challenge_is_refused_and_cannot_be_revoked_again(
    challenges: OneTimeChallenges,
) -> None:
    new = await challenges.create(actor="cli:op")
    await challenges.revoke(new.record.id, actor="cli:op")
    assert (await refused(challenges, new.secret)).rule == "scep.challenge.revoked"
    with pytest.raises(PKIError) as caught:
        await challenges.revoke(new.record.id, actor="cli:op")
    assert caught.value.code is ErrorCode.NOT_FOUND


def with_mailbox(mailbox: str) -> bytes:
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, "device-1.example"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example"),
            x509.NameAttribute(NameOID.EMAIL_ADDRESS, mailbox),
        ]
    )
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    key = ec.generate_private_key(ec.SECP256R1())
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


async def test_a_subject_is_bound_with_all_that_the_profile_takes_of_it(world: World) -> None:
    """Otherwise the challenge of a device would do for somebody's mailbox. What the profile leaves
    out does not matter: routers put their serial number there."""
    whole = OneTimeChallenges(world.services, "default", HOUR, profile="whole")
    new = await whole.create(actor="cli:op", subjects=["device-1.example"])
    boss = with_mailbox("boss@contoso.example")
    error = await refused(whole, new.secret, csr_der=boss)
    assert (error.rule, error.names) == ("scep.challenge.subject", ("boss@contoso.example",))
    short = OneTimeChallenges(world.services, "default", HOUR, profile="short")
    assert await short.validate(request(new.secret, csr_der=boss))
    unknown = OneTimeChallenges(world.services, "default", HOUR)
    await refused(unknown, new.secret, csr_der=boss)
    both = await whole.create(actor="cli:op", subjects=["device-1.example", "*@contoso.example"])
    assert await whole.validate(request(both.secret, csr_der=boss))


async def test_what_is_not_ours_is_refused(challenges: OneTimeChallenges) -> None:
    await challenges.create(actor="cli:op")
    for sent in (None, "", "0" * 32, "x" * 5000, "\ud800", "ÄÖÜ"):
        error = await refused(challenges, sent)
        assert error.rule in ("scep.challenge.unknown", "scep.challenge.missing")


async def test_a_challenge_is_of_one_section(world: World, challenges: OneTimeChallenges) -> None:
    new = await challenges.create(actor="cli:op")
    other = OneTimeChallenges(world.services, "other", HOUR)
    assert (await refused(other, new.secret)).rule == "scep.challenge.unknown"


async def test_every_name_has_to_be_of_the_bound_subject(challenges: OneTimeChallenges) -> None:
    new = await challenges.create(actor="cli:op", subjects=["device-1.example", "*.lab.example"])
    both = [dns_name("a.lab.example")]
    await challenges.validate(request(new.secret, names=both))
    more = [dns_name("a.lab.example"), dns_name("other.example")]
    error = await refused(challenges, new.secret, names=more)
    assert (error.rule, error.names) == ("scep.challenge.subject", ("other.example",))
    await refused(challenges, new.secret, common_name="device-2.example")
    await refused(challenges, new.secret, common_name="device-2.example", names=both)


async def test_a_pattern_that_binds_to_nothing_is_refused(challenges: OneTimeChallenges) -> None:
    for pattern in ("", "*", "***", " * ", "x" * 256):
        with pytest.raises(PKIError):
            await challenges.create(actor="cli:op", subjects=[pattern])


async def test_an_unknown_profile_and_an_endless_challenge_are_refused(
    challenges: OneTimeChallenges,
) -> None:
    for wrong in ({"profile": "nothing"}, {"lifetime": dt.timedelta(0)},
                  {"lifetime": dt.timedelta(days=366)}):  # fmt: skip
        with pytest.raises(PKIError) as caught:
            await challenges.create(actor="cli:op", **wrong)
        assert caught.value.code is ErrorCode.CONFIGURATION


async def test_the_secret_is_random_and_shown_once(
    world: World, challenges: OneTimeChallenges
) -> None:
    made = [await challenges.create(actor="cli:op") for _ in range(3)]
    assert len({new.secret for new in made}) == 3
    seen = await world.secrets_seen()
    for new in made:
        assert len(new.secret) == 32
        assert new.secret not in seen and new.secret.lower() not in seen
        assert new.secret not in repr(new) and new.secret not in repr(request(new.secret))


async def test_what_happens_is_in_the_audit_log(
    world: World, challenges: OneTimeChallenges
) -> None:
    new: NewChallenge = await challenges.create(actor="cli:op", subjects=["device-1.example"])
    asked = request(new.secret)
    await world.issue(asked, await challenges.validate(asked))
    rows = await world.rows("SELECT actor, action FROM audit WHERE object = ?", [new.record.id])
    assert rows == [
        ("cli:op", "scep.challenge.create"),
        (f"scep:default/{new.record.id}", "scep.challenge.use"),
    ]


async def test_old_challenges_are_deleted(world: World, challenges: OneTimeChallenges) -> None:
    await challenges.create(actor="cli:op")
    await challenges.create(actor="cli:op", lifetime=dt.timedelta(days=40))
    world.clock.advance(dt.timedelta(days=31))
    await challenges.purge()
    assert len(await world.rows("SELECT id FROM scep_challenges")) == 1


@pytest.mark.parametrize(
    ("pattern", "value", "fits"),
    [
        ("a.example", "A.EXAMPLE", True), ("a.example", "a.example.org", False),
        ("*.example", "a.b.example", True), ("*.example", ".example", True),
        ("ab*ba", "aba", False), ("ab*ba", "abba", True), ("a*b*c", "a-c-b-c", True),
        ("a*b*c", "acb", False), ("*x*", "axb", True), ("a**b", "ab", True),
    ],
)  # fmt: skip
def test_patterns(pattern: str, value: str, fits: bool) -> None:
    assert matches(pattern, value) is fits


@settings(max_examples=100)
@given(st.lists(st.text("ab", max_size=3), min_size=1, max_size=4), st.text("ab", max_size=8))
def test_patterns_agree_with_regular_expressions(parts: list[str], value: str) -> None:
    import re

    expression = ".*".join(map(re.escape, parts))
    assert matches("*".join(parts), value) is bool(re.fullmatch(expression, value))
