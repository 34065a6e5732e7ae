"""SignedData (RFC 5652 section 5).

    SignedData ::= SEQUENCE { version, digestAlgorithms SET, encapContentInfo,
        certificates [0] IMPLICIT SET OPTIONAL, crls [1] IMPLICIT SET OPTIONAL, signerInfos SET }

Reading and verifying are apart: `parse` says what the message claims, `verify` whether a key made
one of its signatures. Making one is in two steps, so that the key may be anywhere: `to_be_signed`,
then `encode` with the signature over `ToBeSigned.data`.
"""

import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from pkiserver.cms import attributes, ber, content_info, oids, signatures
from pkiserver.cms.attributes import Attributes
from pkiserver.cms.content_info import (
    EXPLICIT_0,
    EXPLICIT_1,
    Algorithm,
    Identifier,
)
from pkiserver.errors import ErrorCode, MalformedMessage, PKIError
from pkiserver.pkix import der

MAX_SIGNERS = 16
MAX_CERTIFICATES = 64
MAX_CRLS = 64
_CHOICES = frozenset({der.SEQUENCE, EXPLICIT_0, EXPLICIT_1, 0xA2, 0xA3})
"""Of CertificateChoices and RevocationInfoChoice (sections 10.2.1, 10.2.2)."""


@dataclass(frozen=True, slots=True)
class SignerInfo:
    """One signature. `digest` is "md5", "sha1", "sha224" ... "sha512" or a dotted OID.

    `signed_attributes` are the octets of the attributes as they came, as a SET; None where there
    are none and the content itself is signed.
    """

    identifier: Identifier
    digest: str
    signature_algorithm: Algorithm
    attributes: Attributes
    signed_attributes: bytes | None
    signature: bytes


@dataclass(frozen=True, slots=True)
class SignedData:
    """What the message says. `content` is None where it is absent (section 5.2); `certificates`
    and `crls` are the DER of those in X.509's own form, unread and in the message's order."""

    content_type: str
    content: bytes | None
    certificates: tuple[bytes, ...]
    crls: tuple[bytes, ...]
    signers: tuple[SignerInfo, ...]


def parse(data: bytes, *, max_size: int = ber.MAX_SIZE) -> SignedData:
    """A ContentInfo with SignedData in BER of at most `max_size` octets."""
    content_type, content = content_info.parse(data, max_size=max_size)
    if content_type != oids.SIGNED_DATA or content.tag != der.SEQUENCE:
        raise MalformedMessage("the message is not SignedData")
    members = content_info.members_of(content, "SignedData")
    members.take(der.INTEGER)
    members.take(der.SET)
    inner_type, inner = _parse_encapsulated(members.take(der.SEQUENCE))
    certificates = _parse_choices(members.take_if(EXPLICIT_0), MAX_CERTIFICATES, "certificates")
    crls = _parse_choices(members.take_if(EXPLICIT_1), MAX_CRLS, "CRLs")
    signers = der.children(members.take(der.SET).contents)
    members.finish()
    if len(signers) > MAX_SIGNERS:
        raise MalformedMessage(f"more than {MAX_SIGNERS} signatures")
    return SignedData(
        inner_type, inner, certificates, crls, tuple(_parse_signer(signer) for signer in signers)
    )


def _parse_encapsulated(element: der.TLV) -> tuple[str, bytes | None]:
    """EncapsulatedContentInfo ::= SEQUENCE { eContentType, eContent [0] OCTET STRING OPTIONAL }"""
    members = content_info.members_of(element, "EncapsulatedContentInfo")
    content_type = der.decode_oid(members.take(der.OBJECT_IDENTIFIER).contents)
    content = members.take_if(EXPLICIT_0)
    members.finish()
    if content is None:
        return content_type, None
    return content_type, der.read_one(content.contents, der.OCTET_STRING).contents


