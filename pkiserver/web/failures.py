"""Who keeps being refused is made to wait. Counted in memory, by each process: refusals must not
cost a transaction each."""

from collections import OrderedDict, deque

from pkiserver.clock import Clock
from pkiserver.config_types import Rate
from pkiserver.errors import ErrorCode, PKIError

_MOST_SOURCES = 10_000


class Failures:
    """At most `rate.count` failures of a source in any `rate.period`; None: no limit. `rule` is the
    key of the configuration that says so."""

    def __init__(self, rate: Rate | None, clock: Clock, rule: str) -> None:
        self._rate = rate
        self._clock = clock
        self._rule = rule
        self._known: OrderedDict[str, deque[float]] = OrderedDict()

    def check(self, source: str) -> None:
        """Raises `PKIError` RATE_LIMITED."""
        if self._rate is None:
            return
        now = self._clock.now().timestamp()
        times = self._known.get(source, ())
        since = now - self._rate.period.total_seconds()
        # What lies ahead was counted before the clock was put back.
        recent = [moment for moment in times if since < moment <= now]
        if len(recent) >= self._rate.count:
            raise PKIError(
                ErrorCode.RATE_LIMITED,
                "too many refused requests; try again later",
                rule=self._rule,
                retry_after=max(1, int(recent[0] - since) + 1),
            )

    def count(self, source: str) -> None:
        """Note a failure."""
        if self._rate is None:
            return
        times = self._known.pop(source, None) or deque(maxlen=self._rate.count)
        times.append(self._clock.now().timestamp())
        self._known[source] = times
        if len(self._known) > _MOST_SOURCES:
            self._known.popitem(last=False)
