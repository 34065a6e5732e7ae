"""Patterns of names: a directory's rules and those of an external account key, compiled."""

import functools

from pkiserver.ca.name_rules import CompiledRules, compile_rules
from pkiserver.config import NameRules
from pkiserver.errors import configuration_error
from pkiserver.pkix.names import NameType


def rules_of(kind: NameType, rules: NameRules, place: str) -> CompiledRules:
    """Rules compiled. Raises `PKIError` CONFIGURATION with every mistake in them."""
    problems: list[str] = []
    compiled = compile_rules(
        kind, rules, lambda key, problem: problems.append(f"{place}.{kind}.{key}: {problem}")
    )
    if problems:
        raise configuration_error("\n".join(problems))
    return compiled


@functools.lru_cache(maxsize=1024)
def own_rules(kind: NameType, patterns: tuple[str, ...]) -> CompiledRules:
    """The rules of an account or an external account key, whose patterns are of both types: what
    looks like an address or a network is for IP, everything else for DNS. `!` in front denies;
    where that is all there is, the rest is allowed."""
    is_ip = kind is NameType.IP
    deny = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    allow = [pattern for pattern in patterns if not pattern.startswith("!")] or ["*"]
    rules = NameRules(
        allow=tuple(p for p in allow if p == "*" or _looks_like_ip(p) == is_ip),
        deny=tuple(p for p in deny if p == "*" or _looks_like_ip(p) == is_ip),
    )
    return rules_of(kind, rules, "names")


def _looks_like_ip(pattern: str) -> bool:
    return "/" in pattern or ":" in pattern or pattern.replace(".", "").isdigit()
