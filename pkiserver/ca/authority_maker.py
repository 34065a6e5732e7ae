"""Making authorities: a name, a key and a certificate, in recorded steps.

A CA certificate of ours goes through the ledger like any other: name, key, serial and to-be-signed
bytes are durable before a key signs, and its status is asked and changed like that of others. What
a crash leaves is an authority that is pending without a request; making it again takes over. A key
that became no authority's is deleted after an hour.
"""

import asyncio
import contextlib
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.ca import authority_store as store
from pkiserver.ca import ca_certificate, ca_path, crl_points, key_drafts, ledger, succession
from pkiserver.ca.audit import JSON, Audit
from pkiserver.ca.authority_store import CA_PROFILE, NewAuthority, Path
from pkiserver.ca.authority_tree import AuthorityTree
from pkiserver.ca.ca_certificate import Plan, ToBeSigned
from pkiserver.ca.crl_scope import Distribution
from pkiserver.ca.issuer import Issuer, describe
from pkiserver.ca.model import AuthorityStatus, Prepared, Requester
from pkiserver.clock import Clock, epoch
from pkiserver.config import CoreSettings
from pkiserver.config_types import KeyKind
from pkiserver.errors import ErrorCode, PKIError, configuration_error
from pkiserver.keys import KeyProvider, PrivateKey, sign
from pkiserver.pkix import algorithms, cert
from pkiserver.storage import Database, IntegrityError, Transaction

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that is durable and belongs to no authority yet."""

    id: str
    key: PrivateKey = field(repr=False)

    @property
    def spki_sha256(self) -> bytes:
        return algorithms.spki_sha256(self.key.public_key())


@dataclass(frozen=True, slots=True)
class Place:
    """Where a new authority stands in a line: after `predecessor`. It takes over at `activates`
    (None: when an operator says so)."""

    predecessor: str
    activates: int | None


@dataclass(frozen=True, slots=True)
class _Link:
    """A certificate for `authority`'s name and key by the other root; `above` is that one's."""

    authority: str
    issuer: Issuer
    prepared: Prepared
    above: x509.Certificate


class AuthorityMaker(AuthorityTree):
    """The steps, for those who put them together."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        keys: KeyProvider,
        audit: Audit,
        settings: CoreSettings,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        super().__init__(database, keys, clock)
        self._audit = audit
        self._http_base = settings.server.http_base
        self._crl = settings.crl
        self._random = random_bytes

    async def _create(
        self, name: str, plan: Plan, kind: KeyKind, actor: str, place: Place | None = None
    ) -> None:
        """Two transactions, a signature between them. A root that comes after another one is
        linked with it: all its certificates are stored in the last transaction, or none."""
        new = await self._new_key(name, kind)
        built = await asyncio.to_thread(
            ca_certificate.build, plan, new.key.public_key(), serial := self._serial()
        )
        prepared = self._prepared(name, plan, built, serial, new.spki_sha256)
        row = NewAuthority(name, plan.issuer.name if plan.issuer else None, new.id, new.spki_sha256)
        await self._change(new, lambda tx: self._reserve(tx, row, prepared, actor, place))
        reserved = [prepared]
        try:
            certificate = await self._signed(prepared, plan, new)
            links: tuple[_Link, ...] = ()
            if place is not None and plan.issuer is None:
                links = await self._links(place.predecessor, name, certificate)
                reserved += [link.prepared for link in links]
            signed = await self._sign_links(links, new)
            path = (certificate, *(self.path(row.parent) if row.parent else ()))
            await self._change(
                None, lambda tx: self._complete(tx, row, prepared, path, signed, actor)
            )
        except Exception:
            await self._database.write(lambda tx: self._give_up(tx, row, reserved, actor))
            raise

    async def _request(
        self, name: str, subject: x509.Name, kind: KeyKind, actor: str, place: Place | None = None
    ) -> bytes:
        """A key and a request for an outside CA, DER."""
        new = await self._new_key(name, kind)
        builder = ca_certificate.request_builder(subject, new.key.public_key())
        algorithm = algorithms.signature_hash_for(new.key)
        csr = await asyncio.to_thread(builder.sign, new.key, algorithm)
        der = csr.public_bytes(Encoding.DER)
        row = NewAuthority(name, None, new.id, new.spki_sha256, der)

        def work(tx: Transaction) -> None:
            self._take(tx, row, place)
            detail = {"subject": subject.rfc4514_string(), **_shown(place)}
            self._note(tx, actor, "request", name, detail)

        await self._change(new, work)
        return der

    def _prepared(
        self, name: str, plan: Plan, built: ToBeSigned, serial: int, spki_sha256: bytes
    ) -> Prepared:
        return Prepared(
            id=self._random(16).hex(),
            issuer=plan.issuer.name if plan.issuer else name,
            profile=CA_PROFILE,
            serial=serial,
            tbs=built.tbs,
            signature_algorithm=built.signature_algorithm,
            names=(),
            subject=plan.wish.subject.rfc4514_string(),
            spki_sha256=spki_sha256,
            not_before=plan.not_before,
            not_after=plan.not_after,
            requester=Requester("ca", name),
        )

    def _reserve(
        self, tx: Transaction, row: NewAuthority, prepared: Prepared, actor: str,
        place: Place | None,
    ) -> None:  # fmt: skip
        if row.parent is not None:
            self.check_usable(tx, row.parent)
        self._take(tx, row, place)
        self._record(tx, prepared)
        detail = {"serial": cert.serial_hex(prepared.serial), "issuer": prepared.issuer}
        self._note(tx, actor, "create", row.name, detail | _shown(place), outcome="reserved")

    def _record(self, tx: Transaction, prepared: Prepared) -> None:
        """The intent to sign, and the lists the certificate points to."""
        ledger.reserve(tx, prepared, epoch(self._clock.now()))
        if prepared.issuer != prepared.requester.party:  # a root points to none
            lists = Distribution(prepared.issuer, self._http_base, self._crl)
            crl_points.remember(tx, lists, prepared, ca=True)

    def _describe(self, name: str, path: Path) -> Issuer:
        return describe(name, path, self._http_base, self._crl)

    async def _signed(self, prepared: Prepared, plan: Plan, new: NewKey) -> x509.Certificate:
        signer = self.key(plan.issuer.name) if plan.issuer else new.key
        issuer = plan.issuer.certificate if plan.issuer else None
        return await _sign(prepared, signer, issuer)

    async def _links(self, old: str, new: str, certificate: x509.Certificate) -> tuple[_Link, ...]:
        """OldWithNew and NewWithOld (RFC 4210 section 4.4), reserved."""
        before = self._describe(old, self.path(old))
        after = self._describe(new, (certificate,))
        found = (
            await self._link(old, before.certificate, after),
            await self._link(new, certificate, before),
        )

        def work(tx: Transaction) -> None:
            self.check_usable(tx, old)
            for link in found:
                self._record(tx, link.prepared)

        await self._database.write(work)
        return found

    async def _link(self, name: str, certificate: x509.Certificate, issuer: Issuer) -> _Link:
        plan = succession.plan_link(certificate, issuer)
        serial = self._serial()
        built = await asyncio.to_thread(succession.build_link, plan, certificate, serial)
        spki_sha256 = algorithms.spki_sha256(certificate.public_key())
        prepared = self._prepared(name, plan, built, serial, spki_sha256)
        return _Link(name, issuer, prepared, issuer.certificate)

    async def _sign_links(
        self, links: Sequence[_Link], new: NewKey
    ) -> list[tuple[_Link, x509.Certificate]]:
        return [
            (link, await _sign(link.prepared, self._key_of(link, new), link.above))
            for link in links
        ]

    def _key_of(self, link: _Link, new: NewKey) -> PrivateKey:
        """The new root's is not an authority's yet."""
        own = algorithms.spki_sha256(link.issuer.public_key)
        return new.key if own == new.spki_sha256 else self.key(link.issuer.name)

    def _complete(
        self, tx: Transaction, row: NewAuthority, prepared: Prepared, path: Path,
        links: Sequence[tuple[_Link, x509.Certificate]], actor: str,
    ) -> None:  # fmt: skip
        der = path[0].public_bytes(Encoding.DER)
        if not ledger.complete(tx, prepared.id, der) or not store.activate(
            tx, row.name, row.key_id, path, row.parent
        ):
            raise _given_up(row.name)
        self._note(tx, actor, "create", row.name, about(path[0]))
        for link, certificate in links:
            der = certificate.public_bytes(Encoding.DER)
            chain = (certificate, link.above)
            now = epoch(self._clock.now())
            if not ledger.complete(tx, link.prepared.id, der) or not store.add_cross_chain(
                tx, link.authority, chain, now
            ):
                raise _given_up(row.name)
            detail = about(certificate) | {"issuer": link.issuer.name}
            self._note(tx, actor, "link", link.authority, detail)

    def _give_up(
        self, tx: Transaction, row: NewAuthority, reserved: Sequence[Prepared], actor: str
    ) -> None:
        """The serials stay used, the name can be taken again. Nothing is done if the certificates
        were stored after all."""
        abandoned = [ledger.abandon(tx, prepared.id) for prepared in reserved]
        if any(abandoned):
            self._note(tx, actor, "create", row.name, {}, outcome="failed")

    async def _new_key(self, name: str, kind: KeyKind) -> NewKey:
        async def generate(key_id: str) -> NewKey:
            return NewKey(key_id, await self._keys.generate(key_id, kind))

        return await self._under_free_id(name, generate)

    async def _keep_key(self, name: str, key: PrivateKey) -> NewKey:
        async def store(key_id: str) -> NewKey:
            await self._keys.store(key_id, key)
            return NewKey(key_id, key)

        return await self._under_free_id(name, store)

    async def _under_free_id(self, name: str, keep: Callable[[str], Awaitable[NewKey]]) -> NewKey:
        """The identifier is the authority's name, so that a person finds the key; another one if
        that is taken, by what a crash left or somebody else is at: no key is written over."""
        now, key_id = self._clock.now(), name
        taken = self._has_key(name)
        if taken or not await self._database.write(lambda tx: key_drafts.note(tx, name, now)):
            key_id = f"{name}-{self._random(8).hex()}"
            await self._database.write(lambda tx: key_drafts.note(tx, key_id, now))
        try:
            return await keep(key_id)
        except PKIError as error:
            if error.code is ErrorCode.CONFLICT:  # somebody else's, which has to stay
                await self._database.write(lambda tx: key_drafts.drop(tx, key_id))
            raise

    def _has_key(self, key_id: str) -> bool:
        try:
            self._keys.load(key_id)
        except PKIError as error:
            return error.code is not ErrorCode.NOT_FOUND
        return True

    async def _change(self, new: NewKey | None, work: Callable[[Transaction], None]) -> None:
        """Write, then read the tree again. A `new` key goes if it became no authority's; after a
        failure of the database nobody knows, and it stays."""
        try:
            await self._database.write(work)
        except (PKIError, IntegrityError) as error:
            unknown = isinstance(error, PKIError) and error.code is ErrorCode.UNAVAILABLE
            if new is not None and not unknown:
                await self._discard(new.id)
            if isinstance(error, IntegrityError):
                raise PKIError(ErrorCode.CONFLICT, "the serial number is taken") from error
            raise
        await self.load()

    async def _discard(self, key_id: str) -> None:
        await self._keys.delete(key_id)
        await self._database.write(lambda tx: key_drafts.drop(tx, key_id))

    def _take(self, tx: Transaction, row: NewAuthority, place: Place | None = None) -> None:
        """The name for a new key and, if any, the place in the line."""
        now = epoch(self._clock.now())
        before = store.key_of(tx, row.name)
        if not store.add_pending(tx, row, now):
            raise _taken(row.name, pending=store.is_pending(tx, row.name))
        key_drafts.take(tx, row.key_id)
        if before not in (None, row.key_id):  # of whoever was interrupted
            key_drafts.leave(tx, before)
        if place is not None and not store.succeed(
            tx, place.predecessor, row.name, place.activates, now
        ):
            raise PKIError(
                ErrorCode.CONFLICT, f"authority {place.predecessor} has a successor already"
            )

    def _note(
        self, tx: Transaction, actor: str, action: str, name: str,
        detail: Mapping[str, JSON], *, outcome: str = "done",
    ) -> None:  # fmt: skip
        self._audit.append(
            tx, actor=actor, action=f"authority.{action}", object=name, outcome=outcome,
            detail=detail,
        )  # fmt: skip

    @contextlib.asynccontextmanager
    async def recording_refusals(self, actor: str, action: str, name: str) -> AsyncIterator[None]:
        """A `PKIError` within is in the audit log with its cause when it leaves."""
        try:
            yield
        except PKIError as error:
            detail = {"code": error.code.value, "cause": error.detail[:1000]}
            await self._database.write(
                lambda tx: self._note(tx, actor, action, name[:100], detail, outcome="refused")
            )
            raise

    def _require_free(self, name: str) -> None:
        """An early look; `add_pending` decides."""
        if not _NAME.fullmatch(name):
            raise configuration_error(
                f"{ascii(name)}: an authority's name has 1 to 63 lower-case letters, digits and "
                "hyphens, no hyphen first"
            )
        known = self._tree.by_name.get(name)
        if known is not None and known.status is not AuthorityStatus.PENDING:
            raise _taken(name, pending=False)

    def _serial(self) -> int:
        """20 octets, positive, 158 random bits (RFC 5280 section 4.1.2.2)."""
        return int.from_bytes(self._random(20)) >> 2 | 1 << 158


