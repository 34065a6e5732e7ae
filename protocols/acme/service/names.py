"""Whether an account may ask for names at all: the directory's, the external account key's and the
profile's rules, before any authorization is made; and whether it still may, before issuance."""

from collections.abc import Callable, Iterable, Sequence

from pkiserver.ca.policy import name_refusal
from pkiserver.ca.profiles import Profile
from pkiserver.pkix.names import AltName, NameType
from pkiserver.storage import Reader
from protocols.acme.challenges import ChallengeType
from protocols.acme.identifiers import Identifier
from protocols.acme.problems import Problem, ProblemType, WireIdentifier
from protocols.acme.records import Account, ExternalAccount, NamedIdentifier
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


_Own = Sequence[tuple[str, tuple[str, ...]]]
"""Whose patterns, and the patterns."""


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
        own = _own(account, bound)
        _raise_any(
            self._forbidden(identifier, own)
            or _unobtainable(identifier, bool(challenge_types(identifier, trusted)), profile)
            for identifier in identifiers
        )
        return trusted

    def check_again(
        self, reader: Reader, account: Account, identifiers: Sequence[NamedIdentifier]
    ) -> None:
        """Raises like `check` for names the account must not have any more: it, or the directory,
        may have been bound to others since the order was made."""
        own = _own(account, self._external.read(reader, account.external_account))
        _raise_any(self._forbidden(identifier, own) for identifier in identifiers)

    def _forbidden(self, identifier: NamedIdentifier, own: _Own) -> Problem | None:
        name = alt_name(identifier)
        why = self._rules[name.type].refusal(name.value)
        if why is not None:
            return _refused(identifier, f"this directory does not serve this name: {why}")
        for whose, patterns in own:
            if patterns and own_rules(name.type, patterns).refusal(name.value) is not None:
                return _refused(identifier, f"the {whose} is not good for this name")
        return None


def _own(account: Account, bound: ExternalAccount | None) -> _Own:
    """Whose patterns hold beside the directory's."""
    theirs = () if bound is None else bound.names
    return (("account", account.names), ("external account key", theirs))


def _unobtainable(
    identifier: NamedIdentifier, provable: bool, profile: Profile | None
) -> Problem | None:
    if not provable:
        return _refused(identifier, "no challenge offered here can prove this name")
    error = None if profile is None else name_refusal(profile, alt_name(identifier))
    return None if error is None else _refused(identifier, error.detail)


def _refused(identifier: NamedIdentifier, detail: str) -> Problem:
    return Problem(ProblemType.REJECTED_IDENTIFIER, detail, identifier=wire(identifier))


def _raise_any(found: Iterable[Problem | None]) -> None:
    problems = [problem for problem in found if problem is not None]
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise Problem(
            ProblemType.REJECTED_IDENTIFIER,
            f"{len(problems)} identifiers are refused; see subproblems",
            subproblems=problems,
        )
