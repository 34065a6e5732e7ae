"""What relying parties are told of certificates: OCSP answers and CRLs, kept up for every
authority.

`maintain` is the schedule: it makes responders ahead of need, publishes lists that are due, by the
clock or because something was revoked (by whichever process), and goes on to the next authority
when one fails. What was published last is served until something newer is there.

A key that is kept offline signs nothing new. Before it goes, `prepare_offline` publishes a list and
makes a responder that last; when they are over, OCSP says tryLater and the list is out of date,
until the key is brought back for the same again.
"""

import datetime as dt
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from pkiserver.ca.audit import Audit
from pkiserver.ca.authorities import Authorities
from pkiserver.ca.crl import CRL
from pkiserver.ca.crl_publication import CRLPublication
from pkiserver.ca.crl_scope import FULL, Scope
from pkiserver.ca.crl_service import CRLService, ListStanding
from pkiserver.ca.crl_shelf import CRLShelf
from pkiserver.ca.crl_store import Published
from pkiserver.ca.crl_view import CRLViews
from pkiserver.ca.model import Authority, AuthorityStatus
from pkiserver.ca.ocsp import OCSP, OCSPAnswer, Stamp
from pkiserver.ca.responders import Responders
from pkiserver.clock import Clock, from_epoch
from pkiserver.config import CoreSettings
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.keys import KeyProvider
from pkiserver.storage import Database

_log = structlog.get_logger("pkiserver.status")


@dataclass(frozen=True, slots=True)
class Standing:
    """The services of one authority, for people: its lists, that of everything first, until when
    there is a responder, and what is the matter with the next."""

    lists: tuple[ListStanding, ...]
    responder_until: dt.datetime | None
    responder_problem: str | None


class StatusService:
    """OCSP and CRLs of every authority. Safe to use from many tasks and processes at once."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        authorities: Authorities,
        keys: KeyProvider,
        audit: Audit,
        settings: CoreSettings,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._database = database
        self._clock = clock
        self._authorities = authorities
        self._responders = Responders(
            database, clock, authorities, keys, audit, settings, random_bytes
        )
        self._ocsp = OCSP(database, clock, authorities, self._responders, settings.ocsp)
        views = CRLViews(database, clock, settings)
        self._publication = CRLPublication(
            database, clock, authorities, audit, settings.crl, views, random_bytes
        )
        self._crls = CRLService(
            self._publication, views, CRLShelf(database), clock, authorities, self._attempt
        )
        self._troubles: dict[tuple[str, str], str] = {}

    async def start(self) -> None:
        """Have a list and a responder for every authority that can, before anybody asks."""
        await self.maintain()

    async def stop(self) -> None:
        """Let go of publications under way: the next `maintain` of any process does them."""
        await self._crls.stop()

    async def settle(self) -> None:
        """Wait until every list that was asked for by `schedule` is out, or has failed."""
        await self._crls.settle()

    async def maintain(self) -> None:
        """Do what is due for every authority. Failures are logged, once for each new cause."""
        await self._authorities.refresh_if_changed()
        now = self._clock.now()
        for authority in self._authorities.list():
            own = authority.certificate
            closed = authority.status is AuthorityStatus.CLOSED
            if own is not None and own.not_valid_after_utc > now and not closed:
                await self._attempt("responder", authority.name, self._responders.ensure)
                await self._attempt("crl", authority.name, self._crls.publish_due)
                await self._attempt("crl-alert", authority.name, self._crls.alert)
        await self._responders.forget_expired()
        await self._publication.forget_abandoned()

    async def ocsp(self, authority: str, request_der: bytes) -> OCSPAnswer:
        """The answer to a request. Raises `MalformedMessage`, or `PKIError`: NOT_FOUND for no such
        authority, UNAUTHORIZED for a certificate there is no record of, UNAVAILABLE while nobody
        can sign."""
        return await self._ocsp.answer(await self._authority(authority), request_der)

    async def ocsp_stamp(self, authority: str) -> Stamp:
        """What an answer's stamp has to be for it to be given again now. Raises `PKIError`
        NOT_FOUND or UNAVAILABLE."""
        return await self._ocsp.stamp(authority)

    def ocsp_stamp_now(self, authority: str) -> Stamp | None:
        """`ocsp_stamp` for who cannot wait; None: ask that. Raises `PKIError` as it does."""
        return self._ocsp.stamp_now(authority)

    async def crl(self, authority: str, scope: Scope = FULL, *, delta: bool = False) -> CRL:
        """The newest list. If there is none yet it is published now; one that does not show the
        latest change is given out only while no newer one can be made at once. Raises `PKIError`
        NOT_FOUND, also for lists that are not kept, or UNAVAILABLE."""
        return await self._crls.newest(await self._authority(authority), scope, delta=delta)

    async def publish_crl(self, authority: str, validity: dt.timedelta | None = None) -> Published:
        """Publish every list of an authority now, whether due or not; the one of everything.
        Raises `PKIError`."""
        return await self._crls.publish(await self._authority(authority), validity)

    async def prepare_offline(self, authority: str, validity: dt.timedelta) -> Published:
        """Publish lists and make a responder that last `validity` (at most as long as the
        authority), so that its key may be taken away. Raises `PKIError`."""
        found = await self._authority(authority)
        await self._responders.create(found, validity)
        return await self._crls.publish(found, validity)

    async def standing(self, authority: str) -> Standing:
        """How things are. Raises `PKIError` NOT_FOUND, or UNAVAILABLE for one without
        certificate."""
        found = await self._authority(authority)
        lists = await self._crls.standing(found)
        now = self._clock.now()
        row = await self._database.lookup(
            lambda reader: self._responders.find(reader, found.name, now)
        )
        return Standing(
            tuple(lists),
            None if row is None else from_epoch(row[3]),
            self._responders.problem(found, row, now),
        )

    def schedule(self, issuer: str) -> None:
        """Publish lists soon, once for all that ask until then. Returns at once."""
        self._crls.schedule(issuer)

    async def _authority(self, name: str) -> Authority:
        """One that another process has just made is found as well."""
        try:
            return self._authorities.get(name)
        except PKIError:
            await self._authorities.refresh_if_changed()
            return self._authorities.get(name)

    async def _attempt(
        self, what: str, name: str, work: Callable[[Authority], Awaitable[object]]
    ) -> bool:
        """One authority's trouble is logged and keeps nobody else waiting; whether there was
        none."""
        try:
            await work(await self._authority(name))
        except PKIError as error:
            if self._troubles.get((what, name)) != error.detail:
                self._troubles[what, name] = error.detail
                level = _log.error if error.code is ErrorCode.INTERNAL else _log.warning
                level("status not kept up", what=what, authority=name, why=error.detail)
        except Exception:
            _log.exception("status not kept up", what=what, authority=name)
        else:
            self._troubles.pop((what, name), None)
            return True
        return False