async def _sign(
    prepared: Prepared, key: PrivateKey, issuer: x509.Certificate | None
) -> x509.Certificate:
    """Verified: a faulty signature can give the key away and must not leave. `issuer` None: the
    certificate is its own."""
    der = cert.assemble(prepared.tbs, prepared.signature_algorithm, await sign(key, prepared.tbs))
    certificate = cert.parse_certificate(der)
    if not await asyncio.to_thread(ca_path.issued, issuer or certificate, certificate):
        raise PKIError(ErrorCode.INTERNAL, "the signature of the new CA does not verify")
    return certificate


def about(certificate: x509.Certificate) -> dict[str, JSON]:
    """A certificate in the audit log."""
    return {
        "subject": certificate.subject.rfc4514_string(),
        "serial": cert.serial_hex(certificate.serial_number),
        "not_after": epoch(certificate.not_valid_after_utc),
    }


def key_kind(text: str) -> KeyKind:
    """The kind of key that `text` names. Raises `PKIError` CONFIGURATION."""
    for kind in get_args(KeyKind):
        if text == kind:
            found: KeyKind = kind
            return found
    raise configuration_error(
        f"there is no key kind {ascii(text)}; choose one of {', '.join(get_args(KeyKind))}"
    )


def _shown(place: Place | None) -> dict[str, JSON]:
    if place is None:
        return {}
    return {"predecessor": place.predecessor, "activates": place.activates}


def _taken(name: str, *, pending: bool) -> PKIError:
    why = "; if making it was interrupted, try again in a minute" if pending else ""
    return PKIError(ErrorCode.CONFLICT, f"there is an authority {name} already{why}")


def _given_up(name: str) -> PKIError:
    return PKIError(ErrorCode.CONFLICT, f"making authority {name} was given up meanwhile")
