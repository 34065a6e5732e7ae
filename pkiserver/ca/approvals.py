"""Two-person issuance: under a profile with `requires_approval`, somebody other than the requester
looks at a request before a certificate is made of it.

A protocol files the request with `require` and comes back when its client does:

    approval = await approvals.require(request, reference)      # filed, or what there is
    approval.status                                             # pending, approved, ...
    prepared = await issuance.prepare(request, approval=approval.id)

Issuance uses an approval up in the transaction that records the serial number, so of any number of
processes one makes a certificate of it. Deciding is once and for all, until the approval expires.
"""

import datetime as dt
import functools
import secrets
from collections.abc import Callable, Mapping, Sequence

from pkiserver.ca import approval_store as store
from pkiserver.ca.audit import Audit
from pkiserver.ca.issuance import Issuance
from pkiserver.ca.model import Approval as Approval
from pkiserver.ca.model import ApprovalStatus as ApprovalStatus
from pkiserver.ca.model import CertificateRequest, Requester
from pkiserver.ca.policy import Decision
from pkiserver.clock import Clock, epoch
from pkiserver.config import ApprovalSettings
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.storage import Database, IntegrityError, Reader, Transaction

FiledHook = Callable[[Transaction, Approval], None]
"""Work a protocol adds to the transaction that files or finds the approval; raising takes
everything back."""

MAX_WHY = 500
_ACTOR = "system:approvals"
_BATCH = 100
_MOST_NAMES = 100


