"""Issuance: the two transactions, the single-use token, refusals and recovery."""

import asyncio
import dataclasses
import datetime as dt
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID

from pkiserver.ca import audit, blocklist, inventory, lint
from pkiserver.ca.model import CertificateStatus, Reason
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix import csr as pkix_csr
from pkiserver.pkix.cert import serial_bytes, serial_hex
from pkiserver.pkix.names import dns_name, ip_address
from pkiserver.storage import Transaction
from tests.ca.world import ALICE, NOW, World, csr_for, open_world, request
from tests.processes import run_elsewhere

WWW = dns_name("www.example.com")
NO_TIME = dt.timedelta(0)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        yield world


async def certificates(world: World) -> list[Any]:
    """Those of profiles: the authorities' own are not counted."""
    return await world.rows("SELECT id, status, der FROM certificates WHERE profile <> 'ca'")


async def actions(world: World, like: str = "certificate.%") -> list[tuple[str, str]]:
    rows = await world.rows(
        f"SELECT action, outcome FROM audit WHERE action LIKE '{like}' ORDER BY sequence"
    )
    return [(action, outcome) for action, outcome in rows]


async def test_a_certificate_says_what_was_asked_and_chains_to_its_issuer(world: World) -> None:
    issued = await world.issue(WWW, ip_address("192.0.2.1"))
    leaf = issued.certificate
    issuer = world.authorities.get("issuing").certificate
    assert issuer is not None
    leaf.verify_directly_issued_by(issuer)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical
    assert names.value.get_values_for_type(x509.DNSName) == ["www.example.com"]
    assert leaf.serial_number == issued.record.serial
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc == dt.timedelta(days=90, seconds=-1)
    assert [f for f in lint.full(issued.der) if f.severity <= lint.Severity.WARNING] == []


async def test_times_named_in_another_zone_are_certified_in_utc(world: World) -> None:
    """RFC 5280 section 4.1.2.5: a certificate knows of no zone but UTC."""
    zone = dt.timezone(dt.timedelta(hours=14))
    start = NOW.replace(microsecond=0)
    end = start + dt.timedelta(days=30)
    issued = await world.issue(
        WWW, not_before=start.astimezone(zone), not_after=end.astimezone(zone)
    )
    assert issued.certificate.not_valid_before_utc == start
    assert issued.certificate.not_valid_after_utc == end
    assert (issued.record.not_before, issued.record.not_after) == (start, end)


async def test_urls_are_those_of_the_plain_http_listener(world: World) -> None:
    extensions = (await world.issue(WWW)).certificate.extensions
    points = extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    assert [name.value for point in points for name in point.full_name or ()] == [
        "http://pki.example/crl/issuing.crl"
    ]
    access = extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    assert {each.access_method: each.access_location.value for each in access} == {
        AuthorityInformationAccessOID.OCSP: "http://pki.example/ocsp/issuing",
        AuthorityInformationAccessOID.CA_ISSUERS: "http://pki.example/ca/issuing.cer",
    }


async def test_the_inventory_has_what_was_handed_out(world: World) -> None:
    issued = await world.issue(WWW)
    record = await world.database.read(lambda reader: inventory.by_id(reader, issued.record.id))
    assert record == issued.record
    assert record.der == issued.der
    assert (record.status, record.requester) == (CertificateStatus.ISSUED, "test:alice")
    names = await world.database.read(lambda reader: inventory.names_of(reader, record.id))
    assert names == (WWW,)


async def test_invariant_1_intent_is_durable_before_the_key_signs(world: World) -> None:
    """What is reserved is exactly what is signed; nothing is handed out before it is stored."""
    seen: list[Any] = []

    def on_reserved(tx: Transaction) -> None:
        seen.append(tx.one("SELECT status, tbs, der FROM certificates WHERE profile <> 'ca'"))

    def on_issued(tx: Transaction) -> None:
        seen.append(tx.one("SELECT status, tbs, der FROM certificates WHERE profile <> 'ca'"))

    prepared = await world.issuance.prepare(request(WWW))
    issued = await world.issuance.issue(prepared, on_reserved=on_reserved, on_issued=on_issued)
    tbs = issued.certificate.tbs_certificate_bytes
    assert seen == [("signing", tbs, None), ("issued", tbs, issued.der)]
    assert await actions(world) == [("certificate.reserve", "done"), ("certificate.issue", "done")]
    assert (await world.database.read(audit.verify)).broken is None


