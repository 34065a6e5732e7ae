"""The changes to the tree of authorities.

A CA certificate of ours goes through the ledger like any other: name, key, serial and to-be-signed
bytes are durable before a key signs, and its status is asked and changed like that of others. What
a crash leaves is an authority that is pending without a request; making it again takes over.
"""

import asyncio
import datetime as dt
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.ca import authority_store as store
from pkiserver.ca import ca_certificate, ca_path, ledger
from pkiserver.ca.audit import JSON, Audit
from pkiserver.ca.authority_store import CA_PROFILE, NewAuthority, Path
from pkiserver.ca.authority_tree import AuthorityTree
from pkiserver.ca.ca_certificate import Plan, Wish
from pkiserver.ca.issuer import describe
from pkiserver.ca.model import Authority, AuthorityStatus, Prepared, Requester
from pkiserver.ca.subtrees import subject_name
from pkiserver.clock import Clock, epoch
from pkiserver.config import CoreSettings
from pkiserver.config_types import KeyKind
from pkiserver.errors import ErrorCode, PKIError, configuration_error
from pkiserver.keys import KeyProvider, PrivateKey, sign
from pkiserver.pkix import algorithms, cert
from pkiserver.pkix.pem import encode_pem
from pkiserver.storage import Database, IntegrityError, Transaction

__all__ = ["CA_PROFILE", "Authorities", "Wish", "bootstrap", "key_kind", "subject_name"]

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_YEAR = dt.timedelta(days=365)


@dataclass(frozen=True, slots=True)
class _NewKey:
    """A key that is durable and belongs to no authority yet."""

    id: str
    key: PrivateKey = field(repr=False)

    @property
    def spki_sha256(self) -> bytes:
        return algorithms.spki_sha256(self.key.public_key())


