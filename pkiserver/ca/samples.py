"""A sample certificate of every profile, linted: at the start and by `pkiserver check`, so that a
profile that makes bad certificates is found before the first request."""

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from cryptography import x509

from pkiserver.ca import lint, template
from pkiserver.ca.issuer import Issuer, describe
from pkiserver.ca.lint import Finding, Severity
from pkiserver.ca.policy import Decision
from pkiserver.ca.profiles import Profile, compile_profiles
from pkiserver.config import CoreSettings
from pkiserver.errors import PKIError
from pkiserver.pkix import algorithms
from pkiserver.pkix.names import AltName, NameType
from pkiserver.pkix.subject import fields_for

_SAMPLES = (
    AltName(NameType.DNS, "host.sample.example"),
    AltName(NameType.IP, "192.0.2.1"),
    AltName(NameType.EMAIL, "user@sample.example"),
    AltName(NameType.URI, "https://host.sample.example/user"),
    AltName(NameType.UPN, "user@sample.example"),
)
_SERIAL = 1 << 150


class Paths(Protocol):
    """What is needed of the authorities."""

    def current(self, name: str) -> str:
        """The authority that issues now in the line of `name`; `PKIError` if there is none."""
        ...

    def path(self, name: str) -> Sequence[x509.Certificate]:
        """Certificates from the authority's own up to its root; `PKIError` if there are none."""
        ...


@dataclass(frozen=True, slots=True)
class SampleFinding:
    """What lint says about the sample of a profile."""

    profile: str
    finding: Finding


def lint_profiles(
    settings: CoreSettings, authorities: Paths, now: dt.datetime
) -> list[SampleFinding]:
    """Everything lint finds, per profile. Findings with `is_error` mean that certificates of the
    profile would be refused or bad. Raises `PKIError` CONFIGURATION for a profile that does not
    compile. Takes some milliseconds per profile: for a thread, where a loop is running."""
    profiles = compile_profiles(settings)
    return [
        SampleFinding(profile.name, finding)
        for profile in profiles.values()
        for finding in _lint(profile, authorities, settings, now)
    ]


def _lint(
    profile: Profile, authorities: Paths, settings: CoreSettings, now: dt.datetime
) -> Iterator[Finding]:
    try:
        name = authorities.current(profile.issuer)
        issuer = describe(name, authorities.path(name), settings.server.http_base, settings.crl)
        issuer.check_purposes(
            profile.extended_key_usage, f"profiles.{profile.name}.extended_key_usage"
        )
        decision = _sample(profile, issuer, now)
    except PKIError as error:
        yield Finding(Severity.FATAL, "pkiserver.profile", error.detail)
        return
    built = template.build(profile, issuer, decision, _SERIAL)
    for problem in lint.fast(built.lint_certificate, issuer):
        yield Finding(Severity.ERROR, "pkiserver.fast", problem)
    yield from lint.full(built.lint_certificate)


def _sample(profile: Profile, issuer: Issuer, now: dt.datetime) -> Decision:
    kind = min(profile.key_usages, key=_expense)
    key = template.throw_away_key(kind).public_key()
    names = tuple(sorted(name for name in _SAMPLES if profile.names[name.type].allow))
    start = now.replace(microsecond=0) - profile.backdate
    return Decision(
        spki=algorithms.spki_der(key),
        spki_sha256=algorithms.spki_sha256(key),
        key_kind=kind,
        names=names[: profile.max_names],
        subject=profile.subject.render(fields_for(names, "host.sample.example")),
        must_staple=profile.must_staple == "always",
        not_before=max(start, issuer.not_before),
        not_after=min(start + profile.validity, issuer.not_after),
    )


def _expense(kind: str) -> int:
    """RSA keys take long to make."""
    return ("p256", "ed25519").index(kind) if kind in ("p256", "ed25519") else 2
