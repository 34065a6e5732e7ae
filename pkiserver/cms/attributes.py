"""Attributes (RFC 5652 section 5.3).

Attribute ::= SEQUENCE { attrType OBJECT IDENTIFIER, attrValues SET OF ANY }
"""

from collections.abc import Iterable, Mapping

from pkiserver.cms import content_info
from pkiserver.errors import MalformedMessage
from pkiserver.pkix import der

MAX_ATTRIBUTES = 64

Attributes = Mapping[str, tuple[bytes, ...]]
"""The DER of an attribute's values, by the dotted OID of its type."""


def parse(elements: Iterable[der.TLV]) -> Attributes:
    """Each type at most once: with two of one, which of them was meant is anybody's guess."""
    found: dict[str, tuple[bytes, ...]] = {}
    for element in elements:
        members = content_info.members_of(element, "Attribute")
        oid = der.decode_oid(members.take(der.OBJECT_IDENTIFIER).contents)
        values = der.children(members.take(der.SET).contents)
        members.finish()
        if oid in found or element.tag != der.SEQUENCE:
            raise MalformedMessage(f"attribute {oid} is repeated or is no SEQUENCE")
        found[oid] = tuple(value.encoded for value in values)
        if len(found) > MAX_ATTRIBUTES:
            raise MalformedMessage(f"more than {MAX_ATTRIBUTES} attributes")
    return found


def encode(attributes: Iterable[tuple[str, bytes]]) -> list[bytes]:
    """One element for each (type, DER of the only value), in the order DER gives them in a SET."""
    return sorted(
        der.encode(der.SEQUENCE, der.encode_oid(oid), der.encode(der.SET, value))
        for oid, value in attributes
    )


def single(attributes: Attributes, oid: str, tag: int) -> der.TLV | None:
    """The only value of an attribute, which has this tag; None where there is no attribute."""
    values = attributes.get(oid)
    if values is None:
        return None
    if len(values) != 1:
        raise MalformedMessage(f"attribute {oid} has not exactly one value")
    return der.read_one(values[0], tag)
