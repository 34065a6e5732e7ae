"""The authorities: the tree in the database, a snapshot of it in each process, and its changes.

A new CA certificate of ours goes through the ledger like any other: serial and to-be-signed bytes
are durable before the parent's key signs, and it can be revoked and asked about by OCSP.
"""

import asyncio
import datetime as dt
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.ca import ca_certificate, ledger
from pkiserver.ca.audit import Audit
from pkiserver.ca.ca_certificate import Wish, refuse
from pkiserver.ca.model import Authority, AuthorityStatus, Prepared, Requester
from pkiserver.ca.template import throw_away_key
from pkiserver.clock import Clock, epoch, from_epoch
from pkiserver.config import CoreSettings, KeyKind
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.keys import KeyProvider, PrivateKey, sign
from pkiserver.pkix import algorithms, cert
from pkiserver.pkix.pem import encode_pem
from pkiserver.storage import Database, IntegrityError, Reader, Row, Transaction

CA_PROFILE = "ca"
"""What the inventory shows as the profile of a CA certificate."""
_COLUMNS = "name, parent, certificate, chain, key_id, spki_sha256, status, created"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True)
class _Tree:
    """One state of the table."""

    stamp: object = None
    by_name: dict[str, Authority] = field(default_factory=dict)


class Authorities:
    """The certification authorities of this server. Each process calls `load` before anything
    else; `refresh_if_changed` shows it what another process did."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        keys: KeyProvider,
        audit: Audit,
        settings: CoreSettings,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._database = database
        self._clock = clock
        self._keys = keys
        self._audit = audit
        self._settings = settings
        self._random = random_bytes
        self._tree = _Tree()

    # Reading

    async def load(self) -> None:
        """Read the tree."""
        self._tree = await self._database.read(_read_tree)

    async def refresh_if_changed(self) -> None:
        """Read the tree again if another process changed it."""
        if await self._database.lookup(_stamp) != self._tree.stamp:
            await self.load()

    def get(self, name: str) -> Authority:
        """Raises `PKIError` NOT_FOUND."""
        authority = self._tree.by_name.get(name)
        if authority is None:
            raise PKIError(ErrorCode.NOT_FOUND, f"there is no authority {name!r}")
        return authority

    def list(self) -> "list[Authority]":
        """All of them, parents before children."""
        return list(self._tree.by_name.values())

    def certificate(self, name: str) -> x509.Certificate:
        """Raises `PKIError` UNAVAILABLE while it is awaited from outside."""
        found = self.get(name).certificate
        if found is None:
            raise PKIError(
                ErrorCode.UNAVAILABLE,
                f"authority {name!r} has no certificate yet; see 'pkiserver ca install'",
            )
        return found

    def path(self, name: str) -> tuple[x509.Certificate, ...]:
        """Its certificate and those above it, with the root."""
        authority = self.get(name)
        own = self.certificate(name)
        if authority.parent is None:
            return (own, *authority.outside)
        return (own, *self.path(authority.parent))

    def chain(self, name: str) -> tuple[x509.Certificate, ...]:
        """`path` without the self-signed root: what a TLS server sends. A root's own is empty."""
        return tuple(c for c in self.path(name) if c.subject != c.issuer)

    def chains(self, name: str) -> tuple[tuple[x509.Certificate, ...], ...]:
        """Every chain on offer, the default first (RFC 8555 section 7.4.2)."""
        return (self.chain(name),)

    def roots(self) -> tuple[x509.Certificate, ...]:
        """The trust anchors: self-signed certificates at the top, once each."""
        tops = [self.path(a.name)[-1] for a in self.list() if a.certificate is not None]
        return tuple(dict.fromkeys(tops))

    def key_identifier(self, name: str) -> bytes | None:
        """subjectKeyIdentifier of its certificate; None while it has none."""
        own = self.get(name).certificate
        return None if own is None else cert.subject_key_identifier(own)

    def key(self, name: str) -> PrivateKey:
        """The signing key. Raises `PKIError` if it is offline."""
        return self._keys.load(self.get(name).key_id)

    # Making

    async def create_root(self, name: str, wish: Wish, kind: KeyKind, *, actor: str) -> Authority:
        """A new self-signed root."""
        self._require_free(name)
        key_id, key = await self._new_key(name, kind)
        now = self._now()
        builder = ca_certificate.root_builder(wish, _public(key), self._serial(), now)
        signed = await self._self_sign(builder, key)
        return await self._insert(
            name, None, signed, (), key_id, key, actor, "authority.create-root"
        )

    async def create(
        self, name: str, parent: str, wish: Wish, kind: KeyKind, *, actor: str
    ) -> Authority:
        """A new CA below one of ours, within the parent's path length, names and lifetime."""
        self._require_free(name)
        self.key(parent)
        parents = self.path(parent)
        check = ca_certificate.child_builder(
            wish, parents[0].public_key(), self._serial(), self._now(), parents, parent,
            self._settings.server.http_base,
        )  # fmt: skip
        del check  # refused before a key is made for it
        key_id, key = await self._new_key(name, kind)
        der = await self._issue(name, parent, wish, key, actor)
        return await self._insert(
            name, parent, cert.parse_certificate(der), (), key_id, key, actor, "authority.create"
        )

    async def _issue(
        self, name: str, parent: str, wish: Wish, key: PrivateKey, actor: str
    ) -> bytes:
        serial = self._serial()
        builder = ca_certificate.child_builder(
            wish, _public(key), serial, self._now(), self.path(parent), parent,
            self._settings.server.http_base,
        )  # fmt: skip
        issuer = self.certificate(parent)
        stand_in = throw_away_key(algorithms.describe(issuer.public_key()))
        draft = builder.sign(stand_in, algorithms.signature_hash_for(stand_in))
        tbs, algorithm, _ = cert.split(draft.public_bytes(Encoding.DER))
        prepared = Prepared(
            id=self._random(16).hex(),
            issuer=parent,
            profile=CA_PROFILE,
            serial=serial,
            tbs=tbs,
            signature_algorithm=algorithm,
            names=(),
            subject=wish.subject.rfc4514_string(),
            spki_sha256=algorithms.spki_sha256(_public(key)),
            not_before=draft.not_valid_before_utc,
            not_after=draft.not_valid_after_utc,
            requester=Requester("ca", name),
        )
        await self._database.write(
            lambda tx: ledger.reserve(tx, prepared, epoch(self._clock.now()))
        )
        der = cert.assemble(tbs, algorithm, await sign(self.key(parent), tbs))
        cert.parse_certificate(der).verify_directly_issued_by(issuer)
        await self._database.write(lambda tx: ledger.complete(tx, prepared.id, der))
        return der

    async def request(self, name: str, subject: x509.Name, kind: KeyKind, *, actor: str) -> bytes:
        """A key and a PEM request for an outside CA; the authority waits for `install`."""
        self._require_free(name)
        key_id, key = await self._new_key(name, kind)
        builder = ca_certificate.request_builder(subject, _public(key))
        algorithm = algorithms.signature_hash_for(key)
        csr = await asyncio.to_thread(lambda: builder.sign(key, algorithm))
        der = csr.public_bytes(Encoding.DER)

        def work(tx: Transaction) -> None:
            _insert_row(
                tx, name, None, None, (), key_id, _public(key), "pending", self._epoch(), der
            )
            self._note(tx, actor, "authority.request", name, subject.rfc4514_string())

        await self._write(name, work)
        return encode_pem("CERTIFICATE REQUEST", der)

    async def install(
        self, name: str, certificates: Sequence[x509.Certificate], *, actor: str
    ) -> Authority:
        """The outside CA's answer to `request`, with the whole chain up to its root."""
        key = self.key(name)
        path = ca_certificate.order_chain(certificates, _public(key))
        ca_certificate.check_path(path, self._clock.now())
        own = path[0].public_bytes(Encoding.DER)
        outside = _join(path[1:])

        def work(tx: Transaction) -> None:
            if not tx.execute(
                "UPDATE authorities SET certificate = ?, chain = ?, status = 'active' "
                "WHERE name = ? AND status = 'pending'",
                (own, outside, name),
            ):
                raise PKIError(ErrorCode.CONFLICT, f"authority {name!r} awaits no certificate")
            self._note(tx, actor, "authority.install", name, path[0].subject.rfc4514_string())

        await self._write(name, work)
        return self.get(name)

    async def import_(
        self, name: str, certificates: Sequence[x509.Certificate], key: PrivateKey, *, actor: str
    ) -> Authority:
        """An existing CA: its key, its certificate and the whole chain up to a root."""
        self._require_free(name)
        path = ca_certificate.order_chain(certificates, _public(key))
        ca_certificate.check_path(path, self._clock.now())
        key_id = f"{name}-{self._random(4).hex()}"
        await self._keys.store(key_id, key)
        return await self._insert(
            name, None, path[0], tuple(path[1:]), key_id, key, actor, "authority.import"
        )

    # Parts

    async def _new_key(self, name: str, kind: KeyKind) -> tuple[str, PrivateKey]:
        """A key under the authority's name, or near it if a crash left one of that name."""
        try:
            return name, await self._keys.generate(name, kind)
        except PKIError as error:
            if error.code is not ErrorCode.CONFLICT:
                raise
        key_id = f"{name}-{self._random(4).hex()}"
        return key_id, await self._keys.generate(key_id, kind)

    async def _insert(
        self, name: str, parent: str | None, own: x509.Certificate,
        outside: tuple[x509.Certificate, ...], key_id: str, key: PrivateKey, actor: str,
        action: str,
    ) -> Authority:  # fmt: skip
        def work(tx: Transaction) -> None:
            _insert_row(
                tx, name, parent, own, outside, key_id, _public(key), "active", self._epoch(), None
            )
            self._note(tx, actor, action, name, own.subject.rfc4514_string())

        await self._write(name, work)
        return self.get(name)

    async def _write(self, name: str, work: Callable[[Transaction], None]) -> None:
        try:
            await self._database.write(work)
        except IntegrityError as error:
            raise _taken(name) from error
        await self.load()

    def _note(self, tx: Transaction, actor: str, action: str, name: str, subject: str) -> None:
        self._audit.append(tx, actor=actor, action=action, object=name, detail={"subject": subject})

    async def _self_sign(
        self, builder: x509.CertificateBuilder, key: PrivateKey
    ) -> x509.Certificate:
        algorithm = algorithms.signature_hash_for(key)
        return await asyncio.to_thread(lambda: builder.sign(key, algorithm))

    def _require_free(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise PKIError(
                ErrorCode.MALFORMED,
                f"{name!r}: an authority's name has lower-case letters, digits and hyphens only",
            )
        if name in self._tree.by_name:
            raise _taken(name)

    def _now(self) -> dt.datetime:
        return self._clock.now().replace(microsecond=0)

    def _epoch(self) -> int:
        return epoch(self._clock.now())

    def _serial(self) -> int:
        """160 bits less one, random, positive and never short (RFC 5280 section 4.1.2.2)."""
        return int.from_bytes(self._random(20), "big") >> 1 | 1 << 158


def _public(key: PrivateKey) -> CertificatePublicKeyTypes:
    return key.public_key()


def _taken(name: str) -> PKIError:
    return PKIError(ErrorCode.CONFLICT, f"there is an authority {name!r} already")


def _join(certificates: Sequence[x509.Certificate]) -> bytes:
    return b"".join(c.public_bytes(Encoding.DER) for c in certificates)


def _insert_row(
    tx: Transaction, name: str, parent: str | None, own: x509.Certificate | None,
    outside: Sequence[x509.Certificate], key_id: str,
    public_key: CertificatePublicKeyTypes, status: str, now: int,
    csr: bytes | None,
) -> None:  # fmt: skip
    tx.execute(
        f"INSERT INTO authorities ({_COLUMNS}, csr) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            name, parent, None if own is None else own.public_bytes(Encoding.DER),
            _join(outside), key_id,
            algorithms.spki_sha256(public_key), status, now, csr,
        ),
    )  # fmt: skip
    tx.execute("INSERT INTO status_generations (issuer, generation) VALUES (?, 1)", (name,))


