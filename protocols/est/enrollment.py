"""From a request that was authorised to a certificate, once.

A client that lost the answer, or that was told to wait, sends the same request again (RFC 7030
section 4.2.3): for a while it gets the same certificate. Of two that arrive at once, one is issued;
the row of the request decides, in the transaction that reserves the serial number.
"""

import asyncio
import datetime as dt
import hashlib
from dataclasses import dataclass
from weakref import WeakValueDictionary

from cryptography import x509

from pkiserver.ca import inventory
from pkiserver.ca.approvals import ApprovalStatus
from pkiserver.ca.model import CertificateRecord, CertificateRequest, CertificateStatus
from pkiserver.clock import epoch
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.plugin import Services
from pkiserver.storage import Reader, Transaction
from protocols.est import store
from protocols.est.identity import Identity
from protocols.est.quota import Quota
from protocols.est.settings import ESTSettings
from protocols.est.store import EnrollmentKey

_ELSEWHERE = dt.timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Wait:
    """The certificate is not there yet: ask again after so long."""

    retry_after: dt.timedelta


Outcome = x509.Certificate | Wait


class Enrollment:
    """Of one label."""

    def __init__(self, label: str, settings: ESTSettings, services: Services, quota: Quota) -> None:
        self._label = label
        self._settings = settings
        self._services = services
        self._quota = quota
        self._locks: WeakValueDictionary[EnrollmentKey, asyncio.Lock] = WeakValueDictionary()

    async def enroll(self, who: Identity, request: CertificateRequest) -> Outcome:
        """The certificate, or when to come back for it. Raises `PKIError` for what is refused."""
        digest = hashlib.sha256(request.csr).digest()
        key = EnrollmentKey(self._label, str(request.requester), digest)
        async with self._locks.setdefault(key, asyncio.Lock()):
            try:
                return await self._enroll(who, request, key)
            except PKIError as error:
                if error.code is not ErrorCode.CONFLICT:
                    raise
                # Another process was faster with the very same request; else it is our own trouble.
                record, _ = await self._services.database.lookup(lambda r: self._repeat(r, key))
                if record is None:
                    raise
                return _outcome(record)

    async def _enroll(
        self, who: Identity, request: CertificateRequest, key: EnrollmentKey
    ) -> Outcome:
        record, stale = await self._services.database.lookup(lambda r: self._repeat(r, key))
        if record is not None:
            return _outcome(record)
        approval: str | None = None
        if self._services.issuance.profiles[request.profile].requires_approval:
            found = await self._approval(request)
            if not isinstance(found, str):
                return found
            approval = found
        issuance = self._services.issuance
        prepared = await issuance.prepare(request, approval=approval)

        def claim(tx: Transaction) -> None:
            now = epoch(self._services.clock.now())
            if not store.claim(tx, key, prepared.id, stale, now):
                raise PKIError(
                    ErrorCode.CONFLICT, "this request is being answered already", rule="est.repeat"
                )
            self._quota.claim(tx, who, prepared)

        return (await issuance.issue(prepared, on_reserved=claim)).certificate

    def _repeat(
        self, reader: Reader, key: EnrollmentKey
    ) -> tuple[CertificateRecord | None, str | None]:
        """The certificate the same request got a while ago, if it is good; and the id that a new
        one takes the place of."""
        found = store.enrollment(reader, key)
        if found is None:
            return None, None
        record = inventory.by_id(reader, found.certificate)
        oldest = epoch(self._services.clock.now() - self._settings.repeat)
        if record is None or found.created <= oldest or not self._is_good(record):
            return None, found.certificate
        return record, found.certificate

    def _is_good(self, record: CertificateRecord) -> bool:
        return (
            record.status is not CertificateStatus.ABANDONED
            and record.revoked_at is None
            and record.not_after > self._services.clock.now()
        )

    async def _approval(self, request: CertificateRequest) -> str | Outcome:
        """The id of an approval to use; or what there is to say instead."""
        reference = f"{self._label}:{hashlib.sha256(request.csr).hexdigest()}"
        approval = await self._services.approvals.require(request, reference)
        match approval.status:
            case ApprovalStatus.APPROVED:
                return approval.id
            case ApprovalStatus.PENDING:
                return Wait(self._settings.retry_after)
            case ApprovalStatus.USED if approval.certificate is not None:
                return await self._used(request, approval.certificate)
        why = f": {approval.why}" if approval.why else ""
        raise await self._refused(request, f"the request was {approval.status}{why}")

    async def _used(self, request: CertificateRequest, certificate: str) -> Outcome:
        record = await self._services.database.lookup(
            lambda reader: inventory.by_id(reader, certificate)
        )
        if record is None or not self._is_good(record):
            raise await self._refused(
                request, "the approval of this request is used up; make a new request"
            )
        return _outcome(record)

    async def _refused(self, request: CertificateRequest, detail: str) -> PKIError:
        """To be raised; it is in the audit log."""
        error = PKIError(ErrorCode.UNAUTHORIZED, detail, rule="approvals")
        await self._services.issuance.record_refusal(request, error)
        return error


def _outcome(record: CertificateRecord) -> Outcome:
    if record.der is None:
        return Wait(_ELSEWHERE)
    return x509.load_der_x509_certificate(record.der)
