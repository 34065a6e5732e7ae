"""How acme.sh reads an ACME server: line and pattern matching in place of a JSON parser.

acme.sh is a shell script and the least tolerant client there is: member order, nested objects and
one link per header line matter to it. Each function applies one of its rules to a response as it
came over the wire and returns what acme.sh would go on with, "" where it would find nothing.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

Headers = Sequence[tuple[str, str]]
LONGEST_WAIT = 600
_BAD_NONCE = (
    "JWS has an invalid anti-replay nonce",
    "JWS has invalid anti-replay nonce",
    "The Replay Nonce is not recognized",
)


@dataclass(frozen=True)
class Entry:
    """A challenge as cut from the text of an authorization."""

    url: str
    token: str


def normalized(body: bytes) -> str:
    """No line ends, no blanks between a member name and a string, object or array."""
    text = body.decode().replace("\r", "").replace("\n", "")
    return re.sub(r'" *: *(["{\[])', r'":\1', text)


def header_lines(headers: Headers, name: str) -> list[str]:
    """Values of the header lines of that name in any case, one for each line."""
    return [value.strip() for key, value in headers if key.lower() == name.lower()]


def nonce(headers: Headers) -> str:
    """All of the first Replay-Nonce line up to a comma."""
    lines = header_lines(headers, "Replay-Nonce")
    return lines[0].partition(",")[0].strip() if lines else ""


def location(headers: Headers) -> str:
    """The first Location line: account or order URL."""
    lines = header_lines(headers, "Location")
    return lines[0] if lines else ""


def retry_after(headers: Headers) -> int:
    """Seconds, 0 without the header; ValueError for a date or for longer than it would wait."""
    lines = header_lines(headers, "Retry-After")
    seconds = int(lines[0]) if lines else 0
    if seconds > LONGEST_WAIT:
        raise ValueError(f"acme.sh gives up when told to wait {seconds} s")
    return seconds


def is_bad_nonce(body: bytes) -> bool:
    """It tries again only if the problem contains one of three sentences."""
    return any(sentence in normalized(body) for sentence in _BAD_NONCE)


def directory_url(body: bytes, name: str) -> str:
    """A URL of the directory object, such as `newOrder`."""
    return _first(rf'"{name}" *: *"([^"]*)"', normalized(body))


def authorizations(body: bytes) -> list[str]:
    """Everything between the brackets after "authorizations", split at commas."""
    inside = _first(r'"authorizations" *: *\[([^\[]*?)\]', normalized(body))
    return [url for url in inside.replace('"', "").replace(" ", "").split(",") if url]


def finalize_url(body: bytes) -> str:
    """The finalize URL of an order."""
    return _first(r'"finalize" *: *"([^"]*)"', normalized(body))


def certificate_url(body: bytes) -> str:
    """The certificate URL of an order, only if the text says valid."""
    text = normalized(body)
    if '"status":"valid"' not in text:
        return ""
    return _first(r'"certificate" *: *"([^"]*)"', text)


def identifier(body: bytes) -> str:
    """The first "value" in an authorization, whatever object it is in."""
    return _first(r'"value" *: *"([^"]*)"', normalized(body))


def is_wildcard(body: bytes) -> bool:
    """Whether an authorization says `"wildcard": true`."""
    return re.search(r'"wildcard" *: *true', normalized(body)) is not None


def challenge(body: bytes, kind: str) -> Entry:
    """What stands between the braces around `"type":"KIND"`: url and token must be in there."""
    found = re.search(r'[^{]*"type":"' + re.escape(kind) + r'"[^}]*', normalized(body))
    text = found[0] if found else ""
    return Entry(_first(r'"url":"([^"]*)"', text), _first(r'"token":"([^"]*)"', text))


def says_valid(body: bytes) -> bool:
    """Any `"status":"valid"` in the text: the authorization's, or a challenge's."""
    return '"status":"valid"' in normalized(body)


def says_invalid(body: bytes) -> bool:
    """Any `"status":"invalid"` in the text."""
    return '"status":"invalid"' in normalized(body)


def error(body: bytes) -> str:
    """The text of the first error object up to its first closing brace."""
    return _first(r'"error":\{([^}]*)', normalized(body))


def detail(body: bytes) -> str:
    """The detail that it shows to its user."""
    return _first(r'"detail":"([^"]*)"', normalized(body))


def alternates(headers: Headers) -> list[str]:
    """One URL for each Link line that has `rel="alternate"`; a second link in a line is lost."""
    plain = [line.replace(" ", "") for line in header_lines(headers, "Link")]
    return [line.partition(";")[0].strip("<>") for line in plain if 'rel="alternate"' in line]


def certificates(body: bytes) -> list[str]:
    """The chain cut at the BEGIN lines; each must end with a line end."""
    parts = body.decode().split("-----BEGIN CERTIFICATE-----\n")[1:]
    return [f"-----BEGIN CERTIFICATE-----\n{part}" for part in parts]


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else ""
