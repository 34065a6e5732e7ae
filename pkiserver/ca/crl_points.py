"""Which lists certificates point to, remembered in the transaction that reserves their serial
number: such a list goes on for as long, whatever the configuration says later."""

import datetime as dt

from pkiserver.ca.crl_scope import Distribution, Point
from pkiserver.ca.model import Prepared
from pkiserver.clock import epoch
from pkiserver.storage import Reader, Transaction


def remember(tx: Transaction, distribution: Distribution, prepared: Prepared, *, ca: bool) -> None:
    """Part of reserving a certificate; nothing to do where its list is there anyway."""
    point = distribution.point(prepared.serial, ca=ca)
    if point is not None:
        tx.execute(
            "INSERT INTO crl_points (issuer, lists, base, delta, until) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (issuer, lists, base, delta) DO UPDATE SET until = excluded.until "
            "WHERE crl_points.until < excluded.until",
            (
                prepared.issuer, point.group, point.base, int(point.delta),
                epoch(prepared.not_after),
            ),
        )  # fmt: skip


def live(reader: Reader, issuer: str, since: dt.datetime) -> tuple[Point, ...]:
    """What certificates point to that were valid at `since` or later."""
    rows = reader.all(
        "SELECT lists, base, delta FROM crl_points WHERE issuer = ? AND until >= ?",
        (issuer, epoch(since)),
    )
    return tuple(Point(group, base, bool(delta)) for group, base, delta in rows)
