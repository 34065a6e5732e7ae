"""Revocation: which status follows which, and that the transaction is whole."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pkiserver.ca import audit, blocklist
from pkiserver.ca.crl import encode_entry
from pkiserver.ca.issuance import Issued
from pkiserver.ca.model import CertificateRecord, Reason
from pkiserver.clock import epoch, from_epoch
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix.names import dns_name
from pkiserver.storage import Transaction
from tests.ca.world import ALICE, NOW, World, csr_for, open_world, request

WWW = dns_name("www.example.com")
HOUR = dt.timedelta(hours=1)
FINAL = [
    Reason.UNSPECIFIED,
    Reason.KEY_COMPROMISE,
    Reason.AFFILIATION_CHANGED,
    Reason.SUPERSEDED,
    Reason.CESSATION_OF_OPERATION,
    Reason.PRIVILEGE_WITHDRAWN,
    Reason.AA_COMPROMISE,
]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        yield world


@pytest.fixture
async def issued(world: World) -> Issued:
    return await world.issue(WWW)


async def revoke(world: World, issued: Issued, reason: Reason, **more: Any) -> CertificateRecord:
    return await world.revocation.revoke(
        "issuing", issued.record.serial, reason, actor=ALICE, **more
    )


async def refusal(world: World, issued: Issued, reason: Reason, **more: Any) -> PKIError:
    with pytest.raises(PKIError) as caught:
        await revoke(world, issued, reason, **more)
    return caught.value


async def listed(world: World) -> list[Any]:
    return await world.rows("SELECT revoked_at, reason, invalidity_date, entry FROM revocations")


async def generation(world: World) -> int:
    rows = await world.rows("SELECT generation FROM status_generations WHERE issuer = 'issuing'")
    return int(rows[0][0]) if rows else 0


@pytest.mark.parametrize("reason", FINAL)
async def test_rfc_5280_5_3_1_a_revocation_is_whole(
    world: World, issued: Issued, reason: Reason
) -> None:
    changed: list[str] = []
    world.revocation.on_change(changed.append)
    before = await generation(world)
    record = await revoke(world, issued, reason)
    moment = from_epoch(epoch(NOW))
    assert (record.revoked_at, record.reason) == (moment, reason)
    entry = encode_entry(record.serial, moment, reason, None)
    assert await listed(world) == [(epoch(NOW), reason.value, None, entry)]
    assert await generation(world) == before + 1
    assert changed == ["issuing"]
    assert (await world.rows("SELECT action, object FROM audit ORDER BY sequence"))[-1] == (
        "certificate.revoke",
        record.id,
    )


@pytest.mark.parametrize("reason", FINAL)
async def test_invariant_3_revoked_stays_revoked(
    world: World, issued: Issued, reason: Reason
) -> None:
    await revoke(world, issued, reason)
    rows = await listed(world)
    for again in Reason:
        if again is Reason.KEY_COMPROMISE and reason is not again:
            continue
        error = await refusal(world, issued, again)
        assert error.code in (ErrorCode.ALREADY_REVOKED, ErrorCode.BAD_REVOCATION_REASON)
    with pytest.raises(PKIError) as caught:
        await world.revocation.release("issuing", issued.record.serial, actor=ALICE)
    assert caught.value.code is ErrorCode.ALREADY_REVOKED
    assert await listed(world) == rows


async def test_a_reason_may_become_key_compromise_and_the_date_stays(
    world: World, issued: Issued
) -> None:
    first = await revoke(world, issued, Reason.SUPERSEDED, invalidity_date=NOW)
    world.clock.advance(HOUR)
    record = await revoke(world, issued, Reason.KEY_COMPROMISE)
    assert (record.revoked_at, record.reason) == (first.revoked_at, Reason.KEY_COMPROMISE)
    assert (await listed(world))[0][:3] == (epoch(NOW), "keyCompromise", epoch(NOW))


async def test_key_compromise_blocks_the_key_and_revokes_nothing_else(world: World) -> None:
    data = csr_for([WWW])
    first = await world.issue(WWW, csr=data)
    second = await world.issue(WWW, csr=data)
    await revoke(world, first, Reason.KEY_COMPROMISE)
    key = first.record.spki_sha256
    assert await world.database.read(lambda reader: blocklist.find(reader, key))
    with pytest.raises(PKIError, match="blocked keys"):
        await world.issuance.prepare(request(WWW, csr=data))
    assert len(await listed(world)) == 1
    assert (await revoke(world, second, Reason.SUPERSEDED)).reason is Reason.SUPERSEDED


async def test_other_reasons_do_not_block_the_key(world: World, issued: Issued) -> None:
    await revoke(world, issued, Reason.SUPERSEDED)
    assert await world.rows("SELECT * FROM blocked_keys") == []


# Hold


async def test_a_hold_can_be_released(world: World, issued: Issued) -> None:
    await revoke(world, issued, Reason.CERTIFICATE_HOLD)
    on_hold = await generation(world)
    record = await world.revocation.release("issuing", issued.record.serial, actor=ALICE)
    assert (record.revoked_at, record.reason) == (None, None)
    assert await listed(world) == []
    assert await generation(world) == on_hold + 1
    assert (await revoke(world, issued, Reason.SUPERSEDED)).reason is Reason.SUPERSEDED


async def test_a_hold_can_become_final_and_the_date_stays(world: World, issued: Issued) -> None:
    held = await revoke(world, issued, Reason.CERTIFICATE_HOLD)
    assert (await refusal(world, issued, Reason.CERTIFICATE_HOLD)).code is (
        ErrorCode.ALREADY_REVOKED
    )
    world.clock.advance(HOUR)
    record = await revoke(world, issued, Reason.PRIVILEGE_WITHDRAWN)
    assert (record.revoked_at, record.reason) == (held.revoked_at, Reason.PRIVILEGE_WITHDRAWN)


async def test_what_is_not_on_hold_cannot_be_released(world: World, issued: Issued) -> None:
    with pytest.raises(PKIError) as caught:
        await world.revocation.release("issuing", issued.record.serial, actor=ALICE)
    assert caught.value.code is ErrorCode.CONFLICT


# Refusals


@pytest.mark.parametrize("reason", [Reason.REMOVE_FROM_CRL, Reason.CA_COMPROMISE])
async def test_reasons_that_do_not_fit(world: World, issued: Issued, reason: Reason) -> None:
    assert (await refusal(world, issued, reason)).code is ErrorCode.BAD_REVOCATION_REASON
    assert await listed(world) == []


async def test_a_ca_certificate_may_be_revoked_for_ca_compromise(world: World) -> None:
    certificate = world.authorities.get("issuing").certificate
    assert certificate is not None
    record = await world.revocation.revoke(
        "root", certificate.serial_number, Reason.CA_COMPROMISE, actor=ALICE
    )
    assert record.reason is Reason.CA_COMPROMISE


async def test_what_was_not_issued_cannot_be_revoked(world: World, issued: Issued) -> None:
    for issuer, serial in [("issuing", 5), ("root", issued.record.serial), ("x", 1),
                           ("issuing", -1), ("issuing", 1 << 400)]:  # fmt: skip
        with pytest.raises(PKIError) as caught:
            await world.revocation.revoke(issuer, serial, Reason.UNSPECIFIED, actor=ALICE)
        assert caught.value.code is ErrorCode.NOT_FOUND


async def test_what_is_still_being_signed_cannot_be_revoked(world: World) -> None:
    prepared = await world.issuance.prepare(request(WWW))

    def crash(tx: Transaction) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await world.issuance.issue(prepared, on_issued=crash)
    with pytest.raises(PKIError) as caught:
        await world.revocation.revoke("issuing", prepared.serial, Reason.UNSPECIFIED, actor=ALICE)
    assert caught.value.code is ErrorCode.NOT_FOUND


async def test_an_expired_certificate_is_not_revoked(world: World, issued: Issued) -> None:
    world.clock.advance(dt.timedelta(days=91))
    error = await refusal(world, issued, Reason.SUPERSEDED)
    assert error.code is ErrorCode.CONFLICT
    assert "expired" in error.detail


@pytest.mark.parametrize("offset", [HOUR, -HOUR])
async def test_rfc_5280_5_3_2_an_impossible_invalidity_date(
    world: World, issued: Issued, offset: dt.timedelta
) -> None:
    error = await refusal(world, issued, Reason.SUPERSEDED, invalidity_date=NOW + offset)
    assert error.code is ErrorCode.MALFORMED


async def test_invariant_9_a_refusal_is_recorded(world: World, issued: Issued) -> None:
    await refusal(world, issued, Reason.REMOVE_FROM_CRL)
    action, outcome, detail = (
        await world.rows("SELECT action, outcome, detail FROM audit ORDER BY sequence")
    )[-1]
    assert (action, outcome) == ("certificate.revoke", "refused")
    assert "removeFromCRL" in detail


# Whole or not at all, once


async def test_a_hook_that_raises_takes_everything_back(world: World, issued: Issued) -> None:
    before = await generation(world)

    def hook(tx: Transaction) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await revoke(world, issued, Reason.KEY_COMPROMISE, also=hook)
    assert await listed(world) == []
    assert await world.rows("SELECT * FROM blocked_keys") == []
    assert await generation(world) == before


async def test_many_revocations_at_once_one_wins(world: World, issued: Issued) -> None:
    outcomes = await asyncio.gather(
        *(revoke(world, issued, Reason.SUPERSEDED) for _ in range(12)), return_exceptions=True
    )
    errors = [outcome for outcome in outcomes if isinstance(outcome, PKIError)]
    assert len(errors) == 11
    assert {error.code for error in errors} == {ErrorCode.ALREADY_REVOKED}
    assert len(await listed(world)) == 1
    assert (await world.database.read(audit.verify)).broken is None


async def test_a_callback_that_fails_does_not_undo_the_revocation(
    world: World, issued: Issued
) -> None:
    called: list[str] = []

    def bad(issuer: str) -> None:
        raise ZeroDivisionError

    world.revocation.on_change(bad)
    world.revocation.on_change(called.append)
    assert (await revoke(world, issued, Reason.SUPERSEDED)).revoked_at
    assert called == ["issuing"]
