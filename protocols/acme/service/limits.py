"""Rate limits counted from what is in the database: exact across workers and nodes."""

from collections.abc import Sequence

from pkiserver.config_types import Rate
from pkiserver.storage import Reader
from protocols.acme.problems import Problem, ProblemType
from protocols.acme.store import upkeep


def refuse_crowd(
    reader: Reader, limit: Rate | None, source: str, params: Sequence[str], now: int, what: str
) -> None:
    """Raise `rateLimited` with Retry-After (RFC 8555 section 6.6) if the limit is reached.
    `source` is one of the constants of `store.upkeep`."""
    if limit is None:
        return
    period = int(limit.period.total_seconds())
    oldest = upkeep.crowded_since(reader, source, params, now, period, limit.count)
    if oldest is not None:
        raise Problem(
            ProblemType.RATE_LIMITED,
            f"too many {what}: at most {limit.count} in {period} seconds",
            retry_after=max(1, oldest + period - now),
        )