def _parse_choices(element: der.TLV | None, most: int, what: str) -> tuple[bytes, ...]:
    """The X.509 ones; attribute certificates and other forms are left out."""
    choices = () if element is None else der.children(element.contents)
    if len(choices) > most or any(choice.tag not in _CHOICES for choice in choices):
        raise MalformedMessage(f"more than {most} {what}, or of no known form")
    return tuple(choice.encoded for choice in choices if choice.tag == der.SEQUENCE)


def _parse_signer(element: der.TLV) -> SignerInfo:
    """SignerInfo ::= SEQUENCE { version, sid, digestAlgorithm, signedAttrs [0] OPTIONAL,
    signatureAlgorithm, signature OCTET STRING, unsignedAttrs [1] OPTIONAL }"""
    members = content_info.members_of(element, "SignerInfo")
    members.take(der.INTEGER)
    identifier = content_info.parse_identifier(members.take(der.SEQUENCE, 0x80, EXPLICIT_0))
    digest = content_info.parse_algorithm(members.take(der.SEQUENCE))
    signed = members.take_if(EXPLICIT_0)
    algorithm = content_info.parse_algorithm(members.take(der.SEQUENCE))
    signature = members.take(der.OCTET_STRING).contents
    members.take_if(EXPLICIT_1)
    members.finish()
    return SignerInfo(
        identifier=identifier,
        digest=signatures.digest_name(digest),
        signature_algorithm=algorithm,
        attributes={} if signed is None else attributes.parse(der.children(signed.contents)),
        # Section 5.4: signed under the tag of SET OF, sent under [0].
        signed_attributes=None if signed is None else der.encode(der.SET, signed.contents),
        signature=signature,
    )


def signer_certificate(signed: SignedData, signer: SignerInfo) -> x509.Certificate:
    """The certificate in the message that the SignerInfo names. Others may be broken; this one
    may be of version 1, expired or anybody's: only its key is of use until it is validated."""
    for certificate in signed.certificates:
        if _identifies(signer.identifier, certificate):
            return content_info.load_certificate(certificate)
    raise PKIError(ErrorCode.BAD_SIGNATURE, "the signer's certificate is not in the message")


def _identifies(identifier: Identifier, certificate: bytes) -> bool:
    try:
        return content_info.identifies(identifier, certificate)
    except MalformedMessage:
        return False


def verify(
    signed: SignedData,
    signer: SignerInfo,
    public_key: PublicKeyTypes,
    *,
    allow_legacy: bool = False,
) -> None:
    """Whether `public_key` made this signature over this content and these attributes.

    PKIError BAD_SIGNATURE if not; BAD_ALGORITHM for what is unknown or, without `allow_legacy`,
    MD5 and SHA-1. Absent content is digested as empty.
    """
    signatures.check_digest(signer.digest, allow_legacy=allow_legacy)
    content = signed.content or b""
    if signer.signed_attributes is None:
        # Section 5.3: only plain data is signed without attributes. Anything else would let the
        # octets of a message's attributes be shown as content that was signed.
        if signed.content_type != oids.DATA:
            raise PKIError(ErrorCode.BAD_SIGNATURE, "the message has no signed attributes")
        _verify_over(signer, public_key, content)
        return
    _check_attributes(signed, signer, content)
    _verify_attributes(signer, public_key, signer.signed_attributes)


def _check_attributes(signed: SignedData, signer: SignerInfo, content: bytes) -> None:
    """Sections 5.3, 5.4, 11.1, 11.2: contentType and messageDigest are there and are right."""
    content_type = attributes.single(signer.attributes, oids.CONTENT_TYPE, der.OBJECT_IDENTIFIER)
    digest = attributes.single(signer.attributes, oids.MESSAGE_DIGEST, der.OCTET_STRING)
    if content_type is None or digest is None:
        raise PKIError(ErrorCode.BAD_SIGNATURE, "contentType or messageDigest is not signed")
    if der.decode_oid(content_type.contents) != signed.content_type:
        raise PKIError(ErrorCode.BAD_SIGNATURE, "the content is not of the type that was signed")
    expected = signatures.compute_digest(signer.digest, content)
    if not hmac.compare_digest(digest.contents, expected):
        raise PKIError(ErrorCode.BAD_SIGNATURE, "the content is not what was signed")


