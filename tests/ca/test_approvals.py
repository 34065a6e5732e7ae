"""Two-person issuance: one decision per request, one certificate per approval, also when several
processes try at once."""

import asyncio
import datetime as dt
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pkiserver.ca import blocklist, inventory
from pkiserver.ca.approvals import Approval, Approvals, ApprovalStatus
from pkiserver.ca.audit import verify
from pkiserver.ca.issuance import Issued
from pkiserver.ca.model import CertificateRequest, Requester
from pkiserver.clock import FixedClock
from pkiserver.config import ApprovalSettings
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix.names import dns_name
from pkiserver.storage import Transaction
from tests.ca.world import ALICE, World, csr_for, new_key, open_world, request, settings_of

BOB = Requester("cli", "bob")
NAME = dns_name("a.example.com")
TWO = {"requires_approval": True}
PROFILES = {"tls-server": TWO}
LIFETIME = dt.timedelta(days=14)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path, profiles=PROFILES) as world:
        yield world


def approvals_of(world: World, **settings: Any) -> Approvals:
    return Approvals(
        world.database, world.clock, world.audit, world.issuance, ApprovalSettings(**settings)
    )


@pytest.fixture
def approvals(world: World) -> Approvals:
    return approvals_of(world)


async def issue(world: World, wanted: CertificateRequest, approval: Approval | str) -> Issued:
    approval_id = approval if isinstance(approval, str) else approval.id
    return await world.issuance.issue(await world.issuance.prepare(wanted, approval=approval_id))


async def refused(awaitable: Any, code: ErrorCode, words: str = "") -> None:
    with pytest.raises(PKIError) as caught:
        await awaitable
    assert caught.value.code is code, caught.value.detail
    assert words in caught.value.detail


async def actions(world: World) -> list[str]:
    rows = await world.rows(
        "SELECT action FROM audit WHERE action LIKE 'approval.%' ORDER BY sequence"
    )
    return [action for (action,) in rows]


async def certificates(world: World) -> int:
    return len(await world.rows("SELECT id FROM certificates WHERE profile = 'tls-server'"))


async def test_from_request_to_certificate(world: World, approvals: Approvals) -> None:
    wanted = request(NAME)
    filed = await approvals.require(wanted, "order-1")
    assert filed.status is ApprovalStatus.PENDING
    assert (filed.names, filed.subject, filed.key_kind) == (("dns:a.example.com",), "", "p256")
    assert (filed.requester, filed.address) == ("test:alice", "192.0.2.7")
    assert filed.expires - filed.created == LIFETIME
    assert await approvals.require(wanted, "order-1") == filed, "the same request is filed once"
    await refused(world.issuance.prepare(wanted, approval=filed.id), ErrorCode.PENDING_APPROVAL)

    world.clock.advance(dt.timedelta(days=1))
    approved = await approvals.approve(filed.id, BOB)
    assert (approved.status, approved.decided_by) == (ApprovalStatus.APPROVED, "cli:bob")
    issued = await issue(world, wanted, filed)
    used = await approvals.require(wanted, "order-1")
    assert (used.status, used.certificate) == (ApprovalStatus.USED, issued.record.id)
    stored = await world.database.read(
        lambda reader: inventory.by_id(reader, str(used.certificate))
    )
    assert stored is not None and stored.der == issued.der
    assert await actions(world) == ["approval.request", "approval.approve", "approval.use"]
    assert (await world.database.read(verify)).problem is None


async def test_without_an_approval_nothing_is_issued(world: World, approvals: Approvals) -> None:
    await refused(world.issuance.prepare(request(NAME)), ErrorCode.PENDING_APPROVAL)
    await refused(
        world.issuance.prepare(request(NAME), approval="0" * 16), ErrorCode.PENDING_APPROVAL
    )
    rows = await world.rows("SELECT detail FROM audit WHERE action = 'certificate.refuse'")
    assert [json.loads(detail)["rule"] for (detail,) in rows] == ["requires_approval"] * 2
    assert await certificates(world) == 0


async def test_the_server_itself_waits_for_nobody(world: World) -> None:
    prepared = await world.issuance.prepare(request(NAME), unattended=True)
    assert prepared.approval is None