def _stamp(reader: Reader) -> Row | None:
    return reader.one(
        "SELECT COUNT(*), COUNT(certificate), SUM(status = 'retired'), MAX(created) "
        "FROM authorities"
    )


def _read_tree(reader: Reader) -> _Tree:
    rows = reader.all(f"SELECT {_COLUMNS} FROM authorities ORDER BY created, name")
    found = {row[0]: _authority(row) for row in rows}
    ordered: dict[str, Authority] = {}
    while len(ordered) < len(found):
        ready = [
            a for a in found.values()
            if a.name not in ordered and (a.parent is None or a.parent in ordered)
        ]  # fmt: skip
        ordered.update((a.name, a) for a in ready)
    return _Tree(_stamp(reader), ordered)


def _authority(row: Row) -> Authority:
    name, parent, own, chain, key_id, spki_sha256, status, created = row
    return Authority(
        name=name,
        parent=parent,
        certificate=None if own is None else x509.load_der_x509_certificate(own),
        outside=_split(chain),
        key_id=key_id,
        spki_sha256=spki_sha256,
        status=AuthorityStatus(status),
        created=from_epoch(created),
    )


def _split(chain: bytes) -> tuple[x509.Certificate, ...]:
    found: list[x509.Certificate] = []
    while chain:
        length = _der_length(chain)
        found.append(x509.load_der_x509_certificate(chain[:length]))
        chain = chain[length:]
    return tuple(found)