async def test_prepare_changes_nothing(world: World) -> None:
    before = await world.rows("SELECT COUNT(*) FROM audit")
    await world.issuance.prepare(request(WWW))
    assert await world.rows("SELECT COUNT(*) FROM audit") == before
    assert await certificates(world) == []


async def test_invariant_2_serials_are_random_positive_and_unique(world: World) -> None:
    prepared = [await world.issuance.prepare(request(WWW)) for _ in range(50)]
    serials = {each.serial for each in prepared}
    assert len(serials) == 50
    assert {len(serial_bytes(serial)) for serial in serials} == {17}
    assert len({serial_hex(serial)[:6] for serial in serials}) > 40
    assert len({each.id for each in prepared}) == 50


# The token


async def refused(world: World, prepared: Any, issuance: Any = None) -> PKIError:
    with pytest.raises(PKIError) as caught:
        await (issuance or world.issuance).issue(prepared)
    return caught.value


async def test_a_token_is_redeemed_once(world: World) -> None:
    prepared = await world.issuance.prepare(request(WWW))
    await world.issuance.issue(prepared)
    assert (await refused(world, prepared)).code is ErrorCode.CONFLICT
    assert len(await certificates(world)) == 1


async def test_a_token_is_redeemed_once_by_many_at_once(world: World) -> None:
    prepared = await world.issuance.prepare(request(WWW))
    outcomes = await asyncio.gather(
        *(world.issuance.issue(prepared) for _ in range(10)), return_exceptions=True
    )
    assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1
    assert len(await certificates(world)) == 1


async def test_a_token_of_another_instance_or_a_copy_is_worth_nothing(world: World) -> None:
    prepared = await world.issuance.prepare(request(WWW))
    assert await refused(world, prepared, world.another_issuance())
    forged = dataclasses.replace(prepared, serial=prepared.serial + 1)
    assert await refused(world, forged)
    assert await certificates(world) == []


async def test_a_token_gets_too_old(world: World) -> None:
    prepared = await world.issuance.prepare(request(WWW))
    world.clock.advance(dt.timedelta(minutes=15))
    assert (await refused(world, prepared)).code is ErrorCode.CONFLICT


async def test_a_failed_reservation_uses_the_token_up_and_leaves_nothing(world: World) -> None:
    prepared = await world.issuance.prepare(request(WWW))

    def hook(tx: Transaction) -> None:
        raise PKIError(ErrorCode.CONFLICT, "the order is not ready")

    with pytest.raises(PKIError, match="not ready"):
        await world.issuance.issue(prepared, on_reserved=hook)
    assert await refused(world, prepared)
    assert await certificates(world) == []
    assert await actions(world) == [("certificate.refuse", "refused")]


# Refusals


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        (request(WWW, csr=b"nonsense"), ErrorCode.BAD_CSR),
        (request(WWW, csr=csr_for([WWW])[:-1]), ErrorCode.BAD_CSR),
        (request(WWW, profile="nobody"), ErrorCode.NOT_FOUND),
        (request(WWW, csr=csr_for([dns_name("a.example")])), ErrorCode.BAD_CSR),
        (request(), ErrorCode.REFUSED_BY_PROFILE),
    ],
)
async def test_invariant_9_a_refusal_is_recorded_with_its_cause_and_changes_nothing(
    world: World, wanted: Any, code: ErrorCode
) -> None:
    with pytest.raises(PKIError) as caught:
        await world.issuance.prepare(wanted)
    assert caught.value.code is code
    rows = await world.rows(
        "SELECT actor, outcome, detail FROM audit WHERE action = 'certificate.refuse'"
    )
    assert [row[:2] for row in rows] == [("test:alice", "refused")]
    assert caught.value.detail[:20].replace('"', '\\"') in rows[0][2]
    assert await certificates(world) == []


