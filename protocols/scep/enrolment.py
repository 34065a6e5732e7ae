"""Enrolment: PKCSReq, RenewalReq and CertPoll (RFC 8894 sections 3.3.1, 3.3.3).

    known -> authorise (challenge, or the old certificate) -> approval, if the profile wants one
          -> prepare, reserve and record in one transaction, sign -> deliver

A repeated request gets what the first one got, also after a crash between any two of these steps,
and of any number of requests at the same time one makes a certificate: the row of the transaction
is written together with the intent to sign.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace

import structlog
from cryptography import x509

from pkiserver.ca import inventory
from pkiserver.ca.approvals import Approval, ApprovalStatus
from pkiserver.ca.issuance import Issued
from pkiserver.ca.model import CertificateRequest, Prepared, Reason, Requester
from pkiserver.clock import epoch
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix.algorithms import spki_sha256
from pkiserver.plugin import Services
from pkiserver.storage import Reader, Transaction
from protocols.scep import store
from protocols.scep.challenge import Accepted, Validator
from protocols.scep.fail_info import FailInfo, Refusal
from protocols.scep.quota import Quota
from protocols.scep.renewal import Renewals
from protocols.scep.requests import Ask, Requests
from protocols.scep.settings import SCEPSettings
from protocols.scep.store import Enrolment, Key, Known, Standing

PATIENCE = 5.0
"""Seconds a request waits for the certificate another one is making before it answers PENDING."""
_LOOK = 0.05

_log = structlog.get_logger("protocols.scep.enrolment")


class _Overtaken(PKIError):
    """Another request of the same transaction was faster."""

    def __init__(self) -> None:
        super().__init__(
            ErrorCode.CONFLICT,
            "another request of the same transaction is being served",
            rule="scep.transaction",
        )


class Enrolments:
    """The enrolments of one section. Safe to use from many tasks and processes at once. A method
    returns the certificate (DER), or None while it is awaited; it raises `PKIError` to refuse."""

    def __init__(
        self,
        label: str,
        settings: SCEPSettings,
        services: Services,
        validator: Validator,
        *,
        patience: float = PATIENCE,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._label = label
        self._settings = settings
        self._services = services
        self._validator = validator
        self._requests = Requests(label, settings, services)
        self._renewals = Renewals(label, settings, services)
        self._quota = Quota(label, settings, services.clock)
        self._patience = patience
        self._random_bytes = random_bytes

    async def enrol(self, ask: Ask) -> bytes | None:
        """PKCSReq: whoever signed it, the challenge decides."""
        return await self._run(ask, lambda: self._validator.validate(ask.challenge))

    async def is_renewal(self, ask: Ask, signer: x509.Certificate) -> bool:
        """Whether a PKCSReq is a renewal as drafts had it."""
        return await self._renewals.renewed_by(signer, ask.csr)

    async def renew(self, ask: Ask, signer: x509.Certificate) -> bytes | None:
        """RenewalReq: the certificate that is renewed has signed, and nothing else is needed."""
        old = await self._renewals.renewable(signer)
        accepted = Accepted(party=f"{self._label}/renewal", profile=old.profile)

        async def authorise() -> Accepted:
            return accepted

        key = replace(ask.key, renewal_of=old.id)
        return await self._run(replace(ask, key=key, old=signer), authorise)

    async def poll(
        self, transaction_id: str, signer: x509.Certificate
    ) -> tuple[bytes | None, Enrolment]:
        """CertPoll: by the transactionID, for the key that signed the request."""
        signer_sha256 = spki_sha256(signer.public_key())
        known = await self._services.database.lookup(
            lambda reader: store.polled(
                reader, self._label, transaction_id, signer_sha256, self._now()
            )
        )
        if known is None or known.standing is Standing.OVER:
            raise Refusal(
                FailInfo.BAD_CERT_ID,
                "there is no such transaction of this key",
                code=ErrorCode.NOT_FOUND,
            )
        return await self._resume(known), known.enrolment

    # A request

    async def _run(self, ask: Ask, authorise: Callable[[], Awaitable[Accepted]]) -> bytes | None:
        known = await self._find(ask)
        if known is not None and _is_live(known, ask):
            return await self._resume(known)
        try:
            accepted = await authorise()
        except PKIError:
            # The challenge may be used because the same request came twice at once.
            if (again := await self._live(ask)) is None:
                raise
            return await self._resume(again)
        return await self._begin(ask, accepted, known)

    async def _begin(self, ask: Ask, accepted: Accepted, known: Known | None) -> bytes | None:
        replacing = None if known is None else known.enrolment.id
        try:
            if self._needs_approval(accepted):
                return await self._file(ask, accepted, replacing)
            return await self._issue(ask, accepted, replacing)
        except _Overtaken:
            again = await self._live(ask)
            if again is None:
                raise
            return await self._resume(again)
        except PKIError as error:
            # As above: it may be our own challenge, used by our own request.
            again = await self._live(ask) if error.code is ErrorCode.UNAUTHORIZED else None
            if again is not None:
                return await self._resume(again)
            if accepted.failed is not None:
                await accepted.failed(error)
            raise

    async def _issue(self, ask: Ask, accepted: Accepted, replacing: str | None) -> bytes:
        prepared = await self._services.issuance.prepare(self._requests.of(ask, accepted))
        enrolment = replace(
            self._enrolment(ask, accepted),
            certificate=prepared.id,
            delivered=accepted.deliver is None,
        )

        def reserved(tx: Transaction) -> None:
            self._enter(tx, enrolment, replacing, prepared)
            if accepted.on_reserved is not None:
                accepted.on_reserved(tx, prepared.id)

        issued = await self._services.issuance.issue(prepared, on_reserved=reserved)
        if accepted.deliver is not None:
            await self._deliver(enrolment, issued, accepted.deliver)
        return issued.der

    async def _deliver(
        self, enrolment: Enrolment, issued: Issued, deliver: Callable[[Issued], Awaitable[None]]
    ) -> None:
        """Nobody gets a certificate that whoever decided does not stand by."""
        try:
            await deliver(issued)
        except Exception as error:
            await self._withdraw(enrolment, issued)
            if isinstance(error, PKIError):
                raise
            _log.exception("delivery failed", transaction=enrolment.key.transaction_id)
            raise PKIError(ErrorCode.UNAVAILABLE, "the certificate is not delivered") from error
        await self._services.database.write(lambda tx: store.deliver(tx, enrolment.id))

    async def _withdraw(self, enrolment: Enrolment, issued: Issued) -> None:
        with contextlib.suppress(PKIError):  # somebody else has revoked it
            await self._services.revocation.revoke(
                issued.record.issuer,
                issued.record.serial,
                Reason.CESSATION_OF_OPERATION,
                actor=Requester("scep", enrolment.party, enrolment.address),
            )

    # Approval

    def _needs_approval(self, accepted: Accepted) -> bool:
        profile = self._services.issuance.profiles.get(accepted.profile or self._settings.profile)
        return profile is not None and profile.requires_approval

    async def _file(self, ask: Ask, accepted: Accepted, replacing: str | None) -> bytes | None:
        """The challenge is used by filing: what a person approves needs none any more."""
        enrolment = self._enrolment(ask, accepted)
        filed = enrolment

        def file(tx: Transaction, approval: Approval) -> None:
            nonlocal filed
            filed = replace(enrolment, approval=approval.id, csr=ask.csr.der)
            self._enter(tx, filed, replacing, approval)
            if accepted.on_reserved is not None:
                accepted.on_reserved(tx, None)

        approval = await self._services.approvals.require(
            self._requests.of(ask, accepted), self._reference(enrolment), on_filed=file
        )
        return await self._decided(filed, approval)

    async def _look_at_approval(self, enrolment: Enrolment) -> bytes | None:
        request = await self._filed_request(enrolment)
        approval = await self._services.approvals.require(request, self._reference(enrolment))
        return await self._decided(enrolment, approval)

    async def _decided(self, enrolment: Enrolment, approval: Approval) -> bytes | None:
        if approval.status is ApprovalStatus.PENDING:
            return None
        if approval.status is ApprovalStatus.REJECTED:
            why = f": {approval.why}" if approval.why else ""
            raise Refusal(FailInfo.BAD_REQUEST, f"the request was rejected{why}")
        if approval.status is ApprovalStatus.APPROVED:
            with contextlib.suppress(_Overtaken):
                return await self._issue_approved(enrolment, approval)
        return await self._wait(enrolment.key)

    async def _issue_approved(self, enrolment: Enrolment, approval: Approval) -> bytes:
        request = await self._filed_request(enrolment)

        def reserved(tx: Transaction, certificate: str) -> None:
            if not store.attach(tx, enrolment.id, certificate):
                raise _Overtaken

        issuance = self._services.issuance
        try:
            prepared = await issuance.prepare(request, approval=approval.id)
            issued = await issuance.issue(
                prepared, on_reserved=lambda tx: reserved(tx, prepared.id)
            )
        except PKIError as error:
            if error.code is ErrorCode.CONFLICT:  # the approval is used, or our row has moved on
                raise _Overtaken from error
            raise
        return issued.der

    def _reference(self, enrolment: Enrolment) -> str:
        """Of this enrolment alone: what was approved, or rejected, for one that is over does not
        count for the next, whose request may be the same octets."""
        return f"{self._label}/{enrolment.id}"

    async def _filed_request(self, enrolment: Enrolment) -> CertificateRequest:
        old = None
        if enrolment.key.renewal_of:
            record = await self._services.database.lookup(
                lambda reader: inventory.by_id(reader, enrolment.key.renewal_of)
            )
            if record is None or record.der is None:
                raise Refusal(FailInfo.BAD_CERT_ID, "the certificate to renew is gone")
            old = x509.load_der_x509_certificate(record.der)
        return self._requests.build(
            enrolment.profile, enrolment.party, enrolment.address, enrolment.csr, old
        )

    # Repeated requests

    async def _find(self, ask: Ask) -> Known | None:
        """The enrolment of the same transaction, or one that awaits its approval under another
        transactionID and goes on under this one."""

        def work(tx: Transaction) -> Known | None:
            lost = store.awaiting(tx, ask.key, self._now())
            if lost is None or store.find(tx, ask.key, self._now()) is not None:
                return None
            store.rename(tx, lost.enrolment.id, ask.key.transaction_id, ask.signer_sha256)
            return store.find(tx, ask.key, self._now())

        def look(reader: Reader) -> tuple[Known | None, Known | None]:
            known = store.find(reader, ask.key, now)
            return known, store.awaiting(reader, ask.key, now) if known is None else None

        database, now = self._services.database, self._now()
        known, lost = await database.lookup(look)
        return await database.write(work) if lost is not None else known

    async def _live(self, ask: Ask) -> Known | None:
        known = await self._find(ask)
        return known if known is not None and _is_live(known, ask) else None

    async def _resume(self, known: Known) -> bytes | None:
        if known.standing is Standing.ISSUED:
            return known.der
        if known.standing is Standing.AWAITING:
            return await self._look_at_approval(known.enrolment)
        return await self._wait(known.enrolment.key)

    async def _wait(self, key: Key) -> bytes | None:
        """For a certificate that is being made by somebody else."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience
        while True:
            known = await self._services.database.lookup(
                lambda reader: store.find(reader, key, self._now())
            )
            if known is None or known.standing is Standing.OVER:
                raise Refusal(
                    FailInfo.BAD_REQUEST,
                    "the certificate could not be issued; try again",
                    code=ErrorCode.UNAVAILABLE,
                )
            if known.standing is Standing.ISSUED:
                return known.der
            if loop.time() >= deadline:
                if not known.enrolment.delivered:  # who decides does not know of PENDING
                    raise PKIError(ErrorCode.UNAVAILABLE, "the decision takes long; try again")
                return None
            await asyncio.sleep(_LOOK)

    # Values

    def _now(self) -> int:
        return epoch(self._services.clock.now())

    def _enrolment(self, ask: Ask, accepted: Accepted) -> Enrolment:
        """A row without certificate and approval. The request is kept where a person has to look
        at it first; it may hold a password."""
        return Enrolment(
            id=self._random_bytes(16).hex(),
            key=ask.key,
            signer_sha256=ask.signer_sha256,
            party=accepted.party,
            profile=accepted.profile or self._settings.profile,
            address=ask.address,
            csr=b"",
            approval=None,
            certificate=None,
            delivered=True,
            created=self._now(),
        )

    def _enter(
        self,
        tx: Transaction,
        enrolment: Enrolment,
        replacing: str | None,
        certified: Prepared | Approval,
    ) -> None:
        if not store.begin(tx, enrolment, replacing):  # first: a repetition is not counted
            raise _Overtaken
        names = [str(name) for name in certified.names]
        self._quota.claim(tx, enrolment.id, certified.subject, names)


def _is_live(known: Known, ask: Ask) -> bool:
    same = known.enrolment.key.content_sha256 == ask.key.content_sha256
    return same and known.standing is not Standing.OVER
