"""The changes to the tree of authorities: creating, CAs from outside, cross certificates."""

import asyncio
import datetime as dt
import re
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.ca import authority_store as store
from pkiserver.ca import ca_certificate, ca_path, ledger
from pkiserver.ca.authority_maker import about, key_kind
from pkiserver.ca.authority_rollover import AuthorityRollover, Rotation
from pkiserver.ca.authority_store import CA_PROFILE, NewAuthority, Path
from pkiserver.ca.ca_certificate import Wish
from pkiserver.ca.encoding import fields_of
from pkiserver.ca.issuer import key_identifier
from pkiserver.ca.model import Authority, Prepared, Requester
from pkiserver.ca.subtrees import subject_name
from pkiserver.clock import epoch
from pkiserver.config_types import KeyKind
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.keys import PrivateKey
from pkiserver.pkix import algorithms, cert
from pkiserver.pkix.pem import encode_pem
from pkiserver.storage import Transaction

__all__ = [
    "CA_PROFILE", "Authorities", "Rotation", "Wish", "bootstrap", "key_kind", "subject_name",
]  # fmt: skip

_YEAR = dt.timedelta(days=365)


class Authorities(AuthorityRollover):
    """The tree and its changes, each in one transaction with its audit row. `actor` is who asked,
    as `protocol:party`. All may be called concurrently, from several processes: of two who want a
    name, one gets it and the other a `PKIError` CONFLICT."""

    async def create_root(self, name: str, wish: Wish, kind: KeyKind, *, actor: str) -> Authority:
        """A new self-signed root."""
        async with self.recording_refusals(actor, "create", name):
            self._require_free(name)
            plan = ca_certificate.plan_root(wish, self._clock.now())
            await self._create(name, plan, kind, actor)
        return self.get(name)

    async def create(
        self, name: str, parent: str, wish: Wish, kind: KeyKind, *, actor: str
    ) -> Authority:
        """A new CA below one of ours (the generation of its line that issues now), within the
        parent's path length, names and lifetime. `PKIError` REFUSED_BY_PROFILE or REFUSED_NAME
        says which rule is against it."""
        async with self.recording_refusals(actor, "create", name):
            self._require_free(name)
            await self._create(name, self._plan_child(self.current(parent), wish), kind, actor)
        return self.get(name)

    async def request(self, name: str, subject: x509.Name, kind: KeyKind, *, actor: str) -> bytes:
        """A key and a PEM request for an outside CA; the authority waits for `install`."""
        async with self.recording_refusals(actor, "request", name):
            self._require_free(name)
            der = await self._request(name, subject, kind, actor)
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
        async with self.recording_refusals(actor, "install", name):
            authority = self.get(name)
            path = await self._checked(name, certificates, self.key(name).public_key())

            def work(tx: Transaction) -> None:
                if store.read_csr(tx, name) is None:
                    raise _awaits_nothing(name)
                self._adopt(tx, authority.key_id, name, path, actor, "install")

            await self._change(None, work)
        return self.get(name)

    async def renewal_request(self, name: str) -> bytes:
        """A PEM request for another certificate for the authority's present name and key. Nothing
        changes. Raises `PKIError` UNAVAILABLE without the key."""
        key = self.key(name)
        builder = ca_certificate.request_builder(self.certificate(name).subject, key.public_key())
        csr = await asyncio.to_thread(builder.sign, key, algorithms.signature_hash_for(key))
        return encode_pem("CERTIFICATE REQUEST", csr.public_bytes(Encoding.DER))

    async def renew(
        self, name: str, certificates: Sequence[x509.Certificate], *, actor: str
    ) -> Authority:
        """Another certificate for the authority's name and key takes the place of the present one;
        what it issued chains to the new one. Where that leads to another root, the present path
        stays as an alternate chain. `PKIError`: REFUSED_BY_PROFILE says what is wrong with it,
        CONFLICT if it was renewed meanwhile or is not active."""
        async with self.recording_refusals(actor, "renew", name):
            before = self.path(name)
            path = await self._checked(name, certificates, before[0].public_key())
            _check_renewal(before[0], path[0])
            await self._change(None, lambda tx: self._renew(tx, name, before, path, actor))
        return self.get(name)

    def _renew(self, tx: Transaction, name: str, before: Path, path: Path, actor: str) -> None:
        parent = self._issuer_of(path)
        if parent is not None:
            self.check_usable(tx, parent)
        if not store.renew(tx, name, before[0], path, parent):
            raise PKIError(ErrorCode.CONFLICT, f"authority {name} is not active or was renewed")
        if before[-1] != path[-1]:
            store.add_cross_chain(tx, name, before, epoch(self._clock.now()))
        if parent is not None:
            self._enter(tx, path[0], parent, name)
        self._note(tx, actor, "renew", name, about(path[0]))

    async def import_(
        self, name: str, certificates: Sequence[x509.Certificate], key: PrivateKey, *, actor: str
    ) -> Authority:
        """An existing CA: its key, its certificate and the whole chain up to a root, which may be
        one of ours. `PKIError` REFUSED_BY_PROFILE says what is wrong with them."""
        async with self.recording_refusals(actor, "import", name):
            self._require_free(name)
            path = await self._checked(name, certificates, key.public_key())
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
        async with self.recording_refusals(actor, "cross", name):
            own = self.certificate(name)
            path = await asyncio.to_thread(ca_path.order, certificates, own.public_key())
            ca_path.check(path, self._clock.now())
            if path[0].subject != own.subject:
                raise ca_certificate.refuse(
                    "the certificate is for another name than the authority's"
                )
            if path[:-1] in self.chains(name):
                raise PKIError(ErrorCode.CONFLICT, f"authority {name} has this chain already")

            def work(tx: Transaction) -> None:
                if not store.add_cross_chain(tx, name, path, epoch(self._clock.now())):
                    raise PKIError(ErrorCode.CONFLICT, f"authority {name} has this chain already")
                self._note(tx, actor, "cross", name, about(path[0]))

            await self._change(None, work)

    # Parts

    async def _checked(
        self, name: str, certificates: Sequence[x509.Certificate], key: CertificatePublicKeyTypes
    ) -> Path:
        """The path of a key, found among the certificates given and those of our other
        authorities, and in order."""
        ours = [path[0] for other, path in self._tree.paths.items() if other != name]
        candidates = list(dict.fromkeys([*certificates, *ours]))
        path = await asyncio.to_thread(ca_path.order, candidates, key)
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
        detail = about(path[0]) | {"crl_sign": ca_path.may_sign_crls(path[0])}
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


def _check_renewal(old: x509.Certificate, new: x509.Certificate) -> None:
    """What was issued names its issuer by these octets (RFC 5280 sections 4.1.2.4, 4.2.1.1)."""
    if fields_of(new).subject != fields_of(old).subject:
        raise ca_certificate.refuse("the certificate is for another name than the authority's")
    if key_identifier(new) != key_identifier(old):
        raise ca_certificate.refuse("the certificate has another subject key identifier")
    if new == old:
        raise ca_certificate.refuse("this is the certificate the authority has")


def _awaits_nothing(name: str) -> PKIError:
    return PKIError(ErrorCode.CONFLICT, f"authority {name} awaits no certificate")


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
