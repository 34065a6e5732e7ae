"""A publication that is killed at any of its transactions: the last good list stays, the next one
has everything, and nothing is left behind (invariant 4: numbers grow across restarts)."""

import asyncio
import datetime as dt
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509

from pkiserver.ca import crl_store as store
from pkiserver.ca.audit import Audit
from pkiserver.ca.authorities import Authorities
from pkiserver.ca.crl import CRL
from pkiserver.ca.status import StatusService
from pkiserver.clock import FixedClock
from pkiserver.config import CoreSettings, CRLSettings, ServerSettings
from pkiserver.keys import FileKeyProvider
from pkiserver.storage import open_database
from tests.ca.status_support import NOW, PKI, open_pki
from tests.processes import kill_at, run_elsewhere

HOUR = dt.timedelta(hours=1)
SETTINGS = CRLSettings(delta=HOUR)

PAGE = 256


@pytest.fixture
async def pki(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PKI]:
    monkeypatch.setattr(store, "PAGE", PAGE)
    async with open_pki(tmp_path, crl=SETTINGS) as made:
        await made.status.maintain()
        yield made


async def publish(pki: PKI, when: str, number: int) -> int:
    """In another process, which is killed; otherwise how many transactions it took."""
    status = await run_elsewhere(publish_and_die, pki.home, when, number)
    assert status == -signal.SIGKILL or when == "never"
    return max(status, 0)


def publish_and_die(home: Path, when: str, number: int) -> None:
    """Its exit status is how many transactions it took."""
    store.PAGE = PAGE

    async def run() -> int:
        server = ServerSettings(external_http_url="http://pki.example.com")
        settings = CoreSettings(home=home, server=server, crl=SETTINGS)
        database, clock = open_database(settings.storage.url, home), FixedClock(NOW)
        keys = FileKeyProvider(home / "keys", b"a passphrase for tests")
        authorities = Authorities(database, clock, keys, Audit(clock), settings)
        await authorities.load()
        status = StatusService(database, clock, authorities, keys, Audit(clock), settings)
        count = kill_at(database, when, number)
        await status.publish_crl("issuing")
        await database.close()
        return count()

    sys.exit(asyncio.run(run()))


async def newest(pki: PKI) -> tuple[CRL, CRL]:
    """As a process has them that knows nothing: sound, and signed."""
    status = pki.another_process()
    found = await status.crl("issuing"), await status.crl("issuing", delta=True)
    await status.stop()
    for each in found:
        parsed = x509.load_der_x509_crl(each.der)
        assert parsed.is_signature_valid(pki.certificate().public_key())  # type: ignore[arg-type]
        assert len(parsed) == each.entries
    return found


async def test_a_publication_that_is_killed_anywhere(pki: PKI) -> None:
    for n in range(4):
        await pki.revoke(await pki.issue(f"{n}.example.com"))
    await pki.status.publish_crl("issuing")
    serials = {entry.serial_number for entry in x509.load_der_x509_crl((await newest(pki))[0].der)}
    steps = await publish(pki, "never", 0)
    assert steps > 4, "pages, the rows, and what is dropped"
    for when, number in [("before", 1), *(("after", n) for n in range(1, steps + 1))]:
        full, delta = await newest(pki)
        issued = await pki.issue(f"{when}-{number}.example.com")
        await pki.revoke(issued)
        serials.add(issued.record.serial)
        assert await publish(pki, when, number) == 0
        after = await newest(pki)
        assert after[0].number > full.number and after[1].number > delta.number
        assert {entry.serial_number for entry in x509.load_der_x509_crl(after[0].der)} == serials
        assert issued.record.serial in {
            e.serial_number for e in x509.load_der_x509_crl(after[1].der)
        }
    await _nothing_is_left(pki)


async def _nothing_is_left(pki: PKI) -> None:
    pki.clock.advance(2 * HOUR)
    await pki.status.maintain()
    bodies, lists = await pki.database.read(
        lambda reader: (
            reader.all("SELECT DISTINCT body FROM crl_pages"),
            reader.all("SELECT body FROM crl_lists WHERE body <> ''"),
        )
    )
    assert set(bodies) == set(lists)
    sizes = await pki.database.read(
        lambda reader: reader.all(
            "SELECT l.size, SUM(LENGTH(p.content)) FROM crl_lists l JOIN crl_pages p "
            "ON p.body = l.body GROUP BY l.body, l.size"
        )
    )
    assert sizes and all(size == kept for size, kept in sizes)


async def test_what_was_published_is_given_out_while_another_process_is_half_way(
    pki: PKI,
) -> None:
    """Killed between the pages and the row, without its key for the next: the old list stays."""
    await pki.revoke(await pki.issue())
    first = await pki.status.publish_crl("issuing")
    await pki.revoke(await pki.issue("another.example.com"))
    assert await publish(pki, "after", 2) == 0
    await pki.keys.delete("issuing")
    database = open_database(pki.settings.storage.url, pki.home)
    try:
        shown = await replace(pki, database=database).another_process().crl("issuing")
        assert (shown.number, shown.entries, shown.behind) == (first.number, 1, True)
    finally:
        await database.close()
    assert pki.clock.now() == NOW
