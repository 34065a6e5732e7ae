"""`NameRules` of the configuration, compiled: which names of one type a profile certifies.

Patterns compare with normalised names (`pkix.names`). A deny wins. Where a name stands for more
than itself (a wildcard), it is denied if anything it stands for is.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pkiserver.config import NameRules
from pkiserver.errors import PKIError
from pkiserver.pkix import names
from pkiserver.pkix.names import AltName, NameType

Matcher = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern as it was written, and what it does with a normalised value."""

    text: str
    matches: Matcher


@dataclass(frozen=True, slots=True)
class CompiledRules:
    """The rules for names of one type."""

    allow: tuple[Pattern, ...]
    deny: tuple[Pattern, ...]

    def refusal(self, value: str) -> str | None:
        """None if the name may be certified, else why not."""
        for pattern in self.deny:
            if pattern.matches(value):
                return f"denied by {pattern.text!r}"
        if not self.allow:
            return "names of this type are not certified"
        if not any(pattern.matches(value) for pattern in self.allow):
            return "no allowed pattern matches"
        return None


def compile_rules(
    name_type: NameType, rules: NameRules, report: Callable[[str, str], None]
) -> CompiledRules:
    """Compiled rules; what is wrong with a pattern goes to `report(key, problem)`."""
    allow, deny = _COMPILERS[name_type]
    return CompiledRules(
        _patterns("allow", rules.allow, allow, report), _patterns("deny", rules.deny, deny, report)
    )


def _patterns(
    key: str,
    texts: tuple[str, ...],
    compiler: Callable[[str], Matcher],
    report: Callable[[str, str], None],
) -> tuple[Pattern, ...]:
    found: list[Pattern] = []
    for text in texts:
        try:
            found.append(Pattern(text, _anything if text == "*" else compiler(text)))
        except ValueError as error:
            report(key, f"{text!r}: {error}")
        except PKIError as error:
            report(key, error.detail)
    return tuple(found)


def _anything(value: str) -> bool:
    return True


def _dns_allow(text: str) -> Matcher:
    name = names.internationalized_dns_name(text)
    if name.is_wildcard:
        return lambda value: value.endswith(name.value[1:])
    return lambda value: value == name.value


def _dns_deny(text: str) -> Matcher:
    """`*.example.com` is valid for `secret.example.com`: so a deny of the latter denies both."""
    matches = _dns_allow(text)
    covering = "*." + names.internationalized_dns_name(text).value.partition(".")[2]
    if text.startswith("*."):
        return matches
    return lambda value: matches(value) or value == covering


def _ip(text: str) -> Matcher:
    network = ipaddress.ip_network(text)
    return lambda value: ipaddress.ip_address(value) in network


def _mailbox(parse: Callable[[str], AltName]) -> Callable[[str], Matcher]:
    """User parts compare without regard to case, as every mail system and directory does."""

    def compiler(text: str) -> Matcher:
        pattern = parse(f"user{text}" if text.startswith("@") else text).value.casefold()
        if text.startswith("@"):
            domain = pattern.removeprefix("user")
            return lambda value: value.casefold().endswith(domain)
        return lambda value: value.casefold() == pattern

    return compiler


_WHOLE_PREFIX = re.compile(r"[a-z][a-z0-9+.-]*:(//[^/?#]+/.*|[^/].*|)", re.DOTALL)


def _uri(text: str) -> Matcher:
    """A prefix ends after the host, so that `https://example.com*` cannot match another host."""
    if not text.endswith("*"):
        exact = names.uri(text).value
        return lambda value: value == exact
    prefix = text[:-1]
    if not _WHOLE_PREFIX.fullmatch(prefix):
        raise ValueError("write the scheme in lower case and a slash after the host")
    if prefix.partition(":")[2]:
        prefix = names.uri(prefix).value
    return lambda value: value.startswith(prefix)


_PERCENT = re.compile(r"%([0-9A-Fa-f]{2})")
_DOT_SEGMENT = re.compile(r"/\.\.?(?=[/?#]|$)")


def has_second_spelling(uri: str) -> bool:
    """Whether RFC 3986 section 6.2.2 gives another URI for the same thing: dot segments, or octets
    encoded that need not be. A rule that looks at the text would be evaded by it."""
    unreserved = any(
        (character := chr(int(octet, 16))).isascii()
        and (character.isalnum() or character in "-._~")
        for octet in _PERCENT.findall(uri)
    )
    return unreserved or _DOT_SEGMENT.search(uri) is not None


_COMPILERS: Mapping[NameType, tuple[Callable[[str], Matcher], Callable[[str], Matcher]]] = (
    MappingProxyType(
        {
            NameType.DNS: (_dns_allow, _dns_deny),
            NameType.IP: (_ip, _ip),
            NameType.EMAIL: (_mailbox(names.email), _mailbox(names.email)),
            NameType.URI: (_uri, _uri),
            NameType.UPN: (_mailbox(names.upn), _mailbox(names.upn)),
        }
    )
)
