"""Refusals in the audit log: rows that strangers cause, and so no more of them than anybody will
read. What is beyond that is in the server's log, and its number in the next row."""

import datetime as dt
from collections.abc import Mapping

import structlog

from pkiserver.ca.audit import JSON
from pkiserver.config_types import Rate
from pkiserver.plugin import Services
from pkiserver.web.failures import Budget

MOST = Rate(count=1000, period=dt.timedelta(hours=1))
"""Of one action and process, from ever so many addresses."""

_log = structlog.get_logger("protocols.scep")


class Refusals:
    """Those of one `action`, such as "scep.refuse"."""

    def __init__(self, services: Services, action: str) -> None:
        self._services = services
        self._action = action
        self._budget = Budget(MOST, services.clock)

    async def record(self, actor: str, about: str, detail: Mapping[str, JSON]) -> None:
        """In a transaction of its own, `about` being the object."""
        if not self._budget.take():
            self.log(about, detail)
            return
        missing = self._budget.missed()
        await self._services.database.write(
            lambda tx: self._services.audit.append(
                tx,
                actor=actor,
                action=self._action,
                object=about,
                outcome="refused",
                detail={**detail, "not recorded before": missing} if missing else detail,
            )
        )

    def log(self, about: str, detail: Mapping[str, JSON]) -> None:
        """Into the server's log alone."""
        _log.warning(self._action, about=about, **detail)
