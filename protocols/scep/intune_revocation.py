"""Intune asks for revocations: when a device is retired, wiped or gets another profile.

Every few minutes the requests are downloaded, done and answered. Only certificates that Intune
consented to can be revoked so, each by its issuer and serial number. Doing it again is harmless,
so whatever breaks in the middle is made up for by the next round.
"""

from collections.abc import Collection

import structlog
from cryptography import x509

from pkiserver.ca import inventory
from pkiserver.ca.model import CertificateRecord, Reason, Requester
from pkiserver.errors import ErrorCode, MalformedMessage, PKIError
from pkiserver.plugin import Services
from pkiserver.storage import Reader
from protocols.scep import intune_store as store
from protocols.scep.intune_client import IntuneClient
from protocols.scep.intune_messages import (
    RevocationError,
    RevocationRequest,
    RevocationResult,
    parse_serial,
)

MOST_ROUNDS = 20
"""Downloads in a row, of up to 500 requests each."""
_ERROR_OF_CODE = {
    ErrorCode.NOT_FOUND: RevocationError.CERTIFICATE_NOT_FOUND,
    ErrorCode.MALFORMED: RevocationError.PARAMETER_DATA_INVALID,
    ErrorCode.CONFLICT: RevocationError.NON_RETRYABLE,
    ErrorCode.UNAVAILABLE: RevocationError.UNAVAILABLE,
}

_log = structlog.get_logger("protocols.scep.intune")


class Revocations:
    """The requests of one tenant. `foreign` are the sections of other tenants, whose certificates
    are none of its business."""

    def __init__(
        self,
        services: Services,
        label: str,
        client: IntuneClient,
        foreign: Collection[str] = (),
    ) -> None:
        self._services = services
        self._foreign = foreign
        self._client = client
        self._actor = Requester("scep", f"{label}/intune")

    async def poll(self) -> int:
        """Do what Intune wants done; how many requests were answered. Raises `PKIError`."""
        answered: set[str] = set()
        for _ in range(MOST_ROUNDS):
            requests = await self._client.download_revocations()
            new = [request for request in requests if request.context not in answered]
            if not new:
                break
            results = [await self._do(request) for request in new]
            await self._client.upload_results(results)
            answered.update(result.context for result in results)
        if answered:
            _log.info("intune.revocations", answered=len(answered))
        return len(answered)

    async def _do(self, request: RevocationRequest) -> RevocationResult:
        try:
            await self._revoke(request)
        except PKIError as error:
            code = _ERROR_OF_CODE.get(error.code, RevocationError.RETRYABLE)
            return RevocationResult(request.context, code, error.detail[:255])
        return RevocationResult(request.context)

    async def _revoke(self, request: RevocationRequest) -> None:
        if request.serial is None:
            raise MalformedMessage("there is no serial number")
        serial = parse_serial(request.serial)
        record = await self._services.database.lookup(
            lambda reader: self._find(reader, request, serial)
        )
        if record is None:
            raise PKIError(ErrorCode.NOT_FOUND, "Intune has no certificate here with that number")
        if record.revoked_at is not None and record.reason is not Reason.CERTIFICATE_HOLD:
            return  # done before
        try:
            await self._services.revocation.revoke(
                record.issuer, serial, Reason.CESSATION_OF_OPERATION, actor=self._actor
            )
        except PKIError as error:
            if error.code is not ErrorCode.ALREADY_REVOKED:
                raise

    def _find(
        self, reader: Reader, request: RevocationRequest, serial: int
    ) -> CertificateRecord | None:
        """The certificate that the issuer and the number name, if the tenant consented to it."""
        for record in inventory.with_serial(reader, serial):
            section = store.section(reader, record.id)
            if self._is_issuer(request, record) and section not in (None, *self._foreign):
                return record
        return None

    def _is_issuer(self, request: RevocationRequest, record: CertificateRecord) -> bool:
        """By the configuration's name that we notified of, else by the name in the certificate."""
        if request.ca_configuration is not None:
            return request.ca_configuration == record.issuer
        if record.der is None or request.issuer_name is None:
            return False
        issuer = x509.load_der_x509_certificate(record.der).issuer
        return request.issuer_name == issuer.rfc4514_string()
