"""The tree of authorities as one process knows it: look-ups in a snapshot, without a database.

Each generation of a CA's key is an authority with a name, lists and responders of its own. The
generations of one CA are a line; whoever names any of them as an issuer means the one that issues
now, which `current` finds. Everything else takes a name literally.
"""

import datetime as dt
from collections.abc import Iterator

from cryptography import x509

from pkiserver.ca import authority_store as store
from pkiserver.ca import ca_certificate
from pkiserver.ca.authority_store import Path, Tree
from pkiserver.ca.model import Authority, AuthorityStatus, Turn
from pkiserver.clock import Clock
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.keys import KeyProvider, PrivateKey
from pkiserver.pkix import cert
from pkiserver.storage import Database, Reader


class AuthorityTree:
    """The certification authorities of this server, as this process knows them. Each process calls
    `load` before anything else; `refresh_if_changed` shows it what another process did."""

    def __init__(self, database: Database, keys: KeyProvider, clock: Clock) -> None:
        self._database = database
        self._keys = keys
        self._clock = clock
        self._tree = Tree()

    async def load(self) -> None:
        """Read the tree. The keys of authorities closed meanwhile are forgotten; one that a crash
        left is destroyed now."""
        tree = await self._database.read(store.read_tree)
        if tree.generation < self._tree.generation:
            return
        known, self._tree = self._tree, tree
        for name, authority in tree.by_name.items():
            before = known.by_name.get(name)
            if authority.status is AuthorityStatus.CLOSED and (
                before is None or before.status is not AuthorityStatus.CLOSED
            ):
                await self._keys.delete(authority.key_id)

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
        of this authority and of those above it that is valid now."""
        below: Path = ()
        found = [self.chain(name)]
        current: str | None = name
        while current is not None:
            found += [below + cross[:-1] for cross in self._crosses(current)]
            below += (self.certificate(current),)
            current = self.get(current).parent
        return tuple(found)

    def roots(self) -> Path:
        """The trust anchors: self-signed certificates at the top of the paths, once each. The root
        that takes over next is among them, one that is closed or revoked is not."""
        return tuple(
            dict.fromkeys(
                path[-1]
                for name, path in self._tree.paths.items()
                if self.get(name).status is not AuthorityStatus.CLOSED
                and path[-1] not in self._tree.revoked
            )
        )

    def is_revoked(self, name: str) -> bool:
        """Whether its certificate is revoked or on hold, of those that one of ours issued. What
        it issued is answered for as before. Raises `PKIError` NOT_FOUND."""
        return self.get(name).certificate in self._tree.revoked

    def current(self, name: str) -> str:
        """The authority of `name`'s line that issues now, whichever generation `name` is. Raises
        `PKIError` NOT_FOUND."""
        found = self._first(name)
        while (coming := self.successor(found)) is not None and self._has_taken_over(found):
            found = coming.name
        return found

    def successor(self, name: str) -> Authority | None:
        """The authority after this one in its line, whether or not it has taken over."""
        succession = self._tree.successions.get(name)
        return None if succession is None else self._tree.by_name.get(succession.successor)

    def takes_over(self, name: str) -> dt.datetime | None:
        """When this authority took or takes over from the one before it in its line; None if it is
        the first, or if that is not decided."""
        before = self._tree.predecessors.get(name)
        return None if before is None else self._tree.successions[before].activates

    def line(self, name: str) -> tuple[Authority, ...]:
        """Every generation, the oldest first. Raises `PKIError` NOT_FOUND."""
        found = [self.get(self._first(name))]
        while (coming := self.successor(found[-1].name)) is not None:
            found.append(coming)
        return tuple(found)

    def turn(self, name: str) -> Turn:
        """Where the authority stands in its line. Raises `PKIError` NOT_FOUND."""
        names = [each.name for each in self.line(name)]
        own, current = names.index(name), names.index(self.current(name))
        if own == current:
            return Turn.CURRENT
        return Turn.NEXT if own > current else Turn.PREVIOUS

    def next_certificate(self, name: str) -> x509.Certificate | None:
        """The certificate that is to take over in the line of `name` (RFC 8894 section 4.7); None
        while there is none that may. Raises `PKIError` NOT_FOUND."""
        coming = self.successor(self.current(name))
        if coming is None or coming.status is not AuthorityStatus.ACTIVE:
            return None
        return None if self.is_revoked(coming.name) else coming.certificate

    def rollover_certificates(self, name: str) -> Path:
        """What a client needs while keys change, besides the path of the authority that issues now
        in the line of `name`: the other generations of each CA in that path, and what links them
        (OldWithNew and NewWithOld, RFC 7030 section 4.1.3). Nothing that has expired or is revoked.
        Raises `PKIError` NOT_FOUND, UNAVAILABLE."""
        path = self.path(current := self.current(name))
        found: dict[x509.Certificate, None] = {}
        for authority in self._upwards(current):
            for each in self.line(authority.name):
                if each.certificate is not None and each.status is not AuthorityStatus.CLOSED:
                    found[each.certificate] = None
                    found |= dict.fromkeys(self.links(each.name))
        return tuple(each for each in found if each not in path and self._holds(each))

    def links(self, name: str) -> Path:
        """The other certificates for its name and key, with those above them but for the root:
        cross certificates, and for a root its links to the roots before and after it."""
        crosses = self._crosses(name)
        return tuple(dict.fromkeys(each for chain in crosses for each in chain[:-1]))

    def linked_chain(self, name: str) -> Path:
        """`chain` and the links of its root, so that clients that trust only an older or a newer
        root find a path as well."""
        chain = self.chain(name)
        return chain + self.root_links(name) if chain else chain

    def root_links(self, name: str) -> Path:
        """What links our root above `name` with the roots before and after it."""
        top = [*self._upwards(name)][-1]
        return () if top.outside else self.links(top.name)

    def _crosses(self, name: str) -> Iterator[Path]:
        """The chains that start with another certificate for its name and key, are valid now, and
        do not lead to a root of ours that is closed or was called off before its turn. None where
        its own certificate is revoked: that it is not to be relied on goes for every path."""
        if self.is_revoked(name):
            return
        ours = {each.certificate: each for each in self._tree.by_name.values()}
        line = self.line(name)
        for chain in self._tree.cross.get(name, ()):
            root = ours.get(chain[-1])
            ended = root is not None and (
                root.status is AuthorityStatus.CLOSED
                or (root.status is AuthorityStatus.RETIRED and root not in line)
            )
            if not ended and all(self._holds(each) for each in chain):
                yield chain

    def _first(self, name: str) -> str:
        first = self.get(name).name
        while (before := self._tree.predecessors.get(first)) is not None:
            first = before
        return first

    def _upwards(self, name: str) -> Iterator[Authority]:
        """The authority and those of ours above it."""
        authority = self.get(name)
        yield authority
        while authority.parent is not None:
            authority = self.get(authority.parent)
            yield authority

    def _has_taken_over(self, predecessor: str) -> bool:
        succession = self._tree.successions[predecessor]
        return (
            succession.activates is not None
            and succession.activates <= self._clock.now()
            and self.get(succession.successor).status is not AuthorityStatus.PENDING
        )

    def _holds(self, certificate: x509.Certificate) -> bool:
        """Valid now, and not revoked as far as we know."""
        now = self._clock.now()
        return (
            certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc
            and certificate not in self._tree.revoked
        )

    def key_identifier(self, name: str) -> bytes | None:
        """subjectKeyIdentifier of its certificate; None while it has none."""
        own = self.get(name).certificate
        return None if own is None else cert.subject_key_identifier(own)

    def key(self, name: str) -> PrivateKey:
        """The signing key. Raises `PKIError` UNAVAILABLE if it is not at hand."""
        authority = self.get(name)
        if authority.status is AuthorityStatus.CLOSED:
            raise PKIError(ErrorCode.UNAVAILABLE, f"the key of authority {name} is destroyed")
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
        revoked = self.revoked_above(reader, name)
        if revoked is not None:
            raise ca_certificate.refuse(f"the certificate of the authority {revoked} is revoked")

    def revoked_above(self, reader: Reader, name: str) -> str | None:
        """The nearest authority, from this one upwards, whose certificate is revoked or on hold by
        what the database has now. Retired and closed ones vouch for what they have issued. Raises
        `PKIError` NOT_FOUND."""
        for authority in self._upwards(name):
            # A root answers for itself; where the CA above is not ours, that says what is revoked.
            issuer = authority.parent or (None if authority.outside else authority.name)
            if issuer is None or authority.certificate is None:
                continue
            serial = cert.serial_bytes(authority.certificate.serial_number)
            if store.is_revoked(reader, issuer, serial):
                return authority.name
        return None