def _verify_attributes(signer: SignerInfo, key: PublicKeyTypes, received: bytes) -> None:
    """Section 5.4: what is signed is the DER of the attributes. There are clients that sign them
    in the order they send; and some that send another order than they sign."""
    try:
        _verify_over(signer, key, received)
    except PKIError as error:
        in_order = _in_der_order(received)
        if error.code is not ErrorCode.BAD_SIGNATURE or in_order == received:
            raise
        _verify_over(signer, key, in_order)


def _in_der_order(attribute_set: bytes) -> bytes:
    members = der.children(der.read_one(attribute_set, der.SET).contents)
    return der.encode(der.SET, *sorted(member.encoded for member in members))


def _verify_over(signer: SignerInfo, key: PublicKeyTypes, data: bytes) -> None:
    signatures.verify(signer.signature_algorithm, signer.digest, key, signer.signature, data)


@dataclass(frozen=True, slots=True)
class ToBeSigned:
    """A SignedData before its signature, which is to be made over `data` with `digest`."""

    content_type: str
    content: bytes | None
    digest: str
    data: bytes


def to_be_signed(
    content: bytes | None,
    content_type: str,
    digest: str,
    signed_attributes: Iterable[tuple[str, bytes]] = (),
) -> ToBeSigned:
    """The attributes, each (dotted OID, DER of its only value), with contentType and messageDigest
    added. Without content the digest is that of no octets."""
    complete = (
        *signed_attributes,
        (oids.CONTENT_TYPE, der.encode_oid(content_type)),
        (
            oids.MESSAGE_DIGEST,
            der.encode(der.OCTET_STRING, signatures.compute_digest(digest, content or b"")),
        ),
    )
    data = der.encode(der.SET, *attributes.encode(complete))
    return ToBeSigned(content_type, content, digest, data)


def encode(
    tbs: ToBeSigned,
    signature: bytes,
    signer_certificate: x509.Certificate,
    *,
    certificates: Sequence[x509.Certificate] = (),
) -> bytes:
    """The message, in DER, with the signer's certificate and then `certificates`, in that order."""
    own = content_info.certificate_der(signer_certificate)
    signed = der.read_one(tbs.data, der.SET).contents
    digest = signatures.digest_algorithm(tbs.digest).encode()
    algorithm = signatures.signature_algorithm(signer_certificate.public_key(), tbs.digest)
    signer = der.encode(
        der.SEQUENCE,
        der.encode_integer(1),
        content_info.issuer_and_serial(own).encode(),
        digest,
        der.encode(EXPLICIT_0, signed),
        algorithm.encode(),
        der.encode(der.OCTET_STRING, signature),
    )
    bag = [own, *(content_info.certificate_der(certificate) for certificate in certificates)]
    return assemble(tbs.content_type, tbs.content, bag, signers=[signer], digests=[digest])


def assemble(
    content_type: str,
    content: bytes | None,
    certificates: Sequence[bytes],
    *,
    crls: Sequence[bytes] = (),
    signers: Sequence[bytes] = (),
    digests: Sequence[bytes] = (),
) -> bytes:
    """The ContentInfo around encoded parts. Section 5.1: version 3 where the content is not plain
    data. DER would sort the certificates; their order says which is which (RA, leaf) and stays."""
    version = 1 if content_type == oids.DATA else 3
    encapsulated = [der.encode_oid(content_type)]
    if content is not None:
        encapsulated.append(der.encode(EXPLICIT_0, der.encode(der.OCTET_STRING, content)))
    return content_info.encode(
        oids.SIGNED_DATA,
        der.encode(
            der.SEQUENCE,
            der.encode_integer(version),
            der.encode(der.SET, *digests),
            der.encode(der.SEQUENCE, *encapsulated),
            der.encode(EXPLICIT_0, *certificates) if certificates else b"",
            der.encode(EXPLICIT_1, *crls) if crls else b"",
            der.encode(der.SET, *signers),
        ),
    )
