"""The `issue-value` grammar of RFC 8659 section 4.2, shared by CAA records and dns-persist-01:

issue-value = *WSP [issuer-domain-name *WSP] [";" *WSP [parameters *WSP]]
parameters  = (parameter *WSP ";" *WSP parameters) / parameter
parameter   = tag *WSP "=" *WSP value
"""

import re
from dataclasses import dataclass

from pkiserver.errors import MalformedMessage

_WSP = b" \t"
_LABEL = rb"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_ISSUER = re.compile(rb"(?:%s(?:\.%s)*)?" % (_LABEL, _LABEL))
_TAG = re.compile(_LABEL)
_VALUE = re.compile(rb"[\x21-\x3a\x3c-\x7e]*")


@dataclass(frozen=True, slots=True)
class IssueValue:
    """`issuer` is the issuer domain name in lower case, empty where none is named. `parameters`
    are in order, tags in lower case (RFC 8659 section 4.2: matching is case-insensitive)."""

    issuer: str
    parameters: tuple[tuple[str, str], ...]

    def get(self, tag: str) -> str | None:
        """The value of the parameter `tag`, None where it is absent. One that stands there twice
        has no meaning (RFC 8657 sections 3 and 4), so it raises MalformedMessage."""
        values = [value for name, value in self.parameters if name == tag]
        if len(values) > 1:
            raise MalformedMessage(f"parameter {tag} is repeated")
        return values[0] if values else None


def parse_issue_value(data: bytes) -> IssueValue:
    """Raises MalformedMessage for anything outside the grammar."""
    issuer, semicolon, rest = data.partition(b";")
    issuer = issuer.strip(_WSP)
    if not _ISSUER.fullmatch(issuer):
        raise MalformedMessage("the issuer domain name is malformed")
    rest = rest.strip(_WSP)
    # A lone ";" may end the issuer, but an empty parameter may stand nowhere.
    parameters = tuple(_parameter(part) for part in rest.split(b";")) if rest else ()
    return IssueValue(issuer.decode("ascii").lower(), parameters)


def _parameter(data: bytes) -> tuple[str, str]:
    tag, equals, value = data.strip(_WSP).partition(b"=")
    tag, value = tag.rstrip(_WSP), value.lstrip(_WSP)
    if not equals or not _TAG.fullmatch(tag):
        raise MalformedMessage("a parameter is not of the form tag=value")
    if not _VALUE.fullmatch(value):
        raise MalformedMessage("a parameter's value holds a forbidden character")
    return tag.decode("ascii").lower(), value.decode("ascii")
