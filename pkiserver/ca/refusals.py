"""How many refusals the audit log takes: they are rows that strangers cause, so there are no more
of them than anybody will read. Counted in memory, by each process."""

import datetime as dt
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Sequence

from pkiserver.clock import Clock
from pkiserver.config_types import Rate

PER_SOURCE = Rate(count=100, period=dt.timedelta(hours=1))
"""Of one source: an account, a user, an address."""
ALTOGETHER = Rate(count=1000, period=dt.timedelta(hours=1))
"""Of one action, from ever so many sources."""
_MOST_SOURCES = 10_000


class RefusalCount:
    """Decides for each refusal whether the log takes it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._of_action: defaultdict[str, _Budget] = defaultdict(_Budget)
        self._of_source: OrderedDict[str, _Budget] = OrderedDict()
        self._missed: Counter[str] = Counter()

    def take(self, action: str, sources: Sequence[str]) -> int | None:
        """How many of `action` were left out since the last one that was not; None: this one is
        left out, too, as one of its sources or all together have had their share."""
        now = self._clock.now().timestamp()
        budgets = [self._source(source) for source in sources]
        left = [budget.left(PER_SOURCE, now) for budget in budgets]
        altogether = self._of_action[action]
        if not all(left) or not altogether.left(ALTOGETHER, now):
            self._missed[action] += 1
            return None
        for budget in (altogether, *budgets):
            budget.used += 1
        return self._missed.pop(action, 0)

    def _source(self, source: str) -> "_Budget":
        budget = self._of_source.pop(source, None) or _Budget()
        self._of_source[source] = budget
        if len(self._of_source) > _MOST_SOURCES:
            self._of_source.popitem(last=False)
        return budget


class _Budget:
    """What of a rate is used, in periods of which each begins with a use after the last one, or
    when the clock was put back."""

    __slots__ = ("_since", "used")

    def __init__(self) -> None:
        self._since = float("-inf")
        self.used = 0

    def left(self, rate: Rate, now: float) -> int:
        if not 0 <= now - self._since < rate.period.total_seconds():
            self._since = now
            self.used = 0
        return rate.count - self.used
