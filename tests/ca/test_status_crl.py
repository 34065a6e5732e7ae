"""Publishing CRLs (RFC 5280 section 5; invariant 4: their numbers grow strictly)."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509

from pkiserver.ca import crl
from pkiserver.ca.audit import verify
from pkiserver.ca.crl import CRL
from pkiserver.ca.crl_store import HISTORY
from pkiserver.ca.crl_view import BACKDATE
from pkiserver.ca.model import Reason
from pkiserver.clock import SystemClock
from pkiserver.config import CRLSettings
from pkiserver.config_types import KeyKind
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix.pem import encode_pem
from tests.ca.status_support import ACTOR, NOW, PKI, has, open_pki, pem, tool
from tests.pkilint import pkilint

HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)


@pytest.fixture
async def pki(tmp_path: Path) -> AsyncIterator[PKI]:
    async with open_pki(tmp_path) as made:
        yield made


def serials(published: CRL) -> list[int]:
    return [entry.serial_number for entry in x509.load_der_x509_crl(published.der)]


async def numbers(pki: PKI, issuer: str = "issuing") -> list[int]:
    rows = await pki.database.read(
        lambda reader: reader.all(
            "SELECT number FROM crl_lists WHERE issuer = ? ORDER BY number", (issuer,)
        )
    )
    return [number for (number,) in rows]


async def test_a_new_authority_gets_an_empty_list(pki: PKI) -> None:
    await pki.status.start()
    for name in ("root", "issuing"):
        published = await pki.status.crl(name)
        parsed = x509.load_der_x509_crl(published.der)
        assert len(parsed) == 0 and parsed.is_signature_valid(crl.public_key(pki.certificate(name)))
        assert parsed.next_update_utc == published.next_update == NOW + pki.settings.crl.validity
        assert parsed.last_update_utc == published.this_update <= NOW


async def test_the_first_list_is_made_for_whoever_asks_first(pki: PKI) -> None:
    assert serials(await pki.status.crl("issuing")) == []


async def test_revocation_is_on_the_next_list_once(pki: PKI) -> None:
    pki.revocation.on_change(pki.status.schedule)
    first = await pki.status.crl("issuing")
    issued = [await pki.issue(f"{n}.example.com") for n in range(5)]
    for each in issued:
        await pki.revoke(each, Reason.KEY_COMPROMISE)
    await pki.status.settle()
    newest = await pki.status.crl("issuing")
    assert newest.number > first.number and newest.entries == 5
    assert sorted(serials(newest)) == sorted(each.record.serial for each in issued)
    entry = x509.load_der_x509_crl(newest.der).get_revoked_certificate_by_serial_number(
        issued[0].record.serial
    )
    assert entry is not None
    reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
    assert reason is x509.ReasonFlags.key_compromise


async def test_revocations_at_once_share_publications(pki: PKI) -> None:
    """Coalesced: one list under way, and one for all that came meanwhile."""
    pki.revocation.on_change(pki.status.schedule)
    await pki.status.crl("issuing")
    issued = [await pki.issue(f"{n}.example.com") for n in range(12)]
    await asyncio.gather(*(pki.revoke(each) for each in issued))
    await pki.status.settle()
    assert (await pki.status.crl("issuing")).entries == 12
    assert len(await numbers(pki)) < 8


async def test_revocation_by_another_process_is_published(pki: PKI) -> None:
    """The command line revokes; the server's schedule sees the generation move."""
    await pki.status.maintain()
    issued = await pki.issue()
    await pki.revoke(issued)
    whole = (await pki.status.standing("issuing")).lists[0]
    assert whole.newest is not None and whole.newest.entries == 0 and whole.due
    await pki.status.maintain()
    assert serials(await pki.status.crl("issuing")) == [issued.record.serial]
    assert not (await pki.status.standing("issuing")).lists[0].due


async def test_who_fetches_after_a_revocation_by_another_process_sees_it(pki: PKI) -> None:
    """Whatever returned before the fetch is on the list, and all who ask share one publication."""
    old = await pki.status.crl("issuing")
    await pki.revoke(await pki.issue())
    fetched = await asyncio.gather(*(pki.status.crl("issuing") for _ in range(50)))
    assert {each.entries for each in fetched} == {1}
    assert len(await numbers(pki)) == 2 and fetched[0].number > old.number


async def test_hold_appears_and_release_takes_it_off(pki: PKI) -> None:
    issued = await pki.issue()
    await pki.revoke(issued, Reason.CERTIFICATE_HOLD)
    assert (await pki.status.publish_crl("issuing")).entries == 1
    await pki.revocation.release("issuing", issued.record.serial, actor=ACTOR)
    await pki.status.maintain()
    assert serials(await pki.status.crl("issuing")) == []


