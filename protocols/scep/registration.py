"""The registration authority of an issuer: the RSA key devices encrypt for and that signs our
answers (RFC 8894 sections 2.1.2 and 2.2), so that a CA of any kind of key can serve SCEP.

Its certificate comes from the CA through issuance like any other. A new one is made when a third
of the lifetime is left; the ones before go on decrypting until they end or their CA is closed, for
devices that fetched them. Of all processes one makes it, by a lease. The row that belongs to it is
written together with the intent to sign, so a crash leaves either nothing or what recovery
completes, and a key that its draft knows of.
"""

import asyncio
import contextlib
import datetime as dt
import functools
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from pkiserver.ca import key_drafts, leases
from pkiserver.ca.model import CertificateRequest, Prepared, Requester
from pkiserver.clock import epoch
from pkiserver.config import ProfileSettings
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.plugin import Services
from pkiserver.storage import Reader, Row, Transaction
from protocols.scep.settings import RegistrationKey

CERTIFICATE_REQUEST_AGENT = "1.3.6.1.4.1.311.20.2.1"
"""Windows sends nothing to a registration authority without this or serverAuth."""
_LEASE = dt.timedelta(minutes=1)
_PATIENCE = 10.0
_LOOK = 0.1
_RETRY = dt.timedelta(seconds=30)
"""After a failure: each attempt costs a key and a refusal in the audit log, and everybody may ask
for the CA certificates."""
_REQUESTER = Requester("scep", "registration-authority")

_SELECT = (
    "SELECT r.key_id, c.der, c.issuer, r.kind FROM scep_registrations r "
    "JOIN certificates c ON c.id = r.certificate "
    "WHERE r.issuer = ? AND r.not_after > ? AND c.status = 'issued' AND c.revoked_at IS NULL "
    "AND c.issuer NOT IN (SELECT authority FROM closures) "  # nothing could revoke it any more
)
_BEST_FIRST = "CASE WHEN c.issuer = ? THEN 0 ELSE 1 END, r.not_after DESC, r.key_id"
_ALL = f"{_SELECT} ORDER BY CASE WHEN r.kind = ? THEN 0 ELSE 1 END, {_BEST_FIRST}"
_BEST = f"{_SELECT} AND r.kind = ? ORDER BY {_BEST_FIRST} LIMIT 1"

_OVER = (
    "SELECT r.key_id FROM scep_registrations r JOIN certificates c ON c.id = r.certificate "
    "WHERE r.not_after <= ? OR c.status = 'abandoned' "
    "OR c.issuer IN (SELECT authority FROM closures)"
)

_log = structlog.get_logger("protocols.scep.registration")


@dataclass(frozen=True, slots=True)
class RegistrationAuthority:
    """A key and its certificate."""

    key_id: str
    key: rsa.RSAPrivateKey = field(repr=False)
    certificate: x509.Certificate


@dataclass(frozen=True, slots=True)
class Registration:
    """Which registration authority a section has: those of one issuer and kind share one."""

    issuer: str
    kind: RegistrationKey
    validity: dt.timedelta

    @property
    def profile(self) -> str:
        """A name that cannot be configured."""
        return f"scep-ra.{self.issuer}.{self.kind}"

    @property
    def lease(self) -> str:
        return f"scep-ra:{self.issuer}:{self.kind}"


