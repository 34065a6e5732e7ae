"""Members of a payload, by what they have to be. Raises `Problem` and nothing else.

An optional member that is null counts as absent; one of another JSON type is refused.
"""

import datetime as dt
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from pkiserver.errors import MalformedMessage, PKIError
from pkiserver.pkix.names import email
from protocols.acme.encoding import decode_base64url, load_object
from protocols.acme.problems import Problem, ProblemType, malformed

MAX_CONTACTS = 10
MAX_CONTACT = 320
MAX_TEXT = 256
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
T = TypeVar("T")


def read_members(payload: bytes) -> dict[str, Any]:
    try:
        return load_object(payload, "The payload")
    except MalformedMessage as error:
        raise malformed(error.detail) from error


def optional(members: Mapping[str, Any], name: str, kind: type[T]) -> T | None:
    value = members.get(name)
    if value is None:
        return None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise malformed(f"'{name}' is not of the JSON type it should be")
    return value


def flag(members: Mapping[str, Any], name: str) -> bool:
    return optional(members, name, bool) or False


def text(members: Mapping[str, Any], name: str) -> str | None:
    value = optional(members, name, str)
    if value is not None and not (
        0 < len(value) <= MAX_TEXT and value.isascii() and value.isprintable()
    ):
        raise malformed(f"'{name}' is not 1 to {MAX_TEXT} printable ASCII characters")
    return value


def der(members: Mapping[str, Any], name: str) -> bytes:
    """base64url of DER. Padding is against section 6.1, but Synology and others send it."""
    value = optional(members, name, str)
    if not value:
        raise malformed(f"'{name}' is missing")
    try:
        return decode_base64url(value.rstrip("="), f"'{name}'")
    except MalformedMessage as error:
        raise malformed(error.detail) from error


def time(members: Mapping[str, Any], name: str) -> dt.datetime | None:
    value = optional(members, name, str)
    return None if value is None else _parse_time(value, name)


def _parse_time(text: str, name: str) -> dt.datetime:
    """RFC 3339 section 5.6, the zone included, in UTC."""
    try:
        if not _RFC3339.fullmatch(text):
            raise ValueError
        return dt.datetime.fromisoformat(text.upper()).astimezone(dt.UTC)
    except (ValueError, OverflowError):
        raise malformed(f"'{name}' is not a time with zone as in RFC 3339") from None


def contacts(members: Mapping[str, Any]) -> tuple[str, ...] | None:
    items = optional(members, "contact", list)
    if items is None:
        return None
    if len(items) > MAX_CONTACTS:
        raise Problem(
            ProblemType.INVALID_CONTACT, f"An account has {MAX_CONTACTS} contacts at most"
        )
    for item in items:
        _check_contact(item)
    return tuple(items)


def _check_contact(contact: Any) -> None:
    """Section 7.3: a mailto URI of one address without header fields, or it is refused."""
    if not isinstance(contact, str) or len(contact) > MAX_CONTACT:
        raise malformed(f"A contact is a URI of at most {MAX_CONTACT} characters")
    scheme, _, address = contact.partition(":")
    if not _SCHEME.match(contact):
        raise Problem(ProblemType.INVALID_CONTACT, "A contact is a URI")
    if scheme.lower() != "mailto":
        raise Problem(ProblemType.UNSUPPORTED_CONTACT, "Contacts are mailto URIs here")
    try:
        if "?" in address or "," in address or "%" in address:
            raise MalformedMessage("A mailto contact has one address and no header fields")
        email(address)
    except PKIError as error:
        raise Problem(ProblemType.INVALID_CONTACT, error.detail) from error
