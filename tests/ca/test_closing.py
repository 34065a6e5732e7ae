"""The second phase of retirement, and rollovers that a crash interrupts."""

import asyncio
import datetime as dt
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp
from structlog.testing import capture_logs

from pkiserver.ca import audit, closing
from pkiserver.ca.authorities import Authorities, Rotation
from pkiserver.ca.model import Authority, AuthorityStatus, Reason
from pkiserver.ca.status import StatusService
from pkiserver.config import CRLSettings
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.keys import FileKeyProvider
from tests.ca.status_support import ACTOR, NOW, PKI, ask, open_pki
from tests.ca.world import open_world
from tests.processes import kill_at, run_elsewhere

DAY = dt.timedelta(days=1)
BY_HAND = Rotation(activate_after=None)
WHO = "test:tester"


@pytest.fixture
async def pki(tmp_path: Path) -> AsyncIterator[PKI]:
    async with open_pki(tmp_path) as pki:
        yield pki


async def follow(pki: PKI, name: str = "issuing") -> None:
    await pki.authorities.rotate(name, Rotation(), actor=WHO)
    await pki.authorities.retire(name, actor=WHO)
    await pki.status.maintain()


async def close(pki: PKI, name: str = "issuing", *, force: bool = False) -> Authority:
    return await closing.close(pki.authorities, pki.status, pki.clock, name, actor=WHO, force=force)


async def other_tree(pki: PKI) -> Authorities:
    keys = FileKeyProvider(pki.home / "keys", b"a passphrase for tests")
    other = Authorities(pki.database, pki.clock, keys, pki.audit, pki.settings)
    await other.load()
    return other


def key_file(pki: PKI, name: str) -> Path:
    return pki.home / "keys" / f"{pki.authorities.get(name).key_id}.key"


async def refuses(pki: PKI, text: str, name: str = "issuing", *, force: bool = False) -> None:
    before = [*(pki.home / "keys").glob("*.key")]
    with pytest.raises(PKIError, match=text) as caught:
        await close(pki, name, force=force)
    assert caught.value.code in (ErrorCode.CONFLICT, ErrorCode.UNAVAILABLE)
    assert [*(pki.home / "keys").glob("*.key")] == before


async def test_only_a_retired_authority_closes(pki: PKI) -> None:
    await refuses(pki, "issuing is active; only a retired authority closes")
    await refuses(pki, "issuing is active", force=True)
    rows = await pki.database.read(
        lambda reader: reader.all(
            "SELECT outcome, detail FROM audit WHERE object = 'issuing' "
            "AND action = 'authority.close'"
        )
    )
    assert [outcome for outcome, _ in rows] == ["refused"] * 2
    assert '"cause":"issuing is active; only a retired authority closes"' in rows[0][1]


async def test_it_waits_for_the_last_certificate_to_expire(pki: PKI) -> None:
    issued = await pki.issue()
    await follow(pki)
    left = await pki.authorities.outstanding("issuing")
    assert (left.count, left.last) == (1, issued.certificate.not_valid_after_utc)
    await refuses(pki, "still valid: 1, the last until 2026-05-30")
    pki.clock.advance(issued.certificate.not_valid_after_utc - NOW)
    await refuses(pki, "still valid: 1")
    pki.clock.advance(dt.timedelta(seconds=1))
    assert (await close(pki)).status is AuthorityStatus.CLOSED
    assert (await pki.authorities.outstanding("issuing")).count == 0


async def test_what_the_last_list_shows_for_good_does_not_count(pki: PKI) -> None:
    revoked, held = await pki.issue("a.example.com"), await pki.issue("b.example.com")
    await pki.revoke(revoked)
    await pki.revoke(held, Reason.CERTIFICATE_HOLD)
    await follow(pki)
    await refuses(pki, "still valid: 1")
    await pki.revoke(held, Reason.SUPERSEDED)
    await close(pki)
    await shows_until_the_end(pki, revoked.record.serial, held.record.serial)


async def test_what_is_revoked_stays_so_to_those_who_ask_by_ocsp(pki: PKI) -> None:
    """Long after the responder of that day would have ended: tryLater is as good as `good` to
    many."""
    revoked = await pki.issue()
    await pki.revoke(revoked)
    await follow(pki)
    await close(pki)
    question = ask(revoked.certificate, pki.certificate())
    end = revoked.certificate.not_valid_after_utc
    for moment in (NOW + 45 * DAY, end - dt.timedelta(hours=1)):
        pki.clock.advance(moment - pki.clock.now())
        await pki.status.maintain()
        answer = ocsp.load_der_ocsp_response((await pki.status.ocsp("issuing", question)).der)
        assert answer.certificate_status is ocsp.OCSPCertStatus.REVOKED
    pki.clock.advance(2 * DAY)
    await pki.status.maintain()
    assert not [*(pki.home / "keys").glob(f"ocsp-issuing-{'[0-9a-f]' * 16}.key")]


