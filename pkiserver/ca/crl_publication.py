"""Publishing CRLs: from the database's revocations to signed, checked and numbered lists.

The lists of a scope are made outside any transaction, and inserted only if no other was published
since their content was read; whoever loses takes the winner's list, or starts again. Numbers
therefore grow strictly, whatever the number of processes, and a later number never shows an earlier
state. They are at least the time in seconds, so that they grow across a restored backup, too. A
delta shares the numbers of the complete lists of its scope, and where both are made, at the same
time, they have the same one (RFC 5280 section 5.2.3).

A list is stored in pages of a transaction each before its row makes it the newest one, so that a
large one holds up nobody.
"""

import asyncio
import datetime as dt
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography import x509

from pkiserver.ca import crl, crl_check
from pkiserver.ca import crl_store as store
from pkiserver.ca.audit import Audit
from pkiserver.ca.authorities import Authorities
from pkiserver.ca.authority_store import is_closed
from pkiserver.ca.crl_scope import FULL, Scope
from pkiserver.ca.crl_store import Published
from pkiserver.ca.crl_view import BACKDATE, CRLViews, View
from pkiserver.ca.encoding import signature_algorithm
from pkiserver.ca.model import Authority
from pkiserver.ca.responders import load_key
from pkiserver.clock import Clock, epoch
from pkiserver.config import CRLSettings
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.keys import PrivateKey, sign
from pkiserver.pkix import der
from pkiserver.storage import Database, IntegrityError, Reader, Transaction

_FORGOTTEN = dt.timedelta(hours=1)
_ATTEMPTS = 5
_ACTOR = "status:crl"


@dataclass(frozen=True, slots=True)
class _Entries:
    """What is on a list, many entries in one piece; for a delta, since which list. Emptied when
    the list has been put together."""

    pieces: list[bytes] = field(repr=False)
    count: int
    delta: bool = False
    base: int | None = None


@dataclass(frozen=True, slots=True)
class _Content:
    """What new lists show, read at one moment. `anchor`: later deltas may refer to this list."""

    view: View
    lists: tuple[_Entries, ...]
    anchor: bool


@dataclass(frozen=True, slots=True)
class _Lifetime:
    """When new lists are made, and until when they hold."""

    now: dt.datetime
    this_update: dt.datetime
    next_update: dt.datetime
    delta_next_update: dt.datetime


@dataclass(frozen=True, slots=True)
class _New:
    published: Published
    data: bytes = field(repr=False)


