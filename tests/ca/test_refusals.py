"""Refusals in the audit log: as many of each source, and of all, as somebody may want to read."""

import datetime as dt
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from pkiserver.ca import refusals
from pkiserver.ca.audit import Audit
from pkiserver.ca.model import Reason, Requester
from pkiserver.clock import FixedClock
from pkiserver.config_types import Rate
from pkiserver.errors import PKIError
from pkiserver.storage import Database, migrate, open_database
from tests.ca.world import ALICE, open_world, request

NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = open_database("sqlite:///pki.db", tmp_path)
    await migrate(database, {})
    yield database
    await database.close()


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "PER_SOURCE", Rate(count=2, period=HOUR))
    monkeypatch.setattr(refusals, "ALTOGETHER", Rate(count=5, period=HOUR))


class Log:
    """Refuses and reads what was recorded of it."""

    def __init__(self, database: Database) -> None:
        self.clock = FixedClock(NOW)
        self._database = database
        self._audit = Audit(self.clock)

    async def refuse(self, *sources: str, action: str = "x.refuse") -> None:
        row = self._audit.refusal(
            actor="x:y", action=action, object="z", detail={"of": sources[0]}, sources=sources
        )
        if row is not None:
            await self._database.write(row)

    async def rows(self) -> list[dict[str, object]]:
        found = await self._database.read(
            lambda reader: reader.all("SELECT detail FROM audit ORDER BY sequence")
        )
        return [json.loads(row[0]) for row in found]


@pytest.fixture
def log(database: Database) -> Log:
    return Log(database)


async def test_a_source_fills_its_own_share_and_the_next_row_says_what_is_missing(log: Log) -> None:
    with capture_logs() as server_log:
        for _ in range(5):
            await log.refuse("a")
    await log.refuse("b")
    assert await log.rows() == [{"of": "a"}, {"of": "a"}, {"of": "b", "not recorded before": 3}]
    assert [line["action"] for line in server_log] == ["x.refuse"] * 3
    log.clock.advance(HOUR)
    await log.refuse("a")
    assert (await log.rows())[3:] == [{"of": "a"}]


async def test_of_many_sources_together_there_are_so_many_rows_of_an_action(log: Log) -> None:
    for number in range(9):
        await log.refuse(f"address {number}")
    assert len(await log.rows()) == 5
    await log.refuse("address 1", action="y.refuse")
    assert len(await log.rows()) == 6


async def test_a_clock_that_was_ahead_silences_nobody_for_longer(log: Log) -> None:
    log.clock.advance(365 * 24 * HOUR)
    for _ in range(3):
        await log.refuse("a")
    log.clock.advance(-365 * 24 * HOUR)
    await log.refuse("a")
    assert (await log.rows())[2:] == [{"of": "a", "not recorded before": 1}]


async def test_an_account_is_one_source_wherever_it_comes_from(log: Log) -> None:
    for number in range(4):
        await log.refuse("acme:1", f"address {number}")
    assert len(await log.rows()) == 2
    await log.refuse("acme:2", "address 3")
    assert len(await log.rows()) == 3


async def test_sources_are_forgotten_before_memory_grows(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "_MOST_SOURCES", 2)
    for source in ("a", "a", "b", "c", "a"):
        await log.refuse(source)
    assert len(await log.rows()) == 5


def test_what_a_requester_is_counted_by() -> None:
    assert Requester("acme", "1", "2001:db8::5").sources == ("acme:1", "2001:db8::")
    assert Requester("cli", "root").sources == ("cli:root",)


async def test_issuance_and_revocation_record_no_more_of_a_requester(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        before = len(await world.rows("SELECT 1 FROM audit"))
        for _ in range(2):
            with pytest.raises(PKIError):
                await world.issuance.prepare(request(csr=b"nonsense"))
            with pytest.raises(PKIError):
                await world.revocation.revoke("issuing", 5, Reason.UNSPECIFIED, actor=ALICE)
        assert len(await world.rows("SELECT 1 FROM audit")) == before + 2
