"""Answering OCSP requests (RFC 6960, profile RFC 9919): whose certificate is it, what is its
status, signed by the authority's responder.

Good is said only of a certificate the inventory has as issued by this very authority. What is not
(a serial never used, one reserved or abandoned, one purged) is `unauthorized`, as RFC 9919 wants
where there is no authoritative record, and as costs no signature; `ocsp.unissued` may have it said
otherwise. Another issuer's certificates are `unauthorized` always. One such certificate refuses a
request about several: an answer has one signer and leaves nothing out.

Each answer is made from one snapshot of the database and carries the `Stamp` of that snapshot. It
may be given again to whoever asks the same as long as the stamp is the authority's present one:
the issuer's generation moves with every change of a status, in the transaction of the change.
"""

import datetime as dt
import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cryptography import x509

from pkiserver.ca import encoding, ocsp_codec
from pkiserver.ca.authorities import Authorities
from pkiserver.ca.model import Authority, CertificateStatus, Reason
from pkiserver.ca.ocsp_codec import NOT_ISSUED, CertID, OCSPRequest, Plain, Revoked, SingleResponse
from pkiserver.ca.responders import Responder, Responders
from pkiserver.clock import Clock, epoch, from_epoch
from pkiserver.config import OCSPSettings
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.keys import sign
from pkiserver.pkix.cert import serial_bytes
from pkiserver.storage import Database, Reader, Row

MAX_WAITING = 64
"""Signatures that may be under way at once; whoever comes then is told to try later."""
_FEW = 4
"""Look-ups that may run on the event loop."""
_UNISSUED: Mapping[str, Plain | Revoked] = {"unknown": Plain.UNKNOWN, "revoked": NOT_ISSUED}


class Stamp(NamedTuple):
    """What an authority's answers depend on: the generation of its statuses, the key of its
    responder, the serial number of its own certificate."""

    generation: int
    responder: str | None
    certificate: int


@dataclass(frozen=True, slots=True)
class OCSPAnswer:
    """A successful response. `cacheable` is False for one that repeats a nonce, or speaks of a
    certificate that may yet be issued; `plain` is the request's. `last_modified` is thisUpdate;
    None where a certificate was revoked in that very second: an answer of the same date may have
    said good before."""

    der: bytes = field(repr=False)
    this_update: dt.datetime
    last_modified: dt.datetime | None
    next_update: dt.datetime
    cacheable: bool
    plain: bool
    stamp: Stamp


