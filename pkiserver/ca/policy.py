"""Whether a request may become a certificate, and which: pure decisions, each refusal a `PKIError`
with the rule that refused.

From a CSR come the key, the wish for must-staple and, where the protocol leaves them to it, names
and common name. Nothing else of it is copied. A renewal has subject and names of the certificate
it renews. What a CSR asks for in vain:

- CA:TRUE, keyCertSign and cRLSign are refused: the requester wants an authority.
- An extended key usage the profile has not is refused, since the certificate would not do what it
  was asked for; except serverAuth and clientAuth, which acme.sh asks for in every request.
- Other key usages are ignored: OpenSSL's default configuration puts nonRepudiation and
  keyEncipherment into every request, and the profile decides by the kind of key anyway.
- Other extensions are ignored, as clients send their own (subjectKeyIdentifier, Microsoft's
  template names), and so are other attributes of the subject (organisation and country by
  default) but for those the profile's template asks for.
"""

import contextlib
import datetime as dt
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pkiserver.ca.issuer import Issuer
from pkiserver.ca.model import CertificateRequest
from pkiserver.ca.name_rules import has_second_spelling
from pkiserver.ca.profiles import Profile
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix import algorithms, names
from pkiserver.pkix.csr import CertificationRequest
from pkiserver.pkix.names import AltName, NameType
from pkiserver.pkix.subject import fields_for, requested_fields

_SECOND = dt.timedelta(seconds=1)
_ASKED_BY_HABIT = frozenset(
    {ExtendedKeyUsageOID.SERVER_AUTH.dotted_string, ExtendedKeyUsageOID.CLIENT_AUTH.dotted_string}
)
# Text that verifiers which still look at common names could take for a host's name.
_HOST_LIKE = re.compile(r"[^\s@]*[.*][^\s@]*")


@dataclass(frozen=True, slots=True)
class Decision:
    """What the certificate says. `spki` is the SubjectPublicKeyInfo, DER; `names` are sorted; times
    are whole seconds and inclusive."""

    spki: bytes = field(repr=False)
    spki_sha256: bytes
    key_kind: str
    names: tuple[AltName, ...]
    subject: x509.Name
    must_staple: bool
    not_before: dt.datetime
    not_after: dt.datetime


def decide(
    profile: Profile,
    issuer: Issuer,
    request: CertificateRequest,
    csr: CertificationRequest,
    *,
    own_keys: Collection[bytes],
    now: dt.datetime,
) -> Decision:
    """The decision, or `PKIError`. `own_keys` are the SHA-256 of the authorities' keys."""
    _check_wishes(profile, csr)
    kind = _check_key(profile, csr, own_keys)
    certified = tuple(sorted(_certified_names(profile, request, csr)))
    _check_names(profile, certified)
    subject = _subject(profile, request, csr, certified)
    issuer.check_purposes(profile.extended_key_usage, _rule(profile, "extended_key_usage"))
    issuer.check_names(certified, subject)
    not_before, not_after = validity(profile, issuer, request, now)
    return Decision(
        spki=csr.spki,
        spki_sha256=csr.spki_sha256,
        key_kind=kind,
        names=certified,
        subject=subject,
        must_staple=_must_staple(profile, csr),
        not_before=not_before,
        not_after=not_after,
    )


def _rule(profile: Profile, key: str) -> str:
    return f"profiles.{profile.name}.{key}"


def _check_wishes(profile: Profile, csr: CertificationRequest) -> None:
    if csr.ca:
        raise PKIError(
            ErrorCode.BAD_CSR, "the request asks for a CA certificate", rule="csr.basicConstraints"
        )
    usage = csr.key_usage
    if usage is not None and (usage.key_cert_sign or usage.crl_sign):
        raise PKIError(
            ErrorCode.BAD_CSR, "the request asks for keyCertSign or cRLSign", rule="csr.keyUsage"
        )
    allowed = {oid.dotted_string for oid in profile.extended_key_usage} | _ASKED_BY_HABIT
    for oid in csr.extended_key_usage:
        unrestricted = (
            not profile.extended_key_usage and oid != ExtendedKeyUsageOID.OCSP_SIGNING.dotted_string
        )
        if oid not in allowed and not unrestricted:
            raise PKIError(
                ErrorCode.BAD_CSR,
                f"the request asks for the extended key usage {oid}, which is not in the profile",
                rule=_rule(profile, "extended_key_usage"),
            )


def _check_key(profile: Profile, csr: CertificationRequest, own_keys: Collection[bytes]) -> str:
    if csr.spki_sha256 in own_keys:
        raise PKIError(
            ErrorCode.BAD_PUBLIC_KEY, "the key is an authority's own", rule="authority-keys"
        )
    try:
        return algorithms.check_public_key(csr.public_key, allowed=profile.key_usages)
    except PKIError as error:
        rule = _rule(profile, error.rule) if error.rule == "key_kinds" else error.rule
        raise PKIError(error.code, error.detail, rule=rule or "public-key") from error


