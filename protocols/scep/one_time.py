"""One-time challenges: made for somebody, used once, gone after an hour.

    unused --> used       in the transaction that reserves the certificate or files the request
    unused --> revoked    by an operator
    unused --> expired    by time

A challenge is 128 random bits, so the database holds a plain SHA-256 of it (a slow hash protects
what people choose). Looking it up by that digest tells an attacker nothing through time.
"""

import datetime as dt
import hashlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pkiserver.clock import epoch
from pkiserver.errors import ErrorCode, PKIError, configuration_error
from pkiserver.pkix.csr import CertificationRequest
from pkiserver.pkix.subject import IDENTIFYING_FIELDS, requested_fields
from pkiserver.plugin import Services
from pkiserver.storage import Transaction
from protocols.scep import challenge_store as store
from protocols.scep.challenge import Accepted, ChallengeRequest
from protocols.scep.challenge_store import Challenge

KEPT = dt.timedelta(days=30)
"""How long a challenge can be looked up after its expiry."""
_MOST_PATTERNS = 20
_LONGEST_PATTERN = 255
_LONGEST_LIFETIME = dt.timedelta(days=365)


@dataclass(frozen=True, slots=True)
class NewChallenge:
    """A challenge and its secret, which cannot be had again."""

    record: Challenge
    secret: str = field(repr=False)


