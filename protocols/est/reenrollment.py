"""Re-enrolment (RFC 7030 section 4.2.2): whether a request is for the names of the certificate it
replaces. Pure.

"Identical" is said of what the names are: attribute by attribute, value by value, in upper and
lower case as they stand. The kind of string and the order of alternative names do not count, since
our certificates have their own (UTF8String, sorted), whatever the first request had. The new
certificate has the octets of the old one in any case.
"""

from cryptography import x509

from pkiserver.ca.policy import names_of
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix.csr import CertificationRequest


def check_same_names(request: CertificationRequest, certificate: x509.Certificate) -> None:
    """Raises `PKIError` REFUSED_NAME unless Subject and SubjectAltName of the request are those of
    a certificate of ours."""
    # The library compares names by types and values of their attributes, RDN by RDN.
    if request.subject != certificate.subject:
        raise _differs("Subject", certificate)
    if request.alt_names != tuple(sorted(set(names_of(certificate)))):
        raise _differs("SubjectAltName", certificate)


def _differs(what: str, certificate: x509.Certificate) -> PKIError:
    subject = certificate.subject.rfc4514_string()
    return PKIError(
        ErrorCode.REFUSED_NAME,
        f"the request's {what} is not that of the certificate to renew ({subject})",
        rule="est.reenroll",
        names=[subject],
    )
