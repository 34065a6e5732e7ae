"""One section: PKIOperation and the certificates of the CA (RFC 8894 sections 3.5, 4).

A message that can be read is answered by a message: what is refused is a CertRep FAILURE that
says why. What cannot be read at all raises `MalformedMessage`, for an HTTP status. Whatever is
wrong inside the encryption gets one and the same answer, so that nobody learns from it what a
ciphertext of somebody else holds; the log has the cause.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from pkiserver.ca import encoding, inventory
from pkiserver.ca.audit import JSON
from pkiserver.cms import certs_only, content_info, enveloped_data, oids, signed_data
from pkiserver.cms.content_info import IssuerAndSerialNumber
from pkiserver.cms.key_transport import KeyTransport, scheme_of
from pkiserver.cms.recipients import KeyTransRecipientInfo
from pkiserver.cms.signatures import LEGACY_DIGESTS, hash_of
from pkiserver.cms.signed_data import ToBeSigned
from pkiserver.errors import ErrorCode, MalformedMessage, PKIError
from pkiserver.pkix import csr
from pkiserver.plugin import Services
from pkiserver.storage import Reader
from pkiserver.web.failures import Failures, site
from protocols.scep import messages
from protocols.scep.capabilities import capabilities
from protocols.scep.challenge import Validator
from protocols.scep.enrolment import Enrolments
from protocols.scep.fail_info import FailInfo, Refusal, fail_info, fail_info_text
from protocols.scep.messages import CertRep, MessageType, PKIMessage, PKIStatus
from protocols.scep.refusals import Refusals
from protocols.scep.registration import (
    Registration,
    RegistrationAuthorities,
    RegistrationAuthority,
)
from protocols.scep.renewal import own
from protocols.scep.requests import Requests
from protocols.scep.settings import SCEPSettings

NONCE_SIZE = 16
_UNREADABLE = "the message cannot be decrypted, or is not what its type says"
_ANSWERED_WITH = {"des-cbc": "des-ede3-cbc"}
"""Single DES is read where it has to be, never written: who can read it can read triple DES."""
_DIGESTS = frozenset({"sha224", "sha256", "sha384", "sha512"})
_NOT_COUNTED = frozenset({ErrorCode.UNAVAILABLE, ErrorCode.CONFIGURATION, ErrorCode.INTERNAL})
"""What is not the doing of who sent the message."""
_LIMIT = "scep.failures_per_address"
_QUICK_BITS = 2048
T = TypeVar("T")
MOST_CRL = 1 << 20
"""Octets of a list that goes into a message: each is encrypted anew, for whoever asks."""


@dataclass(slots=True)
class _Exchange:
    """A message and who answers it: the registration authority it is encrypted for, as the client
    may know no other, once that is seen."""

    message: PKIMessage
    address: str
    authority: RegistrationAuthority
    usable: Sequence[RegistrationAuthority]

    async def with_keys(self, work: Callable[..., T], *given: object) -> T:
        """What `work` gives, here if no key is large: a change of threads costs about as much."""
        certificates = (self.message.certificate, *(each.certificate for each in self.usable))
        if all(_is_quick(certificate) for certificate in certificates):
            return work(*given)
        return await asyncio.to_thread(work, *given)


@dataclass(frozen=True, slots=True)
class _Opened:
    """The messageData, and how it was encrypted: `key_transport` with the digest of OAEP."""

    data: bytes
    content_encryption: str
    key_transport: tuple[KeyTransport, str | None]


@dataclass(frozen=True, slots=True)
class _Result:
    """What goes into an answer: None while it is awaited. `password` encrypts it for clients whose
    key only signs (RFC 8894 section 3.1)."""

    certificates: Sequence[x509.Certificate] = ()
    crls: Sequence[bytes] = ()
    password: str | None = None
    pending: bool = False


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
        self._services = services
        self._registrations = authorities
        self._registration = registration
        self._failures = Failures(settings.failures_per_address, services.clock, _LIMIT)
        self._refusals = Refusals(services, "scep.refuse")
        self._random_bytes = random_bytes
        self._substitute = services.derive_secret("scep: substitute key")

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
        return await asyncio.to_thread(_signed, authority, tbs)

    def _path(self) -> tuple[x509.Certificate, ...]:
        authorities = self._services.authorities
        return authorities.path(authorities.current(self._registration.issuer))

    # PKIOperation

    async def operation(self, data: bytes, address: str) -> bytes:
        """The answer to a message. Raises `MalformedMessage` for what is no message, `PKIError`
        UNAVAILABLE if there is nothing to sign answers with."""
        message = messages.parse(data)
        exchange = _Exchange(
            message, address, *await self._registrations.serving(self._registration)
        )
        try:
            self._failures.check(site(address))
            return await self._served(exchange)
        except PKIError as error:
            await self._note(message, address, error)
            rep = CertRep(PKIStatus.FAILURE, fail_info=fail_info(error), text=fail_info_text(error))
        return await exchange.with_keys(self._answer, exchange, rep)

    async def _served(self, exchange: _Exchange) -> bytes:
        message = exchange.message
        opened = await exchange.with_keys(self._open, exchange)
        result = await self._dispatch(message, opened, exchange.address)
        if result.crls:
            return await asyncio.to_thread(self._success, exchange, opened, result)
        return await exchange.with_keys(self._success, exchange, opened, result)

    async def _dispatch(self, message: PKIMessage, opened: _Opened, address: str) -> _Result:
        match message.message_type:
            case MessageType.PKCS_REQ | MessageType.RENEWAL_REQ | MessageType.UPDATE_REQ:
                return await self._enrol(message, opened, address)
            case MessageType.CERT_POLL:
                return await self._poll(message, opened)
            case MessageType.GET_CERT:
                return await self._get_cert(message, opened)
            case MessageType.GET_CRL:
                return await self._get_crl(opened)
        raise Refusal(
            FailInfo.BAD_REQUEST,
            f"messages of type {message.message_type} are not served",
            code=ErrorCode.MALFORMED,
            rule="scep.messageType",
        )

    async def _enrol(self, message: PKIMessage, opened: _Opened, address: str) -> _Result:
        try:
            ask = self._requests.read(message, opened.data, address)
        except MalformedMessage as error:
            raise _unreadable() from error
        password = ask.csr.challenge_password
        self._check_answerable(message, opened, password)
        signer = message.certificate
        first = message.message_type == MessageType.PKCS_REQ
        if first and not await self.enrolments.is_renewal(ask, signer):
            return _result(await self.enrolments.enrol(ask), password)
        return _result(await self.enrolments.renew(ask, signer), password)

    async def _poll(self, message: PKIMessage, opened: _Opened) -> _Result:
        try:
            messages.parse_issuer_and_subject(opened.data)
        except MalformedMessage as error:
            raise _unreadable() from error
        found, enrolment = await self.enrolments.poll(message.transaction_id, message.certificate)
        password = None
        if enrolment.csr:
            password = csr.parse(enrolment.csr, allow_legacy_hash=True).challenge_password
        return _result(found, password)

    async def _get_cert(self, message: PKIMessage, opened: _Opened) -> _Result:
        """Section 3.3.4. For holders of a certificate of ours: it is no public directory."""
        wanted = _issuer_and_serial(opened.data)
        holder = await own(self._services, message.certificate)
        now = self._services.clock.now()
        if holder is None or holder.revoked_at is not None or holder.not_after <= now:
            raise Refusal(
                FailInfo.BAD_REQUEST,
                "certificates are given to holders of a valid certificate of ours",
                rule="scep.getCert",
            )
        found = await self._services.database.lookup(lambda reader: _find(reader, wanted))
        if found is None:
            raise _no_certificate()
        return _Result([found])

    async def _get_crl(self, opened: _Opened) -> _Result:
        """Section 3.3.5. CRLs are for everybody."""
        wanted = _issuer_and_serial(opened.data)
        for authority in self._services.authorities.line(self._registration.issuer):
            certificate = authority.certificate
            if certificate is not None and encoding.fields_of(certificate).subject == wanted.issuer:
                crl = (await self._services.status.crl(authority.name)).der
                if len(crl) > MOST_CRL:
                    raise Refusal(
                        FailInfo.BAD_REQUEST,
                        "the CRL is too large for a message: get it from its distribution point",
                        rule="scep.getCRL",
                    )
                return _Result(crls=[crl])
        raise _no_certificate()

    # Cryptography, in a thread with keys that are slow

    def _open(self, exchange: _Exchange) -> _Opened:
        message, legacy = exchange.message, self.settings.legacy
        messages.verify(message, allow_legacy=legacy)
        if message.envelope is None:
            raise Refusal(
                FailInfo.BAD_MESSAGE_CHECK, "the message is empty", code=ErrorCode.MALFORMED
            )
        try:
            enveloped = enveloped_data.parse(message.envelope, max_size=messages.MAX_SIZE)
        except MalformedMessage as error:
            raise Refusal(
                FailInfo.BAD_MESSAGE_CHECK, error.detail, code=ErrorCode.MALFORMED
            ) from error
        authority, info = _recipient(enveloped, exchange.usable)
        exchange.authority = authority
        try:
            data = enveloped_data.decrypt_key_transport(
                enveloped,
                authority.certificate,
                authority.key,
                allow_legacy=legacy,
                substitute_secret=self._substitute,
            )
        except PKIError as error:
            if error.code is not ErrorCode.BAD_SIGNATURE:
                raise
            raise _unreadable() from error
        return _Opened(data, enveloped.content_encryption, scheme_of(info))

    def _success(self, exchange: _Exchange, opened: _Opened, result: _Result) -> bytes:
        if result.pending:
            return self._answer(exchange, CertRep(PKIStatus.PENDING))
        envelope = self._enveloped(exchange.message, opened, result)
        return self._answer(exchange, CertRep(PKIStatus.SUCCESS, envelope))

    def _answer(self, exchange: _Exchange, rep: CertRep) -> bytes:
        message = exchange.message
        nonce = self._random_bytes(NONCE_SIZE)
        return _signed(
            exchange.authority, messages.answer(rep, message, self._digest(message), nonce)
        )

    def _enveloped(self, message: PKIMessage, opened: _Opened, result: _Result) -> bytes:
        """For the certificate the request was signed with, in the request's own algorithms."""
        content = certs_only.encode(result.certificates, result.crls)
        return self._encrypted(content, message, opened, result.password)

    def _check_answerable(self, message: PKIMessage, opened: _Opened, password: str | None) -> None:
        """Tried before anything is issued that could not be sent: there are keys that nothing, or
        not this much, can be encrypted for."""
        if password is None or _is_rsa(message):
            self._encrypted(b"", message, opened, None)

    def _encrypted(
        self, content: bytes, message: PKIMessage, opened: _Opened, password: str | None
    ) -> bytes:
        algorithm = opened.content_encryption
        algorithm = _ANSWERED_WITH.get(algorithm, algorithm)
        if password is not None and not _is_rsa(message):
            return enveloped_data.encrypt_password(
                content, password.encode(), algorithm, random_bytes=self._random_bytes
            )
        scheme, digest = opened.key_transport
        return enveloped_data.encrypt(
            content,
            message.certificate,
            algorithm,
            key_transport=scheme,
            oaep_digest=digest or "sha256",
            random_bytes=self._random_bytes,
        )

    def _digest(self, message: PKIMessage) -> str:
        """The request's own, if it is one that is accepted."""
        allowed = _DIGESTS | (LEGACY_DIGESTS if self.settings.legacy else frozenset())
        return message.digest if message.digest in allowed else "sha256"

    # Refusals

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
            self._refusals.log(message.transaction_id, detail)
            return
        if error.code not in _NOT_COUNTED:
            self._failures.count(site(address))
            try:
                self._failures.check(site(address))
            except PKIError as limit:  # the last row of it for a while says so
                detail["address waits"] = limit.retry_after
        await self._refusals.record(f"scep:{self.label}", message.transaction_id, detail)


