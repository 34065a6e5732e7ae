"""What the server wants to find in a request (RFC 7030 section 4.5.2, RFC 9908).

    CsrAttrs ::= SEQUENCE SIZE (0..MAX) OF AttrOrOID

The older form lists attributes; the newer one is a template of the whole request, with values that
are given and places to be filled in, in the attribute id-aa-certificationRequestInfoTemplate:

    CertificationRequestInfoTemplate ::= SEQUENCE { version, subject NameTemplate OPTIONAL,
        subjectPKInfo [0] SubjectPublicKeyInfoTemplate OPTIONAL, attributes [1] Attributes }

A client that knows the template ignores the rest (RFC 9908 section 4); others ignore the template.
"""

from collections.abc import Sequence

from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from pkiserver.ca.profiles import Profile
from pkiserver.config_types import KeyKind
from pkiserver.pkix import der
from pkiserver.pkix.csr import CHALLENGE_PASSWORD_OID, EXTENSION_REQUEST_OID
from pkiserver.pkix.subject import SubjectTemplate
from protocols.est.settings import ESTSettings

TEMPLATE_OID = "1.2.840.113549.1.9.16.2.61"
EXTENSION_TEMPLATE_OID = "1.2.840.113549.1.9.16.2.62"

_EC_PUBLIC_KEY = "1.2.840.10045.2.1"
_RSA_ENCRYPTION = "1.2.840.113549.1.1.1"
_CURVES = {"p256": "1.2.840.10045.3.1.7", "p384": "1.3.132.0.34", "p521": "1.3.132.0.35"}
_OTHER_KEYS = {
    "ed25519": "1.3.101.112",
    "ed448": "1.3.101.113",
    "ml-dsa-44": "2.16.840.1.101.3.4.3.17",
    "ml-dsa-65": "2.16.840.1.101.3.4.3.18",
    "ml-dsa-87": "2.16.840.1.101.3.4.3.19",
}
_SUBJECT_KEY_INFO = 0xA0
_ATTRIBUTES = 0xA1


def encode(profile: Profile, settings: ESTSettings, *, linking: bool) -> bytes | None:
    """CsrAttrs in DER; None if there is nothing to say. `linking`: the client is to put tls-unique
    into challengePassword."""
    kind = settings.key_kind or _only_kind(profile)
    items: list[bytes] = [der.encode_oid(CHALLENGE_PASSWORD_OID)] if linking else []
    if settings.csr_attributes in ("both", "classic"):
        items += _classic(profile, kind)
    if settings.csr_attributes in ("both", "template"):
        items.append(_attribute(TEMPLATE_OID, _template(profile, kind, linking)))
    return der.encode(der.SEQUENCE, *items) if items else None


def _only_kind(profile: Profile) -> KeyKind | None:
    kinds = [*profile.key_usages]
    return kinds[0] if len(kinds) == 1 else None  # type: ignore[return-value]


def _attribute(oid: str, *values: bytes) -> bytes:
    return der.encode(der.SEQUENCE, der.encode_oid(oid), der.encode(der.SET, *sorted(values)))


# The older form


def _classic(profile: Profile, kind: KeyKind | None) -> list[bytes]:
    """The kind of key (RFC 9908 section 3.2: its type with its parameter), and the extensions whose
    value is known."""
    found = [] if kind is None else [_key_attribute(kind)]
    extensions = _known_extensions(profile)
    if extensions:
        found.append(_attribute(EXTENSION_REQUEST_OID, der.encode(der.SEQUENCE, *extensions)))
    return found


def _key_attribute(kind: KeyKind) -> bytes:
    if kind in _CURVES:
        return _attribute(_EC_PUBLIC_KEY, der.encode_oid(_CURVES[kind]))
    if kind.startswith("rsa-"):
        return _attribute(_RSA_ENCRYPTION, der.encode_integer(int(kind.partition("-")[2])))
    return der.encode_oid(_OTHER_KEYS[kind])


def _known_extensions(profile: Profile) -> list[bytes]:
    if not profile.extended_key_usage:
        return []
    value = x509.ExtendedKeyUsage(profile.extended_key_usage).public_bytes()
    return [_extension(ExtensionOID.EXTENDED_KEY_USAGE, value)]


def _extension(oid: x509.ObjectIdentifier, value: bytes | None) -> bytes:
    """ExtensionTemplate: an Extension whose value may be left to the client."""
    contents = b"" if value is None else der.encode(der.OCTET_STRING, value)
    return der.encode(der.SEQUENCE, der.encode_oid(oid.dotted_string), contents)


# The template


def _template(profile: Profile, kind: KeyKind | None, linking: bool) -> bytes:
    parts = [der.encode_integer(0)]
    subject = _subject(profile.subject)
    if subject:
        parts.append(der.encode(der.SEQUENCE, *subject))
    if kind is not None:
        parts.append(der.encode(_SUBJECT_KEY_INFO, *_key_info(kind)))
    parts.append(der.encode(_ATTRIBUTES, *sorted(_template_attributes(profile, linking))))
    return der.encode(der.SEQUENCE, *parts)


def _subject(template: SubjectTemplate) -> list[bytes]:
    """RDNs in the order of the certificate. A value that has fields is the client's to fill in."""
    return [_rdn(oid, value) for oid, value in template.outline()]


def _rdn(oid: x509.ObjectIdentifier, value: str | None) -> bytes:
    if value is None:
        single = der.encode(der.SEQUENCE, der.encode_oid(oid.dotted_string))
        return der.encode(der.SET, single)
    name = x509.Name([x509.NameAttribute(oid, value)])
    return der.sequence_of(name.public_bytes())[0].encoded


def _key_info(kind: KeyKind) -> Sequence[bytes]:
    """SubjectPublicKeyInfoTemplate. The size of an RSA key is shown by a stand-in of that size
    (RFC 9908 section 3.4): nobody has its private half."""
    if kind in _CURVES:
        oids = der.encode_oid(_EC_PUBLIC_KEY), der.encode_oid(_CURVES[kind])
        return [der.encode(der.SEQUENCE, *oids)]
    if kind.startswith("rsa-"):
        bits = int(kind.partition("-")[2])
        algorithm = der.encode(der.SEQUENCE, der.encode_oid(_RSA_ENCRYPTION), der.encode(der.NULL))
        modulus = der.encode_integer((1 << bits) - 1)
        key = der.encode(der.SEQUENCE, modulus, der.encode_integer(65537))
        return [algorithm, der.encode_bit_string(key)]
    return [der.encode(der.SEQUENCE, der.encode_oid(_OTHER_KEYS[kind]))]


def _template_attributes(profile: Profile, linking: bool) -> list[bytes]:
    """Alternative names are the client's, so the extensions are a template as well; only one of
    the two kinds of extension request may be there (RFC 9908 section 3.4)."""
    extensions = _known_extensions(profile)
    # Without a value: that is the client's.
    found = [_attribute(CHALLENGE_PASSWORD_OID)] if linking else []
    if any(rules.allow for rules in profile.names.values()):
        alternative = _extension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, None)
        value = der.encode(der.SEQUENCE, *extensions, alternative)
        return [*found, _attribute(EXTENSION_TEMPLATE_OID, value)]
    if extensions:
        value = der.encode(der.SEQUENCE, *extensions)
        return [*found, _attribute(EXTENSION_REQUEST_OID, value)]
    return found