async def test_a_used_approval_serves_no_second_certificate(
    world: World, approvals: Approvals
) -> None:
    wanted = request(NAME)
    filed = await approvals.require(wanted, "order")
    await approvals.approve(filed.id, BOB)
    await issue(world, wanted, filed)
    await refused(world.issuance.prepare(wanted, approval=filed.id), ErrorCode.CONFLICT)
    assert await certificates(world) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"csr": csr_for([NAME])},
        {"requester": Requester("test", "mallory")},
        {"profile": "device"},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_an_approval_is_for_one_request(
    world: World, approvals: Approvals, change: dict[str, Any]
) -> None:
    csr = csr_for([NAME])
    filed = await approvals.require(request(NAME, csr=csr), "order")
    await approvals.approve(filed.id, BOB)
    other = request(NAME, **{"csr": csr, **change})
    await refused(world.issuance.prepare(other, approval=filed.id), ErrorCode.UNAUTHORIZED)


async def test_what_was_looked_at_is_what_is_issued(world: World, approvals: Approvals) -> None:
    """The profile's template changed after somebody approved."""
    wanted = request(NAME)
    filed = await approvals.require(wanted, "order")
    await approvals.approve(filed.id, BOB)
    changed = {"tls-server": {**TWO, "subject": "O=Someone"}}
    other = world.another_issuance(settings=settings_of(world.settings.home, changed))
    await refused(
        other.prepare(wanted, approval=filed.id), ErrorCode.UNAUTHORIZED, "something else"
    )


async def test_policy_runs_again_at_issue_time(world: World, approvals: Approvals) -> None:
    key = new_key()
    wanted = request(NAME, csr=csr_for([NAME], key=key))
    filed = await approvals.require(wanted, "order")
    await approvals.approve(filed.id, BOB)
    prepared = await world.issuance.prepare(wanted, approval=filed.id)
    await world.database.write(
        lambda tx: blocklist.block(tx, prepared.spki_sha256, "reported", world.clock.now())
    )
    await refused(world.issuance.prepare(wanted, approval=filed.id), ErrorCode.BAD_PUBLIC_KEY)
    await refused(world.issuance.issue(prepared), ErrorCode.BAD_PUBLIC_KEY)
    assert (await approvals.get(filed.id)).status is ApprovalStatus.APPROVED, "nothing was used up"


async def test_what_policy_refuses_is_not_filed(world: World, approvals: Approvals) -> None:
    wrong = request(NAME, csr=csr_for([dns_name("b.example.com")]))
    await refused(approvals.require(wrong, "order"), ErrorCode.BAD_CSR)
    assert await approvals.newest() == []
    rows = await world.rows("SELECT object FROM audit WHERE action = 'certificate.refuse'")
    assert rows == [("profile:tls-server",)]


async def test_nobody_decides_about_his_own_request(world: World, approvals: Approvals) -> None:
    filed = await approvals.require(request(NAME, requester=BOB), "order")
    await refused(approvals.approve(filed.id, BOB), ErrorCode.UNAUTHORIZED)
    await refused(approvals.reject(filed.id, BOB, "x"), ErrorCode.UNAUTHORIZED)
    assert (await approvals.get(filed.id)).status is ApprovalStatus.PENDING
    assert await actions(world) == ["approval.request", "approval.refuse", "approval.refuse"]
    await approvals.approve(filed.id, Requester("cli", "carol"))


async def test_a_rejection_is_final_and_says_why(world: World, approvals: Approvals) -> None:
    wanted = request(NAME)
    filed = await approvals.require(wanted, "order")
    await approvals.reject(filed.id, BOB, "wrong department")
    found = await approvals.require(wanted, "order")
    assert (found.status, found.why, found.id) == (
        ApprovalStatus.REJECTED, "wrong department", filed.id,
    )  # fmt: skip
    await refused(approvals.approve(filed.id, BOB), ErrorCode.CONFLICT, "rejected")
    await refused(
        world.issuance.prepare(wanted, approval=filed.id),
        ErrorCode.UNAUTHORIZED,
        "wrong department",
    )


async def test_decisions_about_nothing(approvals: Approvals) -> None:
    await refused(approvals.approve("nothing", BOB), ErrorCode.NOT_FOUND)
    await refused(approvals.reject("nothing", BOB, ""), ErrorCode.NOT_FOUND)
    await refused(approvals.reject("nothing", BOB, "x" * 501), ErrorCode.CONFIGURATION)


