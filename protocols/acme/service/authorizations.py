"""Authorizations and challenges as clients see and change them: RFC 8555 sections 7.4.1, 7.5."""

import datetime as dt

from pkiserver.storage import Reader, Transaction
from protocols.acme.challenges import VALIDATORS, ChallengeType, IdentifierType
from protocols.acme.problems import Problem, ProblemType
from protocols.acme.records import Account, Authorization, Challenge, NamedIdentifier
from protocols.acme.service.accounts import require_still_valid
from protocols.acme.service.directory import Directory
from protocols.acme.service.limits import refuse_crowd
from protocols.acme.service.names import NamePolicy
from protocols.acme.states import AuthorizationStatus, ChallengeStatus, authorization_status
from protocols.acme.store import authorizations as store
from protocols.acme.store import upkeep

LAST_MOMENT = dt.timedelta(hours=1)
"""What ends sooner is not reused, since the order that stands on it would end with it."""
_DEACTIVATED = Problem(
    ProblemType.UNAUTHORIZED, "an authorization of the order was deactivated by the client"
)


class Authorizations:
    """The authorizations of one directory."""

    def __init__(self, directory: Directory, names: NamePolicy) -> None:
        self._directory = directory
        self._services = directory.services
        self._names = names

    def challenge_types(
        self, identifier: NamedIdentifier, trusted: bool = False
    ) -> list[ChallengeType]:
        """The challenges on offer that can prove an identifier; with trust, one of any kind, since
        clients expect an authorization to have one."""
        kind: IdentifierType = "ip" if identifier.type == "ip" else "dns"
        offered = [ChallengeType(name) for name in self._directory.settings.challenges]
        candidates = [*offered, *VALIDATORS] if trusted else offered
        able = [
            challenge
            for challenge in candidates
            if VALIDATORS[challenge].can_prove(kind, wildcard=identifier.wildcard)
        ]
        return able[:1] if trusted else able

    def ensure(
        self, tx: Transaction, account: Account, identifier: NamedIdentifier, *,
        now: int, expires: int, trusted: bool,
    ) -> Authorization:  # fmt: skip
        """A valid authorization of the account to reuse, or a new one."""
        usable = self._usable(tx, account, identifier, now, trusted)
        if usable is not None:
            return usable
        return self._insert(tx, account, identifier, now=now, expires=expires, trusted=trusted)

    def _usable(
        self, tx: Transaction, account: Account, identifier: NamedIdentifier, now: int,
        trusted: bool,
    ) -> Authorization | None:  # fmt: skip
        """A valid one, if the directory reuses any and it lasts for the client to finish. One that
        was given on trust is good only while the account is trusted."""
        lifetime = self._directory.settings.authorization_lifetime
        if lifetime <= dt.timedelta(0):
            return None
        until = now + int(min(LAST_MOMENT, lifetime / 2).total_seconds())
        return store.usable_authorization(
            tx, account.id, identifier.type, identifier.value, identifier.wildcard, until,
            proven=not trusted,
        )  # fmt: skip

    def _insert(
        self, tx: Transaction, account: Account, identifier: NamedIdentifier, *,
        now: int, expires: int, trusted: bool,
    ) -> Authorization:  # fmt: skip
        status = AuthorizationStatus.VALID if trusted else AuthorizationStatus.PENDING
        authorization = Authorization(
            id=self._directory.new_id(),
            account=account.id,
            type=identifier.type,
            value=identifier.value,
            sent=identifier.sent.removeprefix("*."),
            wildcard=identifier.wildcard,
            status=status,
            expires=expires,
            created=now,
        )
        types = self.challenge_types(identifier, trusted)
        store.insert_authorization(
            tx, authorization,
            [self._challenge(authorization, n, kind, trusted) for n, kind in enumerate(types)],
        )  # fmt: skip
        return authorization

    def _challenge(
        self, authorization: Authorization, position: int, kind: ChallengeType, trusted: bool
    ) -> Challenge:
        return Challenge(
            id=self._directory.new_id(),
            authorization=authorization.id,
            position=position,
            type=kind,
            token=self._directory.new_id() + self._directory.new_id(),
            status=ChallengeStatus.VALID if trusted else ChallengeStatus.PENDING,
            started=None,
            validated=authorization.created if trusted else None,
            error=None,
        )

    async def pre_authorize(
        self, account: Account, identifier: NamedIdentifier
    ) -> tuple[Authorization, bool]:
        """Section 7.4.1: the pending or valid authorization there is, or a new one, and whether it
        is new. A wildcard cannot be pre-authorized."""
        if identifier.wildcard:
            raise Problem(ProblemType.MALFORMED, "a wildcard name cannot be authorized in advance")
        trusted = await self._names.check(account, [identifier], self.challenge_types)
        now = self._directory.now()
        expires = now + int(self._directory.settings.order_lifetime.total_seconds())

        def work(tx: Transaction) -> tuple[Authorization, bool]:
            require_still_valid(tx, account)
            valid = self._usable(tx, account, identifier, now, trusted)
            existing = valid or store.usable_authorization(
                tx, account.id, identifier.type, identifier.value, False, now,
                AuthorizationStatus.PENDING,
            )  # fmt: skip
            if existing is not None:
                return existing, False
            refuse_crowd(
                tx, self._directory.settings.orders_per_account,
                upkeep.PRE_AUTHORIZATIONS_OF_ACCOUNT, (account.id,), now,
                "new authorizations of this account",
            )  # fmt: skip
            new = self._insert(tx, account, identifier, now=now, expires=expires, trusted=trusted)
            self._audit(tx, account, "acme.authorization.create", new)
            return new, True

        return await self._services.database.write(work)

    async def get(
        self, account: Account, authorization_id: str
    ) -> tuple[Authorization, list[Challenge]]:
        """An authorization of this account and its challenges. Raises 404, or 403 for another's."""

        def work(reader: Reader) -> tuple[Authorization | None, list[Challenge]]:
            found = store.authorization(reader, authorization_id)
            return found, store.challenges(reader, authorization_id)

        found, challenges = await self._services.database.lookup(work)
        return _owned(found, account), challenges

    async def challenge(
        self, account: Account, challenge_id: str
    ) -> tuple[Challenge, Authorization]:
        """A challenge of this account and its authorization."""

        def work(reader: Reader) -> tuple[Challenge | None, Authorization | None]:
            found = store.challenge(reader, challenge_id)
            if found is None:
                return None, None
            return found, store.authorization(reader, found.authorization)

        found, authorization = await self._services.database.lookup(work)
        owner = _owned(authorization, account)
        if found is None:
            raise Problem(ProblemType.MALFORMED, "no such challenge", status=404)
        return found, owner

    async def deactivate(self, account: Account, authorization_id: str) -> None:
        """Section 7.5.2. Nothing happens to one that is over."""
        authorization, _ = await self.get(account, authorization_id)

        def work(tx: Transaction) -> None:
            if store.deactivate_authorization(tx, authorization.id, _DEACTIVATED.to_json()):
                self._audit(tx, account, "acme.authorization.deactivate", authorization)

        await self._services.database.write(work)

    def status(self, authorization: Authorization) -> AuthorizationStatus:
        return authorization_status(
            authorization.status, authorization.expires, self._directory.now()
        )

    def _audit(
        self, tx: Transaction, account: Account, action: str, authorization: Authorization
    ) -> None:
        self._services.audit.append(
            tx, actor=f"acme:{account.id}", action=action, object=authorization.id,
            detail={"type": authorization.type, "value": authorization.value},
        )  # fmt: skip


def _owned(authorization: Authorization | None, account: Account) -> Authorization:
    if authorization is None:
        raise Problem(ProblemType.MALFORMED, "no such authorization", status=404)
    if authorization.account != account.id:
        raise Problem(
            ProblemType.UNAUTHORIZED, "the authorization belongs to another account", status=403
        )
    return authorization