class Authorities(AuthorityTree):
    """The tree and its changes, each in one transaction with its audit row. `actor` is who asked,
    as `protocol:party`. All may be called concurrently, from several processes: of two who want a
    name, one gets it and the other a `PKIError` CONFLICT."""

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
        self._random = random_bytes

    async def create_root(self, name: str, wish: Wish, kind: KeyKind, *, actor: str) -> Authority:
        """A new self-signed root."""
        self._require_free(name)
        plan = ca_certificate.plan_root(wish, self._clock.now())
        return await self._create(name, plan, kind, actor)

    async def create(
        self, name: str, parent: str, wish: Wish, kind: KeyKind, *, actor: str
    ) -> Authority:
        """A new CA below one of ours, within the parent's path length, names and lifetime.
        `PKIError` REFUSED_BY_PROFILE or REFUSED_NAME says which rule is against it."""
        self._require_free(name)
        self.key(parent)
        path = self.path(parent)
        issuer = describe(parent, path, self._http_base)
        plan = ca_certificate.plan_child(wish, issuer, path, self._clock.now())
        return await self._create(name, plan, kind, actor)

    async def request(self, name: str, subject: x509.Name, kind: KeyKind, *, actor: str) -> bytes:
        """A key and a PEM request for an outside CA; the authority waits for `install`."""
        self._require_free(name)
        new = await self._new_key(name, kind)
        builder = ca_certificate.request_builder(subject, new.key.public_key())
        algorithm = algorithms.signature_hash_for(new.key)
        csr = await asyncio.to_thread(builder.sign, new.key, algorithm)
        der = csr.public_bytes(Encoding.DER)
        row = NewAuthority(name, None, new.id, new.spki_sha256, der)

        def work(tx: Transaction) -> None:
            self._take(tx, row)
            self._note(tx, actor, "request", name, {"subject": subject.rfc4514_string()})

        await self._change(new, work)
        return encode_pem("CERTIFICATE REQUEST", der)

    async def csr(self, name: str) -> bytes:
        """The PEM request again. Raises `PKIError` NOT_FOUND if there never was one."""
        der = await self._database.lookup(lambda reader: store.read_csr(reader, name))
        if der is None:
            raise PKIError(ErrorCode.NOT_FOUND, f"authority {ascii(name)} has no request")
        return encode_pem("CERTIFICATE REQUEST", der)

    async def install(
        self, name: str, certificates: Sequence[x509.Certificate], *, actor: str
    ) -> Authority:
        """The answer to `request`: certificates in any order, with the whole chain up to its root.
        `PKIError` REFUSED_BY_PROFILE says what is wrong with them."""
        authority = self.get(name)
        path = await self._checked(certificates, self.key(name))

        def work(tx: Transaction) -> None:
            if store.read_csr(tx, name) is None:
                raise _awaits_nothing(name)
            self._adopt(tx, authority.key_id, name, path, actor, "install")

        await self._change(None, work)
        return self.get(name)

    async def import_(
        self, name: str, certificates: Sequence[x509.Certificate], key: PrivateKey, *, actor: str
    ) -> Authority:
        """An existing CA: its key, its certificate and the whole chain up to a root, which may be
        one of ours. `PKIError` REFUSED_BY_PROFILE says what is wrong with them."""
        self._require_free(name)
        path = await self._checked(certificates, key)
        new = await self._keep_key(name, key)
        row = NewAuthority(name, None, new.id, new.spki_sha256)

        def work(tx: Transaction) -> None:
            self._take(tx, row)
            if store.key_in_use(tx, new.spki_sha256, name):
                raise PKIError(ErrorCode.CONFLICT, "another authority has this key")
            self._adopt(tx, new.id, name, path, actor, "import")

        await self._change(new, work)
        return self.get(name)

    async def add_chain(
        self, name: str, certificates: Sequence[x509.Certificate], *, actor: str
    ) -> None:
        """A cross certificate, that is another one for the authority's name and key, and what is
        above it: from now on an alternate chain of everything below."""
        own = self.certificate(name)
        path = await asyncio.to_thread(ca_path.order, certificates, own.public_key())
        ca_path.check(path, self._clock.now())
        if path[0].subject != own.subject:
            raise ca_certificate.refuse("the certificate is for another name than the authority's")
        if path[:-1] in self.chains(name):
            raise PKIError(ErrorCode.CONFLICT, f"authority {name} has this chain already")

        def work(tx: Transaction) -> None:
            if not store.add_cross_chain(tx, name, path, epoch(self._clock.now())):
                raise PKIError(ErrorCode.CONFLICT, f"authority {name} has this chain already")
            self._note(tx, actor, "cross", name, _about(path[0]))

        await self._change(None, work)

    async def retire(self, name: str, *, actor: str) -> Authority:
        """From now on the authority issues nothing; it goes on signing status. There is no way
        back. `PKIError` CONFLICT if it is not active."""
        self.get(name)

        def work(tx: Transaction) -> None:
            if not store.retire(tx, name):
                raise PKIError(ErrorCode.CONFLICT, f"authority {name} is not active")
            self._note(tx, actor, "retire", name, {})

        await self._change(None, work)
        return self.get(name)

    # Creating: two transactions, a signature between them.

    async def _create(self, name: str, plan: Plan, kind: KeyKind, actor: str) -> Authority:
        new = await self._new_key(name, kind)
        prepared = await asyncio.to_thread(self._prepare, name, plan, new)
        row = NewAuthority(name, plan.issuer.name if plan.issuer else None, new.id, new.spki_sha256)
        await self._change(new, lambda tx: self._reserve(tx, row, prepared, actor))
        try:
            certificate = await self._signed(prepared, plan, new)
            path = (certificate, *(self.path(row.parent) if row.parent else ()))
            await self._change(None, lambda tx: self._complete(tx, row, prepared, path, actor))
        except Exception:
            await self._database.write(lambda tx: self._give_up(tx, row, prepared, actor))
            raise
        return self.get(name)

    def _prepare(self, name: str, plan: Plan, new: _NewKey) -> Prepared:
        serial = self._serial()
        built = ca_certificate.build(plan, new.key.public_key(), serial)
        return Prepared(
            id=self._random(16).hex(),
            issuer=plan.issuer.name if plan.issuer else name,
            profile=CA_PROFILE,
            serial=serial,
            tbs=built.tbs,
            signature_algorithm=built.signature_algorithm,
            names=(),
            subject=plan.wish.subject.rfc4514_string(),
            spki_sha256=new.spki_sha256,
            not_before=plan.not_before,
            not_after=plan.not_after,
            requester=Requester("ca", name),
        )

    def _reserve(self, tx: Transaction, row: NewAuthority, prepared: Prepared, actor: str) -> None:
        if row.parent is not None:
            self.check_usable(tx, row.parent)
        self._take(tx, row)
        ledger.reserve(tx, prepared, epoch(self._clock.now()))
        detail = {"serial": cert.serial_hex(prepared.serial), "issuer": prepared.issuer}
        self._note(tx, actor, "create", row.name, detail, outcome="reserved")

    async def _signed(self, prepared: Prepared, plan: Plan, new: _NewKey) -> x509.Certificate:
        """Verified: a faulty signature can give the key away and must not leave."""
        signer = self.key(plan.issuer.name) if plan.issuer else new.key
        der = cert.assemble(
            prepared.tbs, prepared.signature_algorithm, await sign(signer, prepared.tbs)
        )
        certificate = cert.parse_certificate(der)
        issuer = plan.issuer.certificate if plan.issuer else certificate
        if not await asyncio.to_thread(ca_path.issued, issuer, certificate):
            raise PKIError(ErrorCode.INTERNAL, "the signature of the new CA does not verify")
        return certificate

    def _complete(
        self, tx: Transaction, row: NewAuthority, prepared: Prepared, path: Path, actor: str
    ) -> None:
        der = path[0].public_bytes(Encoding.DER)
        if not ledger.complete(tx, prepared.id, der) or not store.activate(
            tx, row.name, row.key_id, path, row.parent
        ):
            raise PKIError(
                ErrorCode.CONFLICT, f"making authority {row.name} was given up meanwhile"
            )
        self._note(tx, actor, "create", row.name, _about(path[0]))

    def _give_up(self, tx: Transaction, row: NewAuthority, prepared: Prepared, actor: str) -> None:
        """The serial stays used, the name can be taken again. Nothing is done if the certificate
        was stored after all."""
        if ledger.abandon(tx, prepared.id):
            self._note(tx, actor, "create", row.name, {}, outcome="failed")

    # Parts

    async def _checked(self, certificates: Sequence[x509.Certificate], key: PrivateKey) -> Path:
        """The path of a key, found among the certificates given and ours, and in order."""
        ours = [path[0] for path in self._tree.paths.values()]
        candidates = list(dict.fromkeys([*certificates, *ours]))
        path = await asyncio.to_thread(ca_path.order, candidates, key.public_key())
        ca_path.check(path, self._clock.now())
        return path

    def _adopt(
        self, tx: Transaction, key_id: str, name: str, path: Path, actor: str, action: str
    ) -> None:
        """A certificate that was signed elsewhere. If one of ours issued it, its status is asked
        of us: it goes into the inventory."""
        parent = self._issuer_of(path)
        if parent is not None:
            self.check_usable(tx, parent)
        if not store.activate(tx, name, key_id, path, parent):
            raise _awaits_nothing(name)
        if parent is not None or len(path) == 1:
            self._enter(tx, path[0], parent or name, name)
        detail = _about(path[0]) | {"crl_sign": ca_path.may_sign_crls(path[0])}
        self._note(tx, actor, action, name, detail)

    def _issuer_of(self, path: Path) -> str | None:
        """The authority of ours whose path is what is above the first of `path`."""
        return next((name for name, ours in self._tree.paths.items() if ours == path[1:]), None)

    def _enter(
        self, tx: Transaction, certificate: x509.Certificate, issuer: str, name: str
    ) -> None:
        der = certificate.public_bytes(Encoding.DER)
        serial = cert.serial_bytes(certificate.serial_number)
        if store.in_inventory(tx, issuer, serial, der):
            return
        tbs, algorithm, _ = cert.split(der)
        prepared = Prepared(
            id=self._random(16).hex(),
            issuer=issuer,
            profile=CA_PROFILE,
            serial=certificate.serial_number,
            tbs=tbs,
            signature_algorithm=algorithm,
            names=(),
            subject=certificate.subject.rfc4514_string(),
            spki_sha256=algorithms.spki_sha256(certificate.public_key()),
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            requester=Requester("ca", name),
        )
        ledger.reserve(tx, prepared, epoch(self._clock.now()))
        ledger.complete(tx, prepared.id, der)

    async def _new_key(self, name: str, kind: KeyKind) -> _NewKey:
        async def generate(key_id: str) -> _NewKey:
            return _NewKey(key_id, await self._keys.generate(key_id, kind))

        return await self._under_free_id(name, generate)

    async def _keep_key(self, name: str, key: PrivateKey) -> _NewKey:
        async def store(key_id: str) -> _NewKey:
            await self._keys.store(key_id, key)
            return _NewKey(key_id, key)

        return await self._under_free_id(name, store)

    async def _under_free_id(self, name: str, keep: Callable[[str], Awaitable[_NewKey]]) -> _NewKey:
        """The identifier is the authority's name, so that a person finds the key; another one if
        that is taken, by what a crash left or somebody else is at: no key is written over."""
        try:
            return await keep(name)
        except PKIError as error:
            if error.code is not ErrorCode.CONFLICT:
                raise
            return await keep(f"{name}-{self._random(8).hex()}")

    async def _change(self, new: _NewKey | None, work: Callable[[Transaction], None]) -> None:
        """Write, then read the tree again. A `new` key goes if it became no authority's; after a
        failure of the database nobody knows, and it stays."""
        try:
            await self._database.write(work)
        except (PKIError, IntegrityError) as error:
            unknown = isinstance(error, PKIError) and error.code is ErrorCode.UNAVAILABLE
            if new is not None and not unknown:
                await self._keys.delete(new.id)
            if isinstance(error, IntegrityError):
                raise PKIError(ErrorCode.CONFLICT, "the serial number is taken") from error
            raise
        await self.load()

    def _take(self, tx: Transaction, row: NewAuthority) -> None:
        if not store.add_pending(tx, row, epoch(self._clock.now())):
            raise _taken(row.name)

    def _note(
        self, tx: Transaction, actor: str, action: str, name: str,
        detail: Mapping[str, JSON], *, outcome: str = "done",
    ) -> None:  # fmt: skip
        self._audit.append(
            tx, actor=actor, action=f"authority.{action}", object=name, outcome=outcome,
            detail=detail,
        )  # fmt: skip

    def _require_free(self, name: str) -> None:
        """An early look; `add_pending` decides."""
        if not _NAME.fullmatch(name):
            raise configuration_error(
                f"{ascii(name)}: an authority's name has 1 to 63 lower-case letters, digits and "
                "hyphens, no hyphen first"
            )
        known = self._tree.by_name.get(name)
        if known is not None and known.status is not AuthorityStatus.PENDING:
            raise _taken(name)

    def _serial(self) -> int:
        """20 octets, positive, 158 random bits (RFC 5280 section 4.1.2.2)."""
        return int.from_bytes(self._random(20)) >> 2 | 1 << 158