async def shows_until_the_end(pki: PKI, *serials: int) -> None:
    own = pki.certificate()
    crl = x509.load_der_x509_crl((await pki.status.crl("issuing")).der)
    key = own.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey) and crl.is_signature_valid(key)
    assert crl.next_update_utc == own.not_valid_after_utc
    assert {each.serial_number for each in crl} == set(serials)


async def test_the_key_is_destroyed_and_every_process_forgets_it(pki: PKI) -> None:
    await follow(pki)
    other = await other_tree(pki)
    other.key("issuing")
    path = key_file(pki, "issuing")
    assert path.exists()
    await close(pki)
    assert not path.exists()
    await other.refresh_if_changed()
    for tree in (pki.authorities, other, await other_tree(pki)):
        with pytest.raises(PKIError, match="key of authority issuing is destroyed") as caught:
            tree.key("issuing")
        assert caught.value.code is ErrorCode.UNAVAILABLE
    assert (await pki.issue()).record.issuer == "issuing-2"


async def test_after_it_closed_the_rest_goes_on_quietly(pki: PKI) -> None:
    await follow(pki)
    await close(pki)
    pki.clock.advance(60 * DAY)
    with capture_logs() as logs:
        await pki.status.maintain()
    assert not [entry for entry in logs if entry.get("authority") == "issuing"]
    await shows_until_the_end(pki)
    await refuses(pki, "issuing is closed")
    with pytest.raises(PKIError, match="not active"):
        await pki.authorities.retire("issuing", actor=WHO)
    assert pki.authorities.path("issuing"), "its certificate can still be had"


async def test_a_key_a_crash_left_is_destroyed_by_whoever_reads_the_tree(pki: PKI) -> None:
    await follow(pki)
    path = key_file(pki, "issuing")
    copy = path.read_bytes()
    await close(pki)
    path.write_bytes(copy)
    path.chmod(0o600)
    await other_tree(pki)
    assert not path.exists()


async def test_forced_it_goes_on_answering_but_its_list_stands_still(pki: PKI) -> None:
    issued = await pki.issue()
    await follow(pki)
    await close(pki, force=True)
    pki.clock.advance(45 * DAY)
    await pki.status.maintain()
    question = ask(issued.certificate, pki.certificate())
    answer = ocsp.load_der_ocsp_response((await pki.status.ocsp("issuing", question)).der)
    assert answer.certificate_status is ocsp.OCSPCertStatus.GOOD
    await pki.revoke(issued)
    answer = ocsp.load_der_ocsp_response((await pki.status.ocsp("issuing", question)).der)
    assert answer.certificate_status is ocsp.OCSPCertStatus.REVOKED
    await shows_until_the_end(pki)
    closed = await pki.database.read(
        lambda reader: reader.one("SELECT detail FROM audit WHERE action = 'authority.close'")
    )
    assert closed == ('{"forced":true,"valid":1}',)


async def test_a_process_that_does_not_know_yet_publishes_nothing_after_the_last_list(
    pki: PKI,
) -> None:
    """It has the key in memory until it reads the tree, and its list would hold for days only."""
    issued = await pki.issue()
    await follow(pki)
    other = await other_tree(pki)
    other.key("issuing")
    await close(pki, force=True)
    await pki.revoke(issued)
    assert other.get("issuing").status is AuthorityStatus.RETIRED
    behind = status_of(pki, other)
    with pytest.raises(PKIError, match="closed") as caught:
        await behind.publish_crl("issuing")
    assert caught.value.code is ErrorCode.UNAVAILABLE
    await shows_until_the_end(pki)
    await behind.stop()


async def test_a_key_that_is_offline_signs_no_last_list(pki: PKI) -> None:
    await follow(pki)
    key_file(pki, "issuing").rename(pki.home / "away")
    other = await other_tree(pki)
    with pytest.raises(PKIError, match="offline"):
        await closing.close(other, status_of(pki, other), pki.clock, "issuing", actor=WHO)
    assert other.get("issuing").status is AuthorityStatus.RETIRED


def status_of(pki: PKI, tree: Authorities) -> StatusService:
    keys = FileKeyProvider(pki.home / "keys", b"a passphrase for tests")
    return StatusService(pki.database, pki.clock, tree, keys, pki.audit, pki.settings)


