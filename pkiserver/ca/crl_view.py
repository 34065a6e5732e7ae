"""What lists an authority has, how the next ones are to be, and which of them are due."""

import datetime as dt
from collections.abc import Hashable
from dataclasses import dataclass

from cryptography import x509

from pkiserver.ca import crl, crl_points
from pkiserver.ca import crl_store as store
from pkiserver.ca.crl import Form
from pkiserver.ca.crl_scope import CAS, USERS, Distribution, Point, Scope
from pkiserver.ca.crl_store import Published, State
from pkiserver.clock import Clock, epoch
from pkiserver.config import CoreSettings
from pkiserver.storage import Database, Reader

BACKDATE = dt.timedelta(minutes=5)
"""thisUpdate lies this far back, as certificates' notBefore does: verifiers allow a CRL no slow
clock."""


@dataclass(frozen=True, slots=True)
class View:
    """The lists of a scope, and how the next ones are to be: their form, and whether there is a
    delta. `kept` is False for a scope no certificate points to."""

    scope: Scope
    kept: bool
    has_delta: bool
    form: Form
    state: State

    def newest(self, *, delta: bool) -> Published | None:
        return self.state.delta if delta else self.state.complete


def is_ahead(last: Published, authority: x509.Certificate, now: dt.datetime) -> bool:
    """A list made by a clock that was ahead: nobody accepts it yet. None begins before its
    authority does."""
    return max(now, authority.not_valid_before_utc) < last.this_update


class CRLViews:
    """Looks at the lists of every authority; changes nothing."""

    def __init__(self, database: Database, clock: Clock, settings: CoreSettings) -> None:
        self._database = database
        self._clock = clock
        self._settings = settings.crl
        self._base = settings.server.http_base

    async def mark(self) -> Hashable:
        """While it is the same, nothing was published or revoked in between; a minute at most, as
        lists that nobody points to any more come to an end."""
        return await self._database.change_mark(), epoch(self._clock.now()) // 60

    async def view(self, issuer: str, scope: Scope) -> View:
        """How things are with one scope."""
        return await self._database.lookup(lambda reader: self.at(reader, issuer, scope))

    async def scopes(self, issuer: str) -> tuple[Scope, ...]:
        """The lists to keep up, small ones first."""

        def work(reader: Reader) -> tuple[Scope, ...]:
            points, published = self._known(reader, issuer)
            return self._distribution(issuer).scopes(points, published)

        return await self._database.lookup(work)

    def url(self, issuer: str, scope: Scope, *, delta: bool) -> str:
        return self._distribution(issuer).url(scope, delta=delta)

    def _distribution(self, issuer: str) -> Distribution:
        return Distribution(issuer, self._base, self._settings)

    def _known(self, reader: Reader, issuer: str) -> tuple[tuple[Point, ...], tuple[Scope, ...]]:
        # Entries stay for a validity after expiry, and so do the lists.
        points = crl_points.live(reader, issuer, self._clock.now() - self._settings.validity)
        return points, tuple(s for s in (CAS, USERS) if store.has_lists(reader, issuer, s))

    def at(self, reader: Reader, issuer: str, scope: Scope) -> View:
        distribution = self._distribution(issuer)
        points, published = self._known(reader, issuer)
        has_delta = distribution.has_delta(scope, points)
        form = crl.form(
            scope.covers,
            distribution.urls(scope, points),
            distribution.url(scope, delta=True) if has_delta else None,
        )
        kept = distribution.keeps(scope, points, published)
        return View(scope, kept, has_delta, form, store.state(reader, issuer, scope))

    def due(self, authority: x509.Certificate, view: View) -> bool:
        """Whether anything new is to be published in this scope."""
        return self.complete_due(authority, view) or self._delta_due(authority, view)

    def complete_due(self, authority: x509.Certificate, view: View) -> bool:
        """None yet, a change, or the schedule."""
        refresh = min(self._settings.refresh, self._settings.validity / 2)
        return self._is_due(authority, view, view.state.complete, refresh, self._settings.validity)

    def _delta_due(self, authority: x509.Certificate, view: View) -> bool:
        lifetime = self.delta_lifetime
        return view.has_delta and self._is_due(
            authority, view, view.state.delta, lifetime / 2, lifetime
        )

    def _is_due(
        self,
        authority: x509.Certificate,
        view: View,
        last: Published | None,
        refresh: dt.timedelta,
        lifetime: dt.timedelta,
    ) -> bool:
        """A list that holds longer than a new one would (for a key that goes offline) is left
        alone by the schedule."""
        if last is None or last.generation < view.state.changed or last.form != view.form.octets:
            return True
        now = self._clock.now()
        if is_ahead(last, authority, now):
            return True
        next_update = min(now + lifetime, authority.not_valid_after_utc)
        return now - last.this_update >= BACKDATE + refresh and last.next_update < next_update

    @property
    def delta_lifetime(self) -> dt.timedelta:
        """Where deltas were given up, certificates that name one may still be around."""
        return self._settings.delta or min(self._settings.refresh, self._settings.validity / 2)
