"""Microsoft Intune decides about enrolments and learns what became of them.

    validateRequest -> issue -> successNotification -> hand out

A certificate is handed out only after Intune said Success to the notification. The row that says
it is still awaited is written with the intent to sign, so whatever happens in between (a refusal,
a network that is away, a crash) ends with the certificate revoked and Intune told of a failure:
by the service at once, else by `sweep`. Nothing is ever pending: the flow is synchronous.
"""

import datetime as dt

import structlog

from pkiserver.ca import inventory
from pkiserver.ca.issuance import Issued
from pkiserver.ca.model import CertificateRecord, CertificateStatus, Reason, Requester
from pkiserver.clock import epoch
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.plugin import Services
from pkiserver.storage import Transaction
from protocols.scep import intune_store as store
from protocols.scep.challenge import Accepted, ChallengeRequest
from protocols.scep.intune_client import IntuneClient
from protocols.scep.intune_store import Awaiting

ABANDONED = dt.timedelta(minutes=5)
"""Longer than a notification may take, with its tokens and the address."""

_log = structlog.get_logger("protocols.scep.intune")


class IntuneValidator:
    """The enrolments of one `[scep.NAME]`; a `Validator`."""

    def __init__(self, services: Services, label: str, client: IntuneClient) -> None:
        self._services = services
        self._label = label
        self._client = client
        self._actor = Requester("scep", f"{label}/intune")

    async def validate(self, request: ChallengeRequest) -> Accepted:
        """Raises `PKIError` UNAUTHORIZED if Intune refuses, UNAVAILABLE if it cannot be asked."""
        if not request.challenge:
            raise PKIError(
                ErrorCode.UNAUTHORIZED,
                "there is no challenge password",
                rule="scep.challenge.missing",
            )
        await self._client.validate(request.transaction_id, request.csr_der)

        def on_reserved(tx: Transaction, certificate: str | None) -> None:
            self._reserve(tx, request, certificate)

        async def deliver(issued: Issued) -> None:
            await self._deliver(request, issued)

        async def failed(error: PKIError) -> None:
            await self._tell_failure(request.transaction_id, request.csr_der, error)

        return Accepted(
            party=self._actor.party, on_reserved=on_reserved, deliver=deliver, failed=failed
        )

    async def sweep(self, older_than: dt.timedelta = ABANDONED) -> None:
        """Withdraw what was issued and never confirmed, as after a crash."""
        before = epoch(self._services.clock.now() - older_than)
        rows = await self._services.database.read(
            lambda reader: store.awaiting(reader, self._label, before)
        )
        for row in rows:
            try:
                await self._withdraw(row)
            except PKIError as error:  # stays awaited, for the next time
                _log.warning("intune.withdraw", certificate=row.certificate, cause=error.detail)

    async def purge(self) -> None:
        """Forget certificates that have expired."""
        now = epoch(self._services.clock.now())
        while (
            await self._services.database.write(lambda tx: store.delete_expired(tx, now))
            >= store.BATCH
        ):
            pass

    def _reserve(self, tx: Transaction, request: ChallengeRequest, certificate: str | None) -> None:
        if certificate is None:
            raise PKIError(
                ErrorCode.REFUSED_BY_PROFILE,
                "Intune's enrolments cannot wait for approval",
                rule="requires_approval",
            )
        row = Awaiting(certificate, self._label, request.transaction_id, request.csr_der)
        store.insert(tx, row, epoch(self._services.clock.now()))

    async def _deliver(self, request: ChallengeRequest, issued: Issued) -> None:
        await self._client.notify_success(
            request.transaction_id, request.csr_der, issued.certificate, issued.record.issuer
        )

        def work(tx: Transaction) -> bool:
            confirmed = store.confirm(tx, issued.record.id)
            if confirmed:
                self._append(tx, "scep.intune.confirm", issued.record.id, {})
            return confirmed

        if not await self._services.database.write(work):
            raise PKIError(ErrorCode.CONFLICT, "the certificate was withdrawn meanwhile")

    async def _withdraw(self, row: Awaiting) -> None:
        record = await self._services.database.lookup(
            lambda reader: inventory.by_id(reader, row.certificate)
        )
        if record is not None and _is_good(record):
            await self._revoke(record)
        else:
            await self._services.database.write(lambda tx: self._end(tx, row.certificate))
        error = PKIError(ErrorCode.INTERNAL, "the enrolment was not completed")
        await self._tell_failure(row.transaction_id, row.csr, error)

    async def _revoke(self, record: CertificateRecord) -> None:
        """Revoked and withdrawn in one transaction; neither if it was confirmed meanwhile."""

        def also(tx: Transaction) -> None:
            if not self._end(tx, record.id):
                raise PKIError(ErrorCode.CONFLICT, "the certificate was confirmed meanwhile")

        await self._services.revocation.revoke(
            record.issuer,
            record.serial,
            Reason.CESSATION_OF_OPERATION,
            actor=self._actor,
            also=also,
        )

    def _end(self, tx: Transaction, certificate: str) -> bool:
        withdrawn = store.withdraw(tx, certificate)
        if withdrawn:
            self._append(tx, "scep.intune.withdraw", certificate, {})
        return withdrawn

    async def _tell_failure(self, transaction_id: str, csr: bytes, error: PKIError) -> None:
        """Best effort: that Intune does not know of a failure harms nobody."""
        try:
            await self._client.notify_failure(transaction_id, csr, error)
        except PKIError as problem:
            _log.warning("intune.failure-notification", cause=problem.detail)

    def _append(
        self, tx: Transaction, action: str, certificate: str, detail: dict[str, str]
    ) -> None:
        self._services.audit.append(
            tx, actor=str(self._actor), action=action, object=certificate, detail=detail
        )


def _is_good(record: CertificateRecord) -> bool:
    return record.status is CertificateStatus.ISSUED and record.revoked_at is None
