"""Subject names made from a profile's template, such as `CN={cn},O=Example Corp,C=CH`.

The text is RFC 4514, so the first RDN written is the last one encoded: C comes before O before CN
in the certificate. A backslash takes the special meaning from the blank or the sign after it, one
of `"#+,;<=>\\{}`. A field in braces is replaced with data, which is only ever a value: commas
or plus signs in it never make another RDN. An RDN with a field without a value is left out.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import NameOID

from pkiserver.errors import ErrorCode, PKIError, configuration_error
from pkiserver.pkix.names import AltName

REQUESTED_FIELDS: Mapping[str, x509.ObjectIdentifier] = {
    "o": NameOID.ORGANIZATION_NAME,
    "ou": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "l": NameOID.LOCALITY_NAME,
    "st": NameOID.STATE_OR_PROVINCE_NAME,
    "c": NameOID.COUNTRY_NAME,
    "serialnumber": NameOID.SERIAL_NUMBER,
    "emailaddress": NameOID.EMAIL_ADDRESS,
    "uid": NameOID.USER_ID,
}
"""Fields that stand for what the request's subject says, its word taken for it."""
IDENTIFYING_FIELDS = frozenset({"serialnumber", "uid", "emailaddress"})
"""Those of them that say who somebody is, not where he belongs."""
FIELDS = frozenset({"cn", "dns", "ip", "email", "upn", "uri", *REQUESTED_FIELDS})
MAX_RDNS = 32

