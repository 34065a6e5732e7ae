"""Certificate profiles: `[profiles.NAME]` compiled once into what policy and templates use.

`compile_profiles` raises one `PKIError` CONFIGURATION with every mistake on a line of its own,
naming the key.
"""

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from pkiserver.ca.name_rules import CompiledRules, compile_rules
from pkiserver.config import FILE_NAME, CoreSettings, ProfileSettings
from pkiserver.errors import PKIError, configuration_error
from pkiserver.pkix.names import NameType
from pkiserver.pkix.subject import SubjectTemplate

EXTENDED_KEY_USAGES: Mapping[str, x509.ObjectIdentifier] = MappingProxyType(
    {
        "serverAuth": ExtendedKeyUsageOID.SERVER_AUTH,
        "clientAuth": ExtendedKeyUsageOID.CLIENT_AUTH,
        "codeSigning": ExtendedKeyUsageOID.CODE_SIGNING,
        "emailProtection": ExtendedKeyUsageOID.EMAIL_PROTECTION,
        "timeStamping": ExtendedKeyUsageOID.TIME_STAMPING,
        "smartcardLogon": ExtendedKeyUsageOID.SMARTCARD_LOGON,
        "kerberosPKInitKDC": ExtendedKeyUsageOID.KERBEROS_PKINIT_KDC,
        "ipsecIKE": ExtendedKeyUsageOID.IPSEC_IKE,
    }
)
"""What the configuration may call by name; anything else is a dotted OID."""

_NOT_FOR_SUBSCRIBERS = {
    # RFC 6960 section 4.2.2.2: whoever has it can declare every certificate of the issuer good.
    ExtendedKeyUsageOID.OCSP_SIGNING: "OCSP responders are made by the server itself",
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE: "it lifts every other restriction; leave the key "
    "empty to restrict nothing",
}
_LONGEST = dt.timedelta(days=36_500)
_SHORTEST = dt.timedelta(minutes=1)
# RFC 8410 section 5, RFC 9881 section 5: signature keys sign. Of the rest, RSA keys encipher
# (RFC 3279 section 2.3.1) and EC keys agree (section 2.3.5).
_SIGNING_USES = frozenset({"digitalSignature", "nonRepudiation"})
_TYPES = (NameType.DNS, NameType.IP, NameType.EMAIL, NameType.URI, NameType.UPN)


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """A compiled profile. `key_usages` by subject key kind; `names` by name type."""

    name: str
    issuer: str
    validity: dt.timedelta
    backdate: dt.timedelta
    key_usages: Mapping[str, x509.KeyUsage]
    extended_key_usage: tuple[x509.ObjectIdentifier, ...]
    subject: SubjectTemplate
    names: Mapping[NameType, CompiledRules]
    wildcards: bool
    max_names: int
    require_name: bool
    must_staple: Literal["never", "allowed", "always"]
    policies: tuple[x509.ObjectIdentifier, ...]
    crl_url: bool
    ocsp_url: bool
    lint_full: bool
    requires_approval: bool

    @property
    def names_hosts(self) -> bool:
        """Whether a TLS client may take the certificate for a server's, and so its common name
        for a host's."""
        eku = self.extended_key_usage
        return not eku or ExtendedKeyUsageOID.SERVER_AUTH in eku


def compile_profiles(settings: CoreSettings) -> Mapping[str, Profile]:
    """Every configured profile by name."""
    problems: list[str] = []
    found: dict[str, Profile] = {}
    for name, profile in settings.profiles.items():
        compiler = _Compiler(f"{settings.home / FILE_NAME}: profiles.{name}", problems)
        found[name] = compiler.compile(name, profile)
    if problems:
        raise configuration_error("\n".join(problems))
    return MappingProxyType(found)


def compile_profile(name: str, settings: ProfileSettings) -> Profile:
    """One of the server's own. Raises `PKIError` CONFIGURATION."""
    problems: list[str] = []
    profile = _Compiler(f"profile {name}", problems).compile(name, settings)
    if problems:
        raise configuration_error("\n".join(problems))
    return profile


