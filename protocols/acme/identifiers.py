"""Identifiers (RFC 8555 section 9.7.7; dns of RFC 8555, ip of RFC 8738): the client's spelling,
which goes back to it unchanged, and the normal form, which everything else works with.

Raises `Problem` and nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pkiserver.errors import PKIError
from pkiserver.pkix.names import AltName, NameType, alt_name
from protocols.acme.problems import (
    Problem,
    ProblemType,
    WireIdentifier,
    malformed,
    problem_from,
)

MAX_VALUE = 255
_TYPES = {"dns": NameType.DNS, "ip": NameType.IP}


@dataclass(frozen=True, slots=True)
class Identifier:
    """An identifier of a type we know, well-formed. `sent` is the client's spelling of the value,
    `name` its normal form with the `*.` of a wildcard."""

    type: str
    sent: str
    name: AltName

    @property
    def wildcard(self) -> bool:
        return self.name.is_wildcard

    @property
    def base(self) -> str:
        """What is authorized: the normal form without `*.` (RFC 8555 section 7.1.3)."""
        return self.name.value.removeprefix("*.")


def parse_wire(item: Any) -> WireIdentifier:
    """The two strings of an identifier object, not looked at yet."""
    kind, value = (item.get("type"), item.get("value")) if isinstance(item, dict) else (None, None)
    if not isinstance(kind, str) or not isinstance(value, str):
        raise malformed("An identifier is an object with the strings 'type' and 'value'")
    if not value or len(kind) > MAX_VALUE or len(value) > MAX_VALUE:
        raise malformed(f"An identifier's value has 1 to {MAX_VALUE} characters")
    return WireIdentifier(kind, value)


def parse_identifier(wire: WireIdentifier) -> Identifier:
    """One identifier; the problem of a bad one names it."""
    kind = _TYPES.get(wire.type)
    if kind is None:
        raise Problem(
            ProblemType.UNSUPPORTED_IDENTIFIER,
            "Identifiers are of the types dns and ip here",
            identifier=wire,
        )
    try:
        return Identifier(wire.type, wire.value, alt_name(kind, wire.value))
    except PKIError as error:
        problem = problem_from(error)
        raise Problem(problem.type, problem.detail, identifier=wire) from error


def parse_identifiers(wires: Sequence[WireIdentifier]) -> tuple[Identifier, ...]:
    """All of them in their order, the first of those that are equal in normal form. Bad ones are
    reported together (RFC 8555 section 6.7.1)."""
    found: dict[AltName, Identifier] = {}
    problems: list[Problem] = []
    for wire in wires:
        try:
            identifier = parse_identifier(wire)
        except Problem as problem:
            problems.append(problem)
        else:
            found.setdefault(identifier.name, identifier)
    if problems:
        raise _summary(problems)
    return tuple(found.values())


def _summary(problems: Sequence[Problem]) -> Problem:
    if len(problems) == 1:
        return problems[0]
    types = {problem.type for problem in problems}
    return Problem(
        types.pop() if len(types) == 1 else ProblemType.COMPOUND,
        f"{len(problems)} identifiers are refused, the first: {problems[0].detail}",
        subproblems=problems,
    )
