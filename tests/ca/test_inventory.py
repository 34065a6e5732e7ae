"""The inventory: look-ups, filters, and pages that neither repeat nor lose a row."""

import datetime as dt
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from pkiserver.ca import inventory
from pkiserver.ca.inventory import Filter
from pkiserver.ca.model import CertificateRecord, Reason
from pkiserver.pkix.names import dns_name, ip_address
from pkiserver.storage import Reader
from tests.ca.world import ALICE, NOW, World, open_world

DAY = dt.timedelta(days=1)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        yield world


async def found(
    world: World, work: Callable[[Reader], list[CertificateRecord]]
) -> list[CertificateRecord]:
    return await world.database.read(work)


async def test_by_serial(world: World) -> None:
    record = (await world.issue(dns_name("a.example"))).record
    serial = record.serial
    assert await world.database.read(lambda r: inventory.by_serial(r, "issuing", serial)) == record
    assert await world.database.read(lambda r: inventory.by_serial(r, "root", serial)) is None
    assert await found(world, lambda r: inventory.with_serial(r, serial)) == [record]
    assert await world.database.read(lambda r: inventory.by_id(r, record.id)) == record
    for wrong in (0, -5, 1 << 159, 1 << 500):
        assert await found(world, lambda r, w=wrong: inventory.with_serial(r, w)) == []  # type: ignore[misc]


async def test_filters(world: World) -> None:
    a = (await world.issue(dns_name("a.example.com"), ip_address("192.0.2.1"))).record
    b = (await world.issue(dns_name("example.com"))).record
    c = (await world.issue(dns_name("badexample.com"), profile="device")).record
    revoked = await world.revocation.revoke("issuing", b.serial, Reason.SUPERSEDED, actor=ALICE)
    for what, expected in [
        (Filter(issuer="issuing"), {a, revoked, c}),
        (Filter(profile="device"), {c}),
        (Filter(requester="test:nobody"), set()),
        (Filter(spki_sha256=a.spki_sha256), {a}),
        (Filter(name="192.0.2.1"), {a}),
        (Filter(below="example.com"), {a, revoked}),
        (Filter(below="example.com", revoked=False), {a}),
        (Filter(issuer="issuing", revoked=True), {revoked}),
        (Filter(issuer="issuing", expires_before=NOW + 91 * DAY), {a, revoked}),
        (Filter(issuer="issuing", expires_from=NOW + 91 * DAY), {c}),
    ]:
        assert set(await found(world, lambda r, w=what: inventory.newest(r, w))) == expected  # type: ignore[misc]


async def test_pages_go_on_whatever_is_issued_meanwhile(world: World) -> None:
    what = Filter(issuer="issuing")
    issued = []
    for number in range(7):
        world.clock.advance(dt.timedelta(seconds=1))
        issued.append((await world.issue(dns_name(f"h{number}.example"))).record)
    seen: list[CertificateRecord] = []
    before: str | None = None
    while page := await world.database.read(
        lambda r: inventory.newest(r, what, before=before, limit=3)  # noqa: B023
    ):
        seen += page
        before = page[-1].id
        world.clock.advance(dt.timedelta(seconds=1))
        await world.issue(dns_name("late.example"))
    assert seen == issued[::-1]


async def test_what_expires_first_comes_first_and_pages_go_on(world: World) -> None:
    issued = [
        (await world.issue(dns_name(f"h{n}.example"), not_after=NOW + (10 - n // 2) * DAY)).record
        for n in range(8)
    ]
    held = issued.pop()
    await world.revocation.revoke("issuing", held.serial, Reason.CERTIFICATE_HOLD, actor=ALICE)
    expected = sorted(issued, key=lambda record: (record.not_after, record.id))
    seen: list[CertificateRecord] = []
    last: CertificateRecord | None = None
    while page := await world.database.read(
        lambda r: inventory.expiring(r, NOW, 30 * DAY, after=last, limit=3)  # noqa: B023
    ):
        seen += page
        last = page[-1]
    assert seen == expected
    assert await found(world, lambda r: inventory.expiring(r, NOW, DAY)) == []
    assert await found(world, lambda r: inventory.expiring(r, NOW + 11 * DAY, 30 * DAY)) == []
