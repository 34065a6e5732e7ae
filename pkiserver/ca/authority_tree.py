"""The tree of authorities as one process knows it: look-ups in a snapshot, without a database."""

from cryptography import x509

from pkiserver.ca import authority_store as store
from pkiserver.ca import ca_certificate
from pkiserver.ca.authority_store import Path, Tree
from pkiserver.ca.model import Authority
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.keys import KeyProvider, PrivateKey
from pkiserver.pkix import cert
from pkiserver.storage import Database, Reader


class AuthorityTree:
    """The certification authorities of this server, as this process knows them. Each process calls
    `load` before anything else; `refresh_if_changed` shows it what another process did."""

    def __init__(self, database: Database, keys: KeyProvider) -> None:
        self._database = database
        self._keys = keys
        self._tree = Tree()

    async def load(self) -> None:
        """Read the tree."""
        tree = await self._database.read(store.read_tree)
        if tree.generation >= self._tree.generation:
            self._tree = tree

    async def refresh_if_changed(self) -> None:
        """Read the tree again if another process changed it: one look-up if none did."""
        if await self._database.lookup(store.generation) != self._tree.generation:
            await self.load()

    def get(self, name: str) -> Authority:
        """Raises `PKIError` NOT_FOUND."""
        authority = self._tree.by_name.get(name)
        if authority is None:
            raise PKIError(ErrorCode.NOT_FOUND, f"there is no authority {ascii(name)}")
        return authority

    def list(self) -> "list[Authority]":
        """All of them, parents before children; those that are pending have no certificate."""
        return [*self._tree.by_name.values()]

    def certificate(self, name: str) -> x509.Certificate:
        """Raises `PKIError` UNAVAILABLE while it is awaited."""
        return self.path(name)[0]

    def path(self, name: str) -> Path:
        """Its certificate and those above it, with the root. Raises `PKIError` UNAVAILABLE while
        its certificate is awaited."""
        self.get(name)
        path = self._tree.paths.get(name)
        if path is None:
            raise PKIError(
                ErrorCode.UNAVAILABLE,
                f"authority {name} has no certificate yet; see 'pkiserver ca install'",
            )
        return path

    def chain(self, name: str) -> Path:
        """`path` without the self-signed root: what a TLS server sends. A root's own is empty."""
        return self.path(name)[:-1]

    def chains(self, name: str) -> tuple[Path, ...]:
        """Every chain on offer (RFC 8555 section 7.4.2): the default, then one for each cross chain
        of this authority and of those above it."""
        below: Path = ()
        found = [self.chain(name)]
        current: str | None = name
        while current is not None:
            found += [below + cross[:-1] for cross in self._tree.cross.get(current, ())]
            below += (self.certificate(current),)
            current = self.get(current).parent
        return tuple(found)

    def roots(self) -> Path:
        """The trust anchors: self-signed certificates at the top of the paths, once each."""
        return tuple(dict.fromkeys(path[-1] for path in self._tree.paths.values()))

    def key_identifier(self, name: str) -> bytes | None:
        """subjectKeyIdentifier of its certificate; None while it has none."""
        own = self.get(name).certificate
        return None if own is None else cert.subject_key_identifier(own)

    def key(self, name: str) -> PrivateKey:
        """The signing key. Raises `PKIError` UNAVAILABLE if it is not at hand."""
        authority = self.get(name)
        try:
            return self._keys.load(authority.key_id)
        except PKIError as error:
            if error.code is not ErrorCode.NOT_FOUND:
                raise
            raise PKIError(
                ErrorCode.UNAVAILABLE, f"the key of authority {name} is not here; is it offline?"
            ) from error

    def check_usable(self, reader: Reader, name: str) -> None:
        """Raises `PKIError` REFUSED_BY_PROFILE unless the authority may sign certificates, by what
        the database has now: it is active, and no certificate of its path of ours is revoked."""
        if not store.is_active(reader, name):
            raise ca_certificate.refuse(f"the authority {name} is not active")
        current = self.get(name)
        while current.parent is not None and current.certificate is not None:
            serial = cert.serial_bytes(current.certificate.serial_number)
            if store.is_revoked(reader, current.parent, serial):
                raise ca_certificate.refuse(
                    f"the certificate of the authority {current.name} is revoked"
                )
            current = self.get(current.parent)
