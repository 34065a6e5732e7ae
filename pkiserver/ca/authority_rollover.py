"""Rolling over: a new generation of a CA beside the old one, its turn, and the end of the old.

    next      made by `rotate`, published, issues nothing yet
    current   took over at the time `rotate` was given, or by `activate`
    previous  signs status for what it issued; `retire` makes sure that it issues nothing more
    closed    `close`: the key is destroyed, what was published last stays

Every URL in a certificate names the generation that issued it, so nothing changes for certificates
that are out. Which generation issues follows from the rows and the time alone: all processes change
over at the same moment, and issuance that is under way ends as it began.
"""

import datetime as dt
from dataclasses import dataclass

from cryptography import x509

from pkiserver.ca import authority_store as store
from pkiserver.ca import ca_certificate, ca_path, succession
from pkiserver.ca.authority_maker import AuthorityMaker, Place, key_kind
from pkiserver.ca.authority_store import Outstanding
from pkiserver.ca.ca_certificate import Plan
from pkiserver.ca.model import Authority, AuthorityStatus
from pkiserver.clock import epoch
from pkiserver.config_types import KeyKind
from pkiserver.errors import ErrorCode, PKIError, configuration_error
from pkiserver.pkix import algorithms
from pkiserver.pkix.pem import encode_pem
from pkiserver.storage import Reader, Transaction


@dataclass(frozen=True, slots=True)
class Rotation:
    """What may be said of a new generation; what is not is like the old one. It takes over after
    `activate_after`, or with None when `activate` is called."""

    kind: KeyKind | None = None
    validity: dt.timedelta | None = None
    subject: x509.Name | None = None
    activate_after: dt.timedelta | None = dt.timedelta(0)