class RegistrationAuthorities:
    """Those of every issuer, in the table `scep_registrations`. Safe to call concurrently."""

    def __init__(
        self,
        services: Services,
        registrations: Sequence[Registration],
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._services = services
        self._registrations = tuple(dict.fromkeys(registrations))
        self._random_bytes = random_bytes
        self._open: dict[str, RegistrationAuthority] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._failed: dict[str, tuple[dt.datetime, str]] = {}
        for registration in self._registrations:
            # Recovery finishes what is of a known profile. A new home has no authority yet.
            with contextlib.suppress(PKIError):
                self._add_profile(registration)

    async def current(self, registration: Registration) -> RegistrationAuthority:
        """The one to encrypt for and to sign with; made if there is none. Raises `PKIError`
        UNAVAILABLE while the CA cannot sign."""
        found = await self._services.database.lookup(
            lambda reader: self._best(reader, registration)
        )
        waited = 0.0
        while found is None:
            try:
                await self.ensure(registration)
            except PKIError as error:
                raise PKIError(ErrorCode.UNAVAILABLE, error.detail) from error
            found = await self._services.database.lookup(
                lambda reader: self._best(reader, registration)
            )
            if found is None:
                if waited >= _PATIENCE:
                    raise PKIError(
                        ErrorCode.UNAVAILABLE, "the registration authority is being made; try again"
                    )
                await asyncio.sleep(_LOOK)  # another process is making it
                waited += _LOOK
        return self._load(found[0], found[1])

    async def serving(
        self, registration: Registration
    ) -> tuple[RegistrationAuthority, list[RegistrationAuthority]]:
        """`current`, and every one whose certificate is in force: devices may still use it."""
        rows = await self._in_force(registration)
        if rows and rows[0][3] == registration.kind:
            current = self._load(rows[0][0], bytes(rows[0][1]))
        else:
            current = await self.current(registration)
            rows = await self._in_force(registration)
        return current, [self._load(row[0], bytes(row[1])) for row in rows]

    async def _in_force(self, registration: Registration) -> list[Row]:
        """The best one first."""
        now = epoch(self._services.clock.now())
        current = self._services.authorities.current(registration.issuer)
        return await self._services.database.lookup(
            lambda reader: reader.all(_ALL, (registration.issuer, now, registration.kind, current))
        )

    async def maintain(self) -> None:
        """Scheduled work: renew what is near its end, forget what is over."""
        for registration in self._registrations:
            try:
                await self.ensure(registration)
            except PKIError as error:
                _log.warning(
                    "no new registration authority", issuer=registration.issuer, why=error.detail
                )
        await self._forget_expired()

    async def ensure(self, registration: Registration) -> bool:
        """Make one if there is none that is fresh; whether one was made. Raises `PKIError`, for a
        while after a failure without another attempt."""
        async with self._locks.setdefault(registration.lease, asyncio.Lock()):
            if await self._services.database.lookup(lambda r: self._is_fresh(r, registration)):
                return False
            self._refuse_haste(registration)
            try:
                return await self._make_alone(registration)
            except PKIError as error:
                self._failed[registration.lease] = self._services.clock.now(), error.detail
                raise

    def _refuse_haste(self, registration: Registration) -> None:
        failed = self._failed.get(registration.lease)
        if failed is not None and self._services.clock.now() < failed[0] + _RETRY:
            raise PKIError(ErrorCode.UNAVAILABLE, failed[1])

    async def _make_alone(self, registration: Registration) -> bool:
        """Whether it was for this process to make it."""
        holder = self._random_bytes(8).hex()
        key_id = f"scep-{registration.issuer}-{holder}"
        if not await self._services.database.write(
            lambda tx: self._claim(tx, registration, holder, key_id)
        ):
            return False
        try:
            await self._make(registration, key_id)
        finally:
            await self._services.database.write(
                lambda tx: leases.release(tx, registration.lease, holder)
            )
        return True

    # Reading

    def _best(self, reader: Reader, registration: Registration) -> tuple[str, bytes, str] | None:
        """Key, certificate and issuer; one of the authority that issues now, if there is one."""
        now = epoch(self._services.clock.now())
        current = self._services.authorities.current(registration.issuer)
        row = reader.one(_BEST, (registration.issuer, now, registration.kind, current))
        return None if row is None else (row[0], bytes(row[1]), row[2])

    def _is_fresh(self, reader: Reader, registration: Registration) -> bool:
        """Of the authority that issues now, and more than a third of the lifetime left."""
        row = self._best(reader, registration)
        if row is None:
            return False
        certificate = x509.load_der_x509_certificate(row[1])
        start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        ca = self._ca(registration)
        # Near its own end a CA gives no more than what is left of it.
        renewable = end < ca.not_valid_after_utc
        near_end = self._services.clock.now() >= end - (end - start) / 3
        current = self._services.authorities.current(registration.issuer)
        return row[2] == current and not (near_end and renewable)

    def _load(self, key_id: str, der: bytes) -> RegistrationAuthority:
        known = self._open.get(key_id)
        if known is None:
            key = self._services.keys.load(key_id)
            if not isinstance(key, rsa.RSAPrivateKey):
                raise PKIError(ErrorCode.UNAVAILABLE, f"key {key_id} is not an RSA key")
            certificate = x509.load_der_x509_certificate(der)
            known = self._open[key_id] = RegistrationAuthority(key_id, key, certificate)
        return known

    # Making

    def _claim(self, tx: Transaction, registration: Registration, holder: str, key_id: str) -> bool:
        """Take the lease, unless somebody has it or has just done the work, and note which key is
        going to be made."""
        if self._is_fresh(tx, registration):
            return False
        now = self._services.clock.now()
        won = leases.take(tx, registration.lease, holder, now, _LEASE)
        if won:
            key_drafts.note(tx, key_id, now)
        return won

    async def _make(self, registration: Registration, key_id: str) -> None:
        services = self._services
        try:
            self._add_profile(registration)
            key = await services.keys.generate(key_id, registration.kind)
            assert isinstance(key, rsa.RSAPrivateKey)  # noqa: S101  its kind is one of RSA
            csr = await asyncio.to_thread(_csr, key)
            prepared = await services.issuance.prepare(
                CertificateRequest(
                    profile=registration.profile,
                    requester=_REQUESTER,
                    csr=csr,
                    names=(),
                    subject_cn=_COMMON_NAME,
                ),
                unattended=True,
            )
            await services.issuance.issue(
                prepared,
                on_reserved=functools.partial(_enter, registration, key_id, prepared),
            )
        except BaseException:
            await self._give_up(key_id)
            raise

    async def _give_up(self, key_id: str) -> None:
        """Delete the key, unless its certificate is under way after all."""
        row = await self._services.database.read(
            lambda reader: reader.one(
                "SELECT 1 FROM scep_registrations WHERE key_id = ?", (key_id,)
            )
        )
        if row is None:
            await self._forget(key_id)

    async def _forget_expired(self) -> None:
        """Keys whose certificates are over or never came to be."""
        now = epoch(self._services.clock.now())
        rows = await self._services.database.read(lambda reader: reader.all(_OVER, (now,)))
        for (key_id,) in rows:
            await self._forget(key_id)

    async def _forget(self, key_id: str) -> None:
        """The key goes before the row that knows of it."""

        def work(tx: Transaction) -> None:
            tx.execute("DELETE FROM scep_registrations WHERE key_id = ?", (key_id,))
            key_drafts.drop(tx, key_id)

        await self._services.keys.delete(key_id)
        self._open.pop(key_id, None)
        await self._services.database.write(work)

    def _ca(self, registration: Registration) -> x509.Certificate:
        """Of the authority that issues now."""
        authorities = self._services.authorities
        return authorities.certificate(authorities.current(registration.issuer))

    def _add_profile(self, registration: Registration) -> None:
        settings = ProfileSettings(
            issuer=registration.issuer,
            validity=registration.validity,
            key_kinds=(registration.kind,),
            key_usage=("digitalSignature", "keyEncipherment"),
            extended_key_usage=("serverAuth", CERTIFICATE_REQUEST_AGENT),
            subject=_subject(self._ca(registration).subject),
            require_name=False,
            max_names=0,
            must_staple="never",
        )
        self._services.issuance.add_profile(registration.profile, settings)


_COMMON_NAME = "SCEP registration authority"
_KEPT = {
    NameOID.ORGANIZATION_NAME: "O",
    NameOID.ORGANIZATIONAL_UNIT_NAME: "OU",
    NameOID.LOCALITY_NAME: "L",
    NameOID.STATE_OR_PROVINCE_NAME: "ST",
    NameOID.COUNTRY_NAME: "C",
    NameOID.DOMAIN_COMPONENT: "DC",
}


def _subject(issuer: x509.Name) -> str:
    """A template of the issuer's own name with another common name: so it lies within the name
    constraints that the issuer lies within."""
    rest = [
        f"{_KEPT[attribute.oid]}={_escaped(str(attribute.value))}"
        for attribute in issuer
        if attribute.oid in _KEPT
    ]
    return ",".join(["CN={cn}", *reversed(rest)])


def _escaped(value: str) -> str:
    return "".join(f"\\{c}" if c in ' "#+,;<=>\\{}' else c for c in value)


def _enter(registration: Registration, key_id: str, prepared: Prepared, tx: Transaction) -> None:
    key_drafts.take(tx, key_id)
    tx.execute(
        "INSERT INTO scep_registrations (key_id, issuer, kind, certificate, not_after) "
        "VALUES (?, ?, ?, ?, ?)",
        (
            key_id, registration.issuer, registration.kind, prepared.id,
            epoch(prepared.not_after),
        ),
    )  # fmt: skip


def _csr(key: rsa.RSAPrivateKey) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
