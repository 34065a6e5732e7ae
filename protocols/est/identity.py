"""Who asks, and which names this party may ask for. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pkiserver.ca.model import Requester
from pkiserver.ca.name_rules import CompiledRules, compile_rules
from pkiserver.ca.policy import host_in
from pkiserver.config import NameRules
from pkiserver.errors import ErrorCode, PKIError, configuration_error
from pkiserver.pkix.csr import CertificationRequest
from pkiserver.pkix.names import AltName, NameType, email
from pkiserver.pkix.subject import IDENTIFYING_FIELDS, REQUESTED_FIELDS, SubjectTemplate
from protocols.est.certificates import ClientCertificate
from protocols.est.settings import ESTSettings
from protocols.est.store import User

COMMON_NAME = "cn"
_TYPES = (NameType.DNS, NameType.IP, NameType.EMAIL, NameType.URI, NameType.UPN)


@dataclass(frozen=True, slots=True)
class Identity:
    """An authenticated client: a user, a certificate, or both. `problem` is why a certificate that
    was there does not count."""

    user: User | None
    certificate: ClientCertificate | None
    address: str
    problem: PKIError | None = None

    @property
    def requester(self) -> Requester:
        """The user where there is one: he is asked for by name."""
        if self.user is not None:
            return Requester("est", f"user:{self.user.name}", self.address)
        party = "nobody" if self.certificate is None else self.certificate.party
        return Requester("est", party, self.address)


def is_registration_authority(identity: Identity, settings: ESTSettings) -> bool:
    """RFC 7030 section 3.7: it may enrol for others, where the label lets it."""
    return (
        settings.registration_authorities
        and identity.certificate is not None
        and identity.certificate.is_registration_authority
    )


def check_names(
    identity: Identity,
    csr: CertificationRequest,
    settings: ESTSettings,
    template: SubjectTemplate,
) -> None:
    """Raises `PKIError` REFUSED_NAME for a name this party may not ask for. What the profile says
    of it is decided later; of the request's subject, only what its template takes counts."""
    if is_registration_authority(identity, settings):
        return
    fields = template.requested(csr.subject)
    if identity.user is not None and identity.user.names is not None:
        _check(csr.common_names, csr.alt_names, fields, _rules(identity.user.names), "user-names")
    by_certificate = identity.user is None or settings.auth_require == "all"
    if identity.certificate is None or not by_certificate or settings.certificate_names == "any":
        return
    allowed = _own_names(identity.certificate)
    _check(csr.common_names, csr.alt_names, fields, allowed, "certificate_names")


def check_changed_names(
    identity: Identity, common_name: str | None, alt_names: Sequence[AltName]
) -> None:
    """Raises `PKIError` REFUSED_NAME unless a user who is bound to names may have these. They are
    others than those in the certificate by intention."""
    if identity.user is not None and identity.user.names is not None:
        common_names = [] if common_name is None else [common_name]
        _check(common_names, alt_names, {}, _rules(identity.user.names), "user-names")


@dataclass(frozen=True, slots=True)
class _Allowed:
    """Whether a common name, another name, and a field of the subject may be asked for."""

    common_name: Callable[[str], bool]
    alt_name: Callable[[AltName], bool]
    field: Callable[[str, str], bool]


def _own_names(own: ClientCertificate) -> _Allowed:
    """What is in the certificate."""
    values = own.texts | {name.value for name in own.alt_names}

    def field(key: str, text: str) -> bool:
        attributes = own.certificate.subject.get_attributes_for_oid(REQUESTED_FIELDS[key])
        return text in [each.value for each in attributes] or (
            key in IDENTIFYING_FIELDS and text in values
        )

    return _Allowed(
        lambda text: text in values or host_in(text) in own.alt_names,
        lambda name: name in own.alt_names,
        field,
    )


def compile_names(names: Mapping[str, Sequence[str]]) -> None:
    """Raises `PKIError` CONFIGURATION for patterns that cannot be used."""
    _rules(names)


def _rules(patterns: Mapping[str, Sequence[str]]) -> _Allowed:
    """What the patterns allow."""
    problems: list[str] = []
    compiled: dict[NameType, CompiledRules] = {
        kind: compile_rules(
            kind,
            NameRules(allow=tuple(patterns.get(kind.value, ()))),
            lambda _, p: problems.append(p),
        )
        for kind in _TYPES
    }
    if problems:
        raise configuration_error("; ".join(problems))
    common = patterns.get(COMMON_NAME, ())

    def alt_name(name: AltName) -> bool:
        return name.type in compiled and compiled[name.type].refusal(name.value) is None

    def common_name(text: str) -> bool:
        if any(_matches(pattern, text) for pattern in common):
            return True
        host = host_in(text)
        return host is not None and alt_name(host)

    def field(key: str, text: str) -> bool:
        # There are no patterns for organisations and places: those are the profile's affair.
        return key not in IDENTIFYING_FIELDS or common_name(text) or _is_mailbox(text, alt_name)

    return _Allowed(common_name, alt_name, field)


def _is_mailbox(text: str, allows: Callable[[AltName], bool]) -> bool:
    try:
        return allows(email(text))
    except PKIError:
        return False


def _matches(pattern: str, text: str) -> bool:
    """Exact, or with one asterisk at an end that stands for anything."""
    if pattern.endswith("*"):
        return text.startswith(pattern[:-1])
    return text.endswith(pattern[1:]) if pattern.startswith("*") else text == pattern


def _check(
    common_names: Sequence[str],
    alt_names: Sequence[AltName],
    fields: Mapping[str, str],
    allowed: _Allowed,
    rule: str,
) -> None:
    refused = [text for text in common_names if not allowed.common_name(text)]
    refused += [name.value for name in alt_names if not allowed.alt_name(name)]
    refused += [text for key, text in fields.items() if not allowed.field(key, text)]
    if refused:
        raise PKIError(
            ErrorCode.REFUSED_NAME,
            f"this client may not enrol for {', '.join(ascii(text) for text in refused[:5])}",
            rule=f"est.{rule}",
            names=refused,
        )