async def test_deciding_at_once_decides_once(
    tmp_path: Path, world: World, approvals: Approvals
) -> None:
    filed = await approvals.require(request(NAME), "order")
    async with open_world(tmp_path, profiles=PROFILES, new=False) as other:
        both = [approvals, approvals_of(other)]
        outcomes = await asyncio.gather(
            *(each.approve(filed.id, BOB) for each in both * 3),
            *(each.reject(filed.id, BOB, "no") for each in both * 3),
            return_exceptions=True,
        )
    won = [outcome for outcome in outcomes if isinstance(outcome, Approval)]
    lost = [outcome for outcome in outcomes if isinstance(outcome, PKIError)]
    assert (len(won), len(lost)) == (1, 11)
    assert {error.code for error in lost} == {ErrorCode.CONFLICT}
    assert (await approvals.get(filed.id)).status is won[0].status


async def test_filing_at_once_files_once(
    tmp_path: Path, world: World, approvals: Approvals
) -> None:
    wanted = request(NAME)
    async with open_world(tmp_path, profiles=PROFILES, new=False) as other:
        both = [approvals, approvals_of(other)]
        found = await asyncio.gather(*(each.require(wanted, "order") for each in both * 5))
    assert len({approval.id for approval in found}) == 1
    assert (await actions(world)).count("approval.request") == 1


async def test_issuing_at_once_issues_once(
    tmp_path: Path, world: World, approvals: Approvals
) -> None:
    """Architecture invariant 6: an approval is used once, across processes."""
    wanted = request(NAME)
    filed = await approvals.require(wanted, "order")
    await approvals.approve(filed.id, BOB)
    async with open_world(tmp_path, profiles=PROFILES, new=False) as other:
        outcomes = await asyncio.gather(
            *(issue(each, wanted, filed) for each in [world, other] * 4), return_exceptions=True
        )
    assert len([each for each in outcomes if isinstance(each, Issued)]) == 1
    assert {e.code for e in outcomes if isinstance(e, PKIError)} == {ErrorCode.CONFLICT}
    assert await certificates(world) == 1


async def test_a_hook_that_refuses_takes_it_back(world: World, approvals: Approvals) -> None:
    wanted = request(NAME)
    filed = await approvals.require(wanted, "order")
    await approvals.approve(filed.id, BOB)
    prepared = await world.issuance.prepare(wanted, approval=filed.id)

    def refuse(tx: Transaction) -> None:
        raise PKIError(ErrorCode.CONFLICT, "no")

    await refused(world.issuance.issue(prepared, on_reserved=refuse), ErrorCode.CONFLICT)
    assert (await approvals.get(filed.id)).status is ApprovalStatus.APPROVED
    await issue(world, wanted, filed)


async def test_the_hook_of_filing_is_in_its_transaction(world: World, approvals: Approvals) -> None:
    wanted, seen = request(NAME), list[str]()

    def refuse(tx: Transaction, approval: Approval) -> None:
        raise PKIError(ErrorCode.CONFLICT, "no")

    await refused(approvals.require(wanted, "order", on_filed=refuse), ErrorCode.CONFLICT)
    assert await approvals.newest() == []
    for _ in range(2):
        filed = await approvals.require(
            wanted, "order", on_filed=lambda tx, approval: seen.append(approval.id)
        )
    assert seen == [filed.id] * 2


class Ending(FixedClock):
    """An approval's time is over between two looks at it."""

    def now(self) -> dt.datetime:
        moment = super().now()
        self.advance(dt.timedelta(seconds=1))
        return moment


async def test_it_expires_while_it_is_looked_at(world: World, approvals: Approvals) -> None:
    wanted = request(NAME)
    filed = await approvals.require(wanted, "order")
    clock = Ending(filed.expires - dt.timedelta(seconds=1))
    other = Approvals(world.database, clock, world.audit, world.issuance, ApprovalSettings())
    await refused(
        other.require(wanted, "order", on_filed=lambda tx, approval: None), ErrorCode.CONFLICT
    )
    assert (await approvals.newest())[0].id == filed.id, "nothing was filed"


