"""base64url and JSON as strictly as JWS needs them (RFC 7515 section 2, RFC 7493).

Everything here raises `MalformedMessage` and nothing else. JSON is refused where two readers could
disagree about it: duplicate members, other encodings than UTF-8, lone surrogates, NaN.
"""

import binascii
import json
from collections.abc import Mapping
from typing import Any

from pkiserver.errors import MalformedMessage

MAX_DEPTH = 8
_TO_STANDARD = bytes.maketrans(b"-_+/=", b"+/!!!")
_TO_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_FINAL_CHARACTERS = {0: None, 2: frozenset("AQgw"), 3: frozenset("AEIMQUYcgkosw048")}
"""By length modulo 4, the last characters that leave no bit over: one spelling for each value."""


def encode_base64url(data: bytes) -> str:
    """Unpadded base64url (RFC 7515 section 2)."""
    encoded = binascii.b2a_base64(data, newline=False).rstrip(b"=")
    return encoded.translate(_TO_URL_SAFE).decode("ascii")


def decode_base64url(text: str, what: str) -> bytes:
    """The reverse, of the one spelling `encode_base64url` gives; `what` names it in the error."""
    remainder = len(text) & 3
    final = _FINAL_CHARACTERS.get(remainder, frozenset())
    try:
        if final is not None and text[-1] not in final:
            raise ValueError
        data = text.encode("ascii").translate(_TO_STANDARD) + b"=" * (-remainder & 3)
        return binascii.a2b_base64(data, strict_mode=True)
    except ValueError:
        raise MalformedMessage(f"{what} is not unpadded base64url") from None


def load_object(data: bytes, what: str) -> dict[str, Any]:
    """The JSON object in `data`, its strings free of lone surrogates, nested `MAX_DEPTH` deep at
    most; `what` names it in the error."""
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_without_duplicates, parse_constant=_refuse
        )
        if b"\\u" in data:
            # An escaped surrogate without its pair is not text; no later encoding may trip on it.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        raise MalformedMessage(f"{what} is not well-formed JSON") from None
    if not isinstance(value, dict):
        raise MalformedMessage(f"{what} is not a JSON object")
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH:
        _check_depth(value, what)
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate member")
    return members


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


def _check_depth(value: Any, what: str) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for item in level for child in _children(item)]
        if not level:
            return
    raise MalformedMessage(f"{what} is nested too deeply")


def _children(item: Any) -> list[Any]:
    values = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
    return [value for value in values if isinstance(value, dict | list)]


def string(members: Mapping[str, Any], name: str, what: str) -> str:
    """A member that must be there and be a string."""
    value = members.get(name)
    if not isinstance(value, str):
        raise MalformedMessage(f"{what} has no string '{name}'")
    return value