class AuthorityRollover(AuthorityMaker):
    """`name` may be any generation of the line."""

    async def rotate(self, name: str, wanted: Rotation, *, actor: str) -> Authority:
        """Make the next generation, below the CA that the present one is below, or rather below
        its generation that issues now. A root is linked with the one before in both directions,
        for which the old key has to be at hand.

        Raises `PKIError`: CONFLICT if the line has a next generation already, UNAVAILABLE without
        a key that has to sign, CONFIGURATION for a CA below one that is not ours."""
        async with self.recording_refusals(actor, "rotate", name):
            return await self._rotate(name, wanted, actor)

    async def _rotate(self, name: str, wanted: Rotation, actor: str) -> Authority:
        await self.refresh_if_changed()
        old = self._last(name)
        new_name, number = self._next_name(old)
        certificate = self.certificate(old.name)
        wish = succession.wish_after(certificate, number, wanted.subject, wanted.validity)
        kind = wanted.kind or key_kind(algorithms.describe(certificate.public_key()))
        if old.parent is not None:
            plan = self._plan_child(self.current(old.parent), wish)
        else:
            plan = self._plan_root(old, certificate, wish)
        await self._create(new_name, plan, kind, actor, self._place(old, wanted))
        return self.get(new_name)

    async def rotate_outside(self, name: str, wanted: Rotation, *, actor: str) -> tuple[str, bytes]:
        """Make the key of the next generation and a PEM request for a CA outside; `install` takes
        the answer. The authority's name and the request. Raises `PKIError` CONFLICT like
        `rotate`."""
        async with self.recording_refusals(actor, "rotate", name):
            return await self._rotate_outside(name, wanted, actor)

    async def _rotate_outside(self, name: str, wanted: Rotation, actor: str) -> tuple[str, bytes]:
        await self.refresh_if_changed()
        old = self._last(name)
        new_name, number = self._next_name(old)
        certificate = self.certificate(old.name)
        subject = succession.wish_after(certificate, number, wanted.subject).subject
        kind = wanted.kind or key_kind(algorithms.describe(certificate.public_key()))
        der = await self._request(new_name, subject, kind, actor, self._place(old, wanted))
        return new_name, encode_pem("CERTIFICATE REQUEST", der)

    async def activate(self, name: str, *, actor: str) -> Authority:
        """Have the next generation issue from now on. `PKIError`: CONFLICT if there is none,
        UNAVAILABLE if it awaits its certificate or has no key to issue with, REFUSED_BY_PROFILE if
        it is revoked."""
        async with self.recording_refusals(actor, "activate", name):
            return await self._activate(name, actor)

    async def _activate(self, name: str, actor: str) -> Authority:
        await self.refresh_if_changed()
        old = self.current(name)
        new = self.successor(old)
        if new is None:
            raise PKIError(
                ErrorCode.CONFLICT,
                f"nothing comes after authority {old} yet",
            )
        self.certificate(new.name)
        if new.parent is not None or new.outside:
            self.key(new.name)

        def work(tx: Transaction) -> None:
            self.check_usable(tx, new.name)
            if not store.take_over(tx, old, new.name, epoch(self._clock.now())):
                raise PKIError(ErrorCode.CONFLICT, f"authority {new.name} has taken over already")
            self._note(tx, actor, "activate", new.name, {"predecessor": old})

        await self._change(None, work)
        return self.get(new.name)

    async def retire(self, name: str, *, actor: str) -> Authority:
        """From now on this authority issues nothing; it goes on signing status. One that has not
        taken over leaves its line. There is no way back. `PKIError` CONFLICT if it is not
        active."""

        def work(tx: Transaction) -> None:
            called_off = store.call_off(tx, name, epoch(self._clock.now()))
            if not store.retire(tx, name):
                raise PKIError(ErrorCode.CONFLICT, f"authority {name} is not active")
            self._note(tx, actor, "retire", name, {"called_off": called_off})

        async with self.recording_refusals(actor, "retire", name):
            self.get(name)
            await self._change(None, work)
        return self.get(name)

    async def outstanding(self, name: str) -> Outstanding:
        """The certificates relying parties may still ask this authority about."""
        self.get(name)
        return await self._database.lookup(lambda reader: self._outstanding(reader, name))

    async def status_generation(self, name: str) -> int:
        """It grows with every change to what relying parties are told by this authority."""
        return await self._database.lookup(lambda reader: store.status_generation(reader, name))

    async def close(self, name: str, shown: int, *, actor: str, force: bool = False) -> Authority:
        """Retire this authority for good and destroy its key; `shown` is the status generation
        its last list was made for. `force`: although certificates of it are valid,
        which nobody can put on a list any more.

        Raises `PKIError` CONFLICT: it is not retired, certificates are valid, or the last list
        does not show the latest change."""
        self.get(name)

        def work(tx: Transaction) -> None:
            left = self._outstanding(tx, name)
            if left.count and not force:
                raise still_needed(name, left)
            if shown != store.status_generation(tx, name):
                raise PKIError(
                    ErrorCode.CONFLICT, f"a certificate of {name} was revoked just now; try again"
                )
            if not store.close(tx, name, epoch(self._clock.now())):
                raise PKIError(ErrorCode.CONFLICT, f"authority {name} is not retired, or closed")
            self._note(tx, actor, "close", name, {"forced": force, "valid": left.count})

        await self._change(None, work)
        return self.get(name)

    def _last(self, name: str) -> Authority:
        """The generation that issues, if nothing comes after it yet."""
        old = self.get(self.current(name))
        coming = self.successor(old.name)
        if coming is not None and coming.status is not AuthorityStatus.PENDING:
            raise PKIError(
                ErrorCode.CONFLICT,
                f"authority {coming.name} comes next already; activate or retire it",
            )
        return old

    def _next_name(self, old: Authority) -> tuple[str, int]:
        line = self.line(old.name)
        generations = [each.name for each in line].index(old.name) + 1
        # One that is pending was interrupted and can be taken over, or is waited for: the
        # database knows.
        taken = [e.name for e in self.list() if e.status is not AuthorityStatus.PENDING]
        return succession.next_name(line[0].name, generations, taken)

    def _place(self, old: Authority, wanted: Rotation) -> Place:
        if wanted.activate_after is None:
            return Place(old.name, None)
        return Place(old.name, epoch(self._clock.now() + wanted.activate_after))

    def _plan_child(self, parent: str, wish: ca_certificate.Wish) -> Plan:
        self.key(parent)
        path = self.path(parent)
        issuer = self._describe(parent, path)
        return ca_certificate.plan_child(wish, issuer, path, self._clock.now())

    def _plan_root(
        self, old: Authority, certificate: x509.Certificate, wish: ca_certificate.Wish
    ) -> Plan:
        if not ca_path.is_self_signed(certificate):
            raise configuration_error(
                f"the CA above {old.name} is not ours: make a request for it with --csr"
            )
        if old.status is not AuthorityStatus.ACTIVE:
            raise ca_certificate.refuse(f"the root {old.name} is retired; create a new one")
        if certificate.not_valid_after_utc <= self._clock.now():
            raise ca_certificate.refuse(
                f"the root {old.name} has expired and can link nothing; create a new one"
            )
        self.key(old.name)
        succession.check_links(certificate, wish.subject)
        return ca_certificate.plan_root(wish, self._clock.now())

    def _outstanding(self, reader: Reader, name: str) -> Outstanding:
        keys = [each.spki_sha256 for each in self.line(name)]
        return store.outstanding(reader, name, keys, epoch(self._clock.now()))


def still_needed(name: str, left: Outstanding) -> PKIError:
    until = "" if left.last is None else f", the last until {left.last:%Y-%m-%d %H:%M} UTC"
    return PKIError(
        ErrorCode.CONFLICT,
        f"certificates of authority {name} are still valid: {left.count}{until}; wait, or revoke "
        "them",
    )