async def test_a_blocked_key_is_refused_before_and_within_the_transaction(world: World) -> None:
    data = csr_for([WWW])
    key = pkix_csr.parse(data).spki_sha256
    prepared = await world.issuance.prepare(request(WWW, csr=data))
    await world.database.write(lambda tx: blocklist.block(tx, key, "on a wiki", NOW))
    assert (await refused(world, prepared)).code is ErrorCode.BAD_PUBLIC_KEY
    with pytest.raises(PKIError, match="on a wiki"):
        await world.issuance.prepare(request(WWW, csr=data))
    assert await certificates(world) == []
    assert await actions(world) == [("certificate.refuse", "refused")] * 2


async def test_an_authoritys_own_key_is_refused(world: World) -> None:
    key = world.authorities.key("issuing")
    with pytest.raises(PKIError) as caught:
        await world.issuance.prepare(request(WWW, csr=csr_for([WWW], key=key)))
    assert caught.value.rule == "authority-keys"


async def test_a_revoked_authority_issues_nothing(world: World) -> None:
    prepared = await world.issuance.prepare(request(WWW))
    authority = world.authorities.get("issuing")
    assert authority.certificate is not None
    await world.revocation.revoke(
        "root", authority.certificate.serial_number, Reason.CA_COMPROMISE, actor=ALICE
    )
    error = await refused(world, prepared)
    assert (error.code, error.rule) == (
        ErrorCode.REFUSED_BY_PROFILE,
        "profiles.tls-server.issuer",
    )


async def test_full_lint_is_a_gate(tmp_path: Path) -> None:
    """An e-mail address in the subject that is in no name is an error for pkilint."""
    subject = {"lint": "full", "subject": "emailAddress=hostmaster@example.com"}
    profiles = {"tls-server": {"lint": "full"}, "tls-client": subject}
    async with open_world(tmp_path, profiles=profiles) as world:
        assert (await world.issue(WWW)).record.status is CertificateStatus.ISSUED
        with pytest.raises(PKIError) as caught:
            await world.issue(WWW, profile="tls-client")
        assert (caught.value.code, caught.value.rule) == (ErrorCode.REFUSED_BY_PROFILE, "lint")


@pytest.mark.parametrize("kind", ["p384", "ed25519", "rsa-2048", "ml-dsa-44"])
async def test_issuers_of_every_kind_of_key(tmp_path: Path, kind: Any) -> None:
    async with open_world(tmp_path, issuing_kind=kind) as world:
        issued = await world.issue(WWW)
        issuer = world.authorities.get("issuing").certificate
        assert issuer is not None
        issued.certificate.verify_directly_issued_by(issuer)


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP521R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["p521", "ed25519", "rsa"],
)
async def test_subject_keys_of_every_kind(world: World, key: Any) -> None:
    issued = await world.issue(WWW, csr=csr_for([WWW], key=key))
    assert not any(finding.is_error for finding in lint.full(issued.der))


# Concurrency


async def test_many_issuances_at_once(world: World) -> None:
    issued = await asyncio.gather(*(world.issue(dns_name(f"h{n}.example")) for n in range(60)))
    assert len({each.record.serial for each in issued}) == 60
    rows = await certificates(world)
    assert {status for _, status, _ in rows} == {"issued"}
    assert {bytes(der) for _, _, der in rows} == {each.der for each in issued}
    assert (await world.database.read(audit.verify)).broken is None


# Recovery


async def leave_unfinished(world: World) -> str:
    """A crash between the two transactions, as seen from the database."""
    prepared = await world.issuance.prepare(request(WWW))

    def crash(tx: Transaction) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await world.issuance.issue(prepared, on_issued=crash)
    assert [row[1] for row in await certificates(world)] == ["signing"]
    return prepared.id


async def test_invariant_1_leftovers_are_finished_with_the_same_bytes(world: World) -> None:
    certificate_id = await leave_unfinished(world)
    tbs = (await world.rows("SELECT tbs FROM certificates WHERE profile <> 'ca'"))[0][0]
    assert await world.another_issuance().recover(NO_TIME) == 1
    record = await world.database.read(lambda reader: inventory.by_id(reader, certificate_id))
    assert record is not None and record.der is not None
    certificate = x509.load_der_x509_certificate(record.der)
    issuer = world.authorities.get("issuing").certificate
    assert issuer is not None
    certificate.verify_directly_issued_by(issuer)
    assert certificate.tbs_certificate_bytes == bytes(tbs)
    assert (await actions(world))[-1] == ("certificate.issue", "done")
    assert await world.issuance.recover(NO_TIME) == 0