@dataclass(frozen=True, slots=True)
class _Identity:
    """What CertIDs call an authority: by hash algorithm, the hashes of its name and of its key."""

    certificate: x509.Certificate
    hashes: Mapping[str | None, tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class _Found:
    """Of one moment: a row for each serial number (None: not issued), the responder's row."""

    rows: Sequence[Row | None]
    responder: Row | None
    stamp: Stamp


@dataclass(frozen=True, slots=True)
class _Known:
    """The stamp of an authority, found when the database was at `mark`."""

    mark: Hashable
    authority: Authority
    stamp: Stamp


class OCSP:
    """Makes answers for every authority. Raises `MalformedMessage`, and `PKIError` UNAUTHORIZED
    for what it has no record of, UNAVAILABLE when there is nobody to sign or too much to sign."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        authorities: Authorities,
        responders: Responders,
        settings: OCSPSettings,
    ) -> None:
        self._database = database
        self._clock = clock
        self._authorities = authorities
        self._responders = responders
        self._settings = settings
        self._unissued = _UNISSUED.get(settings.unissued)
        self._identities: dict[str, _Identity] = {}
        self._known: dict[str, _Known] = {}
        self._signing = 0

    async def stamp(self, name: str) -> Stamp:
        """The present stamp of an authority. Costs a look at the database's change mark, unless
        something was committed since the last time."""
        authority = self._authorities.get(name)
        # The mark comes first: what is committed after it makes the next call look again.
        mark = await self._database.change_mark()
        known = self._known.get(name)
        if known is None or known.mark != mark or known.authority is not authority:
            now = self._clock.now()
            stamp = await self._database.lookup(
                lambda reader: _stamp(
                    reader, authority, self._responders.find(reader, authority.name, now)
                )
            )
            known = self._known[name] = _Known(mark, authority, stamp)
        return known.stamp

    def stamp_now(self, name: str) -> Stamp | None:
        """`stamp` without waiting; None if that takes a look-up."""
        known = self._known.get(name)
        if known is None or known.authority is not self._authorities.get(name):
            return None
        return known.stamp if known.mark == self._database.change_mark_now() else None

    async def answer(self, authority: Authority, request_der: bytes) -> OCSPAnswer:
        """The signed answer to a request."""
        request = ocsp_codec.parse_request(request_der)
        serials = self._serials(authority, request.cert_ids)
        # The time comes before the look-up: thisUpdate is when the status was known to be right.
        now = self._clock.now().replace(microsecond=0)
        found = await self._look_up(authority, serials, now)
        if found.responder is None:
            await self._responders.ensure(authority)
            found = await self._look_up(authority, serials, now)
        if found.responder is None:
            raise PKIError(ErrorCode.UNAVAILABLE, "a responder is being made", retry_after=5)
        responder = self._responders.open(authority.name, found.responder)
        responses = [
            self._single(cert_id, row, now)
            for cert_id, row in zip(request.cert_ids, found.rows, strict=True)
        ]
        next_update = min(now + self._settings.validity, responder.not_after)
        der = await self._signed(request, responses, responder, now, next_update)
        cacheable = request.nonce is None and None not in found.rows
        last_modified = None if _revoked_since(found.rows, now) else now
        return OCSPAnswer(
            der, now, last_modified, next_update, cacheable, request.plain, found.stamp
        )

    def _serials(self, authority: Authority, cert_ids: Sequence[CertID]) -> list[bytes | None]:
        """Serial numbers as the database has them, None for one that no certificate can have; all
        of this authority's certificates."""
        hashes = self._identity(authority).hashes
        for cert_id in cert_ids:
            # Both hashes count: a key may be used under two names, a name with two keys.
            if hashes.get(cert_id.hash_name) != (cert_id.issuer_name_hash, cert_id.issuer_key_hash):
                raise _no_record()
        return [_serial(cert_id.serial) for cert_id in cert_ids]

    def _identity(self, authority: Authority) -> _Identity:
        certificate = authority.certificate
        if certificate is None:
            raise _no_record()
        known = self._identities.get(authority.name)
        if known is None or known.certificate is not certificate:
            known = self._identities[authority.name] = _Identity(certificate, _hashes(certificate))
        return known

    async def _look_up(
        self, authority: Authority, serials: Sequence[bytes | None], now: dt.datetime
    ) -> _Found:
        def work(reader: Reader) -> _Found:
            rows = [_find(reader, authority.name, serial) for serial in serials]
            if None in rows and self._unissued is None:
                raise _no_record()
            responder = self._responders.find(reader, authority.name, now)
            return _Found(rows, responder, _stamp(reader, authority, responder))

        run = self._database.lookup if len(serials) <= _FEW else self._database.read
        return await run(work)

    def _single(self, cert_id: CertID, row: Row | None, now: dt.datetime) -> SingleResponse:
        if row is None:
            assert self._unissued is not None  # noqa: S101  _look_up refused it otherwise
            return SingleResponse(cert_id, self._unissued)
        _, revoked_at, reason, not_after = row
        status = (
            Plain.GOOD if revoked_at is None else Revoked(from_epoch(revoked_at), Reason(reason))
        )
        kept = self._settings.archive_cutoff
        told = bool(kept) and not_after < epoch(now)
        return SingleResponse(cert_id, status, now - kept if told else None)

    async def _signed(
        self,
        request: OCSPRequest,
        responses: Sequence[SingleResponse],
        responder: Responder,
        now: dt.datetime,
        next_update: dt.datetime,
    ) -> bytes:
        data = ocsp_codec.response_data(
            responder_key_hash=responder.key_hash,
            produced_at=now,
            this_update=now,
            next_update=next_update,
            responses=responses,
            nonce=request.nonce,
        )
        if self._signing >= MAX_WAITING:
            raise PKIError(ErrorCode.UNAVAILABLE, "too many answers to sign", retry_after=1)
        self._signing += 1
        try:
            signature = await sign(responder.key, data)
        finally:
            self._signing -= 1
        return ocsp_codec.basic_response(
            data, responder.algorithm, signature, responder.certificate
        )


def _no_record() -> PKIError:
    return PKIError(ErrorCode.UNAUTHORIZED, "there is no record of the certificate here")


def _serial(number: int) -> bytes | None:
    try:
        return serial_bytes(number)
    except ValueError:
        return None


def _find(reader: Reader, issuer: str, serial: bytes | None) -> Row | None:
    """The row of a certificate that was issued."""
    if serial is None:
        return None
    row = reader.one(
        "SELECT status, revoked_at, reason, not_after FROM certificates "
        "WHERE issuer = ? AND serial = ?",
        (issuer, serial),
    )
    return row if row is not None and row[0] == CertificateStatus.ISSUED else None


def _revoked_since(rows: Sequence[Row | None], moment: dt.datetime) -> bool:
    return any(row is not None and (row[1] or 0) >= epoch(moment) for row in rows)


def _stamp(reader: Reader, authority: Authority, responder: Row | None) -> Stamp:
    row = reader.one(
        "SELECT generation FROM status_generations WHERE issuer = ?", (authority.name,)
    )
    own = authority.certificate
    return Stamp(
        0 if row is None else row[0],
        None if responder is None else responder[0],
        0 if own is None else own.serial_number,
    )


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
