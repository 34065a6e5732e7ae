"""An Apple configuration profile (.mobileconfig) that makes a Mac, iPhone or iPad enrol.

Keys of the payload `com.apple.security.scep` and `com.apple.security.root`, as Apple's Device
Management reference names them.
"""

import plistlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.errors import configuration_error

_SIGN_AND_ENCIPHER = 5
"""Key usage as a bit mask: 1 signing, 4 encryption."""


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What the device is told. `url` is the section's, `roots` are installed as anchors and the
    first certificate's fingerprint pins the CA. `challenge` is in the file in the clear."""

    url: str
    organization: str
    common_name: str
    dns: Sequence[str]
    challenge: str | None = field(repr=False)
    key_size: int
    ca: x509.Certificate
    roots: Sequence[x509.Certificate]


def build(enrolment: Enrolment, identifier: str) -> bytes:
    """The property list. `identifier` is in reverse DNS form; a profile with the same one replaces
    the former, so the same identifiers are made of it every time. Raises `PKIError` CONFIGURATION
    for control characters, which XML has not."""
    anchors = [
        _payload(
            "com.apple.security.root",
            f"{identifier}.root.{number}",
            PayloadDisplayName=_name_of(root),
            PayloadContent=root.public_bytes(Encoding.DER),
        )
        for number, root in enumerate(enrolment.roots)
    ]
    scep = _payload(
        "com.apple.security.scep",
        f"{identifier}.scep",
        PayloadDisplayName="SCEP",
        PayloadContent=_scep(enrolment),
    )
    profile = _payload(
        "Configuration",
        identifier,
        PayloadDisplayName=f"Certificate for {enrolment.common_name}",
        PayloadOrganization=enrolment.organization,
        PayloadContent=[*anchors, scep],
    )
    try:
        return plistlib.dumps(profile, sort_keys=True)
    except ValueError as error:
        raise configuration_error(f"XML cannot carry one of the names: {error}") from error


def _scep(enrolment: Enrolment) -> dict[str, object]:
    subject = [[["CN", enrolment.common_name]]]
    if enrolment.organization:
        subject.insert(0, [["O", enrolment.organization]])
    content: dict[str, object] = {
        "URL": enrolment.url,
        "Name": _name_of(enrolment.ca),
        "Subject": subject,
        "Key Type": "RSA",
        "Keysize": enrolment.key_size,
        "Key Usage": _SIGN_AND_ENCIPHER,
        "KeyIsExtractable": False,
        "Retries": 3,
        "RetryDelay": 10,
        # Apple compares the SHA-1 or MD5 of the CA's certificate; it is a name here.
        "CAFingerprint": _fingerprint(enrolment.ca),
    }
    if enrolment.challenge is not None:
        content["Challenge"] = enrolment.challenge
    if enrolment.dns:
        content["SubjectAltName"] = {"dNSName": list(enrolment.dns)}
    return content


def _fingerprint(certificate: x509.Certificate) -> bytes:
    return certificate.fingerprint(hashes.SHA1())  # noqa: S303


def _payload(kind: str, identifier: str, **members: object) -> dict[str, object]:
    return {
        "PayloadType": kind,
        "PayloadVersion": 1,
        "PayloadIdentifier": identifier,
        "PayloadUUID": str(uuid.uuid5(uuid.NAMESPACE_DNS, identifier)).upper(),
        **members,
    }


def _name_of(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if names else certificate.subject.rfc4514_string()