async def test_schedule_of_publication(pki: PKI) -> None:
    await pki.status.maintain()
    first = await pki.status.crl("issuing")
    pki.clock.advance(pki.settings.crl.refresh - HOUR)
    await pki.status.maintain()
    assert (await pki.status.crl("issuing")).number == first.number
    pki.clock.advance(HOUR)
    await pki.status.maintain()
    second = await pki.status.crl("issuing")
    assert second.number > first.number
    assert second.next_update == pki.clock.now() + pki.settings.crl.validity
    assert second.this_update == pki.clock.now() - BACKDATE


async def test_refresh_beyond_validity_does_not_let_a_list_lapse(tmp_path: Path) -> None:
    async with open_pki(tmp_path, crl=CRLSettings(validity=DAY, refresh=5 * DAY)) as pki:
        for _ in range(6):
            await pki.status.maintain()
            assert (await pki.status.crl("issuing")).next_update > pki.clock.now() + 10 * HOUR
            pki.clock.advance(7 * HOUR)


async def test_numbers_grow_under_concurrent_publication(pki: PKI) -> None:
    """Every number once, and no later number with an earlier state."""
    services = [pki.another_process() for _ in range(5)]
    await pki.revoke(await pki.issue())
    results = await asyncio.gather(
        *(service.publish_crl("issuing") for service in services for _ in range(2)),
        return_exceptions=True,
    )
    assert not [each for each in results if isinstance(each, BaseException)]
    rows = await pki.database.read(
        lambda reader: reader.all("SELECT number, generation FROM crl_lists ORDER BY number")
    )
    assert len({number for number, _ in rows}) == len(rows)
    assert [generation for _, generation in rows] == sorted(g for _, g in rows)
    newest = await pki.status.crl("issuing")
    shown = x509.load_der_x509_crl(newest.der).extensions
    assert shown.get_extension_for_class(x509.CRLNumber).value.crl_number == newest.number


async def test_numbers_grow_when_the_clock_goes_back_and_after_a_restore(pki: PKI) -> None:
    """A restored backup has forgotten the last numbers: the time keeps them growing."""
    before = [(await pki.status.publish_crl("issuing")).number for _ in range(3)]
    pki.clock.advance(-HOUR)
    back = await pki.status.publish_crl("issuing")
    assert back.number > before[-1] > before[0]
    pki.clock.advance(2 * HOUR)
    await pki.database.write(lambda tx: tx.execute("DELETE FROM crl_lists"))
    assert (await pki.status.publish_crl("issuing")).number > back.number


async def test_a_list_that_a_clock_ahead_has_dated_is_replaced(tmp_path: Path) -> None:
    """Nobody accepts it before its thisUpdate; the schedule alone would wait for that."""
    async with open_pki(tmp_path, crl=CRLSettings(delta=HOUR)) as pki:
        await pki.status.maintain()
        pki.clock.advance(30 * DAY)
        await pki.status.maintain()
        wrong = await pki.status.crl("issuing")
        pki.clock.advance(-30 * DAY)
        await pki.another_process().maintain()
        for delta in (False, True):
            right = await pki.status.crl("issuing", delta=delta)
            assert right.this_update <= pki.clock.now() < right.next_update
            assert right.number > wrong.number
        before = await numbers(pki)
        await pki.status.maintain()
        assert await numbers(pki) == before


@pytest.mark.parametrize("step", [30 * DAY, -HOUR], ids=["ahead", "back"])
async def test_who_fetches_after_the_clock_moved_gets_a_list_that_holds_now(
    tmp_path: Path, step: dt.timedelta
) -> None:
    """A machine that slept past nextUpdate, or whose clock was ahead when the last list was made,
    answers before its schedule is due again."""
    async with open_pki(tmp_path, crl=CRLSettings(delta=HOUR)) as pki:
        pki.clock.advance(DAY)
        await pki.status.maintain()
        await pki.status.crl("issuing")
        pki.clock.advance(step)
        for delta in (False, True):
            fetched = await pki.status.crl("issuing", delta=delta)
            assert fetched.this_update <= pki.clock.now() < fetched.next_update


async def test_before_an_authority_is_valid_one_list_is_enough(pki: PKI) -> None:
    """No list can hold yet: neither the schedule nor who asks has another one made each time."""
    await pki.status.maintain()
    pki.clock.advance(-DAY)
    await pki.status.maintain()
    before = await numbers(pki)
    for _ in range(2):
        await pki.status.maintain()
        await pki.status.crl("issuing")
        await pki.status.settle()
    assert await numbers(pki) == before


