"""Certification requests (RFC 2986), with the two attributes that matter (RFC 2985).

    CertificationRequestInfo ::= SEQUENCE { version, subject, subjectPKInfo, attributes [0] }

`parse` returns a request whose signature has been verified with its own key (proof of possession)
or raises `PKIError` BAD_CSR, nothing else. Refused: anything but strict DER, repeated attributes
or extensions, names outside the grammar of `names`, more than 1000 of them, a weak signature hash.
"""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import NameOID

from pkiserver.errors import ErrorCode, MalformedMessage, PKIError
from pkiserver.pkix import algorithms, cert, der, names
from pkiserver.pkix.names import AltName

MAX_CSR_SIZE = 64 * 1024
MAX_NAMES = 1000
MAX_CHALLENGE_PASSWORD = 16384
"""Characters. RFC 2985 appendix A says 255 (pkcs-9-ub-challengePassword); Microsoft Intune's are
longer by far."""

CHALLENGE_PASSWORD_OID = "1.2.840.113549.1.9.7"  # noqa: S105
EXTENSION_REQUEST_OID = "1.2.840.113549.1.9.14"
MICROSOFT_EXTENSION_REQUEST_OID = "1.3.6.1.4.1.311.2.1.14"
ENROLLMENT_NAME_VALUE_PAIR_OID = "1.3.6.1.4.1.311.13.2.1"
"""[MS-WCCE] section 2.2.2.7.10: Windows sends an attribute of this type for each pair."""

STRONG_HASHES = frozenset(
    {"sha224", "sha256", "sha384", "sha512", "sha3-256", "sha3-384", "sha3-512"}
)

# sha1WithRSAEncryption, md5WithRSAEncryption, ecdsa-with-SHA1.
_LEGACY_RSA = frozenset({"1.2.840.113549.1.1.5", "1.2.840.113549.1.1.4"})
_LEGACY_ECDSA = frozenset({"1.2.840.10045.4.1"})


@dataclass(frozen=True, slots=True)
class CertificationRequest:
    """What a request says. `alt_names` are sorted and without repetition; `spki` is the key as
    `algorithms.spki_der` writes it; `signature_hash` is None for EdDSA and ML-DSA."""

    der: bytes = field(repr=False)
    subject: x509.Name
    common_names: tuple[str, ...]
    alt_names: tuple[AltName, ...]
    public_key: CertificatePublicKeyTypes
    spki: bytes = field(repr=False)
    spki_sha256: bytes
    key_usage: x509.KeyUsage | None
    extended_key_usage: tuple[str, ...]
    must_staple: bool
    ca: bool
    challenge_password: str | None = field(repr=False)
    extension_oids: tuple[str, ...]
    signature_hash: str | None

    def requested_names(self) -> tuple[AltName, ...]:
        """All names the certificate would vouch for: the alternative names and each common name
        that reads as a DNS name or an IP address (RFC 6125 clients look there), sorted."""
        common = (_name_in(text) for text in self.common_names)
        return tuple(sorted({*self.alt_names, *(name for name in common if name is not None)}))


def _name_in(common_name: str) -> AltName | None:
    """A common name that is the text of an IP address is that address, never a DNS name."""
    for parse_name in (names.ip_address, names.dns_name):
        try:
            return parse_name(common_name)
        except PKIError:
            continue
    return None


def parse(
    data: bytes, *, max_size: int = MAX_CSR_SIZE, allow_legacy_hash: bool = False
) -> CertificationRequest:
    """The request in the DER octets `data`. `allow_legacy_hash` accepts signatures over MD5 and
    SHA-1 from devices that have nothing else: they prove possession of the key all the same."""
    if len(data) > max_size:
        raise _bad(f"the request is larger than {max_size} octets")
    return _parse(data, allow_legacy_hash)


@functools.lru_cache(maxsize=16)
def _parse(data: bytes, allow_legacy_hash: bool) -> CertificationRequest:
    """Kept for a moment: a protocol reads a request, and then issuance does."""
    try:
        cert.check_name_bounds(data)
        shell = cert.split(data)
        fields = der.sequence_of(shell[0])
        attributes = _attributes(fields)
        # strongSwan does not sort the attributes; the signature is over them as they came.
        request = x509.load_der_x509_csr(_in_order(fields, shell) or data)
        _check_signature(request, shell[0], allow_legacy_hash)
        return _build(data, request, attributes)
    except MalformedMessage as error:
        raise _bad(error.detail) from error
    except cert.LIBRARY_ERRORS as error:
        raise _bad("the request does not follow RFC 2986") from error


