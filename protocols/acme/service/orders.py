"""Orders: RFC 8555 sections 7.1.3 and 7.4, `replaces` of RFC 9773 section 5, profiles."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pkiserver.ca.profiles import Profile
from pkiserver.clock import epoch
from pkiserver.storage import IntegrityError, Reader, Transaction
from protocols.acme import messages
from protocols.acme.problems import Problem, ProblemType
from protocols.acme.records import Account, NamedIdentifier, Order
from protocols.acme.service.accounts import require_still_valid
from protocols.acme.service.authorizations import Authorizations
from protocols.acme.service.directory import Directory
from protocols.acme.service.external import ExternalAccounts
from protocols.acme.service.limits import refuse_crowd
from protocols.acme.service.names import NamePolicy, alt_name, named
from protocols.acme.service.renewal import Renewal
from protocols.acme.states import AuthorizationStatus, OrderStatus, order_status
from protocols.acme.store import orders as store
from protocols.acme.store import upkeep

PAGE = 100
"""Orders on a page of an account's list (section 7.1.2.1)."""
MOST_SHOWN = 20
"""Identifiers of a refused order that are recorded."""
_RECORDED = frozenset({ProblemType.REJECTED_IDENTIFIER, ProblemType.INVALID_PROFILE})


@dataclass(frozen=True, slots=True)
class OrderState:
    """An order, what it is now, and its authorizations."""

    order: Order
    status: OrderStatus
    authorizations: tuple[str, ...]