class Approvals:
    """Safe to use from many tasks and processes at once."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        audit: Audit,
        issuance: Issuance,
        settings: ApprovalSettings,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._database = database
        self._clock = clock
        self._audit = audit
        self._issuance = issuance
        self._settings = settings
        self._random_bytes = random_bytes

    async def require(
        self, request: CertificateRequest, reference: str, *, on_filed: FiledHook | None = None
    ) -> Approval:
        """File the request, or find what was filed for it: one requester, reference, profile and
        CSR have one approval. An expired one gives way to a new one.

        Raises `PKIError` for what policy refuses, as `Issuance.prepare` does, and RATE_LIMITED
        where too many wait.
        """
        try:
            return await self._require(request, reference, on_filed)
        except IntegrityError:
            # Somebody else filed the same request at the same time.
            return await self._require(request, reference, on_filed)

    async def get(self, approval_id: str) -> Approval:
        """Raises `PKIError` NOT_FOUND."""
        return await self._database.lookup(lambda reader: self._get(reader, approval_id))

    async def newest(
        self, status: ApprovalStatus | None = None, limit: int = 100
    ) -> list[Approval]:
        """The newest first, of one status or of all."""
        now = epoch(self._clock.now())
        return await self._database.read(lambda reader: store.newest(reader, status, now, limit))

    async def approve(self, approval_id: str, approver: Requester) -> Approval:
        """Let a certificate be made of it, by the requester coming back within the lifetime.
        Raises `PKIError`: NOT_FOUND, CONFLICT unless it is pending, UNAUTHORIZED for the requester
        himself."""
        expires = epoch(self._clock.now() + self._settings.lifetime)

        def change(tx: Transaction, now: int) -> bool:
            return store.approve(tx, approval_id, str(approver), now, expires)

        return await self._decide(approval_id, approver, "approve", change, None)

    async def reject(self, approval_id: str, approver: Requester, why: str) -> Approval:
        """Refuse it for good. `why` is shown to the requester. Raises as `approve` does."""
        if len(why) > MAX_WHY:
            raise PKIError(
                ErrorCode.CONFIGURATION, f"the reason is longer than {MAX_WHY} characters"
            )

        def change(tx: Transaction, now: int) -> bool:
            return store.reject(tx, approval_id, str(approver), why, now)

        return await self._decide(approval_id, approver, "reject", change, why)

    async def maintain(self) -> None:
        """Scheduled work: mark what has expired, delete what is old."""
        now = epoch(self._clock.now())
        due = await self._database.read(lambda reader: store.due(reader, now, _BATCH))
        while due:
            await self._database.write(functools.partial(self._expire_all, due, now))
            due = await self._database.read(lambda reader: store.due(reader, now, _BATCH))
        before = now - int(self._settings.lifetime.total_seconds())
        deleted = _BATCH
        while deleted >= _BATCH:
            deleted = await self._database.write(lambda tx: store.delete_old(tx, before, _BATCH))

    # Filing

    async def _require(
        self, request: CertificateRequest, reference: str, on_filed: FiledHook | None
    ) -> Approval:
        found = await self._database.lookup(lambda reader: self._find(reader, request, reference))
        if found is not None and on_filed is None:
            return found
        new = None
        if found is None:
            new = self._new(request, reference, await self._issuance.examine(request))
        try:
            return await self._database.write(
                lambda tx: self._file(tx, request, reference, new, on_filed)
            )
        except PKIError as error:
            await self._issuance.record_refusal(request, error)
            raise

    def _find(self, reader: Reader, request: CertificateRequest, reference: str) -> Approval | None:
        """None also where what there is has expired."""
        found = store.of_request(
            reader, str(request.requester), reference, request.profile, request.csr,
            epoch(self._clock.now()),
        )  # fmt: skip
        return None if found is None or found.status is ApprovalStatus.EXPIRED else found

    def _new(self, request: CertificateRequest, reference: str, decision: Decision) -> Approval:
        now = self._clock.now().replace(microsecond=0)
        return Approval(
            id=self._random_bytes(8).hex(),
            profile=request.profile,
            requester=str(request.requester),
            subject=decision.subject.rfc4514_string(),
            names=tuple(str(name) for name in decision.names),
            status=ApprovalStatus.PENDING,
            created=now,
            expires=now + self._settings.lifetime,
            decided_by=None,
            why=None,
            certificate=None,
            reference=reference,
            key_kind=decision.key_kind,
            address=request.requester.address,
            decided=None,
            csr=request.csr,
        )

    def _file(
        self,
        tx: Transaction,
        request: CertificateRequest,
        reference: str,
        new: Approval | None,
        hook: FiledHook | None,
    ) -> Approval:
        approval = self._find(tx, request, reference) or new
        if approval is None:
            raise PKIError(ErrorCode.CONFLICT, "the approval has just expired; try again")
        if approval is new:
            self._insert(tx, new)
        if hook is not None:
            hook(tx, approval)
        return approval

    def _insert(self, tx: Transaction, new: Approval) -> None:
        now = epoch(new.created)
        stale = store.of_request(tx, new.requester, new.reference, new.profile, new.csr, now)
        if stale is not None:
            self._expire_all([stale.id], now, tx)
        self._refuse_crowd(tx, new, now)
        store.insert(tx, new)
        self._audit.append(
            tx,
            actor=new.requester,
            action="approval.request",
            object=new.id,
            detail={
                "profile": new.profile,
                "subject": new.subject,
                "names": new.names[:_MOST_NAMES],
                "reference": new.reference,
                "address": new.address,
                "expires": epoch(new.expires),
            },
        )

    def _refuse_crowd(self, reader: Reader, new: Approval, now: int) -> None:
        limits = self._settings
        if store.count_pending(reader, now, new.requester) >= limits.pending_per_requester:
            raise _too_many("of this requester", "approvals.pending_per_requester")
        if store.count_pending(reader, now) >= limits.pending:
            raise _too_many("altogether", "approvals.pending")

    # Deciding

    def _get(self, reader: Reader, approval_id: str) -> Approval:
        found = store.by_id(reader, approval_id, epoch(self._clock.now()))
        if found is None:
            raise PKIError(ErrorCode.NOT_FOUND, f"there is no approval {ascii(approval_id[:64])}")
        return found

    async def _decide(
        self,
        approval_id: str,
        approver: Requester,
        verb: str,
        change: Callable[[Transaction, int], bool],
        why: str | None,
    ) -> Approval:
        def work(tx: Transaction) -> Approval:
            now = epoch(self._clock.now())
            known = self._get(tx, approval_id)
            if known.requester == str(approver):
                raise PKIError(
                    ErrorCode.UNAUTHORIZED,
                    "whoever asks does not decide: have somebody else do it",
                    rule=store.RULE,
                )
            if not change(tx, now):
                raise PKIError(
                    ErrorCode.CONFLICT, f"it is {known.status}, not pending", rule=store.RULE
                )
            self._record(tx, approval_id, approver, verb, "done", {"why": why, **_about(known)})
            return self._get(tx, approval_id)

        try:
            return await self._database.write(work)
        except PKIError as error:
            refusal = {"code": error.code.value, "cause": error.detail, "decision": verb}
            await self._database.write(
                lambda tx: self._record(tx, approval_id, approver, "refuse", "refused", refusal)
            )
            raise

    def _record(
        self,
        tx: Transaction,
        approval_id: str,
        by: Requester,
        verb: str,
        outcome: str,
        detail: Mapping[str, str | None],
    ) -> None:
        self._audit.append(
            tx,
            actor=str(by),
            action=f"approval.{verb}",
            object=approval_id[:100],
            outcome=outcome,
            detail=detail,
        )

    def _expire_all(self, ids: Sequence[str], now: int, tx: Transaction) -> None:
        for approval_id in ids:
            if store.expire(tx, approval_id, now):
                self._audit.append(tx, actor=_ACTOR, action="approval.expire", object=approval_id)


def _about(approval: Approval) -> dict[str, str | None]:
    return {"requester": approval.requester, "profile": approval.profile}


def _too_many(whose: str, rule: str) -> PKIError:
    return PKIError(
        ErrorCode.RATE_LIMITED,
        f"too many requests wait for approval {whose}",
        rule=rule,
        retry_after=int(dt.timedelta(hours=1).total_seconds()),
    )
