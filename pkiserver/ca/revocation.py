"""Revocation (RFC 5280 section 5.3): what may become of a certificate's status, and the one
transaction that changes it.

    good --> revoked for good
    good <-> certificateHold --> revoked for good
    revoked for another reason --> keyCompromise   (the date stays)

Nothing else: revoked never turns good again. The date of a hold that becomes final stays as well,
as it is since then that the certificate could not be relied on.
"""

import datetime as dt
from collections.abc import Callable, Mapping
from types import MappingProxyType

import structlog
from cryptography import x509

from pkiserver.ca import authority_store, blocklist, inventory, responders
from pkiserver.ca.audit import JSON, Audit
from pkiserver.ca.authorities import Authorities
from pkiserver.ca.authority_store import CA_PROFILE, RESPONDER_PROFILE
from pkiserver.ca.crl import encode_entry, encode_removal
from pkiserver.ca.crl_scope import bucket_of
from pkiserver.ca.model import CertificateRecord, CertificateStatus, Reason, Requester, TxHook
from pkiserver.clock import Clock, epoch, from_epoch, rfc3339
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix import cert
from pkiserver.pkix.cert import serial_bytes, serial_hex
from pkiserver.storage import Database, Reader, Transaction

OnChange = Callable[[str], None]

_SAYS_KEY_IS_LOST = frozenset({Reason.KEY_COMPROMISE, Reason.CA_COMPROMISE})

_log = structlog.get_logger("pkiserver.revocation")