def _must_staple(profile: Profile, csr: CertificationRequest) -> bool:
    if csr.must_staple and profile.must_staple == "never":
        raise PKIError(
            ErrorCode.BAD_CSR,
            "the request asks for must-staple, which the profile never gives",
            rule=_rule(profile, "must_staple"),
        )
    return csr.must_staple or profile.must_staple == "always"


def host_in(common_name: str) -> AltName | None:
    """The IP address or DNS name a common name reads as."""
    for parse_name in (names.ip_address, names.dns_name):
        try:
            return parse_name(common_name)
        except PKIError:
            continue
    return None


def _certified_names(
    profile: Profile, request: CertificateRequest, csr: CertificationRequest
) -> set[AltName]:
    if request.renewal_of is not None:
        return _renewed_names(profile, request.renewal_of, csr)
    if request.names is None:
        texts = [text for text in csr.common_names if text != request.subject_cn]
        return {*csr.alt_names, *_hosts_in_common_names(profile, csr.common_names, texts)}
    if request.names_beside_csr:
        texts = [request.subject_cn] if request.subject_cn else []
        return {*request.names, *_hosts_in_common_names(profile, texts, texts)}
    authorised = set(request.names)
    asked = _asked_names(authorised, {request.subject_cn}, csr)
    # Both ways and over every type: a name that is only in the request was authorised by nobody
    # (CVE-2022-34831), one that it lacks would be a surprise to its owner.
    _refuse_difference("names what was not authorised", asked - authorised)
    _refuse_difference("lacks an authorised name", authorised - asked)
    return authorised


def _renewed_names(
    profile: Profile, old: x509.Certificate, csr: CertificationRequest
) -> set[AltName]:
    """The names of the certificate that is renewed. Devices that renew may leave out what is in
    it already; what they add was authorised by nobody."""
    authorised = set(names_of(old))
    common_names = common_names_of(old)
    asked = _asked_names(authorised, set(common_names), csr)
    _refuse_difference("names what is not in the certificate to renew", asked - authorised)
    # It may be of another profile, which was not for hosts.
    hosts = set(_hosts_in_common_names(profile, common_names, common_names))
    _refuse_difference("renews a common name that is not among the names", hosts - authorised)
    return authorised


def names_of(certificate: x509.Certificate) -> tuple[AltName, ...]:
    """The alternative names of a certificate of ours."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return names.from_general_names(extension.value)


def common_names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The common names in its subject."""
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return tuple(str(attribute.value) for attribute in found)


def _asked_names(
    authorised: set[AltName], common_names: Collection[str | None], csr: CertificationRequest
) -> set[AltName]:
    """The alternative names and the hosts in common names other than the known `common_names`."""
    _check_common_names(authorised, common_names, csr)
    hosts = (host_in(text) for text in csr.common_names if text not in common_names)
    return {*csr.alt_names, *(host for host in hosts if host is not None)}


def _refuse_difference(what: str, difference: Iterable[AltName]) -> None:
    texts = [str(name) for name in sorted(difference)]
    if texts:
        shown = ", ".join(texts[:5]) + (", ..." if len(texts) > 5 else "")
        raise PKIError(
            ErrorCode.BAD_CSR, f"the request {what}: {shown}", rule="csr.names", names=texts
        )


def _check_common_names(
    authorised: set[AltName], common_names: Collection[str | None], csr: CertificationRequest
) -> None:
    values = {name.value for name in authorised}
    for text in csr.common_names:
        if text not in values and text not in common_names and host_in(text) not in authorised:
            raise PKIError(
                ErrorCode.BAD_CSR,
                f"the common name {ascii(text)} is not one of the authorised names",
                rule="csr.names",
                names=[text],
            )


def _hosts_in_common_names(
    profile: Profile, common_names: Iterable[str], strict: Collection[str]
) -> Iterator[AltName]:
    """Common names that a TLS client could take for the server's are treated as names: they obey
    the profile's rules and go into the subjectAltName. A single label is nobody's domain. What
    looks like a host's name and is none is refused, if it is one of `strict`."""
    if not profile.names_hosts:
        return
    for text in common_names:
        host = host_in(text)
        if host is not None and (host.type is NameType.IP or "." in text):
            yield host
        elif host is None and text in strict and _HOST_LIKE.fullmatch(text):
            raise PKIError(
                ErrorCode.REFUSED_NAME,
                f"the common name {ascii(text)} looks like a host's and is none",
                rule="csr.names",
                names=[text],
            )


def _check_names(profile: Profile, certified: tuple[AltName, ...]) -> None:
    if len(certified) > profile.max_names:
        raise PKIError(
            ErrorCode.REFUSED_BY_PROFILE,
            f"{len(certified)} names are more than the {profile.max_names} of the profile",
            rule=_rule(profile, "max_names"),
        )
    if profile.require_name and not certified:
        raise PKIError(
            ErrorCode.REFUSED_BY_PROFILE,
            "the profile needs at least one name",
            rule=_rule(profile, "require_name"),
        )
    causes = [cause for name in certified if (cause := name_refusal(profile, name))]
    if len(causes) == 1:
        raise causes[0]
    if causes:
        raise PKIError(
            ErrorCode.REFUSED_NAME,
            f"{len(causes)} names are refused; the first: {causes[0].detail}",
            rule=causes[0].rule,
            names=[name for cause in causes for name in cause.names],
            causes=causes,
        )