class Orders:
    """The orders of one directory."""

    def __init__(
        self,
        directory: Directory,
        authorizations: Authorizations,
        names: NamePolicy,
        external: ExternalAccounts,
        renewal: Renewal,
    ) -> None:
        self._directory = directory
        self._services = directory.services
        self._authorizations = authorizations
        self._names = names
        self._external = external
        self._renewal = renewal

    async def create(self, account: Account, message: messages.NewOrder) -> OrderState:
        """Section 7.4: all or nothing. What policy refuses is in the audit log."""
        try:
            return await self._create(account, message)
        except Problem as problem:
            if problem.type in _RECORDED:
                await self._record_refusal(account, message, problem)
            raise

    async def _record_refusal(
        self, account: Account, message: messages.NewOrder, problem: Problem
    ) -> None:
        causes = [cause.detail for cause in problem.subproblems[:MOST_SHOWN]]
        sent = [identifier.sent for identifier in message.identifiers[:MOST_SHOWN]]
        detail = {
            "cause": problem.detail, "causes": causes, "rule": f"acme.{problem.type.token}",
            "identifiers": sent, "profile": message.profile,
        }  # fmt: skip
        actor = f"acme:{account.id}"
        await self._services.audit.refuse(
            self._services.database, actor=actor, action="acme.order.refuse", object=account.id,
            detail=detail, sources=(actor,),
        )  # fmt: skip

    async def _create(self, account: Account, message: messages.NewOrder) -> OrderState:
        identifiers = tuple(named(identifier) for identifier in message.identifiers)
        profile = await self._profile(account, message.profile)
        if len(identifiers) > profile.max_names:
            raise Problem(
                ProblemType.MALFORMED,
                f"profile {profile.name} allows at most {profile.max_names} names",
            )
        self._check_validity(message, profile)
        trusted = await self._names.check(
            account, identifiers, self._authorizations.challenge_types, profile
        )
        replaced = await self._renewal.predecessor(
            account, message.replaces, [alt_name(i) for i in identifiers]
        )
        order = self._order(
            account, message, identifiers, profile, None if replaced is None else replaced.id
        )
        due = replaced is not None and replaced.due
        try:
            return await self._services.database.write(
                lambda tx: self._insert(tx, account, order, trusted, due)
            )
        except IntegrityError:
            if replaced is None:
                raise
            raise Problem(
                ProblemType.ALREADY_REPLACED, "another order replaces this certificate", status=409
            ) from None

    async def _profile(self, account: Account, asked: str | None) -> Profile:
        bound = await self._external.of(account.external_account)
        if bound is not None and bound.profile is not None:
            if asked not in (None, bound.profile):
                raise _no_profile(asked, "the external account key is bound to another profile")
            if bound.profile not in self._services.issuance.profiles:
                raise _no_profile(bound.profile, "it is not configured any more")
            return self._services.issuance.profiles[bound.profile]
        if asked is not None and asked not in self._directory.profiles:
            raise _no_profile(asked, "this directory does not offer it")
        return self._services.issuance.profiles[asked or self._directory.settings.profile]

    def _check_validity(self, message: messages.NewOrder, profile: Profile) -> None:
        """Refuse now what issuance would refuse later."""
        now = self._services.clock.now()
        last = now + profile.validity
        start = message.not_before or now
        if not now - profile.backdate < start < last:
            raise Problem(
                ProblemType.MALFORMED,
                f"notBefore is not between {profile.backdate} ago and {profile.validity} from now",
            )
        if message.not_after is None:
            return
        if message.not_after <= max(start, now):
            raise Problem(ProblemType.MALFORMED, "notAfter is not after notBefore and now")
        if message.not_after > min(start + profile.validity, last):
            raise Problem(
                ProblemType.MALFORMED, f"profile {profile.name} allows at most {profile.validity}"
            )

    def _order(
        self, account: Account, message: messages.NewOrder,
        identifiers: tuple[NamedIdentifier, ...], profile: Profile, replaced: str | None,
    ) -> Order:  # fmt: skip
        now = self._directory.now()
        return Order(
            id=self._directory.new_id(),
            account=account.id,
            status=OrderStatus.PENDING,
            identifiers=identifiers,
            profile=profile.name,
            profile_sent=message.profile is not None,
            not_before=_seconds(message.not_before),
            not_after=_seconds(message.not_after),
            expires=self._expires(message, profile, now),
            error=None,
            csr_sha256=None,
            certificate=None,
            replaces=replaced,
            replaces_sent=message.replaces if replaced is not None else None,
            created=now,
        )

    def _expires(self, message: messages.NewOrder, profile: Profile, now: int) -> int:
        """An order lasts no longer than its notBefore can be honoured."""
        usual = now + int(self._directory.settings.order_lifetime.total_seconds())
        if message.not_before is None:
            return usual
        return min(usual, epoch(message.not_before + profile.backdate))

    def _refuse_crowd(self, tx: Transaction, account: Account, order: Order, due: bool) -> None:
        """A renewal that is due is not held up (RFC 9773 section 5), once: no certificate lends
        its place to a stream of orders."""
        limit = self._directory.settings.orders_per_account
        try:
            refuse_crowd(
                tx, limit, upkeep.ORDERS_OF_ACCOUNT, (account.id,), order.created,
                "new orders of this account",
            )  # fmt: skip
        except Problem:
            if not due or store.was_named(tx, account.id, order.replaces):
                raise

    def _insert(
        self, tx: Transaction, account: Account, order: Order, trusted: bool, due: bool
    ) -> OrderState:
        require_still_valid(tx, account)
        if order.replaces is not None:
            store.expire_replacement(tx, order.replaces, order.created)
        self._refuse_crowd(tx, account, order, due)
        authorizations = [
            self._authorizations.ensure(
                tx, account, identifier, now=order.created, expires=order.expires, trusted=trusted
            )
            for identifier in order.identifiers
        ]
        ready = all(a.status is AuthorizationStatus.VALID for a in authorizations)
        status = OrderStatus.READY if ready else OrderStatus.PENDING
        order = replace(order, expires=min(order.expires, *(a.expires for a in authorizations)))
        ids = tuple(authorization.id for authorization in authorizations)
        store.insert_order(tx, order, ids, status)
        self._services.audit.append(
            tx, actor=f"acme:{account.id}", action="acme.order.create", object=order.id,
            detail={"identifiers": [i.sent for i in order.identifiers], "profile": order.profile},
        )  # fmt: skip
        return OrderState(order, status, ids)

    async def get(self, account: Account, order_id: str) -> OrderState:
        """An order of this account. Raises 404, or 403 for another's."""

        def work(reader: Reader) -> tuple[Order | None, list[str]]:
            found = store.order(reader, order_id)
            return found, store.order_authorizations(reader, order_id)

        order, authorizations = await self._services.database.lookup(work)
        if order is None:
            raise Problem(ProblemType.MALFORMED, "no such order", status=404)
        if order.account != account.id:
            raise Problem(ProblemType.UNAUTHORIZED, "the order belongs to another account")
        status = order_status(order.status, order.expires, self._directory.now())
        return OrderState(order, status, tuple(authorizations))

    async def page(
        self, account: Account, before: tuple[int, str] | None
    ) -> tuple[Sequence[str], tuple[int, str] | None]:
        """Ids of an account's orders, newest first, and where the next page begins."""
        now = self._directory.now()
        found = await self._services.database.read(
            lambda reader: store.orders_of(reader, account.id, before, now, PAGE + 1)
        )
        more = found[PAGE - 1] if len(found) > PAGE else None
        return [order_id for _, order_id in found[:PAGE]], more


def _no_profile(name: str | None, why: str) -> Problem:
    return Problem(ProblemType.INVALID_PROFILE, f"profile {name!r}: {why}")


def _seconds(moment: dt.datetime | None) -> int | None:
    return None if moment is None else epoch(moment)