async def test_an_issuance_that_is_cancelled_is_finished_too(world: World) -> None:
    prepared = await world.issuance.prepare(request(WWW))
    reached = asyncio.Event()
    loop = asyncio.get_running_loop()

    def announce(tx: Transaction) -> None:
        loop.call_soon_threadsafe(reached.set)

    task = asyncio.create_task(world.issuance.issue(prepared, on_reserved=announce))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # The write that was on its way may have been committed or not: both are fine.
    await world.database.write(lambda tx: None)
    await world.issuance.recover(NO_TIME)
    assert {row[1] for row in await certificates(world)} <= {"issued"}


def issue_and_die(home: Path) -> None:
    async def run() -> None:
        async with open_world(home) as world:
            prepared = await world.issuance.prepare(request(dns_name("www.example.com")))
            await world.issuance.issue(prepared, on_issued=lambda tx: os._exit(9))

    asyncio.run(run())


async def test_invariant_1_a_process_that_dies_while_it_stores(tmp_path: Path) -> None:
    assert await run_elsewhere(issue_and_die, tmp_path) == 9
    async with open_world(tmp_path, new=False) as world:
        assert [row[1:] for row in await certificates(world)] == [("signing", None)]
        assert await world.issuance.recover(NO_TIME) == 1
        assert [row[1] for row in await certificates(world)] == ["issued"]
        assert (await world.database.read(audit.verify)).broken is None


async def test_recent_rows_are_left_to_whoever_works_on_them(world: World) -> None:
    await leave_unfinished(world)
    assert await world.issuance.recover(dt.timedelta(minutes=1)) == 0
    world.clock.advance(dt.timedelta(minutes=2))
    assert await world.issuance.recover(dt.timedelta(minutes=1)) == 1


async def test_two_recoveries_at_once_finish_a_row_once(world: World) -> None:
    await leave_unfinished(world)
    counts = await asyncio.gather(*(world.another_issuance().recover(NO_TIME) for _ in range(5)))
    assert sum(counts) == 1
    assert (await actions(world)).count(("certificate.issue", "done")) == 1


async def test_expired_or_blocked_leftovers_are_abandoned(world: World) -> None:
    first = await leave_unfinished(world)
    world.clock.advance(dt.timedelta(days=91))
    assert await world.issuance.recover(NO_TIME) == 1
    record = await world.database.read(lambda reader: inventory.by_id(reader, first))
    assert record is not None
    assert (record.status, record.der) == (CertificateStatus.ABANDONED, None)


async def test_a_leftover_whose_key_was_blocked_is_abandoned(world: World) -> None:
    await leave_unfinished(world)
    key = (await world.rows("SELECT spki_sha256 FROM certificates WHERE profile <> 'ca'"))[0][0]
    await world.database.write(lambda tx: blocklist.block(tx, key, "lost", NOW))
    assert await world.issuance.recover(NO_TIME) == 1
    assert [row[1] for row in await certificates(world)] == ["abandoned"]
    assert (await actions(world))[-1] == ("certificate.abandon", "done")


async def test_a_leftover_whose_ca_key_is_away_stays(world: World, tmp_path: Path) -> None:
    await leave_unfinished(world)
    await world.keys.delete(world.authorities.get("issuing").key_id)
    assert await world.issuance.recover(NO_TIME) == 0
    assert [row[1] for row in await certificates(world)] == ["signing"]


async def test_leftovers_of_no_profile_are_abandoned(world: World) -> None:
    """A CA or responder certificate that nobody waits for any more is not made after all."""
    await leave_unfinished(world)
    await world.database.write(
        lambda tx: tx.execute("UPDATE certificates SET profile = 'gone' WHERE profile <> 'ca'")
    )
    assert await world.issuance.recover(NO_TIME) == 1
    assert [row[1] for row in await certificates(world)] == ["abandoned"]
