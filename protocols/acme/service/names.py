"""Whether an account may ask for names at all: the directory's, the external account key's and the
profile's rules, before any authorization is made."""

from collections.abc import Callable, Sequence

from pkiserver.ca.policy import NameMatcher, refuse_names

from pkiserver.ca.profiles import Profile
from pkiserver.config import NameRules
from pkiserver.errors import PKIError
from pkiserver.pkix.names import AltName, NameType
from protocols.acme.challenges import ChallengeType
from protocols.acme.identifiers import Identifier
from protocols.acme.problems import Problem, ProblemType, WireIdentifier
from protocols.acme.records import Account, NamedIdentifier
from protocols.acme.service.directory import Directory
from protocols.acme.service.external import ExternalAccounts


def named(identifier: Identifier) -> NamedIdentifier:
    """The identifier of a message in the form that is stored."""
    return NamedIdentifier(identifier.type, identifier.sent, identifier.base, identifier.wildcard)


def alt_name(identifier: NamedIdentifier) -> AltName:
    """The subjectAltName that an identifier becomes."""
    value = f"*.{identifier.value}" if identifier.wildcard else identifier.value
    return AltName(NameType(identifier.type), value)


def wire(identifier: NamedIdentifier) -> WireIdentifier:
    """The identifier as the client wrote it."""
    return WireIdentifier(identifier.type, identifier.sent)


class NamePolicy:
    """Names one directory serves."""

    def __init__(self, directory: Directory, external: ExternalAccounts) -> None:
        self._directory = directory
        self._external = external
        settings = directory.settings
        self._rules = {
            NameType.DNS: NameMatcher(NameType.DNS, settings.dns),
            NameType.IP: NameMatcher(NameType.IP, settings.ip),
        }

    async def check(
        self,
        account: Account,
        identifiers: Sequence[NamedIdentifier],
        challenge_types: Callable[[NamedIdentifier], list[ChallengeType]],
        profile: Profile | None = None,
    ) -> bool:
        """Whether the account needs no challenges. Raises `rejectedIdentifier`, one subproblem for
        each name refused (RFC 8555 section 6.7.1)."""
        bound = await self._external.of(account.external_account)
        trusted = self._directory.settings.authorization == "trusted" or bool(
            bound and bound.trusted
        )
        own = bound.names if bound is not None else ()
        problems = [
            problem
            for identifier in identifiers
            if (problem := self._refusal(identifier, own, challenge_types, profile)) is not None
        ]
        if problems:
            raise _summary(problems)
        return trusted

    def _refusal(
        self,
        identifier: NamedIdentifier,
        own: tuple[str, ...],
        challenge_types: Callable[[NamedIdentifier], list[ChallengeType]],
        profile: Profile | None,
    ) -> Problem | None:
        name = alt_name(identifier)
        if not self._rules[name.type].allows(name):
            return _refused(identifier, "this directory does not serve this name")
        if own and not _own_rule(name.type, own).allows(name):
            return _refused(identifier, "the external account key is not good for this name")
        if not challenge_types(identifier):
            return _refused(identifier, "no challenge offered here can prove this name")
        try:
            if profile is not None:
                refuse_names(profile, [name])
        except PKIError as error:
            return _refused(identifier, error.detail)
        return None


def _own_rule(kind: NameType, patterns: tuple[str, ...]) -> NameMatcher:
    """Patterns of an external account key are of both types: what holds a slash or parses as an
    address is for IP, everything else for DNS."""
    is_ip = kind is NameType.IP
    mine = tuple(p for p in patterns if p == "*" or _looks_like_ip(p) == is_ip)
    return NameMatcher(kind, NameRules(allow=mine))


def _looks_like_ip(pattern: str) -> bool:
    return "/" in pattern or ":" in pattern or pattern.replace(".", "").isdigit()


def _refused(identifier: NamedIdentifier, detail: str) -> Problem:
    return Problem(ProblemType.REJECTED_IDENTIFIER, detail, identifier=wire(identifier))


def _summary(problems: list[Problem]) -> Problem:
    if len(problems) == 1:
        return problems[0]
    return Problem(
        ProblemType.REJECTED_IDENTIFIER,
        f"{len(problems)} identifiers are refused; see subproblems",
        subproblems=problems,
    )
