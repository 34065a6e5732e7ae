"""One section: PKIOperation and the certificates of the CA (RFC 8894 sections 3.5, 4).

A message that can be read is answered by a message: what is refused is a CertRep FAILURE that
says why, and the audit log has the cause. What cannot be read at all raises `MalformedMessage`,
for an HTTP status.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Sequence

import structlog
from cryptography import x509

from pkiserver.addresses import site
from pkiserver.ca.audit import JSON
from pkiserver.cms import certs_only, oids, signed_data
from pkiserver.errors import ErrorCode, MalformedMessage, PKIError
from pkiserver.pkix import csr
from pkiserver.plugin import Services
from pkiserver.web.failures import Failures
from protocols.scep import messages
from protocols.scep.capabilities import capabilities
from protocols.scep.challenge import Validator
from protocols.scep.enrolment import Enrolments
from protocols.scep.exchange import Exchange, Opened, Result, Terms, signed, unreadable
from protocols.scep.fail_info import FailInfo, Refusal, fail_info, fail_info_text
from protocols.scep.messages import CertRep, MessageType, PKIMessage, PKIStatus
from protocols.scep.queries import Queries
from protocols.scep.registration import Registration, RegistrationAuthorities
from protocols.scep.requests import Requests
from protocols.scep.settings import SCEPSettings

_NOT_COUNTED = frozenset({ErrorCode.UNAVAILABLE, ErrorCode.CONFIGURATION, ErrorCode.INTERNAL})
"""What is not the doing of who sent the message."""
_LIMIT = "scep.failures_per_address"

_log = structlog.get_logger("protocols.scep")


class SCEPService:
    """A section, `[scep.LABEL]`."""

    def __init__(
        self,
        label: str,
        settings: SCEPSettings,
        services: Services,
        authorities: RegistrationAuthorities,
        registration: Registration,
        validator: Validator,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.label = label
        self.settings = settings
        self.enrolments = Enrolments(label, settings, services, validator)
        self._requests = Requests(label, settings, services)
        self._queries = Queries(services, registration.issuer)
        self._services = services
        self._registrations = authorities
        self._registration = registration
        self._failures = Failures(settings.failures_per_address, services.clock, _LIMIT)
        substitute = services.derive_secret("scep: substitute key")
        self._terms = Terms(settings.legacy, substitute, random_bytes)

    # The CA

    def capabilities(self) -> Sequence[str]:
        """GetCACaps."""
        following = self._services.authorities.next_certificate(self._registration.issuer)
        return capabilities(legacy=self.settings.legacy, next_certificate=following is not None)

    async def ca_certificates(self) -> bytes:
        """GetCACert: the registration authority first, then who issued it, and so on upwards."""
        with contextlib.suppress(PKIError):  # one that is old serves on while the CA cannot sign
            await self._registrations.ensure(self._registration)
        authority = await self._registrations.current(self._registration)
        path = self._path()
        chain = path[:1] if self.settings.chain == "issuer" else path
        return certs_only.encode([authority.certificate, *chain])

    def ca_chain(self) -> bytes:
        """GetCACertChain, of the drafts before RFC 8894."""
        return certs_only.encode(self._path())

    async def next_ca_certificates(self) -> bytes:
        """GetNextCACert (section 4.7): signed by the registration authority of today. Raises
        `PKIError` NOT_FOUND while there is no next."""
        following = self._services.authorities.next_certificate(self._registration.issuer)
        if following is None:
            raise PKIError(ErrorCode.NOT_FOUND, "there is no next CA certificate")
        authority = await self._registrations.current(self._registration)
        content = certs_only.encode([following])
        tbs = signed_data.to_be_signed(content, oids.DATA, "sha256")
        return await asyncio.to_thread(signed, authority, tbs)

    def _path(self) -> tuple[x509.Certificate, ...]:
        authorities = self._services.authorities
        return authorities.path(authorities.current(self._registration.issuer))

    # PKIOperation

    async def operation(self, data: bytes, address: str) -> bytes:
        """The answer to a message. Raises `MalformedMessage` for what is no message, `PKIError`
        UNAVAILABLE if there is nothing to sign answers with."""
        message = messages.parse(data)
        authority, usable = await self._registrations.serving(self._registration)
        exchange = Exchange(message, address, self._terms, authority, usable)
        try:
            self._failures.check(site(address))
            return await self._served(exchange)
        except PKIError as error:
            await self._note(message, address, error)
            rep = CertRep(PKIStatus.FAILURE, fail_info=fail_info(error), text=fail_info_text(error))
        return await exchange.with_keys(exchange.answer, rep)

    async def _served(self, exchange: Exchange) -> bytes:
        opened = await exchange.with_keys(exchange.open)
        result = await self._dispatch(exchange, opened)
        if result.crls:
            return await asyncio.to_thread(exchange.success, opened, result)
        return await exchange.with_keys(exchange.success, opened, result)

    async def _dispatch(self, exchange: Exchange, opened: Opened) -> Result:
        message = exchange.message
        match message.message_type:
            case MessageType.PKCS_REQ | MessageType.RENEWAL_REQ | MessageType.UPDATE_REQ:
                return await self._enrol(exchange, opened)
            case MessageType.CERT_POLL:
                return await self._poll(message, opened)
            case MessageType.GET_CERT:
                found = await self._queries.certificate(opened.data, message.certificate)
                return Result([found])
            case MessageType.GET_CRL:
                return Result(crls=[await self._queries.crl(opened.data)])
        raise Refusal(
            FailInfo.BAD_REQUEST,
            f"messages of type {message.message_type} are not served",
            code=ErrorCode.MALFORMED,
            rule="scep.messageType",
        )

    async def _enrol(self, exchange: Exchange, opened: Opened) -> Result:
        message = exchange.message
        try:
            ask = self._requests.read(message, opened.data, exchange.address)
        except MalformedMessage as error:
            raise unreadable() from error
        exchange.check_answerable(opened, ask.password)
        signer = message.certificate
        first = message.message_type == MessageType.PKCS_REQ
        if first and not await self.enrolments.is_renewal(ask, signer):
            return _result(await self.enrolments.enrol(ask), ask.password)
        return _result(await self.enrolments.renew(ask, signer), ask.password)

    async def _poll(self, message: PKIMessage, opened: Opened) -> Result:
        try:
            messages.parse_issuer_and_subject(opened.data)
        except MalformedMessage as error:
            raise unreadable() from error
        found, enrolment = await self.enrolments.poll(message.transaction_id, message.certificate)
        password = None
        if enrolment.csr and enrolment.signer_sha256 == enrolment.key.spki_sha256:
            password = csr.parse(enrolment.csr, allow_legacy_hash=True).challenge_password
        return _result(found, password)

    async def _note(self, message: PKIMessage, address: str, error: PKIError) -> None:
        """Into the audit log under the transactionID, except of addresses that fail too often."""
        cause = error.__cause__
        detail: dict[str, JSON] = {
            "code": error.code.value,
            "rule": error.rule,
            "cause": (cause.detail if isinstance(cause, PKIError) else error.detail)[:1000],
            "failInfo": fail_info(error).name,
            "messageType": message.message_type,
            "label": self.label,
            "address": address,
        }
        if error.rule == _LIMIT:
            _log.warning("scep.refuse", about=message.transaction_id, **detail)
            return
        if error.code not in _NOT_COUNTED:
            self._failures.count(site(address))
            try:
                self._failures.check(site(address))
            except PKIError as limit:  # the last row of it for a while says so
                detail["address waits"] = limit.retry_after
        await self._services.audit.refuse(
            self._services.database,
            actor=f"scep:{self.label}",
            action="scep.refuse",
            object=message.transaction_id,
            detail=detail,
            sources=(site(address),),
        )


def _result(certificate: bytes | None, password: str | None) -> Result:
    if certificate is None:
        return Result(pending=True)
    return Result([x509.load_der_x509_certificate(certificate)], password=password)
