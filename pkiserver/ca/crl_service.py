"""The lists of every authority, kept up: by the clock, when something was revoked, and for whoever
asks for one that is behind."""

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any

import structlog
from cryptography import x509

from pkiserver.ca.authorities import Authorities
from pkiserver.ca.crl import CRL
from pkiserver.ca.crl_publication import CRLPublication
from pkiserver.ca.crl_scope import Scope
from pkiserver.ca.crl_shelf import CRLShelf
from pkiserver.ca.crl_store import Published
from pkiserver.ca.crl_view import CRLViews, View, is_ahead
from pkiserver.ca.model import Authority
from pkiserver.clock import Clock, monotonic, rfc3339
from pkiserver.errors import ErrorCode, PKIError

PATIENCE = 1.0
"""Seconds somebody who asks for a list waits for the one that shows the latest change."""
LARGE = 20_000
"""Entries from which on a delta, where there is one, goes ahead of the complete list."""
_SHARE = 4
"""After a publication, this many times its duration pass before the next one that a revocation
asks for: a flood of revocations of a large CA costs at most a fifth of the time."""
_LONGEST_PAUSE = 60.0
_WARN_BEFORE = dt.timedelta(days=30)

_log = structlog.get_logger("pkiserver.status")

Attempt = Callable[[str, str, Callable[[Authority], Awaitable[object]]], Awaitable[bool]]
"""Work on an authority of that name, whose failure is logged; whether it was done."""


@dataclass(frozen=True, slots=True)
class ListStanding:
    """One list, for people: whether a newer one is due, and what is the matter with it."""

    scope: str
    delta: bool
    url: str
    newest: Published | None
    due: bool
    problem: str | None