class OneTimeChallenges:
    """The one-time challenges of one `[scep.NAME]`, whose profile is `profile`; a `Validator`."""

    def __init__(
        self,
        services: Services,
        label: str,
        lifetime: dt.timedelta,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
        *,
        profile: str = "",
    ) -> None:
        self._services = services
        self._profile = profile
        self._label = label
        self._lifetime = lifetime
        self._random_bytes = random_bytes

    async def create(
        self,
        *,
        actor: str,
        profile: str | None = None,
        subjects: Sequence[str] = (),
        lifetime: dt.timedelta | None = None,
        most_unused: int | None = None,
    ) -> NewChallenge:
        """Make a challenge. `subjects` are patterns that every name of the request has to match
        one of, with `*` for any characters. Raises `PKIError` CONFIGURATION for what cannot be,
        RATE_LIMITED if there are `most_unused` already."""
        self._check(profile, subjects, lifetime)
        now = epoch(self._services.clock.now())
        lasts = self._lifetime if lifetime is None else lifetime
        record = Challenge(
            id=self._random_bytes(8).hex(),
            label=self._label,
            profile=profile,
            subjects=tuple(subjects),
            created=now,
            created_by=actor,
            expires=now + int(lasts.total_seconds()),
        )
        secret = self._random_bytes(16).hex().upper()

        def work(tx: Transaction) -> None:
            if most_unused is not None and store.unused(tx, self._label, now) >= most_unused:
                raise PKIError(ErrorCode.RATE_LIMITED, "there are too many unused challenges")
            store.insert(tx, record, digest(secret))
            self._audit(tx, actor, "scep.challenge.create", record)

        await self._services.database.write(work)
        return NewChallenge(record, secret)

    async def revoke(self, challenge_id: str, *, actor: str) -> None:
        """End a challenge. Raises `PKIError` NOT_FOUND unless it can still be used."""

        def work(tx: Transaction) -> None:
            if not store.revoke(tx, challenge_id, epoch(self._services.clock.now())):
                raise PKIError(ErrorCode.NOT_FOUND, f"there is no unused challenge {challenge_id}")
            self._services.audit.append(
                tx, actor=actor, action="scep.challenge.revoke", object=challenge_id
            )

        await self._services.database.write(work)

    async def validate(self, request: ChallengeRequest) -> Accepted:
        """Refuses what is not one of ours, used, expired, revoked or for another subject."""
        challenge = await self._find(request.challenge)
        _check_usable(challenge, epoch(self._services.clock.now()))
        self._check_subject(challenge, request.csr)
        return Accepted(
            party=f"{self._label}/{challenge.id}",
            on_reserved=lambda tx, certificate: self._use(tx, challenge, certificate),
            profile=challenge.profile,
        )

    async def purge(self) -> None:
        """Delete what expired long ago, of every label."""
        before = epoch(self._services.clock.now() - KEPT)
        while (
            await self._services.database.write(lambda tx: store.delete_expired(tx, before))
            >= store.BATCH
        ):
            pass

    async def _find(self, text: str | None) -> Challenge:
        if not text:
            raise _refused("there is no challenge password", "missing")
        sha256 = digest(text)
        challenge = await self._services.database.lookup(
            lambda reader: store.by_secret(reader, self._label, sha256)
        )
        if challenge is None:
            raise _refused("the challenge password is not one of ours", "unknown")
        return challenge

    def _use(self, tx: Transaction, challenge: Challenge, certificate: str | None) -> None:
        if not store.use(tx, challenge.id, epoch(self._services.clock.now()), certificate):
            raise _refused("the challenge password was used already", "used")
        self._audit(tx, f"scep:{self._label}/{challenge.id}", "scep.challenge.use", challenge)

    def _check_subject(self, challenge: Challenge, csr: CertificationRequest) -> None:
        """Every name has to be one the challenge was made for, or whoever got it could add more."""
        if not challenge.subjects:
            return
        named = [*csr.common_names, *(name.value for name in csr.alt_names)]
        named += self._identifying(challenge, csr)
        if not named:
            raise _refused(
                "the challenge password is for a subject, the request names none", "subject"
            )
        for name in named:
            if not any(matches(pattern, name) for pattern in challenge.subjects):
                raise _refused("the challenge password is for another subject", "subject", [name])

    def _identifying(self, challenge: Challenge, csr: CertificationRequest) -> Sequence[str]:
        """Serial numbers, mailboxes and user ids that the profile takes over from the subject."""
        profile = self._services.issuance.profiles.get(challenge.profile or self._profile)
        taken = (
            requested_fields(csr.subject)
            if profile is None
            else (profile.subject.requested(csr.subject))
        )
        return [text for field, text in taken.items() if field in IDENTIFYING_FIELDS]

    def _check(
        self, profile: str | None, subjects: Sequence[str], lifetime: dt.timedelta | None
    ) -> None:
        profiles = self._services.issuance.profiles
        if profile is not None and profile not in profiles:
            known = ", ".join(sorted(profiles))
            raise configuration_error(f"there is no profile {profile!r}; there are: {known}")
        if lifetime is not None and not dt.timedelta(0) < lifetime <= _LONGEST_LIFETIME:
            raise configuration_error("a challenge lasts longer than nothing, and a year at most")
        if len(subjects) > _MOST_PATTERNS:
            raise configuration_error(f"at most {_MOST_PATTERNS} subjects")
        for pattern in subjects:
            if not pattern.strip("* ") or len(pattern) > _LONGEST_PATTERN:
                raise configuration_error(f"{pattern[:300]!r} is no pattern for a subject")

    def _audit(self, tx: Transaction, actor: str, action: str, record: Challenge) -> None:
        self._services.audit.append(
            tx,
            actor=actor,
            action=action,
            object=record.id,
            detail={
                "label": record.label,
                "profile": record.profile,
                "subjects": list(record.subjects),
                "expires": record.expires,
            },
        )


def digest(secret: str) -> bytes:
    """What the database holds of a random secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def matches(pattern: str, value: str) -> bool:
    """Whether the whole value fits, in any case; `*` stands for any characters."""
    first, *rest = pattern.lower().split("*")
    value = value.lower()
    if not rest:
        return value == first
    *middle, last = rest
    if len(value) < len(first) + len(last):
        return False
    if not (value.startswith(first) and value.endswith(last)):
        return False
    position, end = len(first), len(value) - len(last)
    for part in middle:
        found = value.find(part, position, end)
        if found < 0:
            return False
        position = found + len(part)
    return True


def _check_usable(challenge: Challenge, now: int) -> None:
    if challenge.revoked is not None:
        raise _refused("the challenge password was revoked", "revoked")
    if challenge.used is not None:
        raise _refused("the challenge password was used already", "used")
    if challenge.expires <= now:
        raise _refused("the challenge password has expired", "expired")


def _refused(detail: str, rule: str, names: Sequence[str] = ()) -> PKIError:
    return PKIError(ErrorCode.UNAUTHORIZED, detail, rule=f"scep.challenge.{rule}", names=names)