def _signed(authority: RegistrationAuthority, tbs: ToBeSigned) -> bytes:
    signature = authority.key.sign(tbs.data, padding.PKCS1v15(), hash_of(tbs.digest))
    return signed_data.encode(tbs, signature, authority.certificate)


def _is_quick(certificate: x509.Certificate) -> bool:
    """Whether its key is RSA of at most 2048 bits: a few tenths of a millisecond with the private
    one. For others there is a password to be made a key of, which is slow by intent."""
    key = certificate.public_key()
    return isinstance(key, rsa.RSAPublicKey) and key.key_size <= _QUICK_BITS


def _is_rsa(message: PKIMessage) -> bool:
    return isinstance(message.certificate.public_key(), rsa.RSAPublicKey)


def _result(certificate: bytes | None, password: str | None) -> _Result:
    if certificate is None:
        return _Result(pending=True)
    return _Result([x509.load_der_x509_certificate(certificate)], password=password)


def _recipient(
    enveloped: enveloped_data.EnvelopedData, usable: Sequence[RegistrationAuthority]
) -> tuple[RegistrationAuthority, KeyTransRecipientInfo]:
    """The registration authority that can decrypt, and what is encrypted for it."""
    for info in enveloped.recipients:
        if isinstance(info, KeyTransRecipientInfo):
            for authority in usable:
                own = content_info.certificate_der(authority.certificate)
                if content_info.identifies(info.identifier, own):
                    return authority, info
    raise Refusal(
        FailInfo.BAD_MESSAGE_CHECK,
        "the message is not encrypted for this registration authority: let the client get the CA "
        "certificates again",
        code=ErrorCode.BAD_SIGNATURE,
        rule="scep.recipient",
    )


def _issuer_and_serial(data: bytes) -> IssuerAndSerialNumber:
    try:
        return messages.parse_issuer_and_serial(data)
    except MalformedMessage as error:
        raise _unreadable() from error


def _find(reader: Reader, wanted: IssuerAndSerialNumber) -> x509.Certificate | None:
    for record in inventory.with_serial(reader, wanted.serial):
        if record.der is not None and content_info.identifies(wanted, record.der):
            return x509.load_der_x509_certificate(record.der)
    return None


def _unreadable() -> Refusal:
    return Refusal(
        FailInfo.BAD_MESSAGE_CHECK,
        _UNREADABLE,
        code=ErrorCode.BAD_SIGNATURE,
        rule="scep.messageData",
    )


def _no_certificate() -> Refusal:
    return Refusal(
        FailInfo.BAD_CERT_ID, "there is no such certificate here", code=ErrorCode.NOT_FOUND
    )
