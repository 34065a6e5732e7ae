"""Finalizing an order: RFC 8555 section 7.4.

Order to `processing` in the transaction that records the serial, order to `valid` in the one that
stores the certificate. Of concurrent requests exactly one issues; the others see the order as it
then is. Signing goes on when the client does not wait; what a crash interrupts, the sweep ends.

Where the profile needs a second person, the order is `processing` from when the request is filed.
Whoever looks at it after the decision, the client or the sweep, takes it to its end."""

import asyncio
import datetime as dt
import functools
import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import structlog

from pkiserver.ca.approval_store import require_approved
from pkiserver.ca.approvals import Approval, ApprovalStatus
from pkiserver.ca.model import CertificateRequest, CertificateStatus, Prepared, Requester
from pkiserver.clock import from_epoch
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix.algorithms import spki_sha256
from pkiserver.pkix.csr import parse as csr_of
from pkiserver.storage import Reader, Transaction
from protocols.acme import jwk
from protocols.acme.caa import check_caa
from protocols.acme.challenges import ChallengeContext, ChallengeType, ValidationFailed
from protocols.acme.probe import Prober, run
from protocols.acme.problems import Problem, ProblemType, problem_from
from protocols.acme.records import Account, Challenge, Order
from protocols.acme.service.accounts import require_still_valid
from protocols.acme.service.directory import Directory
from protocols.acme.service.names import NamePolicy, alt_name, wire
from protocols.acme.service.orders import Orders, OrderState
from protocols.acme.service.validation import PROBLEM_OF_FAILURE
from protocols.acme.states import AuthorizationStatus, ChallengeStatus, OrderStatus
from protocols.acme.store import accounts as account_store
from protocols.acme.store import authorizations as authorization_store
from protocols.acme.store import orders as store

log = structlog.get_logger("protocols.acme.finalize")

PATIENCE = 5.0
"""Seconds a finalize request waits for the certificate before it answers `processing`."""
ABANDONED = dt.timedelta(seconds=60)
"""What has been processing for so long without an end belongs to a process that is gone."""
_SECOND = dt.timedelta(seconds=1)
_TRY_AGAIN = frozenset(
    {ErrorCode.CONFLICT, ErrorCode.UNAVAILABLE, ErrorCode.CONFIGURATION, ErrorCode.INTERNAL}
)
"""Refusals of an approved order that say nothing about it: another process was faster, or something
is away."""
_TRY_AGAIN_PROBLEMS = frozenset(
    {ProblemType.ORDER_NOT_READY, ProblemType.DNS, ProblemType.CONNECTION,
     ProblemType.SERVER_INTERNAL}
)  # fmt: skip