def _der_length(data: bytes) -> int:
    """Of the element data begins with, in bytes, its header included."""
    first = data[1]
    if first < 0x80:
        return 2 + first
    count = first & 0x7F
    return 2 + count + int.from_bytes(data[2 : 2 + count], "big")


def subject_name(text: str) -> x509.Name:
    """An RFC 4514 string, written most general last ("CN=Root,O=Example"), as a name."""
    try:
        name = x509.Name.from_rfc4514_string(text)
    except ValueError as error:
        raise refuse(f"subject {text!r}: {error}") from error
    if not name.rdns:
        raise refuse("an authority needs a subject (RFC 5280 section 4.1.2.6)")
    return name


async def bootstrap(
    authorities: Authorities, *, organization: str, root_key: str, issuing_key: str
) -> tuple[Authority, Authority]:
    """The two authorities of a new home: a root for 20 years, an issuing CA for 5."""
    suffix = f",O={_escaped(organization)}" if organization else ""
    prefix = organization or "pkiserver"
    year = dt.timedelta(days=365)
    root = await authorities.create_root(
        "root",
        Wish(subject_name(f"CN={_escaped(prefix)} Root CA{suffix}"), 20 * year),
        _kind(root_key),
        actor="cli:init",
    )
    issuing = await authorities.create(
        "issuing",
        "root",
        Wish(subject_name(f"CN={_escaped(prefix)} Issuing CA{suffix}"), 5 * year, path_length=0),
        _kind(issuing_key),
        actor="cli:init",
    )
    return root, issuing


def _escaped(text: str) -> str:
    return re.sub(r'([,+"\\<>;=#])', r"\\\1", text.strip())


def _kind(text: str) -> KeyKind:
    return text  # type: ignore[return-value]  # the provider refuses an unknown kind
