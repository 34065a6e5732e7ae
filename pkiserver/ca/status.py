"""What relying parties are told of certificates: OCSP answers and CRLs, kept up for every
authority.

`maintain` is the schedule: it makes responders ahead of need, publishes lists that are due, by the
clock or because something was revoked (by whichever process), and goes on to the next authority
when one fails. What was published last is served until something newer is there.

A key that is kept offline signs nothing new. Before it goes, `prepare_offline` publishes a list and
makes a responder that last; when they are over, OCSP says tryLater and the list is out of date,
until the key is brought back for the same again.
"""

import asyncio
import datetime as dt
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from pkiserver.ca.audit import Audit
from pkiserver.ca.authorities import Authorities
from pkiserver.ca.crl import CRL
from pkiserver.ca.crl_publication import CRLPublication, Published
from pkiserver.ca.model import Authority, AuthorityStatus
from pkiserver.ca.ocsp import OCSP, OCSPAnswer, Stamp
from pkiserver.ca.responders import Responders
from pkiserver.clock import Clock, from_epoch, monotonic
from pkiserver.config import CoreSettings
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.keys import KeyProvider
from pkiserver.storage import Database

_SHARE = 4
"""After a publication, this many times its duration pass before the next one that a revocation
asks for: a flood of revocations of a large CA costs at most a fifth of the time."""
_LONGEST_PAUSE = 60.0

_log = structlog.get_logger("pkiserver.status")


@dataclass(frozen=True, slots=True)
class Standing:
    """The services of one authority, for people: the newest list, whether a newer one is due, and
    until when there is a responder."""

    crl: Published | None
    crl_due: bool
    responder_until: dt.datetime | None


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
        self._crls = CRLPublication(database, clock, authorities, audit, settings.crl)
        self._wanted: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._troubles: dict[tuple[str, str], str] = {}

    async def start(self) -> None:
        """Have a list and a responder for every authority that can, before anybody asks."""
        await self.maintain()

    async def stop(self) -> None:
        """Let go of publications under way: the next `maintain` of any process does them."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()
        self._wanted.clear()

    async def settle(self) -> None:
        """Wait until every list that was asked for by `schedule` is out, or has failed."""
        while self._tasks:
            await asyncio.gather(*self._tasks.values())

    async def maintain(self) -> None:
        """Do what is due for every authority. Failures are logged, once for each new cause."""
        await self._authorities.refresh_if_changed()
        now = self._clock.now()
        for authority in self._authorities.list():
            own = authority.certificate
            closed = authority.status is AuthorityStatus.CLOSED
            if own is not None and own.not_valid_after_utc > now and not closed:
                await self._attempt("responder", authority.name, self._responders.ensure)
                await self._attempt("crl", authority.name, self._publish_if_due)
        await self._responders.forget_expired()

    async def ocsp(self, authority: str, request_der: bytes) -> OCSPAnswer:
        """The answer to a request. Raises `MalformedMessage`, or `PKIError`: NOT_FOUND for no such
        authority, UNAUTHORIZED for a certificate there is no record of, UNAVAILABLE while nobody
        can sign."""
        return await self._ocsp.answer(await self._authority(authority), request_der)

    async def ocsp_stamp(self, authority: str) -> Stamp:
        """What an answer's stamp has to be for it to be given again now. Raises `PKIError`
        NOT_FOUND or UNAVAILABLE."""
        return await self._ocsp.stamp(authority)

    async def crl(self, authority: str) -> CRL:
        """The newest list. If there is none yet it is published now; if it does not show the
        latest change, a new one is scheduled. Raises `PKIError` NOT_FOUND or UNAVAILABLE."""
        name = (await self._authority(authority)).name
        newest, generation = await self._crls.standing(name)
        if newest is None:
            newest = await self.publish_crl(name)
        elif newest.generation < generation:
            self.schedule(name)
        found = await self._crls.read(name, newest.number)
        return await self.crl(name) if found is None else found

    async def publish_crl(self, authority: str, validity: dt.timedelta | None = None) -> Published:
        """Publish a list now, whether due or not. Raises `PKIError`."""
        return await self._crls.publish(await self._authority(authority), validity)

    async def prepare_offline(self, authority: str, validity: dt.timedelta) -> Published:
        """Publish a list and make a responder that last `validity` (at most as long as the
        authority), so that its key may be taken away. Raises `PKIError`."""
        found = await self._authority(authority)
        await self._responders.create(found, validity)
        return await self._crls.publish(found, validity)

    async def standing(self, authority: str) -> Standing:
        """How things are. Raises `PKIError` NOT_FOUND, or UNAVAILABLE for one without
        certificate."""
        name = (await self._authority(authority)).name
        certificate = self._authorities.certificate(name)
        newest, generation = await self._crls.standing(name)
        now = self._clock.now()
        row = await self._database.lookup(lambda reader: self._responders.find(reader, name, now))
        return Standing(
            newest,
            self._crls.due(certificate, newest, generation),
            None if row is None else from_epoch(row[3]),
        )

    def schedule(self, issuer: str) -> None:
        """Publish a list soon, once for all that ask until then. Returns at once."""
        self._wanted.add(issuer)
        if issuer not in self._tasks:
            self._tasks[issuer] = asyncio.create_task(self._publish_wanted(issuer))

    async def _publish_wanted(self, issuer: str) -> None:
        try:
            while issuer in self._wanted:
                self._wanted.discard(issuer)
                began = monotonic()
                await self._attempt("crl", issuer, self._publish_if_due)
                await asyncio.sleep(min(_SHARE * (monotonic() - began), _LONGEST_PAUSE))
        finally:
            self._tasks.pop(issuer, None)

    async def _publish_if_due(self, authority: Authority) -> None:
        certificate = self._authorities.certificate(authority.name)
        newest, generation = await self._crls.standing(authority.name)
        if self._crls.due(certificate, newest, generation):
            await self._crls.publish(authority)

    async def _authority(self, name: str) -> Authority:
        """One that another process has just made is found as well."""
        try:
            return self._authorities.get(name)
        except PKIError:
            await self._authorities.refresh_if_changed()
            return self._authorities.get(name)

    async def _attempt(
        self, what: str, name: str, work: Callable[[Authority], Awaitable[object]]
    ) -> None:
        """One authority's trouble is logged and keeps nobody else waiting."""
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