def _in_order(fields: Sequence[der.TLV], shell: tuple[bytes, bytes, bytes]) -> bytes | None:
    """The request with its attributes in the order DER has them (X.690 section 11.6), which is all
    the library reads; None if they are."""
    present = fields[-1].contents
    attributes = sorted(attribute.encoded for attribute in der.children(present))
    if b"".join(attributes) == present:
        return None
    others = (member.encoded for member in fields[:-1])
    info = der.encode(der.SEQUENCE, *others, der.encode(fields[-1].tag, *attributes))
    return cert.assemble(info, shell[1], shell[2])


def _bad(detail: str) -> MalformedMessage:
    return MalformedMessage(detail, ErrorCode.BAD_CSR)


def _build(
    data: bytes, request: x509.CertificateSigningRequest, attributes: dict[str, der.TLV]
) -> CertificationRequest:
    extensions = _Extensions(request.extensions)
    key = request.public_key()
    spki = algorithms.spki_der(key)
    hash_algorithm = request.signature_hash_algorithm
    return CertificationRequest(
        der=data,
        subject=request.subject,
        common_names=_common_names(request.subject),
        alt_names=extensions.alt_names(),
        public_key=key,
        spki=spki,
        spki_sha256=hashlib.sha256(spki).digest(),
        key_usage=extensions.key_usage(),
        extended_key_usage=extensions.extended_key_usage(),
        must_staple=extensions.must_staple(),
        ca=extensions.ca(),
        challenge_password=_challenge_password(attributes.get(CHALLENGE_PASSWORD_OID)),
        extension_oids=tuple(e.oid.dotted_string for e in request.extensions),
        signature_hash=None if hash_algorithm is None else hash_algorithm.name,
    )


def _attributes(info: Sequence[der.TLV]) -> dict[str, der.TLV]:
    """Each attribute's only value, by dotted OID (RFC 2986 section 4.1). Those we know are
    SINGLE VALUE; others are let through with the first."""
    if len(info) != 4 or info[3].tag != 0xA0:
        raise MalformedMessage("the request has no attributes field")
    found: dict[str, der.TLV] = {}
    for attribute in der.children(info[3].contents):
        oid, values = _attribute(attribute)
        if oid in found and oid != ENROLLMENT_NAME_VALUE_PAIR_OID:
            raise MalformedMessage(f"the attribute {oid} occurs twice")
        if oid in _SINGLE_VALUED and len(values) > 1:
            raise MalformedMessage(f"the attribute {oid} has more than one value")
        found[oid] = values[0]
    if EXTENSION_REQUEST_OID in found and MICROSOFT_EXTENSION_REQUEST_OID in found:
        raise MalformedMessage("extensions are requested in two attributes")
    return found


_SINGLE_VALUED = frozenset(
    {CHALLENGE_PASSWORD_OID, EXTENSION_REQUEST_OID, MICROSOFT_EXTENSION_REQUEST_OID}
)


def _attribute(attribute: der.TLV) -> tuple[str, Sequence[der.TLV]]:
    members = der.sequence_of(attribute.encoded)
    if [member.tag for member in members] != [der.OBJECT_IDENTIFIER, der.SET]:
        raise MalformedMessage("an attribute is not a type and a set of values")
    values = der.children(members[1].contents)
    if not values:
        raise MalformedMessage("an attribute without a value")
    return der.decode_oid(members[0].contents), values


def _challenge_password(value: der.TLV | None) -> str | None:
    if value is None:
        return None
    text = der.decode_text(value)
    if len(text) > MAX_CHALLENGE_PASSWORD:
        raise MalformedMessage(
            f"the challenge password has more than {MAX_CHALLENGE_PASSWORD} characters"
        )
    return text or None  # some devices send an empty one where they have none


def _common_names(subject: x509.Name) -> tuple[str, ...]:
    values = (attribute.value for attribute in subject.get_attributes_for_oid(NameOID.COMMON_NAME))
    return tuple(value for value in values if isinstance(value, str))