class Revocation:
    """Changes certificates' status. Every refusal is a `PKIError`, is in the audit log, and changed
    nothing else. Who may revoke what for which reason is decided before, by whoever calls."""

    def __init__(
        self, database: Database, clock: Clock, authorities: Authorities, audit: Audit
    ) -> None:
        self._database = database
        self._clock = clock
        self._authorities = authorities
        self._audit = audit
        self._callbacks: list[OnChange] = []

    def on_change(self, callback: OnChange) -> None:
        """Call `callback(issuer)` after each change is durable. A revocation stands even if one
        fails: `status_generations` tells whoever missed it."""
        self._callbacks.append(callback)

    async def revoke(
        self,
        issuer: str,
        serial: int,
        reason: Reason,
        *,
        actor: Requester,
        invalidity_date: dt.datetime | None = None,
        also: TxHook | None = None,
    ) -> CertificateRecord:
        """The certificate as it is now. `also` runs in the transaction.

        `PKIError`: NOT_FOUND if it was not issued here, ALREADY_REVOKED, BAD_REVOCATION_REASON,
        CONFLICT if it has expired, MALFORMED for an impossible invalidity date.
        """

        def work(tx: Transaction) -> CertificateRecord:
            record = _issued(tx, issuer, serial)
            self._check(record, reason, invalidity_date)
            changed = self._revoke(tx, record, reason, actor, invalidity_date)
            if also is not None:
                also(tx)
            return changed

        return await self._run(work, issuer, serial, "certificate.revoke", actor)

    async def release(
        self, issuer: str, serial: int, *, actor: Requester, also: TxHook | None = None
    ) -> CertificateRecord:
        """End a hold: the certificate is good again. `PKIError`: NOT_FOUND, ALREADY_REVOKED if it
        is revoked for good, CONFLICT if it is not revoked at all."""

        def work(tx: Transaction) -> CertificateRecord:
            changed = self._release(tx, _issued(tx, issuer, serial), actor)
            if also is not None:
                also(tx)
            return changed

        return await self._run(work, issuer, serial, "certificate.release", actor)

    async def _run(
        self,
        work: Callable[[Transaction], CertificateRecord],
        issuer: str,
        serial: int,
        action: str,
        actor: Requester,
    ) -> CertificateRecord:
        try:
            self._authorities.get(issuer)
            record = await self._database.write(work)
        except PKIError as error:
            await self._record_refusal(issuer, serial, action, actor, error)
            raise
        for callback in self._callbacks:
            try:
                callback(issuer)
            except Exception as error:  # the change is durable, and the next look will find it
                _log.error("revocation.callback", issuer=issuer, exc_info=error)
        return record

    def _check(
        self, record: CertificateRecord, reason: Reason, invalidity_date: dt.datetime | None
    ) -> None:
        now = self._clock.now()
        if record.not_after < now:
            raise PKIError(
                ErrorCode.CONFLICT,
                f"the certificate expired on {rfc3339(record.not_after)}: nobody relies on it, "
                "and no list would show it",
            )
        if reason is Reason.REMOVE_FROM_CRL:
            raise PKIError(
                ErrorCode.BAD_REVOCATION_REASON,
                "removeFromCRL is no reason to revoke (RFC 5280 section 5.3.1)",
            )
        if reason is Reason.CA_COMPROMISE and not _is_ca(record):
            raise PKIError(
                ErrorCode.BAD_REVOCATION_REASON, "cACompromise is for certificates of authorities"
            )
        if invalidity_date is not None and not record.not_before <= invalidity_date <= now:
            raise PKIError(
                ErrorCode.MALFORMED,
                "the invalidity date is before the certificate's notBefore, or in the future",
            )

    def _revoke(
        self,
        tx: Transaction,
        record: CertificateRecord,
        reason: Reason,
        actor: Requester,
        invalidity_date: dt.datetime | None,
    ) -> CertificateRecord:
        now = from_epoch(epoch(self._clock.now()))
        revoked_at = record.revoked_at or now
        if not _may_become(record.reason, reason) or not _swap(tx, record, revoked_at, reason):
            raise PKIError(
                ErrorCode.ALREADY_REVOKED, f"the certificate is revoked already: {record.reason}"
            )
        since = invalidity_date or _known_invalidity(tx, record)
        _list(tx, record, revoked_at, reason, since, _next_generation(tx, record))
        if reason in _SAYS_KEY_IS_LOST:
            why = f"the certificate {serial_hex(record.serial)} was revoked for {reason}"
            blocklist.block(tx, record.spki_sha256, why, now)
        if record.profile == RESPONDER_PROFILE and record.der is not None:
            # Its certificate says that nobody need ask (nocheck): that it is not used any more is
            # all that can be done.
            responders.end(tx, record.issuer, record.der)
        self._append(tx, record, "certificate.revoke", actor, {"reason": reason.value})
        return _issued(tx, record.issuer, record.serial)

    def _release(
        self, tx: Transaction, record: CertificateRecord, actor: Requester
    ) -> CertificateRecord:
        if record.reason is None:
            raise PKIError(ErrorCode.CONFLICT, "the certificate is not on hold")
        if record.reason is not Reason.CERTIFICATE_HOLD or not _swap(tx, record, None, None):
            raise PKIError(
                ErrorCode.ALREADY_REVOKED, f"the certificate is revoked for good: {record.reason}"
            )
        tx.execute(
            "DELETE FROM revocations WHERE issuer = ? AND serial = ?",
            (record.issuer, serial_bytes(record.serial)),
        )
        _note_removal(tx, record, _next_generation(tx, record), self._clock.now())
        self._append(tx, record, "certificate.release", actor, {})
        return _issued(tx, record.issuer, record.serial)

    def _append(
        self,
        tx: Transaction,
        record: CertificateRecord,
        action: str,
        actor: Requester,
        detail: Mapping[str, JSON],
    ) -> None:
        where: dict[str, JSON] = {
            "issuer": record.issuer,
            "serial": serial_hex(record.serial),
            "was": None if record.reason is None else record.reason.value,
            "address": actor.address,
        }
        self._audit.append(
            tx, actor=str(actor), action=action, object=record.id, detail={**where, **detail}
        )

    async def _record_refusal(
        self, issuer: str, serial: int, action: str, actor: Requester, error: PKIError
    ) -> None:
        detail: dict[str, JSON] = {
            "issuer": issuer[:100],
            "code": error.code.value,
            "cause": error.detail[:1000],
            "address": actor.address,
        }
        await self._audit.refuse(
            self._database,
            actor=str(actor),
            action=action,
            object=serial_hex(serial)[:80],
            detail=detail,
            sources=actor.sources,
        )


def _issued(reader: Reader, issuer: str, serial: int) -> CertificateRecord:
    record = inventory.by_serial(reader, issuer, serial)
    if record is None or record.status is not CertificateStatus.ISSUED:
        raise PKIError(
            ErrorCode.NOT_FOUND, "this authority has not issued a certificate with that number"
        )
    return record


def _is_ca(record: CertificateRecord) -> bool:
    if record.der is None:
        return False
    extensions = cert.parse_certificate(record.der).extensions
    return any(
        isinstance(extension.value, x509.BasicConstraints) and extension.value.ca
        for extension in extensions
    )


