"""The lifetime a Windows client asks for: enrollmentNameValuePair attributes of the CSR ([MS-WCCE]
section 2.2.2.7.10), which Intune puts there from its profile.

    EnrollmentNameValuePair ::= SEQUENCE { name BMPString, value BMPString }

`ValidityPeriod` is a unit and `ValidityPeriodUnits` a number; Android sends them the other way
round. Anything else is no wish.
"""

import datetime as dt
from collections.abc import Iterator, Mapping

from pkiserver.errors import MalformedMessage
from pkiserver.pkix import cert, der
from pkiserver.pkix.csr import ENROLLMENT_NAME_VALUE_PAIR_OID

_UNITS: Mapping[str, dt.timedelta] = {
    "years": dt.timedelta(days=365),
    "months": dt.timedelta(days=30),
    "weeks": dt.timedelta(weeks=1),
    "days": dt.timedelta(days=1),
    "hours": dt.timedelta(hours=1),
    "minutes": dt.timedelta(minutes=1),
    "seconds": dt.timedelta(seconds=1),
}
_PAIR = der.encode_oid(ENROLLMENT_NAME_VALUE_PAIR_OID)
_MOST_UNITS = 1_000_000
_LONGEST = dt.timedelta(days=36_500)


def wished_validity(csr_der: bytes) -> dt.timedelta | None:
    """The lifetime a request asks for; None if it asks for none that makes sense. `csr_der` is a
    request that `csr.parse` accepted."""
    if _PAIR not in csr_der:  # as in nearly all requests
        return None
    try:
        pairs = {name.lower(): value for name, value in _pairs(csr_der)}
    except MalformedMessage:
        return None
    period = pairs.get("validityperiod", "").strip().lower()
    units = pairs.get("validityperiodunits", "").strip().lower()
    if period.isdecimal():
        period, units = units, period
    unit = _UNITS.get(period) or _UNITS.get(period + "s")
    if unit is None or not units.isdecimal() or len(units) > 7:
        return None
    wish = unit * min(int(units), _MOST_UNITS)
    return wish if dt.timedelta(0) < wish <= _LONGEST else None


def _pairs(csr_der: bytes) -> Iterator[tuple[str, str]]:
    info = der.sequence_of(cert.split(csr_der)[0])
    for attribute in der.children(info[3].contents):
        oid, values = der.children(attribute.contents)
        if der.decode_oid(oid.contents) != ENROLLMENT_NAME_VALUE_PAIR_OID:
            continue
        for value in der.children(values.contents):
            members = der.sequence_of(value.encoded)
            if len(members) != 2:
                raise MalformedMessage("an enrollmentNameValuePair has a name and a value")
            yield der.decode_text(members[0]), der.decode_text(members[1])