async def test_the_last_list_of_an_authority_that_expired_is_served_without_more_ado(
    pki: PKI,
) -> None:
    await pki.status.publish_crl("issuing", dt.timedelta(days=5000))
    last = await pki.status.crl("issuing")
    pki.clock.advance(dt.timedelta(days=5000))
    assert await pki.status.crl("issuing") == last, "and not said to be behind"


async def test_history_is_bounded(pki: PKI) -> None:
    made = [(await pki.status.publish_crl("issuing")).number for _ in range(HISTORY + 3)]
    await pki.status.publish_crl("root")
    assert await numbers(pki) == made[-HISTORY:]
    assert len(await numbers(pki, "root")) == 1
    assert (await pki.database.read(verify)).broken is None


async def test_entry_stays_for_one_list_past_expiry(pki: PKI) -> None:
    """RFC 5280 section 3.3; here for one more validity, and after downtime for one list."""
    issued = await pki.issue()
    await pki.revoke(issued)
    expiry = issued.record.not_after
    pki.clock.advance(expiry - NOW - HOUR)
    assert (await pki.status.publish_crl("issuing")).entries == 1
    pki.clock.advance(30 * DAY)
    assert (await pki.status.publish_crl("issuing")).entries == 1, "the first after expiry"
    assert (await pki.status.publish_crl("issuing")).entries == 0


async def test_entry_stays_a_validity_past_expiry(pki: PKI) -> None:
    issued = await pki.issue()
    await pki.revoke(issued)
    pki.clock.advance(issued.record.not_after - NOW + DAY)
    assert [(await pki.status.publish_crl("issuing")).entries for _ in range(3)] == [1, 1, 1]
    pki.clock.advance(pki.settings.crl.validity)
    assert (await pki.status.publish_crl("issuing")).entries == 0


async def test_last_good_list_is_served_when_the_key_is_away(pki: PKI) -> None:
    last = await pki.status.crl("issuing")
    key_id = pki.authorities.get("issuing").key_id
    key = pki.keys.load(key_id)
    issued = await pki.issue()
    await pki.keys.delete(key_id)
    await pki.revoke(issued)
    pki.clock.advance(10 * DAY)
    await pki.status.maintain()
    with pytest.raises(PKIError) as caught:
        await pki.status.publish_crl("issuing")
    assert caught.value.code is ErrorCode.UNAVAILABLE
    assert (await pki.status.crl("issuing")).der == last.der
    await pki.keys.store(key_id, key)
    await pki.status.maintain()
    assert (await pki.status.crl("issuing")).entries == 1


async def test_no_list_that_fails_its_check_is_published(pki: PKI) -> None:
    """An entry that is not one: the list does not read back, so it stays inside."""
    last = await pki.status.crl("issuing")
    await pki.revoke(await pki.issue())
    await pki.database.write(lambda tx: tx.execute("UPDATE revocations SET entry = ?", (b"\x30",)))
    with pytest.raises(PKIError) as caught:
        await pki.status.publish_crl("issuing")
    assert caught.value.code is ErrorCode.INTERNAL
    assert (await pki.status.crl("issuing")).number == last.number


async def test_trouble_of_one_authority_leaves_the_others_alone(pki: PKI) -> None:
    await pki.keys.delete(pki.authorities.get("root").key_id)
    await pki.status.start()
    assert (await pki.status.crl("issuing")).entries == 0
    with pytest.raises(PKIError) as caught:
        await pki.status.crl("root")
    assert caught.value.code is ErrorCode.UNAVAILABLE


async def test_prepare_offline(pki: PKI) -> None:
    """A list and a responder that last; the schedule leaves them alone while they do."""
    long = await pki.status.prepare_offline("root", 180 * DAY)
    assert long.next_update == NOW + 180 * DAY
    pki.clock.advance(100 * DAY)
    await pki.status.maintain()
    standing = await pki.status.standing("root")
    assert standing.lists[0].newest == long and not standing.lists[0].due
    assert standing.responder_until == NOW + 180 * DAY


async def test_list_ends_with_its_authority_and_then_there_is_none(pki: PKI) -> None:
    end = pki.certificate().not_valid_after_utc
    pki.clock.advance(end - NOW - HOUR)
    assert (await pki.status.publish_crl("issuing")).next_update == end
    pki.clock.advance(DAY)
    await pki.status.maintain()
    with pytest.raises(PKIError) as caught:
        await pki.status.publish_crl("issuing")
    assert caught.value.code is ErrorCode.UNAVAILABLE


