"""tls-alpn-01 (RFC 8737; for IP addresses RFC 8738 section 6).

The target answers ALPN `acme-tls/1` with a self-signed certificate that holds the identifier as
its only subjectAltName and, in the critical extension acmeIdentifier, a digest:

    id-pe-acmeIdentifier OBJECT IDENTIFIER ::= { 1 3 6 1 5 5 7 1 31 }
    Authorization ::= OCTET STRING (SIZE (32))     -- SHA-256 of the key authorization
"""

import hashlib
import hmac
import ipaddress

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import ObjectIdentifier

from protocols.acme.challenges.model import (
    ALPNAnswer,
    ChallengeContext,
    ChallengeType,
    FailureKind,
    ProbeALPN,
    Proof,
    Validation,
    ValidationFailed,
    ask,
    reached_record,
)

ACME_TLS_1 = "acme-tls/1"
ACME_IDENTIFIER = ObjectIdentifier("1.3.6.1.5.5.7.1.31")

_OCTET_STRING_32 = b"\x04\x20"
_UNREADABLE = (
    ValueError,
    TypeError,
    OverflowError,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


def tls_alpn01(context: ChallengeContext) -> Validation:
    """The certificate has to hold exactly the identifier and the digest."""
    digest = hashlib.sha256(context.expected_key_authorization().encode("ascii")).digest()
    host, port = context.identifier_value, context.tls_alpn01_port
    request = ProbeALPN(host, port, server_name(context), ACME_TLS_1)
    answer = yield from ask(request, ALPNAnswer)
    # RFC 8737 section 3: the handshake counts only if the protocol was negotiated, or any web
    # server that answers for the name would do.
    if answer.protocol != ACME_TLS_1:
        raise ValidationFailed(
            FailureKind.TLS, f"{request}: {answer.reached} did not negotiate {ACME_TLS_1}"
        )
    try:
        check_certificate(answer.certificate, context.identifier_value, digest)
    except ValueError as refusal:
        raise ValidationFailed(
            FailureKind.INCORRECT_RESPONSE,
            f"{request}: the certificate from {answer.reached} {refusal}",
        ) from refusal
    detail = f"{answer.reached} presents the certificate for {answer.protocol}"
    return Proof(ChallengeType.TLS_ALPN_01, detail, (reached_record(host, answer.reached),))


def server_name(context: ChallengeContext) -> str:
    """The SNI host name. SNI knows no addresses, so for one it is the name under in-addr.arpa or
    ip6.arpa (RFC 8738 section 6)."""
    if context.identifier_type == "dns":
        return context.identifier_value
    return ipaddress.ip_address(context.identifier_value).reverse_pointer


def check_certificate(certificate: bytes | None, identifier: str, digest: bytes) -> None:
    """Raises ValueError, worded to follow "the certificate", if it is not the challenge's."""
    if certificate is None:
        raise ValueError("is missing")
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        extensions = parsed.extensions
    except _UNREADABLE as error:
        raise ValueError("cannot be read") from error
    _check_self_signed(parsed)
    _check_name(extensions, identifier)
    _check_digest(extensions, digest)


def _check_self_signed(certificate: x509.Certificate) -> None:
    """RFC 8737 section 3: a self-signed certificate. One that a CA issued would show that some CA
    copies extensions from requests, not that the target answers this challenge."""
    try:
        certificate.verify_directly_issued_by(certificate)
    except (*_UNREADABLE, InvalidSignature, UnsupportedAlgorithm) as error:
        raise ValueError("is not self-signed") from error


def _check_name(extensions: x509.Extensions, identifier: str) -> None:
    """RFC 8737 section 3: the identifier MUST be the only entry of subjectAltName."""
    try:
        names = list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound as error:
        raise ValueError("has no subjectAltName") from error
    if len(names) != 1:
        raise ValueError(f"holds {len(names)} names instead of one")
    if not _is_name(names[0], identifier):
        raise ValueError(f"is not for {identifier}")


def _is_name(name: x509.GeneralName, identifier: str) -> bool:
    """An address stands as iPAddress and a domain name as dNSName, never the other way round."""
    address = _canonical(identifier)
    if address is not None:
        return isinstance(name, x509.IPAddress) and str(name.value) == address
    return isinstance(name, x509.DNSName) and name.value.lower() == identifier.lower()


def _canonical(identifier: str) -> str | None:
    """An IP address as text; None for a domain name."""
    try:
        return str(ipaddress.ip_address(identifier))
    except ValueError:
        return None


def _check_digest(extensions: x509.Extensions, digest: bytes) -> None:
    try:
        extension = extensions.get_extension_for_oid(ACME_IDENTIFIER)
    except x509.ExtensionNotFound as error:
        raise ValueError("has no acmeIdentifier extension") from error
    # RFC 8737 section 3: critical, so that nobody takes the certificate for an ordinary one.
    if not extension.critical:
        raise ValueError("has an acmeIdentifier extension that is not critical")
    content = extension.value.public_bytes()
    if not hmac.compare_digest(content, _OCTET_STRING_32 + digest):
        raise ValueError("has an acmeIdentifier that is not the digest of the key authorization")
