"""Publishing CRLs: from the database's revocations to a signed, checked and numbered list.

The list is made outside any transaction, and inserted only if no other list was published since
its content was read; whoever loses takes the winner's list, or starts again. Numbers therefore grow
strictly, whatever the number of processes, and a later number never shows an earlier state. They
are at least the time in seconds, so that they grow across a restored backup, too.
"""

import asyncio
import datetime as dt
from dataclasses import dataclass, field

from cryptography import x509

from pkiserver.ca import crl
from pkiserver.ca.audit import Audit
from pkiserver.ca.authorities import Authorities
from pkiserver.ca.crl import CRL
from pkiserver.ca.encoding import signature_algorithm
from pkiserver.ca.model import Authority
from pkiserver.ca.responders import load_key
from pkiserver.clock import Clock, epoch, from_epoch
from pkiserver.config import CRLSettings
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.keys import PrivateKey, sign
from pkiserver.pkix import cert
from pkiserver.storage import Database, IntegrityError, Reader, Transaction

BACKDATE = dt.timedelta(minutes=5)
"""thisUpdate lies this far back, as certificates' notBefore does: verifiers allow a CRL no slow
clock."""
HISTORY = 10
"""Lists of an authority that are kept."""
_ATTEMPTS = 5
_ACTOR = "status:crl"

_NEWEST = (
    "SELECT number, generation, this_update, next_update, entries FROM crls "
    "WHERE issuer = ? ORDER BY number DESC LIMIT 1"
)


@dataclass(frozen=True, slots=True)
class Published:
    """What is known of the newest list without reading it."""

    number: int
    generation: int
    this_update: dt.datetime
    next_update: dt.datetime
    entries: int


@dataclass(frozen=True, slots=True)
class _Content:
    """What a new list shows, read at one moment; `last` is the list before it."""

    generation: int
    last: Published | None
    entries: list[bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Lifetime:
    """When a new list is made, and until when it holds."""

    now: dt.datetime
    this_update: dt.datetime
    next_update: dt.datetime


class CRLPublication:
    """The lists of every authority, in the table `crls`."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        authorities: Authorities,
        audit: Audit,
        settings: CRLSettings,
    ) -> None:
        self._database = database
        self._clock = clock
        self._authorities = authorities
        self._audit = audit
        self._settings = settings
        self._held: dict[str, CRL] = {}

    async def standing(self, issuer: str) -> tuple[Published | None, int]:
        """The newest list and the issuer's present generation."""
        return await self._database.lookup(lambda reader: _standing(reader, issuer))

    async def read(self, issuer: str, number: int) -> CRL | None:
        """A list by its number; the newest one asked for stays in memory. None if it is gone."""
        held = self._held.get(issuer)
        if held is not None and held.number == number:
            return held
        found = await self._database.read(lambda reader: _load(reader, issuer, number))
        if found is not None and (held is None or number > held.number):
            self._held[issuer] = found
        return found

    def due(self, authority: x509.Certificate, last: Published | None, generation: int) -> bool:
        """Whether a new list is to be published: none yet, a change, or the schedule. A list that
        holds longer than a new one would (for a key that goes offline) is left alone."""
        if last is None or last.generation < generation:
            return True
        now = self._clock.now()
        refresh = min(self._settings.refresh, self._settings.validity / 2)
        next_update = min(now + self._settings.validity, authority.not_valid_after_utc)
        return now - last.this_update >= BACKDATE + refresh and last.next_update < next_update

    async def publish(
        self, authority: Authority, validity: dt.timedelta | None = None
    ) -> Published:
        """Publish a list that shows the present state; the one that does, if another process was
        faster. Raises `PKIError`: UNAVAILABLE without the key, or INTERNAL for a list that failed
        its check; what was published before stays the newest."""
        certificate = self._certificate(authority)
        key = load_key(self._authorities.key, authority.name)
        for _ in range(_ATTEMPTS):
            content = await self._read_content(authority.name)
            times = self._lifetime(certificate, validity)
            new = await _make(authority.name, certificate, key, content, times)
            if await self._insert(new, content.last):
                return _summary(new)
            newest, _ = await self.standing(authority.name)
            if validity is None and newest and newest.generation >= content.generation:
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
        this_update = max(now - BACKDATE, certificate.not_valid_before_utc)
        end = now + (self._settings.validity if validity is None else validity)
        next_update = min(end, certificate.not_valid_after_utc)
        if next_update <= now:
            raise PKIError(ErrorCode.UNAVAILABLE, "the authority has expired")
        return _Lifetime(now, this_update, next_update)

    async def _read_content(self, issuer: str) -> _Content:
        now = self._clock.now()

        def work(reader: Reader) -> _Content:
            last, generation = _standing(reader, issuer)
            # RFC 5280 section 3.3: an entry stays until it was on a list issued after the
            # certificate expired; one more validity, so that a client that fetches on schedule
            # has met it.
            cutoff = now - self._settings.validity
            if last is not None:
                cutoff = min(cutoff, last.this_update)
            rows = reader.each(
                "SELECT entry FROM revocations WHERE issuer = ? AND not_after >= ? ORDER BY serial",
                (issuer, epoch(cutoff)),
            )
            return _Content(generation, last, [entry for (entry,) in rows])

        return await self._database.read(work)

    async def _insert(self, new: CRL, last: Published | None) -> bool:
        """Make it the newest list; False if that is another one by now."""
        try:
            return await self._database.write(lambda tx: self._insert_row(tx, new, last))
        except IntegrityError:
            return False

    def _insert_row(self, tx: Transaction, new: CRL, last: Published | None) -> bool:
        if _standing(tx, new.issuer)[0] != last:
            return False
        tx.execute(
            "INSERT INTO crls (issuer, number, generation, this_update, next_update, entries, der) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                new.issuer, new.number, new.generation, epoch(new.this_update),
                epoch(new.next_update), new.entries, new.der,
            ),
        )  # fmt: skip
        tx.execute(
            "DELETE FROM crls WHERE issuer = ? AND number NOT IN "
            "(SELECT number FROM crls WHERE issuer = ? ORDER BY number DESC LIMIT ?)",
            (new.issuer, new.issuer, HISTORY),
        )
        self._audit.append(
            tx,
            actor=_ACTOR,
            action="crl.publish",
            object=new.issuer,
            detail={"number": new.number, "entries": new.entries},
        )
        return True