class CRLService:
    """Safe to use from many tasks and processes at once."""

    def __init__(
        self,
        publication: CRLPublication,
        views: CRLViews,
        shelf: CRLShelf,
        clock: Clock,
        authorities: Authorities,
        attempt: Attempt,
    ) -> None:
        self._publication = publication
        self._views = views
        self._shelf = shelf
        self._clock = clock
        self._authorities = authorities
        self._attempt = attempt
        self._wanted: dict[str, asyncio.Future[None]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._first: dict[tuple[str, Scope], asyncio.Task[Published]] = {}
        self._failing: set[str] = set()
        self._known: dict[tuple[str, Scope, bool], tuple[Hashable, Published]] = {}

    async def newest(self, authority: Authority, scope: Scope, *, delta: bool) -> CRL:
        """The newest list. If there is none yet it is published now. One that does not show the
        latest change, or does not hold now, is given out only where a newer one cannot be made
        within `PATIENCE`. Raises `PKIError` NOT_FOUND or UNAVAILABLE."""
        mark = await self._views.mark()
        seen, known = self._known.get((authority.name, scope, delta), (None, None))
        if known is not None and seen == mark:
            found = await self._shelf.read(known)
            if found is not None:
                return found
        return await self._find(authority, scope, delta=delta)

    async def _find(self, authority: Authority, scope: Scope, *, delta: bool) -> CRL:
        certificate, name = self._authorities.certificate(authority.name), authority.name
        for _ in range(3):
            mark = await self._views.mark()
            view = await self._views.view(name, scope)
            if not view.kept or delta and not view.has_delta:
                raise PKIError(ErrorCode.NOT_FOUND, f"authority {name} has no such list")
            published = view.newest(delta=delta)
            if published is None:
                await self._publish_first(authority, scope)
                continue
            if self._is_behind(published, view, certificate) and await self._catch_up(name):
                newer = (await self._views.view(name, scope)).newest(delta=delta)
                published = newer or published
            found = await self._shelf.read(published)
            if found is not None and self._is_behind(published, view, certificate):
                return replace(found, behind=True)
            if found is not None:
                self._known[name, scope, delta] = mark, published
                return found
        raise PKIError(ErrorCode.UNAVAILABLE, "other processes keep publishing CRLs; try again")

    def _is_behind(self, last: Published, view: View, certificate: x509.Certificate) -> bool:
        """It does not show the latest change, or holds no more or not yet: the schedule is late,
        after a sleep of the machine, or the clock was ahead."""
        now = self._clock.now()
        lapsed = last.next_update <= now < certificate.not_valid_after_utc
        return last.generation < view.state.changed or lapsed or is_ahead(last, certificate, now)

    async def _publish_first(self, authority: Authority, scope: Scope) -> None:
        """Once for all who ask meanwhile. Raises what publishing raises."""
        key = (authority.name, scope)
        task = self._first.get(key)
        if task is None:
            task = asyncio.create_task(self._publication.publish(authority, scope))
            self._first[key] = task
            task.add_done_callback(lambda done: self._end_first(key, done))
        await asyncio.wait({task})
        task.result()

    def _end_first(self, key: tuple[str, Scope], done: "asyncio.Task[Published]") -> None:
        self._first.pop(key, None)
        if not done.cancelled():
            done.exception()  # all who asked may be gone

    async def publish(self, authority: Authority, validity: dt.timedelta | None) -> Published:
        """Every list of an authority, whether due or not; the one of everything."""
        *others, everything = await self._views.scopes(authority.name)
        for scope in others:
            await self._publication.publish(authority, scope, validity)
        return await self._publication.publish(authority, everything, validity)

    async def publish_due(self, authority: Authority) -> None:
        """What is due of an authority. Trouble with one list keeps no other one waiting; raises
        the first."""
        certificate = self._authorities.certificate(authority.name)
        troubles: list[PKIError] = []
        for scope in await self._views.scopes(authority.name):
            try:
                await self._publish_scope(authority, certificate, scope)
            except PKIError as error:
                troubles.append(error)
            await asyncio.sleep(0)  # there may be a thousand: requests go on in between
        if troubles:
            raise troubles[0]

    async def _publish_scope(
        self, authority: Authority, certificate: x509.Certificate, scope: Scope
    ) -> None:
        view = await self._views.view(authority.name, scope)
        if not self._views.due(certificate, view):
            return
        if not self._views.complete_due(certificate, view):
            await self._publication.publish(authority, scope, delta_only=True)
            return
        complete = view.state.complete
        if view.has_delta and complete is not None and complete.entries > LARGE:
            await self._publication.publish(authority, scope, delta_only=True)
        await self._publication.publish(authority, scope)

    # On demand, once for all that ask

    def schedule(self, issuer: str) -> "asyncio.Future[None]":
        """Publish what is due soon, once for all that ask until then. Done when that has ended,
        however."""
        wish = self._wanted.get(issuer)
        if wish is None:
            wish = self._wanted[issuer] = asyncio.get_running_loop().create_future()
        if issuer not in self._tasks:
            self._tasks[issuer] = asyncio.create_task(self._publish_wanted(issuer))
        return wish

    async def settle(self) -> None:
        """Wait until every list that was asked for is out, or has failed."""
        while self._tasks:
            await asyncio.gather(*self._tasks.values())

    async def stop(self) -> None:
        """Let go of publications under way: the next look of any process does them."""
        tasks: list[asyncio.Task[Any]] = [*self._tasks.values(), *self._first.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()
        for wish in self._wanted.values():
            wish.cancel()
        self._wanted.clear()

    async def _publish_wanted(self, issuer: str) -> None:
        try:
            while (wish := self._wanted.pop(issuer, None)) is not None:
                began = monotonic()
                try:
                    done = await self._attempt("crl", issuer, self.publish_due)
                finally:
                    if not wish.done():
                        wish.set_result(None)
                if done:
                    self._failing.discard(issuer)
                else:
                    self._failing.add(issuer)
                await asyncio.sleep(min(_SHARE * (monotonic() - began), _LONGEST_PAUSE))
        finally:
            self._tasks.pop(issuer, None)

    async def _catch_up(self, issuer: str) -> bool:
        """Whether it is worth another look. While publishing fails nobody waits for it."""
        failing = issuer in self._failing
        wish = self.schedule(issuer)
        if failing:
            return False
        done, _ = await asyncio.wait({wish}, timeout=PATIENCE)
        return bool(done)

    # For people

    async def standing(self, authority: Authority) -> list[ListStanding]:
        """Every list of an authority, the one of everything first. Raises `PKIError` UNAVAILABLE
        for one without certificate."""
        certificate = self._authorities.certificate(authority.name)
        found: list[ListStanding] = []
        for scope in reversed(await self._views.scopes(authority.name)):
            view = await self._views.view(authority.name, scope)
            found += self._of_scope(authority.name, certificate, view)
            await asyncio.sleep(0)
        return found

    def _of_scope(
        self, issuer: str, certificate: x509.Certificate, view: View
    ) -> list[ListStanding]:
        due = self._views.due(certificate, view)
        return [
            ListStanding(
                view.scope.name,
                delta,
                self._views.url(issuer, view.scope, delta=delta),
                newest := view.newest(delta=delta),
                due,
                self._problem(newest, certificate) or (self._keyless(issuer) if due else None),
            )
            for delta in ((False, True) if view.has_delta else (False,))
        ]

    def _problem(self, newest: Published | None, certificate: x509.Certificate) -> str | None:
        """Before relying parties notice: a third of a list's lifetime is left, or a month. One
        that lasts as long as its authority is never followed by another."""
        if newest is None:
            return "there is none"
        if newest.next_update >= certificate.not_valid_after_utc:
            return None
        left = newest.next_update - self._clock.now()
        if left <= dt.timedelta(0):
            return f"out of date since {rfc3339(newest.next_update)}"
        if left < min((newest.next_update - newest.this_update) / 3, _WARN_BEFORE):
            return f"out of date from {rfc3339(newest.next_update)} on, and no newer one is made"
        return None

    def _keyless(self, issuer: str) -> str | None:
        """Why what is due is not made."""
        try:
            self._authorities.key(issuer)
        except PKIError as error:
            return f"due: {error.detail}"
        return None

    async def alert(self, authority: Authority) -> None:
        """Say once of each list in trouble that it is: in the log, and in the audit log."""
        certificate = self._authorities.certificate(authority.name)
        for each in await self.standing(authority):
            if each.newest is None or self._problem(each.newest, certificate) is None:
                continue
            if await self._publication.alert(each.newest):
                _log.error("a CRL lapses", url=each.url, problem=each.problem)
