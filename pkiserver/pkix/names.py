"""Subject alternative names (RFC 5280 section 4.2.1.6) in one normal form, so that two names are
the same name exactly when the values are equal.

| type  | normal form | refused |
|---|---|---|
| dns   | lower-case A-labels, no final dot, an asterisk only as the whole first label | underscores and other non-LDH text, `--` in places 3 and 4 other than a sound `xn--`, labels that mix look-alike scripts, a last label that is a number |
| ip    | RFC 5952 text | zones, IPv4-mapped IPv6: one host would have two names and pass two constraints |
| email | RFC 5321 Dot-string, `@`, lower-case domain | quoted local parts, address literals |
| uri   | RFC 3986 with lower-case scheme and host | relative references, user information, a host that is no DNS name or address |
| upn   | user, `@`, lower-case suffix; any UTF-8 but controls | |
| other | readable text of a GeneralName that is never issued | |

Text outside the grammar raises `MalformedMessage`; names that follow it and are refused all the
same raise `PKIError` REFUSED_NAME.
"""  # noqa: E501

import enum
import ipaddress
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NoReturn

import idna
from cryptography import x509

from pkiserver.errors import ErrorCode, MalformedMessage, PKIError
from pkiserver.pkix import der

UPN_OID = x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3")

MAX_EMAIL_LENGTH = 254
MAX_URI_LENGTH = 2048
MAX_UPN_LENGTH = 256

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# What URL parsers take for an IPv4 address is not left to be one: "1", "0x7f", "127.1".
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_DOT_STRING = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?://([^/?#]*))?(.*)", re.DOTALL)
_URI_TEXT = re.compile(r"([A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*")
_AUTHORITY = re.compile(r"(\[[^\]]*\]|[^:@\[\]]*)(:[0-9]{1,5})?")
# Scripts whose letters pass for one another; a label has letters of at most one of them.
_LOOK_ALIKES = frozenset({"LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "CHEROKEE", "COPTIC", "LISU"})


class NameType(enum.StrEnum):
    """The kinds of names certificates are issued for, and `other` for all the rest."""

    DNS = "dns"
    IP = "ip"
    EMAIL = "email"
    URI = "uri"
    UPN = "upn"
    OTHER = "other"


@dataclass(frozen=True, slots=True, order=True)
class AltName:
    """One name. Made by the functions below, which normalise; `value` is taken as it is."""

    type: NameType
    value: str

    def __str__(self) -> str:
        return f"{self.type.value}:{self.value}"

    @property
    def is_wildcard(self) -> bool:
        """A DNS name that stands for every name one label below (RFC 6125 section 6.4.3)."""
        return self.type is NameType.DNS and self.value.startswith("*.")


def alt_name(name_type: NameType, text: str) -> AltName:
    """The name of this type; OTHER cannot be written by anybody."""
    return _PARSERS[name_type](text)


def dns_name(text: str) -> AltName:
    """A host name in ASCII (A-labels), or a wildcard `*.` before one."""
    host = text.lower() if text.isascii() else ""
    base = host.removeprefix("*.")
    labels = base.split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise MalformedMessage(f"{_shown(text)} is not a DNS name in ASCII")
    if _NUMBER.fullmatch(labels[-1]):
        _refuse(text, "its last label is a number, as in an IP address")
    for label in labels:
        if label[2:4] == "--":
            _check_a_label(label, text)
    return AltName(NameType.DNS, host)


def internationalized_dns_name(text: str) -> AltName:
    """A host name as people write it: U-labels are turned into A-labels (RFC 5891 section 4)."""
    if text.isascii():
        return dns_name(text)
    labels = unicodedata.normalize("NFC", text.lower()).split(".")
    try:
        return dns_name(".".join(_a_label(label) for label in labels))
    except (idna.IDNAError, UnicodeError) as error:
        raise MalformedMessage(f"{_shown(text)} is not an internationalised name") from error


def _a_label(label: str) -> str:
    return label if label.isascii() else idna.alabel(label).decode("ascii")


def _check_a_label(label: str, text: str) -> None:
    """RFC 5890 section 2.3.1: `??--` is reserved, but for A-labels, which have exactly one U-label
    and are what that one encodes to."""
    if not label.startswith("xn--"):
        _refuse(text, f"the label {label} is reserved (RFC 5890)")
    try:
        u_label = idna.ulabel(label)
        sound = idna.alabel(u_label) == label.encode("ascii")
    except (idna.IDNAError, UnicodeError):
        sound, u_label = False, ""
    if not sound:
        _refuse(text, f"the label {label} is not valid in IDNA 2008")
    if len(_scripts(u_label) & _LOOK_ALIKES) > 1:
        _refuse(text, f"the label {label} mixes scripts that look alike")


def _scripts(u_label: str) -> set[str]:
    return {unicodedata.name(c, "?").split()[0] for c in u_label if c.isalpha()}


def ip_address(text: str) -> AltName:
    """An IPv4 or IPv6 address without zone or mask."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise MalformedMessage(f"{_shown(text)} is not an IP address") from error
    return _ip(address)


def _ip(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> AltName:
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            raise MalformedMessage("an IP address in a certificate has no zone")
        if address.ipv4_mapped is not None:
            _refuse(str(address), "write an IPv4-mapped address as IPv4")
    return AltName(NameType.IP, str(address))


def email(text: str) -> AltName:
    """A mailbox in ASCII (RFC 5280: rfc822Name); the local part keeps its case."""
    local, at, domain = text.rpartition("@")
    if not at or len(text) > MAX_EMAIL_LENGTH or len(local) > 64:
        raise MalformedMessage(f"{_shown(text)} is not an e-mail address")
    if not _DOT_STRING.fullmatch(local):
        raise MalformedMessage(f"{_shown(text)} has a local part outside RFC 5321's Dot-string")
    return AltName(NameType.EMAIL, f"{local}@{_host(domain)}")


def uri(text: str) -> AltName:
    """An absolute URI in ASCII."""
    match = _URI.fullmatch(text)
    if match is None or len(text) > MAX_URI_LENGTH or not _URI_TEXT.fullmatch(text):
        raise MalformedMessage(f"{_shown(text)} is not an absolute URI in ASCII")
    scheme, authority, rest = match.groups()
    # RFC 5280: a scheme and a scheme-specific part, at the least.
    if not authority and not rest:
        raise MalformedMessage(f"{_shown(text)} has nothing after the scheme")
    where = "" if authority is None else f"//{_authority(authority)}"
    return AltName(NameType.URI, f"{scheme.lower()}:{where}{rest}")


def _authority(authority: str) -> str:
    """RFC 5280: the host is a fully qualified name or an address. Empty as in `file:///x` is
    left alone. A user name would make the host hard to see, and a password no secret."""
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        raise MalformedMessage(f"{_shown(authority)} is not host and port of a URI")
    host, port = match[1], match[2] or ""
    if host.startswith("["):
        address = ip_address(host[1:-1]).value
        if ":" not in address:
            raise MalformedMessage("only IPv6 addresses stand in brackets")
        return f"[{address}]{port}"
    if not host and port:
        raise MalformedMessage("a port without a host in a URI")
    return f"{_host_or_address(host) if host else ''}{port}"


def _host_or_address(host: str) -> str:
    return ip_address(host).value if _NUMBER.fullmatch(host.rpartition(".")[2]) else _host(host)


def _host(domain: str) -> str:
    name = dns_name(domain)
    if name.is_wildcard:
        raise MalformedMessage(f"{_shown(domain)}: a wildcard is not a host")
    return name.value


def uri_host(name: AltName) -> str | None:
    """The host of a normalised URI name, None if it has no authority part."""
    match = _URI.fullmatch(name.value)
    if match is None or not match[2]:
        return None
    host = _AUTHORITY.fullmatch(match[2])
    return None if host is None else host[1]


def upn(text: str) -> AltName:
    """A Microsoft user principal name; the user part keeps its case."""
    user, at, suffix = text.rpartition("@")
    if not user or "@" in user or not suffix or len(text) > MAX_UPN_LENGTH:
        raise MalformedMessage(f"{_shown(text)} is not a user principal name")
    if any(unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for c in text):
        raise MalformedMessage("a user principal name has control characters")
    return AltName(NameType.UPN, unicodedata.normalize("NFC", f"{user}@{suffix.lower()}"))


def _other(text: str) -> NoReturn:
    raise MalformedMessage("names of this type are not issued")


_PARSERS: dict[NameType, Callable[[str], AltName]] = {
    NameType.DNS: dns_name,
    NameType.IP: ip_address,
    NameType.EMAIL: email,
    NameType.URI: uri,
    NameType.UPN: upn,
    NameType.OTHER: _other,
}


def from_general_names(names: Iterable[x509.GeneralName]) -> tuple[AltName, ...]:
    """Normalised names in the order given; takes a `SubjectAlternativeName` too."""
    return tuple(from_general_name(name) for name in names)


def from_general_name(name: x509.GeneralName) -> AltName:
    """The normal form of one GeneralName. What is never issued becomes OTHER, so that a profile
    or constraint refuses it by name rather than overlooks it."""
    match name:
        case x509.DNSName():
            return dns_name(name.value)
        case x509.IPAddress(value=ipaddress.IPv4Address() | ipaddress.IPv6Address() as address):
            return _ip(address)
        case x509.RFC822Name():
            return email(name.value)
        case x509.UniformResourceIdentifier():
            return uri(name.value)
        case x509.OtherName() if name.type_id == UPN_OID:
            return upn(der.decode_text(der.read_one(name.value, der.UTF8_STRING)))
        case x509.OtherName():
            return _foreign(f"otherName:{name.type_id.dotted_string}:{name.value.hex()}")
        case x509.DirectoryName():
            return _foreign(f"directoryName:{name.value.rfc4514_string()}")
        case x509.RegisteredID():
            return _foreign(f"registeredID:{name.value.dotted_string}")
    raise MalformedMessage("a subject alternative name of an unknown kind")


def _foreign(text: str) -> AltName:
    return AltName(NameType.OTHER, text)


def to_general_name(name: AltName) -> x509.GeneralName:
    """For a certificate builder. `PKIError` REFUSED_NAME for OTHER."""
    match name.type:
        case NameType.DNS:
            return x509.DNSName(name.value)
        case NameType.IP:
            return x509.IPAddress(ipaddress.ip_address(name.value))
        case NameType.EMAIL:
            return x509.RFC822Name(name.value)
        case NameType.URI:
            return x509.UniformResourceIdentifier(name.value)
        case NameType.UPN:
            value = der.encode(der.UTF8_STRING, name.value.encode())
            return x509.OtherName(UPN_OID, value)
        case NameType.OTHER:
            _refuse(name.value, "names of this type are not issued")


def reversed_dns(name: str) -> str:
    """`www.example.com` as `com.example.www`: a domain is then a prefix of what is below it."""
    return ".".join(reversed(name.split(".")))


def _refuse(text: str, why: str) -> NoReturn:
    raise PKIError(ErrorCode.REFUSED_NAME, f"{_shown(text)}: {why}", names=(text,))


def _shown(text: str) -> str:
    """For a person to read: no control characters, no flood."""
    return ascii(text if len(text) <= 100 else text[:97] + "...")