async def test_a_revocation_meanwhile_is_not_left_off_the_last_list(pki: PKI) -> None:
    issued = await pki.issue()
    await follow(pki)
    shown = await pki.authorities.status_generation("issuing")
    await pki.revoke(issued)
    with pytest.raises(PKIError, match="revoked just now"):
        await pki.authorities.close("issuing", shown, actor=WHO)
    await close(pki)
    await shows_until_the_end(pki, issued.record.serial)


async def test_of_many_who_close_one_does(pki: PKI) -> None:
    await follow(pki)
    done = await asyncio.gather(*(close(pki) for _ in range(4)), return_exceptions=True)
    assert sum(isinstance(each, Authority) for each in done) == 1
    rows = await pki.database.read(
        lambda reader: reader.all("SELECT outcome FROM audit WHERE action = 'authority.close'")
    )
    assert sorted(outcome for (outcome,) in rows) == ["done", *["refused"] * 3]


async def test_a_root_closes_after_its_children_and_leaves_the_bundle(pki: PKI) -> None:
    await pki.authorities.rotate("root", Rotation(), actor=WHO)
    await follow(pki)
    await pki.authorities.retire("root", actor=WHO)
    await refuses(pki, "still valid: 1", "root")
    issuing = pki.certificate()
    await close(pki)
    await pki.revocation.revoke("root", issuing.serial_number, Reason.SUPERSEDED, actor=ACTOR)
    old = pki.certificate("root")
    assert old in pki.authorities.roots()
    await close(pki, "root")
    assert pki.authorities.roots() == (pki.certificate("root-2"),)
    assert old not in pki.authorities.rollover_certificates("issuing")
    assert pki.authorities.linked_chain("issuing-2") == pki.authorities.chain("issuing-2")
    assert (await pki.issue()).record.issuer == "issuing-2"


async def test_every_list_that_certificates_point_to_lasts(tmp_path: Path) -> None:
    settings = CRLSettings(shards=2, scopes="split", delta=DAY)
    async with open_pki(tmp_path, crl=settings) as pki:
        issued = [await pki.issue(f"{number}.example.com") for number in range(4)]
        await follow(pki)
        for each in issued:
            await pki.revoke(each)
        await close(pki)
        end = pki.certificate().not_valid_after_utc
        lists = (await pki.status.standing("issuing")).lists
        assert len(lists) == 8, "four, and a delta of each"
        for found in lists:
            assert found.newest is not None and found.newest.next_update == end, found


# Crashes.


def rotate_and_die(home: Path, name: str, when: str, number: int) -> None:
    async def run() -> None:
        async with open_world(home, new=False) as world:
            kill_at(world.database, when, number)
            await world.authorities.rotate(name, Rotation(), actor="test:crash")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("name", "when", "number"),
    [
        ("root", "before", 1), ("root", "after", 1), ("root", "after", 2), ("root", "after", 3),
        ("root", "after", 4), ("issuing", "after", 1), ("issuing", "after", 2),
    ],
)  # fmt: skip
async def test_invariant_1_a_rotation_that_is_killed_is_whole_or_can_be_made_again(
    tmp_path: Path, name: str, when: str, number: int
) -> None:
    async with open_world(tmp_path):
        """Made."""
    assert await run_elsewhere(rotate_and_die, tmp_path, name, when, number) == -signal.SIGKILL
    async with open_world(tmp_path, new=False) as world:
        tree = world.authorities
        await world.issuance.recover(dt.timedelta(0))
        if tree.current(name) == name:
            assert tree.links("root") == ()
            await tree.rotate(name, Rotation(), actor="test:again")
        assert [each.name for each in tree.line(name)] == [name, f"{name}-2"]
        assert tree.current(name) == f"{name}-2"
        tree.key(f"{name}-2")
        assert len(tree.links("root")) == len(tree.links("root-2") if name == "root" else ())
        unfinished = await world.rows("SELECT 1 FROM certificates WHERE status = 'signing'")
        assert unfinished == []
        assert (await world.database.read(audit.verify)).broken is None


async def test_whoever_is_too_early_after_a_crash_is_told_when_to_come_back(
    tmp_path: Path,
) -> None:
    async with open_world(tmp_path):
        """Made."""
    died = await run_elsewhere(rotate_and_die, tmp_path, "issuing", "after", 2)
    assert died == -signal.SIGKILL
    async with open_world(tmp_path, new=False) as world:
        minute = dt.timedelta(minutes=1)
        assert await world.issuance.recover(minute) == 0
        with pytest.raises(PKIError, match="try again in a minute"):
            await world.authorities.rotate("issuing", Rotation(), actor=WHO)
        world.clock.advance(minute)
        assert await world.issuance.recover(minute) == 1
        await world.authorities.rotate("issuing", Rotation(), actor=WHO)
        assert world.authorities.current("issuing") == "issuing-2"