class Finalizer:
    """Issues the certificates of one directory's orders."""

    def __init__(
        self,
        directory: Directory,
        orders: Orders,
        names: NamePolicy,
        prober: Prober,
        *,
        patience: float = PATIENCE,
    ) -> None:
        self._patience = patience
        self._directory = directory
        self._services = directory.services
        self._orders = orders
        self._names = names
        self._prober = prober
        self._tasks: set[asyncio.Task[None]] = set()
        self._resuming: set[str] = set()

    async def finalize(
        self, account: Account, order_id: str, csr: bytes, address: str
    ) -> OrderState:
        """The order after the request: valid, or processing if that takes long."""
        state = await self._orders.get(account, order_id)
        digest = hashlib.sha256(csr).digest()
        if self._repeated(state, digest):
            return await self.resume(account, state)
        if state.status is not OrderStatus.READY:
            raise _not_ready(state.status)
        self._require_profile(state.order.profile)
        request = self._request(account, state, csr, address)
        try:
            await self._check_caa(account, state)
            if self._services.issuance.profiles[request.profile].requires_approval:
                return await self._file(account, state, request, digest)
            prepared = await self._services.issuance.prepare(request)
            self._refuse_account_key(account, prepared.spki_sha256)
        except Problem as problem:
            await self._record(request, problem)
            raise

        def begin(tx: Transaction) -> bool:
            now = self._directory.now()
            return store.begin_issuance(tx, order_id, digest, prepared.id, now)

        try:
            done = await self._issue(account, state, prepared, begin)
        except Problem as problem:
            current = await self._orders.get(account, order_id)
            if self._repeated(current, digest):
                return current
            if problem.type is not ProblemType.ORDER_NOT_READY:
                await self._record(request, problem)
            raise problem
        status = OrderStatus.VALID if done else OrderStatus.PROCESSING
        order = replace(state.order, status=status, csr_sha256=digest, certificate=prepared.id)
        return replace(state, order=order, status=status)

    def _require_profile(self, name: str) -> None:
        """The order may be older than the configuration."""
        if name not in self._services.issuance.profiles:
            raise Problem(
                ProblemType.INVALID_PROFILE, f"profile {name!r} is not configured any more"
            )

    async def _record(self, request: CertificateRequest, problem: Problem) -> None:
        """Our own refusals are in the audit log like those of the core."""
        causes = [cause.detail for cause in problem.subproblems]
        detail = "; ".join((problem.detail, *causes))
        error = PKIError(ErrorCode.UNAUTHORIZED, detail, rule=f"acme.{problem.type.token}")
        await self._services.issuance.record_refusal(request, error)

    def _repeated(self, state: OrderState, digest: bytes) -> bool:
        """The same CSR again, for an order it was accepted for: answered with the order."""
        accepted = state.status in (OrderStatus.PROCESSING, OrderStatus.VALID)
        return accepted and state.order.csr_sha256 == digest

    def _refuse_account_key(self, account: Account, certified: bytes) -> None:
        """RFC 8555 section 11.1: the account key must not be certified."""
        if certified == spki_sha256(jwk.load(account.jwk)):
            raise Problem(ProblemType.BAD_CSR, "the CSR is for the account's own key")

    def _request(
        self, account: Account, state: OrderState, csr: bytes, address: str
    ) -> CertificateRequest:
        order, not_after = state.order, _moment(state.order.not_after)
        not_before = _moment(order.not_before)
        if not_before is not None and not_after is not None:
            # The profile counts both ends; a client that asks for its whole length does not.
            longest = self._services.issuance.profiles[order.profile].validity - _SECOND
            not_after = min(not_after, not_before + longest)
        return CertificateRequest(
            profile=order.profile,
            requester=Requester("acme", account.id, address),
            csr=csr,
            names=[alt_name(identifier) for identifier in order.identifiers],
            not_before=not_before,
            not_after=not_after,
        )

    async def _issue(
        self,
        account: Account,
        state: OrderState,
        prepared: Prepared,
        begin: Callable[[Transaction], bool],
    ) -> bool:
        """Whether the certificate is there; if not, it is being signed. `begin` takes the order to
        it and says whether it won."""

        def reserve(tx: Transaction) -> None:
            self._require_authorized(tx, account, state)
            if not begin(tx):
                raise _not_ready(None)

        def complete(tx: Transaction) -> None:
            store.order_issued(tx, state.order.id)

        async def issue() -> None:
            await self._services.issuance.issue(prepared, on_reserved=reserve, on_issued=complete)

        task = asyncio.create_task(issue())
        self._tasks.add(task)
        task.add_done_callback(self._done)
        await asyncio.wait({task}, timeout=self._patience)
        if task.done():
            task.result()
        return task.done()

    # Approval

    async def _file(
        self, account: Account, state: OrderState, request: CertificateRequest, digest: bytes
    ) -> OrderState:
        """Ready to processing, in the transaction that files the request."""
        order = state.order

        def hold(tx: Transaction, approval: Approval) -> None:
            self._refuse_account_key(account, csr_of(request.csr).spki_sha256)
            self._require_authorized(tx, account, state)
            if not store.await_approval(tx, order.id, digest, approval.id, self._directory.now()):
                raise _not_ready(None)

        await self._services.approvals.require(request, order.id, on_filed=hold)
        return await self._orders.get(account, order.id)

    async def resume(self, account: Account, state: OrderState) -> OrderState:
        """The order; one that waited for a second person, and is not waiting any more, is taken to
        its end."""
        order = state.order
        if not order.waits or order.approval is None or order.id in self._resuming:
            return state
        self._resuming.add(order.id)
        try:
            if not await self._decided(account, state, order.approval):
                return state
        except PKIError as error:
            await self._refuse(order, problem_from(error), final=error.code not in _TRY_AGAIN)
        except Problem as problem:
            await self._refuse(order, problem, final=not _may_pass(problem))
        finally:
            self._resuming.discard(order.id)
        return await self._orders.get(account, order.id)

    async def _decided(self, account: Account, state: OrderState, approval_id: str) -> bool:
        """Issue what was approved; False while nobody has decided. Raises for a rejected or
        expired one."""
        approval = await self._services.approvals.get(approval_id)
        if approval.status is ApprovalStatus.PENDING:
            return False
        require_approved(approval)
        self._require_profile(state.order.profile)
        request = self._request(account, state, approval.csr, approval.address or "")
        await self._check_caa(account, state)
        prepared = await self._services.issuance.prepare(request, approval=approval.id)

        def begin(tx: Transaction) -> bool:
            return store.begin_approved(tx, state.order.id, prepared.id)

        await self._issue(account, state, prepared, begin)
        return True

    async def _refuse(self, order: Order, problem: Problem, *, final: bool) -> None:
        """End an order that waited; unless another look at it may find it otherwise."""
        if not final:
            log.warning("an approved order cannot be issued yet", order=order.id, why=str(problem))
            return
        await self._services.database.write(lambda tx: self._end(tx, order, problem.to_json()))

    def _end(self, tx: Transaction, order: Order, error: dict[str, Any]) -> None:
        if store.approval_refused(tx, order.id, error):
            self._services.audit.append(
                tx, actor="system:acme", action="acme.order.refuse", object=order.id,
                outcome="refused",
                detail={"cause": error["detail"], "approval": order.approval},
            )  # fmt: skip

    async def resume_decided(self) -> None:
        """Scheduled work: orders whose clients do not look."""
        for account, state in await self._services.database.read(self._decided_orders):
            await self.resume(account, state)

    def _decided_orders(self, reader: Reader) -> list[tuple[Account, OrderState]]:
        found: list[tuple[Account, OrderState]] = []
        for order in store.orders_decided(reader, self._directory.now()):
            account = account_store.account(reader, self._directory.name, order.account)
            if account is not None:
                authorizations = tuple(store.order_authorizations(reader, order.id))
                found.append((account, OrderState(order, order.status, authorizations)))
        return found

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, Problem | PKIError):
            log.error("issuing broke off; the sweep takes it up", exc_info=error)

    def _require_authorized(self, tx: Transaction, account: Account, state: OrderState) -> None:
        """Section 7.4: at this moment every authorization is valid; section 7.3.6: and the
        account, and it may have these names. Any may have ended since the order was read."""
        self._names.check_again(tx, require_still_valid(tx, account), state.order.identifiers)
        now = self._directory.now()
        for authorization_id in state.authorizations:
            found = authorization_store.authorization(tx, authorization_id)
            if (
                found is None
                or found.status is not AuthorizationStatus.VALID
                or found.expires <= now
            ):
                raise Problem(
                    ProblemType.UNAUTHORIZED, "an authorization of the order is not valid any more"
                )

    async def _check_caa(self, account: Account, state: OrderState) -> None:
        """RFC 8659 section 4: just before issuing, for profiles that ask for it."""
        if not self._services.settings.profiles[state.order.profile].caa:
            return
        methods = await self._services.database.lookup(
            lambda reader: [_method(reader, item) for item in state.authorizations]
        )
        checks = [
            self._check_name(account, state.order, position, method)
            for position, method in enumerate(methods)
        ]
        problems = [problem for problem in await asyncio.gather(*checks) if problem is not None]
        if problems:
            raise Problem(
                ProblemType.CAA, "CAA forbids issuance; see subproblems", subproblems=problems
            )

    async def _check_name(
        self, account: Account, order: Order, position: int, method: ChallengeType
    ) -> Problem | None:
        identifier = order.identifiers[position]
        settings = self._directory.settings
        context = ChallengeContext(
            identifier_type="ip" if identifier.type == "ip" else "dns",
            identifier_value=identifier.value,
            wildcard=identifier.wildcard,
            token="",
            key_authorization="",
            account_url=self._directory.url("acct", account.id),
            now=self._services.clock.now(),
            issuer_domains=settings.caa_identities,
        )
        try:
            await run(
                check_caa(context, method),
                self._prober,
                timeout=settings.validation_timeout.total_seconds(),
            )
        except ValidationFailed as failure:
            kind = PROBLEM_OF_FAILURE[failure.kind]
            return Problem(kind, failure.detail, identifier=wire(identifier))
        return None

    async def sweep(self, older_than: dt.timedelta) -> None:
        """End orders a crash left in `processing`: finish their certificates, then say so."""
        await self._services.issuance.recover(older_than)
        stuck = await self._services.database.read(store.orders_processing)
        for order in stuck:
            await self._services.database.write(functools.partial(self._settle, order))

    def _settle(self, order: Order, tx: Transaction) -> None:
        row = tx.one("SELECT status FROM certificates WHERE id = ?", (order.certificate,))
        status = None if row is None else CertificateStatus(row[0])
        if status is CertificateStatus.ISSUED:
            store.order_issued(tx, order.id)
        elif status is CertificateStatus.ABANDONED or status is None:
            problem = Problem(ProblemType.SERVER_INTERNAL, "the certificate could not be issued")
            store.order_failed(tx, order.id, problem.to_json())

    async def stop(self) -> None:
        """Let what is being signed come to its end."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=PATIENCE)


def _not_ready(status: OrderStatus | None) -> Problem:
    detail = "the order is not ready" + ("" if status is None else f": it is {status}")
    return Problem(ProblemType.ORDER_NOT_READY, detail)


def _may_pass(problem: Problem) -> bool:
    """Whether another look may end otherwise: of names, one that could not be looked up does."""
    if problem.subproblems:
        return any(map(_may_pass, problem.subproblems))
    return problem.type in _TRY_AGAIN_PROBLEMS


def _moment(seconds: int | None) -> dt.datetime | None:
    return None if seconds is None else from_epoch(seconds)


def _method(reader: Reader, authorization_id: str) -> ChallengeType:
    challenges: list[Challenge] = authorization_store.challenges(reader, authorization_id)
    proven = [c for c in challenges if c.status is ChallengeStatus.VALID]
    return ChallengeType(proven[0].type)
