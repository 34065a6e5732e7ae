"""Delegated OCSP responders (RFC 6960 section 4.2.2.2): a short-lived key and certificate for each
authority, issued by the very key whose certificates it answers for.

A responder is made ahead of need, so that every answer's nextUpdate lies within the responder's own
validity. Of all processes one makes it, by a lease. Where the authority's key is kept offline, the
responder at hand serves until it ends; `create` with a longer validity, while the key is there,
prepares for that.
"""

import asyncio
import datetime as dt
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificateIssuerPublicKeyTypes,
)

from pkiserver.ca import encoding, key_drafts, leases, ledger
from pkiserver.ca.audit import Audit
from pkiserver.ca.authorities import Authorities
from pkiserver.ca.model import Authority, AuthorityStatus, Prepared
from pkiserver.ca.responder_certificate import REQUESTER, key_kind, own_certificate, prepare
from pkiserver.clock import Clock, epoch, from_epoch
from pkiserver.config import CoreSettings
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.keys import KeyProvider, PrivateKey, sign
from pkiserver.pkix import cert
from pkiserver.storage import Database, Reader, Row, Transaction

_LEASE = dt.timedelta(minutes=1)

_BEST = (
    "SELECT key_id, certificate, not_before, not_after FROM responders "
    "WHERE issuer = ? AND not_before <= ? ORDER BY not_after DESC LIMIT 1"
)


@dataclass(frozen=True, slots=True)
class Responder:
    """Who signs answers. `key_hash` names it in them (byKey: the SHA-1 of its key bits),
    `algorithm` is the AlgorithmIdentifier of its signatures, `certificate` is DER."""

    key_id: str
    key: PrivateKey = field(repr=False)
    certificate: bytes = field(repr=False)
    key_hash: bytes
    algorithm: bytes = field(repr=False)
    not_after: dt.datetime


@dataclass(frozen=True, slots=True)
class _Draft:
    """A responder that is going to be made."""

    authority: Authority
    serial: int
    key_id: str
    now: dt.datetime
    validity: dt.timedelta
    lost: str | None