async def _make(
    issuer: str, certificate: x509.Certificate, key: PrivateKey, content: _Content, times: _Lifetime
) -> CRL:
    """Encode, sign, and read back before anybody can get it."""
    number = max(content.last.number + 1 if content.last else 1, epoch(times.now))
    tbs = await asyncio.to_thread(
        crl.to_be_signed,
        certificate,
        number=number,
        this_update=times.this_update,
        next_update=times.next_update,
        entries=content.entries,
    )
    signature = await sign(key, tbs)
    data = cert.assemble(tbs, signature_algorithm(key.public_key()), signature)
    count = len(content.entries)
    await asyncio.to_thread(crl.check, data, certificate, number=number, entries=count)
    return CRL(
        issuer, number, content.generation, times.this_update, times.next_update, count, data
    )


def _summary(new: CRL) -> Published:
    return Published(new.number, new.generation, new.this_update, new.next_update, new.entries)


def _standing(reader: Reader, issuer: str) -> tuple[Published | None, int]:
    row = reader.one(_NEWEST, (issuer,))
    generation = reader.one("SELECT generation FROM status_generations WHERE issuer = ?", (issuer,))
    newest = None
    if row is not None:
        number, shown, this_update, next_update, entries = row
        newest = Published(number, shown, from_epoch(this_update), from_epoch(next_update), entries)
    return newest, 0 if generation is None else generation[0]


def _load(reader: Reader, issuer: str, number: int) -> CRL | None:
    row = reader.one(
        "SELECT generation, this_update, next_update, entries, der FROM crls "
        "WHERE issuer = ? AND number = ?",
        (issuer, number),
    )
    if row is None:
        return None
    generation, this_update, next_update, entries, der = row
    return CRL(
        issuer, number, generation, from_epoch(this_update), from_epoch(next_update), entries, der
    )
