"""Whether an account may ask for names at all: the directory's, the external account key's and the
profile's rules, before any authorization is made."""

from collections.abc import Callable, Sequence

from pkiserver.ca.policy import name_refusal
from pkiserver.ca.profiles import Profile
from pkiserver.pkix.names import AltName, NameType
from protocols.acme.challenges import ChallengeType
from protocols.acme.identifiers import Identifier
from protocols.acme.problems import Problem, ProblemType, WireIdentifier
from protocols.acme.records import Account, NamedIdentifier
from protocols.acme.service.directory import Directory
from protocols.acme.service.external import ExternalAccounts
from protocols.acme.service.patterns import own_rules, rules_of


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
        place = f"acme.{directory.name}"
        self._rules = {
            NameType.DNS: rules_of(NameType.DNS, settings.dns, place),
            NameType.IP: rules_of(NameType.IP, settings.ip, place),
        }

    async def check(
        self,
        account: Account,
        identifiers: Sequence[NamedIdentifier],
        challenge_types: Callable[[NamedIdentifier, bool], list[ChallengeType]],
        profile: Profile | None = None,
    ) -> bool:
        """Whether the account needs no challenges. Raises `rejectedIdentifier`, one subproblem for
        each name refused (RFC 8555 section 6.7.1)."""
        bound = await self._external.of(account.external_account)
        trusted = self._directory.settings.authorization == "trusted" or bool(
            bound and bound.trusted
        )
        own = (account.names, bound.names if bound is not None else ())
        problems = [
            problem
            for identifier in identifiers
            if (
                problem := self._refusal(
                    identifier, own, bool(challenge_types(identifier, trusted)), profile
                )
            )
            is not None
        ]
        if problems:
            raise _summary(problems)
        return trusted

    def _refusal(
        self,
        identifier: NamedIdentifier,
        own: tuple[tuple[str, ...], tuple[str, ...]],
        provable: bool,
        profile: Profile | None,
    ) -> Problem | None:
        name = alt_name(identifier)
        why = self._rules[name.type].refusal(name.value)
        if why is not None:
            return _refused(identifier, f"this directory does not serve this name: {why}")
        for whose, patterns in zip(("account", "external account key"), own, strict=True):
            if patterns and own_rules(name.type, patterns).refusal(name.value) is not None:
                return _refused(identifier, f"the {whose} is not good for this name")
        if not provable:
            return _refused(identifier, "no challenge offered here can prove this name")
        error = None if profile is None else name_refusal(profile, name)
        return None if error is None else _refused(identifier, error.detail)


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