class _Compiler:
    """Compiles one profile and collects what is wrong with it."""

    def __init__(self, place: str, problems: list[str]) -> None:
        self._place = place
        self._problems = problems

    def _report(self, key: str, problem: str) -> None:
        self._problems.append(f"{self._place}.{key}: {problem}")

    def compile(self, name: str, settings: ProfileSettings) -> Profile:
        """The profile; not to be used if problems were reported."""
        self._check_times(settings)
        eku = self._oids("extended_key_usage", settings.extended_key_usage)
        self._check_purposes(settings, eku)
        return Profile(
            name=name,
            issuer=settings.issuer,
            validity=settings.validity,
            backdate=settings.backdate,
            key_usages=self._key_usages(settings),
            extended_key_usage=eku,
            subject=self._subject(settings.subject),
            names=self._names(settings),
            wildcards=settings.wildcards,
            max_names=settings.max_names,
            require_name=settings.require_name,
            must_staple=settings.must_staple,
            policies=self._oids("policies", settings.policies),
            crl_url=settings.crl_url,
            ocsp_url=settings.ocsp_url,
            lint_full=settings.lint == "full",
            requires_approval=settings.requires_approval,
        )

    def _check_times(self, settings: ProfileSettings) -> None:
        if not _SHORTEST <= settings.validity <= _LONGEST:
            self._report("validity", "between one minute and 100 years")
        if not dt.timedelta(0) <= settings.backdate < settings.validity:
            self._report("backdate", "not negative, and less than validity")

    def _check_purposes(
        self, settings: ProfileSettings, eku: tuple[x509.ObjectIdentifier, ...]
    ) -> None:
        for oid in eku:
            if oid in _NOT_FOR_SUBSCRIBERS:
                self._report("extended_key_usage", _NOT_FOR_SUBSCRIBERS[oid])
        # RFC 7633 section 4.2.3.1: the server has to have something to staple.
        if settings.must_staple == "always" and not settings.ocsp_url:
            self._report("must_staple", "'always' needs ocsp_url")

    def _oids(self, key: str, texts: tuple[str, ...]) -> tuple[x509.ObjectIdentifier, ...]:
        found: list[x509.ObjectIdentifier] = []
        for text in texts:
            try:
                oid = EXTENDED_KEY_USAGES.get(text) or x509.ObjectIdentifier(text)
            except ValueError:
                known = ", ".join(EXTENDED_KEY_USAGES)
                self._report(key, f"{text!r} is neither a dotted OID nor one of {known}")
                continue
            if oid in found:
                self._report(key, f"{text!r} occurs twice")
            found.append(oid)
        return tuple(found)

    def _key_usages(self, settings: ProfileSettings) -> Mapping[str, x509.KeyUsage]:
        found: dict[str, x509.KeyUsage] = {}
        for kind in settings.key_kinds:
            uses = frozenset(settings.key_usage) & _possible_uses(kind)
            if uses:
                found[kind] = key_usage(uses)
            else:
                self._report("key_usage", f"nothing in it is possible with {kind} keys")
        if not settings.key_kinds:
            self._report("key_kinds", "at least one kind of key has to be accepted")
        return MappingProxyType(found)

    def _subject(self, text: str) -> SubjectTemplate:
        try:
            return SubjectTemplate.parse(text)
        except PKIError as error:
            self._report("subject", error.detail)
            return SubjectTemplate(())

    def _names(self, settings: ProfileSettings) -> Mapping[NameType, CompiledRules]:
        return MappingProxyType(
            {
                kind: compile_rules(kind, getattr(settings, kind.value), self._within(kind.value))
                for kind in _TYPES
            }
        )

    def _within(self, section: str) -> Callable[[str, str], None]:
        return lambda key, problem: self._report(f"{section}.{key}", problem)


def _possible_uses(kind: str) -> frozenset[str]:
    if kind.startswith("rsa"):
        return _SIGNING_USES | {"keyEncipherment"}
    if kind in ("p256", "p384", "p521"):
        return _SIGNING_USES | {"keyAgreement"}
    return _SIGNING_USES


def key_usage(uses: frozenset[str]) -> x509.KeyUsage:
    """The extension's value from the ASN.1 names of RFC 5280 section 4.2.1.3."""
    return x509.KeyUsage(
        digital_signature="digitalSignature" in uses,
        content_commitment="nonRepudiation" in uses,
        key_encipherment="keyEncipherment" in uses,
        data_encipherment=False,
        key_agreement="keyAgreement" in uses,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
