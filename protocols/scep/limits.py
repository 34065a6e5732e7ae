"""Failures per address: who guesses challenges is made to wait. Counted in memory, by each process:
refusals must not cost a transaction each."""

import ipaddress
from collections import OrderedDict, deque

from pkiserver.clock import Clock
from pkiserver.config_types import Rate
from pkiserver.errors import ErrorCode, PKIError

_MOST_ADDRESSES = 10_000


class Failures:
    """At most `rate.count` failures of an address in any `rate.period`; None: no limit."""

    def __init__(self, rate: Rate | None, clock: Clock) -> None:
        self._rate = rate
        self._clock = clock
        self._known: OrderedDict[str, deque[float]] = OrderedDict()

    def check(self, address: str) -> None:
        """Raises `PKIError` RATE_LIMITED."""
        if self._rate is None:
            return
        now = self._clock.now().timestamp()
        times = self._known.get(_group(address), ())
        since = now - self._rate.period.total_seconds()
        recent = [moment for moment in times if moment > since]
        if len(recent) >= self._rate.count:
            raise PKIError(
                ErrorCode.RATE_LIMITED,
                "too many refused requests from this address; try again later",
                rule="scep.failures_per_address",
                retry_after=max(1, int(recent[0] - since) + 1),
            )

    def count(self, address: str) -> None:
        """Note a failure."""
        if self._rate is None:
            return
        group = _group(address)
        times = self._known.pop(group, None) or deque(maxlen=self._rate.count)
        times.append(self._clock.now().timestamp())
        self._known[group] = times
        if len(self._known) > _MOST_ADDRESSES:
            self._known.popitem(last=False)


def _group(address: str) -> str:
    """An IPv6 site has any number of addresses: its /64 counts as one."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return str(parsed)
    return str(ipaddress.ip_network((parsed, 64), strict=False).network_address)