def name_refusal(profile: Profile, name: AltName) -> PKIError | None:
    """Why the profile does not certify the name; None if it does. A protocol can ask before it
    makes the client prove anything."""
    rules = profile.names.get(name.type)
    if rules is None:
        return _name_error(name, "names of this type are not certified", f"names.{name.type}")
    if name.is_wildcard and not profile.wildcards:
        return _name_error(name, "wildcards are not certified", _rule(profile, "wildcards"))
    if name.type is NameType.URI and has_second_spelling(name.value):
        return _name_error(name, "write the URI in its normal form (RFC 3986 section 6.2.2)", "uri")
    why = rules.refusal(name.value)
    return None if why is None else _name_error(name, why, _rule(profile, name.type.value))


def _name_error(name: AltName, why: str, rule: str) -> PKIError:
    return PKIError(
        ErrorCode.REFUSED_NAME, f"{ascii(name.value)}: {why}", rule=rule, names=[name.value]
    )


def _subject(
    profile: Profile,
    request: CertificateRequest,
    csr: CertificationRequest,
    certified: tuple[AltName, ...],
) -> x509.Name:
    if request.renewal_of is not None:
        return request.renewal_of.subject
    common_name = request.subject_cn or next(iter(csr.common_names), None)
    try:
        fields = _requested_fields(profile, csr) | fields_for(certified, common_name)
        subject = profile.subject.render(fields)
    except PKIError as error:
        raise PKIError(error.code, error.detail, rule=_rule(profile, "subject")) from error
    if not subject.rdns and not certified:
        # RFC 5280 section 4.1.2.6: without a subject, the names have to say who it is.
        raise PKIError(
            ErrorCode.REFUSED_BY_PROFILE,
            "the certificate would have neither a subject nor a name",
            rule=_rule(profile, "subject"),
        )
    return subject


def _requested_fields(profile: Profile, csr: CertificationRequest) -> dict[str, str]:
    """What the request's subject says. An e-mail address in it is relied on like any other, so it
    counts only if the profile certifies it."""
    fields = requested_fields(csr.subject)
    address = fields.pop("emailaddress", None)
    if address is not None:
        with contextlib.suppress(PKIError):
            name = names.email(address)
            if name_refusal(profile, name) is None:
                fields["emailaddress"] = name.value
    return fields


def validity(
    profile: Profile, issuer: Issuer, request: CertificateRequest, now: dt.datetime
) -> tuple[dt.datetime, dt.datetime]:
    """notBefore and notAfter in whole seconds, both inclusive (RFC 5280 section 4.1.2.5).

    The lifetime, backdating included, is never longer than the profile's, and the certificate does
    not outlive its path. A wish for more than the profile gives is refused, not shortened.
    """
    now = now.replace(microsecond=0)
    rule = _rule(profile, "validity")
    last = now + profile.validity
    wished_end = request.not_after or last
    if wished_end > last:
        raise PKIError(ErrorCode.REFUSED_BY_PROFILE, "notAfter is beyond the profile", rule=rule)
    earliest = now - profile.backdate
    if request.not_before is not None and not earliest <= request.not_before <= last:
        raise PKIError(
            ErrorCode.REFUSED_BY_PROFILE, "notBefore is outside what the profile allows", rule=rule
        )
    start = (request.not_before or earliest).replace(microsecond=0)
    if request.not_after is None:
        end = min(start + profile.validity - _SECOND, last - _SECOND)
    else:
        end = min(wished_end.replace(microsecond=0), last - _SECOND)
        # The client named the end only, so the start may move for the lifetime to fit.
        start = start if request.not_before else max(start, end - profile.validity + _SECOND)
    return _within_path(profile, issuer, start, end, now)


def _within_path(
    profile: Profile, issuer: Issuer, start: dt.datetime, end: dt.datetime, now: dt.datetime
) -> tuple[dt.datetime, dt.datetime]:
    start, end = max(start, issuer.not_before), min(end, issuer.not_after)
    if end - start >= profile.validity:
        raise PKIError(
            ErrorCode.REFUSED_BY_PROFILE,
            "notBefore to notAfter is longer than the profile allows",
            rule=_rule(profile, "validity"),
        )
    if end <= max(start, now):
        raise PKIError(
            ErrorCode.REFUSED_BY_PROFILE,
            f"nothing is left between notBefore and notAfter (authority {issuer.name} is valid "
            f"until {issuer.not_after:%Y-%m-%dT%H:%M:%SZ})",
            rule=_rule(profile, "validity"),
        )
    return start, end