class _Extensions:
    """The requested extensions, each read with its own default."""

    def __init__(self, extensions: x509.Extensions) -> None:
        self._by_oid = {extension.oid: extension.value for extension in extensions}

    def alt_names(self) -> tuple[AltName, ...]:
        value = self._by_oid.get(x509.SubjectAlternativeName.oid)
        if not isinstance(value, x509.SubjectAlternativeName):
            return ()
        general_names = list(value)
        # GeneralNames ::= SEQUENCE SIZE (1..MAX) OF GeneralName
        if not 1 <= len(general_names) <= MAX_NAMES:
            raise MalformedMessage(f"subjectAltName has no name, or more than {MAX_NAMES} names")
        try:
            return tuple(sorted(set(names.from_general_names(general_names))))
        except PKIError as error:
            raise MalformedMessage(error.detail) from error

    def key_usage(self) -> x509.KeyUsage | None:
        value = self._by_oid.get(x509.KeyUsage.oid)
        return value if isinstance(value, x509.KeyUsage) else None

    def extended_key_usage(self) -> tuple[str, ...]:
        value = self._by_oid.get(x509.ExtendedKeyUsage.oid)
        if not isinstance(value, x509.ExtendedKeyUsage):
            return ()
        return tuple(oid.dotted_string for oid in value)

    def must_staple(self) -> bool:
        """RFC 7633: the TLS feature status_request."""
        value = self._by_oid.get(x509.TLSFeature.oid)
        return isinstance(value, x509.TLSFeature) and x509.TLSFeatureType.status_request in value

    def ca(self) -> bool:
        value = self._by_oid.get(x509.BasicConstraints.oid)
        return isinstance(value, x509.BasicConstraints) and value.ca


def _check_signature(
    request: x509.CertificateSigningRequest, signed: bytes, allow_legacy_hash: bool
) -> None:
    """RFC 2986 section 3 note 2: the signature proves that the requester has the key. `signed` is
    the CertificationRequestInfo as it came."""
    algorithm = request.signature_hash_algorithm
    if algorithm is None or algorithm.name in STRONG_HASHES:
        if not _is_valid(request, signed):
            raise _bad("the request's signature does not verify with its own key")
        return
    if not allow_legacy_hash:
        raise PKIError(
            ErrorCode.BAD_CSR,
            f"the request is signed with {algorithm.name}; SHA-256 or better is needed",
            rule="csr.signature-hash",
        )
    _verify_legacy(request, signed, algorithm)


def _is_valid(request: x509.CertificateSigningRequest, signed: bytes) -> bool:
    if request.tbs_certrequest_bytes == signed:
        return request.is_signature_valid
    key, parameters = request.public_key(), request.signature_algorithm_parameters
    try:
        if isinstance(key, rsa.RSAPublicKey) and isinstance(
            parameters, padding.PKCS1v15 | padding.PSS
        ):
            algorithm = request.signature_hash_algorithm
            assert algorithm is not None  # noqa: S101  RSA signs a hash
            key.verify(request.signature, signed, parameters, algorithm)
        elif isinstance(key, ec.EllipticCurvePublicKey) and isinstance(parameters, ec.ECDSA):
            key.verify(request.signature, signed, parameters)
        else:
            return False
    except InvalidSignature:
        return False
    return True


def _verify_legacy(
    request: x509.CertificateSigningRequest, signed: bytes, algorithm: hashes.HashAlgorithm
) -> None:
    """By hand: the library calls every signature over MD5 or SHA-1 invalid."""
    key = request.public_key()
    oid = request.signature_algorithm_oid.dotted_string
    signature = request.signature
    try:
        if isinstance(key, rsa.RSAPublicKey) and oid in _LEGACY_RSA:
            key.verify(signature, signed, padding.PKCS1v15(), algorithm)
        elif isinstance(key, ec.EllipticCurvePublicKey) and oid in _LEGACY_ECDSA:
            key.verify(signature, signed, ec.ECDSA(algorithm))
        else:
            raise _bad("the signature algorithm is unknown or not one of the request's key")
    except InvalidSignature as error:
        raise _bad("the request's signature does not verify with its own key") from error