def _taken(name: str) -> PKIError:
    return PKIError(ErrorCode.CONFLICT, f"there is an authority {name} already")


def _awaits_nothing(name: str) -> PKIError:
    return PKIError(ErrorCode.CONFLICT, f"authority {name} awaits no certificate")


def _about(certificate: x509.Certificate) -> dict[str, JSON]:
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


async def bootstrap(
    authorities: Authorities, *, organization: str = "", root_key: str = "p384",
    issuing_key: str = "p256", actor: str = "cli:init",
) -> tuple[Authority, Authority]:  # fmt: skip
    """The two authorities of a new home: a root for 20 years, an issuing CA for 5. The kinds of
    keys are names of `KeyKind`."""
    kinds = key_kind(root_key), key_kind(issuing_key)
    root = await authorities.create_root(
        "root", Wish(_subject("Root CA", organization), 20 * _YEAR), kinds[0], actor=actor
    )
    issuing = await authorities.create(
        "issuing",
        "root",
        Wish(_subject("Issuing CA", organization), 5 * _YEAR, path_length=0),
        kinds[1],
        actor=actor,
    )
    return root, issuing


def _subject(role: str, organization: str) -> x509.Name:
    name = re.sub(r'([\\"#+,;<=>{}])', r"\\\1", organization.strip())
    return subject_name(f"CN={name or 'pkiserver'} {role}" + (f",O={name}" if name else ""))
