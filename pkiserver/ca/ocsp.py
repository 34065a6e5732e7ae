"""Answering OCSP requests (RFC 6960, profile RFC 9919): whose certificate is it, what is its
status, signed by the authority's responder.

Good is said only of a certificate the inventory has as issued by this very authority. Everything
else (another issuer, a serial never used, one reserved or abandoned, one purged) is `unauthorized`:
RFC 9919 wants that where there is no authoritative record, and it costs no signature. One such
certificate refuses a request about several: an answer has one signer and leaves nothing out.

Each answer is made from the database's state at that moment; nothing is remembered between them.
"""

import datetime as dt
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cryptography import x509

from pkiserver.ca import encoding, ocsp_codec
from pkiserver.ca.model import Authority, CertificateStatus, Reason
from pkiserver.ca.ocsp_codec import CertID, OCSPRequest, Revoked, SingleResponse
from pkiserver.ca.responders import Responder, Responders
from pkiserver.clock import Clock, from_epoch
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.keys import sign
from pkiserver.pkix.cert import serial_bytes
from pkiserver.storage import Database, Reader, Row

_FEW = 4
"""Look-ups that may run on the event loop."""


@dataclass(frozen=True, slots=True)
class OCSPAnswer:
    """A successful response. `cacheable` is False for one that repeats a nonce."""

    der: bytes = field(repr=False)
    this_update: dt.datetime
    next_update: dt.datetime
    cacheable: bool


@dataclass(frozen=True, slots=True)
class _Identity:
    """What CertIDs call an authority: by hash algorithm, the hashes of its name and of its key."""

    certificate: x509.Certificate
    hashes: Mapping[str | None, tuple[bytes, bytes]]


class OCSP:
    """Makes answers for every authority. Raises `MalformedMessage`, and `PKIError` UNAUTHORIZED
    for what it has no record of, UNAVAILABLE when there is nobody to sign."""

    def __init__(
        self, database: Database, clock: Clock, responders: Responders, validity: dt.timedelta
    ) -> None:
        self._database = database
        self._clock = clock
        self._responders = responders
        self._validity = validity
        self._identities: dict[str, _Identity] = {}

    async def answer(self, authority: Authority, request_der: bytes) -> OCSPAnswer:
        """The signed answer to a request."""
        request = ocsp_codec.parse_request(request_der)
        serials = self._serials(authority, request.cert_ids)
        # The time comes before the look-up: thisUpdate is when the status was known to be right.
        now = self._clock.now().replace(microsecond=0)
        found, row = await self._look_up(authority.name, serials, now)
        responses = [
            SingleResponse(cert_id, _status(status))
            for cert_id, status in zip(request.cert_ids, found, strict=True)
        ]
        responder = await self._responder(authority, row, now)
        return await self._sign(request, responses, responder, now)

    def _serials(self, authority: Authority, cert_ids: Sequence[CertID]) -> list[bytes]:
        """Serial numbers as the database has them, of certificates of this authority."""
        hashes = self._identity(authority).hashes
        for cert_id in cert_ids:
            # Both hashes count: a key may be used under two names, a name with two keys.
            if hashes.get(cert_id.hash_name) != (cert_id.issuer_name_hash, cert_id.issuer_key_hash):
                raise _no_record()
        try:
            return [serial_bytes(cert_id.serial) for cert_id in cert_ids]
        except ValueError:
            raise _no_record() from None

    def _identity(self, authority: Authority) -> _Identity:
        certificate = authority.certificate
        if certificate is None:
            raise _no_record()
        known = self._identities.get(authority.name)
        if known is None or known.certificate is not certificate:
            known = self._identities[authority.name] = _Identity(certificate, _hashes(certificate))
        return known

    async def _look_up(
        self, issuer: str, serials: Sequence[bytes], now: dt.datetime
    ) -> tuple[list[Row], Row | None]:
        """Of one moment: a row for each serial number, and the responder's."""

        def work(reader: Reader) -> tuple[list[Row], Row | None]:
            rows = [_find(reader, issuer, serial) for serial in serials]
            return rows, self._responders.find(reader, issuer, now)

        run = self._database.lookup if len(serials) <= _FEW else self._database.read
        return await run(work)

    async def _responder(
        self, authority: Authority, row: Row | None, now: dt.datetime
    ) -> Responder:
        if row is None:
            await self._responders.ensure(authority)
            row = await self._database.lookup(
                lambda reader: self._responders.find(reader, authority.name, now)
            )
        if row is None:
            raise PKIError(ErrorCode.UNAVAILABLE, "a responder is being made", retry_after=5)
        return self._responders.open(authority.name, row)

    async def _sign(
        self,
        request: OCSPRequest,
        responses: Sequence[SingleResponse],
        responder: Responder,
        now: dt.datetime,
    ) -> OCSPAnswer:
        # An answer that outlives its signer's certificate would verify for nobody.
        next_update = min(now + self._validity, responder.not_after)
        data = ocsp_codec.response_data(
            responder_key_hash=responder.key_hash,
            produced_at=now,
            this_update=now,
            next_update=next_update,
            responses=responses,
            nonce=request.nonce,
        )
        signature = await sign(responder.key, data)
        response = ocsp_codec.basic_response(
            data, responder.algorithm, signature, responder.certificate
        )
        return OCSPAnswer(response, now, next_update, cacheable=request.nonce is None)


def _no_record() -> PKIError:
    return PKIError(ErrorCode.UNAUTHORIZED, "there is no record of the certificate here")


def _find(reader: Reader, issuer: str, serial: bytes) -> Row:
    row = reader.one(
        "SELECT status, revoked_at, reason FROM certificates WHERE issuer = ? AND serial = ?",
        (issuer, serial),
    )
    if row is None or row[0] != CertificateStatus.ISSUED:
        raise _no_record()
    return row


def _status(row: Row) -> Revoked | None:
    _, revoked_at, reason = row
    if revoked_at is None:
        return None
    return Revoked(from_epoch(revoked_at), Reason(reason))


def _hashes(certificate: x509.Certificate) -> dict[str | None, tuple[bytes, bytes]]:
    """RFC 6960 section 4.1.1: the hash of the issuer's name, as it stands in the certificates it
    issued, and of its public key without tag, length and unused bits."""
    fields = encoding.fields_of(certificate)
    return {
        name: (
            hashlib.new(name, fields.subject, usedforsecurity=False).digest(),
            hashlib.new(name, fields.key_bits, usedforsecurity=False).digest(),
        )
        for name in ocsp_codec.HASH_NAMES
    }
