"""Lists of what outside CAs have revoked (RFC 5280 section 6.3), in files of the operator's.

Complete lists only: one that says less than everything about its CA, or says it in a way that is
not known here, is no answer to "is it revoked?". Nor is one that is overdue.
"""

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from pkiserver.ca import ca_path
from pkiserver.errors import ErrorCode, MalformedMessage, PKIError
from pkiserver.pkix import cert, pem
from pkiserver.pkix.csr import STRONG_HASHES

MAX_SIZE = 16 * 1024 * 1024
_MOST_LISTS = 200


@dataclass(frozen=True, eq=False, slots=True)
class RevocationList:
    """A list, and the numbers in it. `points` are where it is published, if it is for certificates
    that point there alone."""

    crl: x509.CertificateRevocationList = field(repr=False)
    revoked: frozenset[int] = field(repr=False)
    points: frozenset[str] | None
    until: dt.datetime
    _signed_by: dict[x509.Certificate, bool] = field(default_factory=dict, repr=False)

    def is_for(self, certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
        if self.crl.issuer != issuer.subject or not ca_path.may_sign_crls(issuer):
            return False
        if self.points is not None and not self.points & _points_of(certificate):
            return False
        if issuer not in self._signed_by:
            self._signed_by[issuer] = _is_signed_by(self.crl, issuer)
        return self._signed_by[issuer]

    def is_current(self, now: dt.datetime) -> bool:
        return self.crl.last_update_utc <= now < self.until


def check(
    path: Sequence[x509.Certificate], lists: Sequence[RevocationList], now: dt.datetime
) -> None:
    """Raises `PKIError` UNAUTHORIZED unless, of each certificate in a verified path but the anchor
    at its end, a current list says that it is not revoked."""
    for certificate, issuer in zip(path, path[1:], strict=False):
        name = certificate.subject.rfc4514_string()
        found = [each for each in lists if each.is_for(certificate, issuer)]
        if not any(each.is_current(now) for each in found):
            raise _refused(f"there is no current CRL that says whether {name} is revoked")
        if any(certificate.serial_number in each.revoked for each in found):
            raise _refused(f"{name} is revoked")


def parse(data: bytes) -> list[RevocationList]:
    """One list in DER, or any number in PEM. `MalformedMessage` for those that cannot be used."""
    if len(data) > MAX_SIZE:
        raise MalformedMessage(f"the file is larger than {MAX_SIZE} octets")
    if data.startswith(b"\x30"):
        return [_list(data)]
    blocks = pem.decode_blocks(data, max_blocks=_MOST_LISTS)
    if any(label != "X509 CRL" for label, _ in blocks):
        raise MalformedMessage("the file has PEM blocks that are not X509 CRL")
    return [_list(contents) for _, contents in blocks]


def _list(data: bytes) -> RevocationList:
    try:
        crl = x509.load_der_x509_crl(data)
        until = crl.next_update_utc
        points = _scope(crl.extensions)
        revoked = frozenset(_serials(crl))
        used = crl.signature_hash_algorithm
    except (*cert.LIBRARY_ERRORS, UnsupportedAlgorithm) as error:
        raise MalformedMessage("not a CRL that follows RFC 5280") from error
    if until is None:
        raise MalformedMessage("a CRL without nextUpdate is never known to be current")
    if used is not None and used.name not in STRONG_HASHES:
        raise MalformedMessage(f"the CRL is signed over {used.name}, which is too weak")
    return RevocationList(crl, revoked, points, until)


def _scope(extensions: x509.Extensions) -> frozenset[str] | None:
    """The distribution point a complete list is of; None: it is for all."""
    points = None
    for extension in extensions:
        value = extension.value
        if isinstance(value, x509.IssuingDistributionPoint):
            points = _complete(value)
        elif extension.critical or isinstance(value, x509.DeltaCRLIndicator):
            oid = extension.oid.dotted_string
            raise MalformedMessage(f"not a complete CRL, or not known here: extension {oid}")
    return points


def _complete(point: x509.IssuingDistributionPoint) -> frozenset[str] | None:
    partial = (
        point.only_contains_user_certs,
        point.only_contains_ca_certs,
        point.only_contains_attribute_certs,
        point.indirect_crl,
        point.only_some_reasons,
        point.relative_name,
    )
    if any(partial):
        raise MalformedMessage("the CRL is for some certificates or reasons only, or indirect")
    return None if point.full_name is None else _uris(point.full_name)


def _points_of(certificate: x509.Certificate) -> frozenset[str]:
    """Those where a list of its own issuer says everything (section 4.2.1.13)."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except x509.ExtensionNotFound:
        return frozenset()
    whole = (each for each in found if not (each.reasons or each.crl_issuer))
    return frozenset(uri for each in whole for uri in _uris(each.full_name or ()))


def _uris(names: Iterable[x509.GeneralName]) -> frozenset[str]:
    return frozenset(n.value for n in names if isinstance(n, x509.UniformResourceIdentifier))


def _serials(crl: x509.CertificateRevocationList) -> Iterable[int]:
    for entry in crl:
        if any(extension.critical for extension in entry.extensions):
            raise MalformedMessage("an entry of the CRL has a critical extension")
        yield entry.serial_number


def _is_signed_by(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    try:
        return crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except (TypeError, ValueError, UnsupportedAlgorithm):
        return False


def _refused(detail: str) -> PKIError:
    return PKIError(ErrorCode.UNAUTHORIZED, detail, rule="est.client-certificate")