_ALL = frozenset(Reason)
_NEXT: Mapping[Reason | None, frozenset[Reason]] = MappingProxyType(
    {
        None: _ALL,
        Reason.CERTIFICATE_HOLD: _ALL - {Reason.CERTIFICATE_HOLD},
        Reason.KEY_COMPROMISE: frozenset(),
        Reason.CA_COMPROMISE: frozenset(),
    }
)


def _may_become(old: Reason | None, new: Reason) -> bool:
    """Any other reason may still turn out to have been a lost key: relying parties and the list
    of blocked keys have to know."""
    return new in _NEXT.get(old, frozenset({Reason.KEY_COMPROMISE}))


def _swap(
    tx: Transaction,
    record: CertificateRecord,
    revoked_at: dt.datetime | None,
    reason: Reason | None,
) -> bool:
    """Compare and set: whether the status was still what `record` says."""
    changed = tx.execute(
        "UPDATE certificates SET revoked_at = ?, reason = ? "
        "WHERE id = ? AND status = 'issued' AND COALESCE(reason, '') = ?",
        (
            None if revoked_at is None else epoch(revoked_at),
            None if reason is None else reason.value,
            record.id,
            "" if record.reason is None else record.reason.value,
        ),
    )
    return changed == 1


def _known_invalidity(reader: Reader, record: CertificateRecord) -> dt.datetime | None:
    row = reader.one(
        "SELECT invalidity_date FROM revocations WHERE issuer = ? AND serial = ?",
        (record.issuer, serial_bytes(record.serial)),
    )
    return None if row is None or row[0] is None else from_epoch(row[0])


def _list(
    tx: Transaction,
    record: CertificateRecord,
    revoked_at: dt.datetime,
    reason: Reason,
    invalidity_date: dt.datetime | None,
    generation: int,
) -> None:
    """The row that CRLs are made of, with the entry encoded once and for all."""
    tx.execute(
        "DELETE FROM crl_removals WHERE issuer = ? AND serial = ?",
        (record.issuer, serial_bytes(record.serial)),
    )
    tx.execute(
        "INSERT INTO revocations "
        "(issuer, serial, revoked_at, reason, invalidity_date, not_after, entry, bucket, "
        "generation) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (issuer, serial) DO UPDATE SET "
        "reason = excluded.reason, invalidity_date = excluded.invalidity_date, "
        "entry = excluded.entry, bucket = excluded.bucket, generation = excluded.generation",
        (
            record.issuer,
            serial_bytes(record.serial),
            epoch(revoked_at),
            reason.value,
            None if invalidity_date is None else epoch(invalidity_date),
            epoch(record.not_after),
            encode_entry(record.serial, revoked_at, reason, invalidity_date),
            _bucket(record),
            generation,
        ),
    )


def _note_removal(
    tx: Transaction, record: CertificateRecord, generation: int, now: dt.datetime
) -> None:
    """What delta lists say of a hold that is over (section 5.2.4), until the certificate expires:
    those that have are forgotten here."""
    tx.execute(
        "DELETE FROM crl_removals WHERE issuer = ? AND not_after < ?", (record.issuer, epoch(now))
    )
    tx.execute(
        "INSERT INTO crl_removals (issuer, serial, bucket, generation, not_after, entry) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (
            record.issuer, serial_bytes(record.serial), _bucket(record), generation,
            epoch(record.not_after), encode_removal(record.serial, now),
        ),
    )  # fmt: skip


def _bucket(record: CertificateRecord) -> int:
    return bucket_of(record.serial, ca=record.profile == CA_PROFILE)


def _next_generation(tx: Transaction, record: CertificateRecord) -> int:
    row = tx.one(
        "INSERT INTO status_generations (issuer, generation) VALUES (?, 1) ON CONFLICT (issuer) "
        "DO UPDATE SET generation = status_generations.generation + 1 RETURNING generation",
        (record.issuer,),
    )
    generation: int = row[0] if row else 0
    if record.profile == CA_PROFILE:  # what every process knows of the tree has this in it
        authority_store.touch(tx, record.issuer)
    tx.execute(
        "INSERT INTO crl_changes (issuer, bucket, generation) VALUES (?, ?, ?) "
        "ON CONFLICT (issuer, bucket) DO UPDATE SET generation = excluded.generation",
        (record.issuer, _bucket(record), generation),
    )
    return generation