async def test_no_such_authority(pki: PKI) -> None:
    with pytest.raises(PKIError) as caught:
        await pki.status.crl("nobody")
    assert caught.value.code is ErrorCode.NOT_FOUND


async def test_stop_lets_go_of_what_is_scheduled(pki: PKI) -> None:
    pki.status.schedule("issuing")
    pki.status.schedule("nobody")
    await pki.status.stop()
    await pki.status.settle()


async def test_sub_ca_revoked_by_its_parent_is_on_the_parents_list(pki: PKI) -> None:
    serial = pki.certificate().serial_number
    await pki.revocation.revoke("root", serial, Reason.CA_COMPROMISE, actor=ACTOR)
    await pki.status.maintain()
    assert serials(await pki.status.crl("root")) == [serial]


@pytest.mark.parametrize("kind", ["rsa-2048", "p384", "p521", "ed25519", "ml-dsa-44"])
async def test_every_kind_of_authority_signs_lists(tmp_path: Path, kind: KeyKind) -> None:
    async with open_pki(tmp_path, issuing_kind=kind) as pki:
        await pki.revoke(await pki.issue())
        published = await pki.status.publish_crl("issuing")
        assert published.entries == 1


@pytest.mark.skipif(not has("openssl"), reason="needs openssl")
@pytest.mark.parametrize("kind", ["p256", "rsa-2048"])
async def test_openssl_checks_revocation_with_the_lists(tmp_path: Path, kind: KeyKind) -> None:
    now = SystemClock().now()
    async with open_pki(tmp_path, now=now, root_kind=kind, issuing_kind=kind) as pki:
        good, bad = await pki.issue("good.example.com"), await pki.issue("bad.example.com")
        await pki.revoke(bad)
        await pki.status.maintain()
        root = pem(tmp_path / "root.pem", [pki.certificate("root")])
        issuing = pem(tmp_path / "issuing.pem", [pki.certificate()])
        lists = tmp_path / "lists.pem"
        lists.write_text("")
        for name in ("issuing", "root"):
            data = tmp_path / f"{name}.crl"
            data.write_bytes((await pki.status.crl(name)).der)
            ca = tmp_path / f"{name}.pem"
            text = tool("openssl", "crl", "-inform", "DER", "-in", data, "-CAfile", ca)
            assert "verify OK" in text.stdout, text.stdout
            block = text.stdout[text.stdout.index("-----BEGIN") :]
            lists.write_text(lists.read_text() + block)
        shown = []
        for i, each in enumerate((good, bad)):
            leaf = pem(tmp_path / f"leaf{i}.pem", [each.certificate])
            shown.append(
                tool(
                    "openssl",
                    "verify",
                    "-x509_strict",
                    "-crl_check_all",
                    "-CRLfile",
                    lists,
                    "-CAfile",
                    root,
                    "-untrusted",
                    issuing,
                    leaf,
                )  # fmt: skip
            )
        assert shown[0].returncode == 0, shown[0].stdout
        assert "certificate revoked" in shown[1].stdout, shown[1].stdout


@pytest.mark.skipif(not has("certtool"), reason="needs certtool")
async def test_gnutls_verifies_the_list(tmp_path: Path) -> None:
    async with open_pki(tmp_path, now=SystemClock().now()) as pki:
        await pki.revoke(await pki.issue())
        data = tmp_path / "issuing.crl"
        data.write_bytes(encode_pem("X509 CRL", (await pki.status.crl("issuing")).der))
        issuing = pem(tmp_path / "issuing.pem", [pki.certificate()])
        shown = tool("certtool", "--verify-crl", "--infile", data, "--load-ca-certificate", issuing)
        assert "Verified" in shown.stdout and "Not verified" not in shown.stdout, shown.stdout


@pytest.mark.parametrize("name", ["root", "issuing"])
async def test_pkilint_finds_nothing(pki: PKI, tmp_path: Path, name: str) -> None:
    await pki.revoke(await pki.issue("a.example.com"), Reason.UNSPECIFIED)
    await pki.revoke(await pki.issue("b.example.com"), Reason.SUPERSEDED)
    await pki.status.maintain()
    file = tmp_path / "list.crl"
    file.write_bytes((await pki.status.crl(name)).der)
    kind = "ARL" if name == "root" else "CRL"
    status, findings = pkilint("lint_crl", file, "-t", kind, "-p", "PKIX")
    assert status == 0, findings