async def test_nobody_decides_in_time(world: World, approvals: Approvals) -> None:
    wanted = request(NAME)
    filed = await approvals.require(wanted, "order")
    world.clock.advance(LIFETIME)
    assert (await approvals.get(filed.id)).status is ApprovalStatus.EXPIRED
    await refused(approvals.approve(filed.id, BOB), ErrorCode.CONFLICT, "expired")
    again = await approvals.require(wanted, "order")
    assert again.id != filed.id and again.status is ApprovalStatus.PENDING
    assert (await approvals.get(filed.id)).status is ApprovalStatus.EXPIRED
    assert await actions(world) == [
        "approval.request", "approval.refuse", "approval.expire", "approval.request",
    ]  # fmt: skip


async def test_an_approval_is_used_in_time(world: World, approvals: Approvals) -> None:
    wanted = request(NAME)
    filed = await approvals.require(wanted, "order")
    world.clock.advance(LIFETIME - dt.timedelta(hours=1))
    await approvals.approve(filed.id, BOB)
    world.clock.advance(LIFETIME - dt.timedelta(hours=1))
    prepared = await world.issuance.prepare(wanted, approval=filed.id)
    world.clock.advance(dt.timedelta(minutes=10))
    await world.issuance.issue(prepared)

    other = request(dns_name("b.example.com"))
    late = await approvals.require(other, "order")
    await approvals.approve(late.id, BOB)
    world.clock.advance(LIFETIME - dt.timedelta(minutes=1))
    prepared = await world.issuance.prepare(other, approval=late.id)
    world.clock.advance(dt.timedelta(minutes=2))
    await refused(world.issuance.issue(prepared), ErrorCode.CONFLICT, "expired")


async def test_maintenance_marks_and_deletes(world: World, approvals: Approvals) -> None:
    pending = await approvals.require(request(NAME), "pending")
    used_request = request(NAME)
    used = await approvals.require(used_request, "used")
    await approvals.approve(used.id, BOB)
    await issue(world, used_request, used)
    await approvals.maintain()
    assert len(await approvals.newest()) == 2
    world.clock.advance(LIFETIME)
    await approvals.maintain()
    assert (await actions(world)).count("approval.expire") == 1
    (stored,) = await world.rows(f"SELECT status FROM approvals WHERE id = '{pending.id}'")
    assert stored == ("expired",)
    world.clock.advance(LIFETIME + dt.timedelta(seconds=1))
    await approvals.maintain()
    assert await approvals.newest() == []


async def test_too_many_wait(world: World) -> None:
    approvals = approvals_of(world, pending_per_requester=2, pending=3)

    async def file(number: int, party: str) -> Approval:
        wanted = request(NAME, requester=Requester("test", party))
        return await approvals.require(wanted, str(number))

    first = await file(1, "a")
    await file(2, "a")
    await refused(file(3, "a"), ErrorCode.RATE_LIMITED, "of this requester")
    await file(4, "b")
    await refused(file(5, "c"), ErrorCode.RATE_LIMITED, "altogether")
    await approvals.reject(first.id, BOB, "no")
    await file(6, "c")


async def test_lists_by_status(world: World, approvals: Approvals) -> None:
    ids = []
    for number in range(3):
        world.clock.advance(dt.timedelta(seconds=1))
        ids.append((await approvals.require(request(NAME), str(number))).id)
    await approvals.approve(ids[0], BOB)
    await approvals.reject(ids[1], BOB, "no")

    async def listed(status: ApprovalStatus | None, limit: int = 100) -> list[str]:
        return [each.id for each in await approvals.newest(status, limit)]

    assert await listed(None) == ids[::-1]
    assert await listed(None, 1) == ids[2:]
    assert await listed(ApprovalStatus.PENDING) == [ids[2]]
    assert await listed(ApprovalStatus.REJECTED) == [ids[1]]
    world.clock.advance(LIFETIME + dt.timedelta(seconds=1))
    assert await listed(ApprovalStatus.EXPIRED) == [ids[2], ids[0]]
    assert await listed(ApprovalStatus.PENDING) == []


async def test_no_csr_in_the_log(world: World, approvals: Approvals) -> None:
    filed = await approvals.require(request(NAME), "order")
    assert repr(filed.csr) not in repr(filed)
    assert ALICE.party in filed.requester
    stored = await world.rows("SELECT csr_sha256, csr FROM approvals")
    assert [bytes(digest) for digest, _ in stored] == [hashlib.sha256(filed.csr).digest()]