class Responders:
    """The responders of every authority, in the table `responders`."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        authorities: Authorities,
        keys: KeyProvider,
        audit: Audit,
        settings: CoreSettings,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._database = database
        self._clock = clock
        self._authorities = authorities
        self._keys = keys
        self._audit = audit
        self._settings = settings.ocsp
        self._random_bytes = random_bytes
        self._open: dict[str, Responder] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    def find(self, reader: Reader, issuer: str, now: dt.datetime) -> Row | None:
        """The row of the responder that may sign the longest, for `open`; None if all are over."""
        row = reader.one(_BEST, (issuer, epoch(now)))
        return row if row is not None and row[3] > epoch(now) else None

    def open(self, issuer: str, row: Row) -> Responder:
        """The responder of a row, kept in memory. Raises `PKIError` UNAVAILABLE without its key."""
        key_id, certificate, _, not_after = row
        known = self._open.get(issuer)
        if known is None or known.key_id != key_id:
            known = self._open[issuer] = _responder(
                key_id, load_key(self._keys.load, key_id), certificate, from_epoch(not_after)
            )
        return known

    async def ensure(self, authority: Authority) -> bool:
        """Make a responder if there is none, or the best one is near its end or has lost its key;
        whether one was made. Raises `PKIError` UNAVAILABLE when the authority's key is not at
        hand."""
        async with self._locks.setdefault(authority.name, asyncio.Lock()):
            now = self._clock.now()
            row = await self._database.lookup(lambda reader: self.find(reader, authority.name, now))
            lost = None if row is None or self._has_key(row[0]) else row[0]
            if row is not None and lost is None and not self._near_its_end(row, now):
                return False
            return await self._make(authority, self._settings.responder_validity, lost=lost)

    def _has_key(self, key_id: str) -> bool:
        """It may be gone for good: a backup of the keys is older than one of the database."""
        try:
            self._keys.load(key_id)
        except PKIError as error:
            return error.code is not ErrorCode.NOT_FOUND
        return True

    def problem(self, authority: Authority, row: Row | None, now: dt.datetime) -> str | None:
        """Why there is none after the best one, whose row it is, although it is time; None if
        there is no trouble, or nobody to ask."""
        own = authority.certificate
        closed = authority.status is AuthorityStatus.CLOSED
        if closed or own is None or own.not_valid_after_utc <= now:
            return None
        if row is not None and self._has_key(row[0]) and not self._near_its_end(row, now):
            return None
        try:
            load_key(self._authorities.key, authority.name)
        except PKIError as error:
            return f"due: {error.detail}"
        return None

    async def create(self, authority: Authority, validity: dt.timedelta) -> None:
        """Make a responder now, that lasts `validity` at most. Raises `PKIError` UNAVAILABLE like
        `ensure`, CONFLICT if another process is making one."""
        if not await self._make(authority, validity, force=True):
            raise PKIError(ErrorCode.CONFLICT, "another process is making a responder; try again")

    async def forget_expired(self) -> int:
        """Delete the keys of responders whose certificates are over, and those a crash left
        without a purpose; how many."""
        now = self._clock.now()
        rows = await self._database.read(
            lambda reader: reader.all(
                "SELECT key_id FROM responders WHERE not_after < ?", (epoch(now),)
            )
        )
        for (key_id,) in rows:
            await self._forget(key_id)
        return len(rows) + await key_drafts.forget_left(self._database, self._keys, now)

    async def _forget(self, key_id: str) -> None:
        """The key goes before the row that knows of it."""

        def work(tx: Transaction) -> None:
            tx.execute("DELETE FROM responders WHERE key_id = ?", (key_id,))
            key_drafts.drop(tx, key_id)

        await self._keys.delete(key_id)
        await self._database.write(work)

    def _near_its_end(self, row: Row, now: dt.datetime) -> bool:
        """Renewed when a quarter of the lifetime is left, sooner if answers run longer than that,
        but never in its first half."""
        not_before, not_after = from_epoch(row[2]), from_epoch(row[3])
        lifetime = not_after - not_before
        margin = min(lifetime / 2, max(lifetime / 4, 2 * self._settings.validity))
        return not_after - now < margin

    async def _make(
        self,
        authority: Authority,
        validity: dt.timedelta,
        *,
        force: bool = False,
        lost: str | None = None,
    ) -> bool:
        """`lost` is the key of the one it takes the place of."""
        key = load_key(self._authorities.key, authority.name)
        draft = self._draft(authority, validity, lost)
        holder = self._random_bytes(8).hex()
        if not await self._database.write(lambda tx: self._claim(tx, draft, holder, force=force)):
            return False
        try:
            await self._issue(draft, key)
        finally:
            await self._database.write(
                lambda tx: leases.release(tx, _lease(authority.name), holder)
            )
        return True

    def _draft(self, authority: Authority, validity: dt.timedelta, lost: str | None) -> _Draft:
        # The top bit stays free, so that the number is positive in 20 octets (RFC 5280 4.1.2.2).
        serial = int.from_bytes(self._random_bytes(20)) >> 1
        key_id = f"ocsp-{authority.name}-{cert.serial_hex(serial)[:16]}"
        now = self._clock.now().replace(microsecond=0)
        return _Draft(authority, serial, key_id, now, validity, lost)

    def _claim(self, tx: Transaction, draft: _Draft, holder: str, *, force: bool) -> bool:
        """Take the lease, unless somebody has it or has just done the work, and note which key is
        going to be made: a crash leaves no key that nobody knows of."""
        issuer, now = draft.authority.name, draft.now
        row = self.find(tx, issuer, now)
        needed = row is None or row[0] == draft.lost or self._near_its_end(row, now)
        if not needed and not force:
            return False
        won = leases.take(tx, _lease(issuer), holder, now, _LEASE)
        if won:
            key_drafts.note(tx, draft.key_id, now)
        return won

    async def _issue(self, draft: _Draft, key: PrivateKey) -> None:
        """Serial and intent are durable before the signature, as for any certificate."""
        try:
            issuer = own_certificate(draft.authority)
            own_key = await self._keys.generate(draft.key_id, key_kind(issuer))
            prepared = prepare(draft.authority, own_key, draft.serial, draft.now, draft.validity)
            await self._database.write(lambda tx: ledger.reserve(tx, prepared, epoch(draft.now)))
            signature = await sign(key, prepared.tbs)
            der = cert.assemble(prepared.tbs, prepared.signature_algorithm, signature)
            x509.load_der_x509_certificate(der).verify_directly_issued_by(issuer)
            await self._database.write(lambda tx: self._complete(tx, draft, prepared, der))
        except BaseException:
            await self._give_up(draft)
            raise

    async def _give_up(self, draft: _Draft) -> None:
        """Delete the key, unless its responder was stored after all: who is cancelled while it
        waits for a commit cannot tell."""

        def work(tx: Transaction) -> bool:
            certificate_id = cert.serial_hex(draft.serial)
            ledger.abandon(tx, certificate_id)
            return ledger.issued(tx, certificate_id) is None

        if await self._database.write(work):
            await self._forget(draft.key_id)

    def _complete(self, tx: Transaction, draft: _Draft, prepared: Prepared, der: bytes) -> None:
        if not ledger.complete(tx, prepared.id, der):
            raise PKIError(ErrorCode.CONFLICT, "the responder's certificate was finished elsewhere")
        key_drafts.take(tx, draft.key_id)
        tx.execute(
            "INSERT INTO responders (key_id, issuer, certificate, not_before, not_after) "
            "VALUES (?, ?, ?, ?, ?)",
            (
                draft.key_id, prepared.issuer, der,
                epoch(prepared.not_before), epoch(prepared.not_after),
            ),
        )  # fmt: skip
        tx.execute("UPDATE responders SET not_after = not_before WHERE key_id = ?", (draft.lost,))
        self._audit.append(
            tx,
            actor=str(REQUESTER),
            action="responder.create",
            object=prepared.issuer,
            detail={"certificate": prepared.id, "serial": cert.serial_hex(prepared.serial)},
        )


def load_key(load: Callable[[str], PrivateKey], name: str) -> PrivateKey:
    """A key to sign status with. One that is not here is away: it may come back, so whatever the
    provider says, this is `PKIError` UNAVAILABLE."""
    try:
        return load(name)
    except PKIError as error:
        raise PKIError(ErrorCode.UNAVAILABLE, error.detail) from error


def end(tx: Transaction, issuer: str, certificate: bytes) -> None:
    """Have a responder, if that is its certificate (DER), sign nothing from now on. Its key goes
    with those of expired ones."""
    tx.execute(
        "UPDATE responders SET not_after = not_before WHERE issuer = ? AND certificate = ?",
        (issuer, certificate),
    )


def _lease(issuer: str) -> str:
    return f"responder:{issuer}"


def _responder(
    key_id: str, key: PrivateKey, certificate: bytes, not_after: dt.datetime
) -> Responder:
    loaded = x509.load_der_x509_certificate(certificate)
    public_key = cast(CertificateIssuerPublicKeyTypes, loaded.public_key())
    key_bits = encoding.fields_of(loaded).key_bits
    # RFC 6960 section 4.2.1: KeyHash is SHA-1 by definition, and only a name here.
    key_hash = hashlib.sha1(key_bits, usedforsecurity=False).digest()
    return Responder(
        key_id, key, certificate, key_hash, encoding.signature_algorithm(public_key), not_after
    )