_PRINTABLE = re.compile(r"[A-Za-z0-9 '()+,./:=?-]*")
_COUNTRY = re.compile(r"[A-Z]{2}")
_ASCII = re.compile(r"[ -~]*")
_ANY = re.compile(r".*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _AttributeRule:
    """`most`: the upper bound of RFC 5280 appendix A.1 (RFC 4519 for UID), in characters."""

    oid: x509.ObjectIdentifier
    most: int
    syntax: re.Pattern[str] = _ANY


_ATTRIBUTES = {
    "CN": _AttributeRule(NameOID.COMMON_NAME, 64),
    "O": _AttributeRule(NameOID.ORGANIZATION_NAME, 64),
    "OU": _AttributeRule(NameOID.ORGANIZATIONAL_UNIT_NAME, 64),
    "L": _AttributeRule(NameOID.LOCALITY_NAME, 128),
    "ST": _AttributeRule(NameOID.STATE_OR_PROVINCE_NAME, 128),
    "C": _AttributeRule(NameOID.COUNTRY_NAME, 2, _COUNTRY),
    "serialNumber": _AttributeRule(NameOID.SERIAL_NUMBER, 64, _PRINTABLE),
    "emailAddress": _AttributeRule(NameOID.EMAIL_ADDRESS, 255, _ASCII),
    "UID": _AttributeRule(NameOID.USER_ID, 256),
    "DC": _AttributeRule(NameOID.DOMAIN_COMPONENT, 63, _ASCII),
}
_BY_UPPER = {key.upper(): key for key in _ATTRIBUTES}

_PIECE = re.compile(r"(?:\\.|[^\\,])*")
_RDN = re.compile(r" *(?P<key>[A-Za-z]+) *= *(?P<value>(?:\\.|[^\\])*?) *")
_TOKEN = re.compile(
    r"\{(?P<field>[a-z]+)\}|\\(?P<escaped>[ \"#+,;<=>\\{}])|(?P<plain>[^\\{}+\";<>\x00-\x1f]+)"
)


@dataclass(frozen=True, slots=True)
class _Field:
    name: str


_Part = str | _Field


@dataclass(frozen=True, slots=True)
class SubjectTemplate:
    """RDNs as written: attribute key and the parts of its value."""

    rdns: tuple[tuple[str, tuple[_Part, ...]], ...]

    @classmethod
    def parse(cls, text: str) -> "SubjectTemplate":
        """`PKIError` CONFIGURATION says what is wrong with the template. Empty text is the empty
        subject. Values without fields are checked here, once and for all."""
        pieces = _split(text)
        if len(pieces) > MAX_RDNS:
            raise configuration_error(f"subject template: more than {MAX_RDNS} parts")
        template = cls(tuple(_rdn(piece) for piece in pieces))
        for key, parts in template.rdns:
            if all(isinstance(part, str) for part in parts):
                _check_constant(key, _fill(parts, {}))
        return template

    def render(self, fields: Mapping[str, str]) -> x509.Name:
        """The name, `fields` as `fields_for` makes them. `PKIError` REFUSED_BY_PROFILE where a
        value is outside the bounds of its attribute."""
        attributes = [
            _attribute(key, value)
            for key, parts in reversed(self.rdns)
            if (value := _fill(parts, fields))
        ]
        return x509.Name(attributes)

    def requested(self, subject: x509.Name) -> dict[str, str]:
        """What this template takes from a request's subject, its word taken for it."""
        wanted = {part.name for _, parts in self.rdns for part in parts if isinstance(part, _Field)}
        fields = requested_fields(subject)
        return {key: value for key, value in fields.items() if key in wanted}

    def outline(self) -> list[tuple[x509.ObjectIdentifier, str | None]]:
        """Attribute and value of each RDN, in the order of the certificate; None where the value
        has fields in it."""
        return [
            (
                _ATTRIBUTES[key].oid,
                _fill(parts, {}) if all(isinstance(part, str) for part in parts) else None,
            )
            for key, parts in reversed(self.rdns)
        ]


def fields_for(names: Iterable[AltName], common_name: str | None) -> dict[str, str]:
    """The data a template's fields stand for: the first name of each type in the order given, and
    the common name."""
    fields: dict[str, str] = {}
    for name in names:
        if name.type.value in FIELDS - REQUESTED_FIELDS.keys():
            fields.setdefault(name.type.value, name.value)
    if common_name:
        fields["cn"] = common_name
    return fields


def requested_fields(subject: x509.Name) -> dict[str, str]:
    """The data of `REQUESTED_FIELDS` in a request's subject: the first value of each attribute."""
    fields: dict[str, str] = {}
    for key, oid in REQUESTED_FIELDS.items():
        for attribute in subject.get_attributes_for_oid(oid):
            if isinstance(attribute.value, str):
                fields.setdefault(key, attribute.value)
    return fields


def _split(text: str) -> list[str]:
    """The text between commas that are not escaped."""
    if not text.strip():
        return []
    pieces: list[str] = []
    offset = -1
    while offset < len(text):
        match = _PIECE.match(text, offset + 1)
        if match is None or (match.end() < len(text) and text[match.end()] != ","):
            raise _bad_template("it ends in a backslash")
        pieces.append(match[0])
        offset = match.end()
    return pieces


def _rdn(piece: str) -> tuple[str, tuple[_Part, ...]]:
    match = _RDN.fullmatch(piece)
    if match is None:
        raise _bad_template(f"{piece!r} is not of the form ATTRIBUTE=value")
    key = _BY_UPPER.get(match["key"].upper())
    if key is None:
        raise _bad_template(f"no attribute {match['key']}; there are {', '.join(_ATTRIBUTES)}")
    parts = tuple(_parts(match["value"]))
    if not parts:
        raise _bad_template(f"{key} has no value")
    return key, parts


def _parts(value: str) -> Iterator[_Part]:
    if value.startswith("#"):
        raise _bad_template("a value in hexadecimal; escape the # if it is meant as it stands")
    offset = 0
    while offset < len(value):
        match = _TOKEN.match(value, offset)
        if match is None:
            raise _bad_template(f"{value[offset]!r} in {value!r} has to be escaped")
        offset = match.end()
        if match["field"] and match["field"] not in FIELDS:
            raise _bad_template(f"no field {match['field']}; there are {', '.join(sorted(FIELDS))}")
        yield _Field(match["field"]) if match["field"] else match["escaped"] or match["plain"]


def _fill(parts: Iterable[_Part], fields: Mapping[str, str]) -> str:
    """The value, or the empty string if any of its fields has none."""
    values = [part if isinstance(part, str) else fields.get(part.name, "") for part in parts]
    return "".join(values) if all(values) else ""


def _attribute(key: str, value: str) -> x509.NameAttribute[str]:
    problem = _problem(key, value)
    if problem is not None:
        raise PKIError(ErrorCode.REFUSED_BY_PROFILE, problem, rule="subject")
    return x509.NameAttribute(_ATTRIBUTES[key].oid, value)


def _check_constant(key: str, value: str) -> None:
    problem = _problem(key, value)
    if problem is not None:
        raise _bad_template(problem)


def _problem(key: str, value: str) -> str | None:
    """What keeps the value from standing in this attribute."""
    rule = _ATTRIBUTES[key]
    # The library counts the bound of the common name in octets; so the stricter count serves all.
    if len(value.encode("utf-8", "surrogatepass")) > rule.most:
        return f"the subject's {key} would be longer than {rule.most} octets"
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in value):
        return f"the subject's {key} would have control characters"
    if not rule.syntax.fullmatch(value):
        return f"the subject's {key} would have characters its syntax does not allow"
    return None


def _bad_template(problem: str) -> PKIError:
    return configuration_error(f"subject template: {problem}")
