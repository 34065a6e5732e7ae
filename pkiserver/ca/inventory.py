"""Reading the inventory of certificates: single look-ups, and lists a page at a time.

Pages are cut by key, not by offset: a page goes on after the last row of the one before, whatever
was issued meanwhile. Certificates that were never finished are found by id and listed on request.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from pkiserver.ca import ledger
from pkiserver.ca.model import CertificateRecord, CertificateStatus
from pkiserver.clock import epoch
from pkiserver.pkix.cert import serial_bytes
from pkiserver.pkix.names import AltName, NameType, reversed_dns
from pkiserver.storage import Reader
from pkiserver.storage.database import SQLValue

MOST_ROWS = 1000
_SELECT = f"SELECT {ledger.COLUMNS} FROM certificates"


def by_id(reader: Reader, certificate_id: str) -> CertificateRecord | None:
    """The certificate, finished or not."""
    row = reader.one(f"{_SELECT} WHERE id = ?", (certificate_id,))
    return None if row is None else ledger.record(row)


def by_serial(reader: Reader, issuer: str, serial: int) -> CertificateRecord | None:
    """The certificate, finished or not. None for what is no serial number, too."""
    if not _is_serial(serial):
        return None
    row = reader.one(f"{_SELECT} WHERE issuer = ? AND serial = ?", (issuer, serial_bytes(serial)))
    return None if row is None else ledger.record(row)


def with_serial(reader: Reader, serial: int) -> list[CertificateRecord]:
    """Certificates with that serial number, of every issuer: random as they are, one or none."""
    if not _is_serial(serial):
        return []
    rows = reader.all(f"{_SELECT} WHERE serial = ? ORDER BY issuer", (serial_bytes(serial),))
    return [ledger.record(row) for row in rows]


def _is_serial(serial: int) -> bool:
    return serial > 0 and serial.bit_length() < 160


def names_of(reader: Reader, certificate_id: str) -> tuple[AltName, ...]:
    """The certificate's names, sorted."""
    rows = reader.all(
        "SELECT type, value FROM certificate_names WHERE certificate = ?", (certificate_id,)
    )
    return tuple(sorted(AltName(NameType(kind), value) for kind, value in rows))


@dataclass(frozen=True, slots=True)
class Filter:
    """What a list is limited to; everything that is given has to hold.

    `name` is a whole normalised value of any type, `below` a DNS domain: it and everything below
    it. `revoked` True: revoked or on hold. `statuses` is `issued` alone unless said otherwise.
    """

    issuer: str | None = None
    profile: str | None = None
    requester: str | None = None
    spki_sha256: bytes | None = None
    name: str | None = None
    below: str | None = None
    revoked: bool | None = None
    expires_from: dt.datetime | None = None
    expires_before: dt.datetime | None = None
    statuses: Sequence[CertificateStatus] = (CertificateStatus.ISSUED,)


def newest(
    reader: Reader, what: Filter, *, before: str | None = None, limit: int = 100
) -> list[CertificateRecord]:
    """By id, the newest first. `before` is the id of the last one of the page before."""
    where, params = _conditions(what)
    if before is not None:
        where.append("id < ?")
        params.append(before)
    sql = f"{_SELECT} WHERE {' AND '.join(where)} ORDER BY id DESC LIMIT ?"
    return [ledger.record(row) for row in reader.all(sql, [*params, _bounded(limit)])]


def expiring(
    reader: Reader,
    now: dt.datetime,
    within: dt.timedelta,
    what: Filter | None = None,
    *,
    after: CertificateRecord | None = None,
    limit: int = 100,
) -> list[CertificateRecord]:
    """Valid now, not revoked, and at their end within that time; the first to expire first.
    `after` is the last one of the page before."""
    where, params = _conditions(what or Filter(revoked=False))
    where += ["not_after >= ?", "not_after <= ?"]
    params += [epoch(now), epoch(now + within)]
    if after is not None:
        end = epoch(after.not_after)
        where.append("(not_after > ? OR (not_after = ? AND id > ?))")
        params += [end, end, after.id]
    sql = f"{_SELECT} WHERE {' AND '.join(where)} ORDER BY not_after, id LIMIT ?"
    return [ledger.record(row) for row in reader.all(sql, [*params, _bounded(limit)])]


def _bounded(limit: int) -> int:
    return max(1, min(limit, MOST_ROWS))


def _conditions(what: Filter) -> tuple[list[str], list[SQLValue]]:
    where = [f"status IN ({', '.join('?' * len(what.statuses))})"]
    params: list[SQLValue] = [status.value for status in what.statuses]
    for column in ("issuer", "profile", "requester", "spki_sha256"):
        value = getattr(what, column)
        if value is not None:
            where.append(f"{column} = ?")
            params.append(value)
    if what.revoked is not None:
        where.append("revoked_at IS NOT NULL" if what.revoked else "revoked_at IS NULL")
    if what.expires_from is not None:
        where.append("not_after >= ?")
        params.append(epoch(what.expires_from))
    if what.expires_before is not None:
        where.append("not_after < ?")
        params.append(epoch(what.expires_before))
    _add_names(what, where, params)
    return where, params


def _add_names(what: Filter, where: list[str], params: list[SQLValue]) -> None:
    named = "id IN (SELECT certificate FROM certificate_names WHERE {})"
    if what.name is not None:
        where.append(named.format("value = ?"))
        params.append(what.name)
    if what.below is not None:
        # Everything below a domain sorts between "com.example." and "com.example/".
        prefix = reversed_dns(what.below)
        within = "type = 'dns' AND (reversed = ? OR reversed >= ? AND reversed < ?)"
        where.append(named.format(within))
        params += [prefix, f"{prefix}.", f"{prefix}/"]