class CRLPublication:
    """The lists of every authority."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        authorities: Authorities,
        audit: Audit,
        settings: CRLSettings,
        views: CRLViews,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._database = database
        self._clock = clock
        self._authorities = authorities
        self._audit = audit
        self._settings = settings
        self._views = views
        self._random = random_bytes

    async def publish(
        self,
        authority: Authority,
        scope: Scope = FULL,
        validity: dt.timedelta | None = None,
        *,
        delta_only: bool = False,
    ) -> Published:
        """Publish the lists of a scope as things are now; the newest list, which is another
        process's that shows the same if that was faster. Raises `PKIError`: UNAVAILABLE without
        the key, or INTERNAL for a list that failed its check; what was published before stays the
        newest."""
        certificate = self._certificate(authority)
        key = load_key(self._authorities.key, authority.name)
        name = authority.name
        for _ in range(_ATTEMPTS):
            content = await self._database.read(
                lambda reader: self._read(reader, name, scope, delta_only=delta_only)
            )
            times = self._lifetime(certificate, validity)
            new = [
                await self._make(name, certificate, key, content, entries, times)
                for entries in content.lists
            ]
            if await self._insert(new, content.view):
                return new[0].published
            newest = (await self._views.view(name, scope)).newest(delta=delta_only)
            seen = content.view.state.generation
            if validity is None and newest and newest.generation >= seen:
                return newest
        raise PKIError(ErrorCode.CONFLICT, "other processes keep publishing CRLs; try again")

    def _certificate(self, authority: Authority) -> x509.Certificate:
        certificate = self._authorities.certificate(authority.name)
        if not crl.may_sign(certificate):
            raise PKIError(
                ErrorCode.UNAVAILABLE,
                f"the certificate of authority {authority.name} does not allow it to sign CRLs",
            )
        return certificate

    def _lifetime(self, certificate: x509.Certificate, validity: dt.timedelta | None) -> _Lifetime:
        now = self._clock.now().replace(microsecond=0)
        last = certificate.not_valid_after_utc
        this_update = max(now - BACKDATE, certificate.not_valid_before_utc)
        if last <= now:
            raise PKIError(ErrorCode.UNAVAILABLE, "the authority has expired")
        return _Lifetime(
            now,
            this_update,
            min(now + (self._settings.validity if validity is None else validity), last),
            min(now + (self._views.delta_lifetime if validity is None else validity), last),
        )

    def _read(self, reader: Reader, issuer: str, scope: Scope, *, delta_only: bool) -> _Content:
        now = self._clock.now()
        view = self._views.at(reader, issuer, scope)
        form = view.form.octets
        base = store.anchor(reader, issuer, scope, form, now) if view.has_delta else None
        lists: list[_Entries] = []
        if base is None or not delta_only:
            # RFC 5280 section 3.3: an entry stays until it was on a list issued after the
            # certificate expired; one more validity, so that a client that fetches on schedule
            # has met it.
            cutoff = now - self._settings.validity
            if view.state.complete is not None:
                cutoff = min(cutoff, view.state.complete.this_update)
            lists.append(_Entries(*store.entries(reader, issuer, scope, cutoff)))
        if view.has_delta:
            changes = ([], 0) if base is None else store.changes(
                reader, issuer, scope, base.generation
            )  # fmt: skip
            lists.append(_Entries(*changes, delta=True, base=base.number if base else None))
        last = store.last_anchor(reader, issuer, scope, form)
        spacing = min(self._settings.refresh, self._settings.validity / 2) / 2
        is_anchor = last is None or now - BACKDATE - last.this_update >= spacing
        return _Content(view, tuple(lists), view.has_delta and is_anchor)

    async def _make(
        self,
        issuer: str,
        certificate: x509.Certificate,
        key: PrivateKey,
        content: _Content,
        entries: _Entries,
        times: _Lifetime,
    ) -> _New:
        """Encode, sign, and read back before anybody can get it."""
        view = content.view
        number = max(view.state.number + 1, epoch(times.now))
        # With nothing older to refer to, a delta is about the complete list made with it.
        base = (entries.base or number) if entries.delta else None
        next_update = times.delta_next_update if entries.delta else times.next_update
        tbs = await asyncio.to_thread(
            crl.to_be_signed,
            certificate,
            number=number,
            this_update=times.this_update,
            next_update=next_update,
            entries=entries.pieces,
            form=view.form,
            base=base,
        )
        pieces = [len(piece) for piece in entries.pieces]
        entries.pieces.clear()
        signature = await sign(key, tbs)

        def finish() -> tuple[bytes, bytes]:
            data = _assemble(tbs, signature_algorithm(key.public_key()), signature)
            crl_check.check(
                data, certificate, number=number, entries=entries.count, base=base, pieces=pieces
            )
            return data, hashlib.sha256(data).digest()

        data, digest = await asyncio.to_thread(finish)
        published = Published(
            issuer, view.scope.name, entries.delta, number, base, view.state.generation,
            times.this_update, next_update, entries.count, len(data), digest, view.form.octets,
            content.anchor and not entries.delta, self._random(16).hex(),
        )  # fmt: skip
        return _New(published, data)

    async def _insert(self, new: list[_New], view: View) -> bool:
        """Make them the newest lists; False if others are by now."""
        large = [each for each in new if len(each.data) > store.PAGE]
        for each in large:
            await self._store(each)
        try:
            dropped = await self._database.write(lambda tx: self._insert_rows(tx, new, view))
        except IntegrityError:
            dropped = None
        for old in [each.published for each in large] if dropped is None else dropped:
            await self._drop(old.body, old.size)
        return dropped is not None

    async def _store(self, new: _New) -> None:
        now = self._clock.now()
        for number, content in enumerate(store.pages(new.data)):
            await self._database.write(
                lambda tx, n=number, c=content: store.add_page(  # type: ignore[misc]
                    tx, new.published.body, n, c, now
                )
            )

    def _insert_rows(self, tx: Transaction, new: list[_New], view: View) -> list[Published] | None:
        """The large lists that nobody needs any more; None if another process was faster."""
        issuer, now = new[0].published.issuer, self._clock.now()
        if is_closed(tx, issuer):
            # Nothing comes after the last list; this process has the key in memory still.
            raise PKIError(ErrorCode.UNAVAILABLE, f"authority {issuer} is closed")
        if store.state(tx, issuer, view.scope).number != view.state.number:
            return None
        dropped: list[Published] = []
        for each in new:
            store.add(tx, each.published)
            if len(each.data) <= store.PAGE:
                store.add_page(tx, each.published.body, 0, each.data, now)
            for old in store.outdated(tx, each.published, now):
                store.forget(tx, old, now)
                if old.size > store.PAGE:
                    dropped.append(old)
                elif old.body:
                    store.drop_pages(tx, old.body, 0, 1)
            self._note(tx, "crl.publish", each.published)
        return dropped

    def _note(self, tx: Transaction, action: str, about: Published, outcome: str = "ok") -> None:
        detail = {"number": about.number, "entries": about.entries}
        where = {"scope": about.scope, "base": about.base} if about.scope or about.delta else {}
        self._audit.append(
            tx,
            actor=_ACTOR,
            action=action,
            object=about.issuer,
            outcome=outcome,
            detail={**detail, **where},
        )

    # Keeping

    async def forget_abandoned(self) -> None:
        """Pages of lists that never came to be."""
        before = self._clock.now() - _FORGOTTEN
        for body in await self._database.read(lambda reader: store.abandoned(reader, before)):
            await self._drop(body, None)

    async def _drop(self, body: str, size: int | None) -> None:
        page = 0
        while size is None or page * store.PAGE < size:
            gone = await self._database.write(
                lambda tx, p=page: store.drop_pages(tx, body, p, p + 4)  # type: ignore[misc]
            )
            if not gone:
                return
            page += 4

    async def alert(self, about: Published) -> bool:
        """Put into the audit log that a list lapses soon, once; whether this was the time."""

        def work(tx: Transaction) -> bool:
            first = store.note_alert(tx, about)
            if first:
                self._note(tx, "crl.lapse", about, outcome="failed")
            return first

        return await self._database.write(work)


def _assemble(tbs: bytes, algorithm: bytes, signature: bytes) -> bytes:
    """`cert.assemble`, without a second copy of what is large."""
    parts = (tbs, algorithm, der.encode_bit_string(signature))
    return b"".join((der.header(der.SEQUENCE, sum(map(len, parts))), *parts))
