"""Deltas, shards and lists for CAs and for end entities, as relying parties see them (RFC 5280
sections 5.2.3 to 5.2.6 and 5.3.1)."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509

from pkiserver.ca import crl
from pkiserver.ca.authorities import Authorities
from pkiserver.ca.crl import CRL
from pkiserver.ca.crl_scope import CAS, FULL, USERS, Scope, bucket_of
from pkiserver.ca.issuance import Issuance, Issued
from pkiserver.ca.model import Reason
from pkiserver.ca.status import StatusService
from pkiserver.clock import SystemClock
from pkiserver.config import CoreSettings, CRLSettings, ServerSettings
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix.pem import encode_pem
from pkiserver.storage import open_database
from tests.ca.status_support import ACTOR, NOW, PKI, has, open_pki, pem, tool, wish

HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)
needs_openssl = pytest.mark.skipif(not has("openssl"), reason="needs openssl")


@pytest.fixture
async def pki(tmp_path: Path) -> AsyncIterator[PKI]:
    async with open_pki(tmp_path, crl=CRLSettings(delta=DAY)) as made:
        yield made


def load(published: CRL) -> x509.CertificateRevocationList:
    return x509.load_der_x509_crl(published.der)


def reasons(published: CRL) -> dict[int, str]:
    found = {}
    for entry in load(published):
        try:
            shown = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason.value
        except x509.ExtensionNotFound:
            shown = "unspecified"
        found[entry.serial_number] = shown
    return found


def urls(published: CRL) -> list[str]:
    """Of the issuing distribution point, which is critical."""
    found = load(published).extensions.get_extension_for_class(x509.IssuingDistributionPoint)
    assert found.critical
    return [name.value for name in found.value.full_name or ()]


def point_of(issued: Issued, kind: type[x509.CRLDistributionPoints | x509.FreshestCRL]) -> str:
    points = issued.certificate.extensions.get_extension_for_class(kind).value
    names = points[0].full_name
    assert names is not None
    return str(names[0].value)


def scope_of(pki: PKI, issued: Issued, shards: int) -> Scope:
    bucket = bucket_of(issued.record.serial, ca=False)
    return Scope("user", shards, bucket * shards // 1024)


def under(pki: PKI, crl_settings: CRLSettings, base: str = "http://pki.example.com") -> PKI:
    """The same home after a change of the configuration."""
    settings = CoreSettings(
        home=pki.home, server=ServerSettings(external_http_url=base), crl=crl_settings
    )
    common = (pki.database, pki.clock, pki.authorities)
    status = StatusService(*common, pki.keys, pki.audit, settings)
    return PKI(
        pki.home, settings, pki.database, pki.clock, pki.keys, pki.audit, pki.authorities,
        Issuance(*common, pki.audit, settings), pki.revocation, status,
    )  # fmt: skip


# Deltas


async def test_delta_names_a_base_that_was_published(pki: PKI) -> None:
    """Section 5.2.4: critical deltaCRLIndicator; section 5.2.6: freshestCRL in the base only."""
    await pki.status.maintain()
    base = await pki.status.crl("issuing")
    issued = await pki.issue()
    await pki.revoke(issued)
    delta = load(await pki.status.crl("issuing", delta=True))
    indicator = delta.extensions.get_extension_for_class(x509.DeltaCRLIndicator)
    number = delta.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    assert indicator.critical and indicator.value.crl_number == base.number < number
    assert [entry.serial_number for entry in delta] == [issued.record.serial]
    assert delta.is_signature_valid(crl.public_key(pki.certificate()))
    with pytest.raises(x509.ExtensionNotFound):
        delta.extensions.get_extension_for_class(x509.FreshestCRL)
    freshest = load(base).extensions.get_extension_for_class(x509.FreshestCRL)
    names = freshest.value[0].full_name
    assert not freshest.critical and names is not None
    assert names[0].value == point_of(issued, x509.FreshestCRL)
    assert names[0].value == "http://pki.example.com/crl/issuing.delta.crl"


async def test_base_and_delta_of_one_time_have_one_number(pki: PKI) -> None:
    """Section 5.2.3: one sequence; issued together, they show the same."""
    await pki.status.maintain()
    for name in "abc":
        await pki.revoke(await pki.issue(f"{name}.example.com"))
        await pki.status.maintain()
        base, delta = await pki.status.crl("issuing"), await pki.status.crl("issuing", delta=True)
        assert base.number == delta.number and base.this_update == delta.this_update
        assert reasons(base) == reasons(delta)
    assert delta.base is not None and delta.base < delta.number


async def test_delta_refers_to_the_oldest_list_that_holds(pki: PKI) -> None:
    """Whoever fetched a list within its lifetime can use the delta."""
    await pki.status.maintain()
    first = await pki.status.crl("issuing")
    for _ in range(9):
        pki.clock.advance(12 * HOUR)
        await pki.status.maintain()
    assert (await pki.status.crl("issuing", delta=True)).base == first.number
    pki.clock.advance(5 * DAY)
    await pki.status.maintain()
    delta = await pki.status.crl("issuing", delta=True)
    assert delta.base is not None and delta.base > first.number
    held = await pki.database.read(
        lambda reader: reader.one(
            "SELECT next_update FROM crl_lists WHERE delta = 0 AND issuer = 'issuing' "
            "AND number = ?",
            (delta.base,),
        )
    )
    assert held is not None and held[0] > pki.clock.now().timestamp()


async def test_hold_and_release_between_base_and_delta(pki: PKI) -> None:
    """Section 5.2.4: removeFromCRL also where the hold was on no base, and never on a base."""
    held = await pki.issue()
    await pki.revoke(held, Reason.CERTIFICATE_HOLD)
    await pki.status.maintain()
    assert reasons(await pki.status.crl("issuing")) == {held.record.serial: "certificateHold"}
    await pki.revocation.release("issuing", held.record.serial, actor=ACTOR)
    serial = held.record.serial
    assert reasons(await pki.status.crl("issuing", delta=True)) == {serial: "removeFromCRL"}
    assert reasons(await pki.status.crl("issuing")) == {}
    await pki.revoke(held, Reason.KEY_COMPROMISE)
    assert reasons(await pki.status.crl("issuing", delta=True)) == {serial: "keyCompromise"}
    brief = await pki.issue("brief.example.com")
    await pki.revoke(brief, Reason.CERTIFICATE_HOLD)
    await pki.revocation.release("issuing", brief.record.serial, actor=ACTOR)
    shown = reasons(await pki.status.crl("issuing", delta=True))
    assert shown == {serial: "keyCompromise", brief.record.serial: "removeFromCRL"}


async def test_a_reason_that_changed_is_on_the_delta(pki: PKI) -> None:
    issued = await pki.issue()
    await pki.revoke(issued, Reason.SUPERSEDED)
    await pki.status.maintain()
    assert reasons(await pki.status.crl("issuing", delta=True)) == {}
    await pki.revoke(issued, Reason.KEY_COMPROMISE)
    shown = {issued.record.serial: "keyCompromise"}
    assert reasons(await pki.status.crl("issuing", delta=True)) == shown
    assert reasons(await pki.status.crl("issuing")) == shown


async def test_what_expires_before_the_next_base_stays_on_deltas_until_it_was_on_one(
    pki: PKI,
) -> None:
    """Section 5.2.4."""
    issued = await pki.issue()
    pki.clock.advance(issued.record.not_after - NOW - HOUR)
    await pki.status.maintain()
    await pki.revoke(issued)
    pki.clock.advance(2 * HOUR)
    serial = issued.record.serial
    assert serial in reasons(await pki.status.crl("issuing", delta=True))
    assert serial in reasons(await pki.status.crl("issuing"))


async def test_delta_is_renewed_between_complete_lists(tmp_path: Path) -> None:
    async with open_pki(tmp_path, crl=CRLSettings(refresh=5 * DAY, delta=6 * HOUR)) as pki:
        await pki.status.maintain()
        base, first = await pki.status.crl("issuing"), await pki.status.crl("issuing", delta=True)
        assert first.next_update == NOW + 6 * HOUR
        for _ in range(6):
            pki.clock.advance(3 * HOUR)
            await pki.status.maintain()
            delta = await pki.status.crl("issuing", delta=True)
            assert delta.next_update == pki.clock.now() + 6 * HOUR and delta.base == base.number
        assert (await pki.status.crl("issuing")).number == base.number < delta.number


async def test_without_deltas_there_is_none(tmp_path: Path) -> None:
    async with open_pki(tmp_path) as pki:
        with pytest.raises(PKIError) as caught:
            await pki.status.crl("issuing", delta=True)
        assert caught.value.code is ErrorCode.NOT_FOUND


async def test_deltas_switched_on_and_off(tmp_path: Path) -> None:
    """The first delta has its base with it; certificates that name one keep it."""
    async with open_pki(tmp_path) as plain:
        await plain.revoke(await plain.issue())
        await plain.status.maintain()
        before = await plain.status.crl("issuing")
        pki = under(plain, CRLSettings(delta=DAY))
        await pki.status.maintain()
        base = await pki.status.crl("issuing")
        delta = await pki.status.crl("issuing", delta=True)
        assert base.number > before.number and delta.base == base.number == delta.number
        assert delta.entries == 0
        issued = await pki.issue("b.example.com")
        await plain.status.maintain()
        await pki.revoke(issued)
        off = await plain.status.crl("issuing", delta=True)
        assert list(reasons(off)) == [issued.record.serial]
        plain.clock.advance(issued.record.not_after - NOW + 10 * DAY)
        with pytest.raises(PKIError):
            await plain.status.crl("issuing", delta=True)


async def test_large_lists_let_their_delta_go_ahead(
    pki: PKI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pkiserver.ca.crl_service.LARGE", 0)
    await pki.revoke(await pki.issue())
    await pki.status.maintain()
    await pki.revoke(await pki.issue("b.example.com"))
    await pki.status.maintain()
    rows = await pki.database.read(
        lambda reader: reader.all(
            "SELECT delta, number FROM crl_lists WHERE issuer = 'issuing' ORDER BY number, delta"
        )
    )
    assert [delta for delta, _ in rows][-3:] == [1, 0, 1]


@needs_openssl
async def test_openssl_uses_deltas(tmp_path: Path) -> None:
    """Base from before, delta from after: revoked, released, and untouched."""
    now = SystemClock().now()
    async with open_pki(tmp_path, now=now, crl=CRLSettings(delta=DAY)) as pki:
        good, held, bad = [await pki.issue(f"{name}.example.com") for name in ("a", "b", "c")]
        await pki.revoke(held, Reason.CERTIFICATE_HOLD)
        await pki.status.maintain()
        base = await pki.status.crl("issuing")
        await pki.revoke(bad)
        await pki.revocation.release("issuing", held.record.serial, actor=ACTOR)
        delta = await pki.status.crl("issuing", delta=True)
        lists = tmp_path / "lists.pem"
        lists.write_bytes(encode_pem("X509 CRL", base.der) + encode_pem("X509 CRL", delta.der))

        def verify(issued: Issued, *options: str) -> str:
            return _verify(tmp_path, pki, issued, lists, *options)

        deltas = ("-extended_crl", "-use_deltas")
        assert "OK" in verify(good, *deltas) and "OK" in verify(held, *deltas)
        assert "certificate revoked" in verify(bad, *deltas)
        assert "OK" in verify(bad), "without deltas the base speaks alone"
        assert "certificate revoked" in verify(held)


def _verify(folder: Path, pki: PKI, issued: Issued, lists: Path, *options: str) -> str:
    root = pem(folder / "root.pem", [pki.certificate("root")])
    issuing = pem(folder / "issuing.pem", [pki.certificate()])
    leaf = pem(folder / "leaf.pem", [issued.certificate])
    words: list[str | Path] = ["openssl", "verify", "-x509_strict", "-crl_check", *options]
    words += ["-CRLfile", lists, "-CAfile", root, "-untrusted", issuing, leaf]
    return tool(*words).stdout


# Shards


async def test_a_shard_has_its_certificates_and_no_other(tmp_path: Path) -> None:
    async with open_pki(tmp_path, crl=CRLSettings(shards=4)) as pki:
        issued = [await pki.issue(f"{n}.example.com") for n in range(12)]
        for each in issued:
            await pki.revoke(each)
        await pki.status.maintain()
        everything = await pki.status.crl("issuing")
        assert everything.entries == 12
        for index in range(4):
            scope = Scope("user", 4, index)
            shard = await pki.status.crl("issuing", scope)
            mine = {e.record.serial for e in issued if scope_of(pki, e, 4) == scope}
            assert set(reasons(shard)) == mine
            assert urls(shard) == [f"http://pki.example.com/crl/issuing.4.{index}.crl"]
        for each in issued:
            shard = await pki.status.crl("issuing", scope_of(pki, each, 4))
            assert urls(shard) == [point_of(each, x509.CRLDistributionPoints)]


async def test_another_number_of_shards_breaks_no_certificate(tmp_path: Path) -> None:
    """Old lists go on, also under a new base URL, until the last certificate has expired."""
    async with open_pki(tmp_path, crl=CRLSettings(shards=4)) as pki:
        old = await pki.issue()
        later = under(pki, CRLSettings(shards=2), "http://new.example.com")
        new = await later.issue("b.example.com")
        for each in (old, new):
            await later.revoke(each)
        await later.status.maintain()
        for issued, shards in ((old, 4), (new, 2)):
            shard = await later.status.crl("issuing", scope_of(pki, issued, shards))
            assert issued.record.serial in reasons(shard)
            assert point_of(issued, x509.CRLDistributionPoints) in urls(shard)
        one_list = under(pki, CRLSettings())
        assert (await one_list.status.crl("issuing", scope_of(pki, old, 4))).entries >= 1
        pki.clock.advance(old.record.not_after - NOW + 8 * DAY)
        with pytest.raises(PKIError) as caught:
            await one_list.status.crl("issuing", scope_of(pki, old, 4))
        assert caught.value.code is ErrorCode.NOT_FOUND


async def test_shards_nobody_points_to_do_not_exist(tmp_path: Path) -> None:
    """Asking for them makes no work."""
    async with open_pki(tmp_path, crl=CRLSettings(shards=4)) as pki:
        for scope in (Scope("user", 4, 1), Scope("user", 1024, 1), CAS, USERS):
            with pytest.raises(PKIError) as caught:
                await pki.status.crl("issuing", scope)
            assert caught.value.code is ErrorCode.NOT_FOUND
        await pki.status.maintain()
        assert len((await pki.status.standing("issuing")).lists) == 1


async def test_only_the_shard_that_changed_is_made_anew(tmp_path: Path) -> None:
    async with open_pki(tmp_path, crl=CRLSettings(shards=4)) as pki:
        issued = await pki.issue()
        await pki.status.maintain()
        scopes = [Scope("user", 4, index) for index in range(4)]
        before = {each: (await pki.status.crl("issuing", each)).number for each in scopes}
        pki.clock.advance(dt.timedelta(seconds=5))
        await pki.revoke(issued)
        await pki.status.maintain()
        after = {each: (await pki.status.crl("issuing", each)).number for each in scopes}
        assert [s for s in scopes if before[s] != after[s]] == [scope_of(pki, issued, 4)]


@needs_openssl
async def test_openssl_takes_the_shard_of_the_certificate_and_no_other(tmp_path: Path) -> None:
    now = SystemClock().now()
    async with open_pki(tmp_path, now=now, crl=CRLSettings(shards=2, delta=DAY)) as pki:
        good, bad = await pki.issue("a.example.com"), await pki.issue("b.example.com")
        await pki.revoke(bad)
        await pki.status.maintain()
        for issued, expected in ((good, "OK"), (bad, "certificate revoked")):
            mine = scope_of(pki, issued, 2)
            other = Scope("user", 2, 1 - mine.index)
            for scope, said in ((mine, expected), (other, "Different CRL scope"), (FULL, expected)):
                lists = tmp_path / "list.pem"
                data = (await pki.status.crl("issuing", scope)).der
                lists.write_bytes(encode_pem("X509 CRL", data))
                assert (
                    said.lower() in _verify(tmp_path, pki, issued, lists, "-extended_crl").lower()
                )


# Lists for CAs and for end entities


async def test_split_lists(tmp_path: Path) -> None:
    """onlyContainsCACerts and onlyContainsUserCerts, each complete for what it covers."""
    async with open_pki(tmp_path, crl=CRLSettings(scopes="split")) as pki:
        await pki.authorities.create("sub", "issuing", wish("Sub", 900), "p256", actor="test")
        leaf, sub = await pki.issue(), pki.certificate("sub")
        await pki.revoke(leaf)
        await pki.revocation.revoke("issuing", sub.serial_number, Reason.CA_COMPROMISE, actor=ACTOR)
        cas, users = await pki.status.crl("issuing", CAS), await pki.status.crl("issuing", USERS)
        assert reasons(cas) == {sub.serial_number: "cACompromise"}
        assert list(reasons(users)) == [leaf.record.serial]
        assert (await pki.status.crl("issuing")).entries == 2
        assert urls(users) == [point_of(leaf, x509.CRLDistributionPoints)]
        for published, ca in ((cas, True), (users, False)):
            idp = load(published).extensions.get_extension_for_class(x509.IssuingDistributionPoint)
            assert idp.value.only_contains_ca_certs is ca
            assert idp.value.only_contains_user_certs is not ca
            assert (idp.value.full_name is None) is ca
        back = under(pki, CRLSettings())
        assert (await back.status.crl("issuing", USERS)).entries == 1, "goes on"


@needs_openssl
async def test_openssl_takes_split_lists(tmp_path: Path) -> None:
    now = SystemClock().now()
    async with open_pki(tmp_path, now=now, crl=CRLSettings(scopes="split")) as pki:
        leaf = await pki.issue()
        await pki.status.maintain()
        lists = tmp_path / "list.pem"
        said = {}
        for scope in (USERS, CAS):
            data = (await pki.status.crl("issuing", scope)).der
            lists.write_bytes(encode_pem("X509 CRL", data))
            said[scope] = _verify(tmp_path, pki, leaf, lists)
        assert "OK" in said[USERS] and "different CRL scope" in said[CAS]
        both = [(await pki.status.crl(*which)).der for which in (("issuing", USERS), ("root", CAS))]
        lists.write_bytes(b"".join(encode_pem("X509 CRL", each) for each in both))
        assert "leaf.pem: OK" in _verify(tmp_path, pki, leaf, lists, "-crl_check_all")
        sub = pki.certificate().serial_number
        await pki.revocation.revoke("root", sub, Reason.CA_COMPROMISE, actor=ACTOR)
        both[1] = (await pki.status.crl("root", CAS)).der
        lists.write_bytes(b"".join(encode_pem("X509 CRL", each) for each in both))
        said[CAS] = _verify(tmp_path, pki, leaf, lists, "-crl_check_all")
        assert "certificate revoked" in said[CAS]


# All of them


async def test_prepare_offline_covers_every_list(tmp_path: Path) -> None:
    async with open_pki(tmp_path, crl=CRLSettings(scopes="split", delta=DAY)) as pki:
        await pki.status.maintain()
        await pki.status.prepare_offline("root", 180 * DAY)
        await pki.keys.delete(pki.authorities.get("root").key_id)
        pki.clock.advance(60 * DAY)
        await pki.status.maintain()
        standing = await pki.status.standing("root")
        assert len(standing.lists) == 6
        assert not [each for each in standing.lists if each.due or each.problem]


async def test_lapse_is_told_before_it_comes_once(tmp_path: Path) -> None:
    """The key of the root is away; nobody brought it back."""
    async with open_pki(tmp_path) as pki:
        await pki.status.prepare_offline("root", 90 * DAY)
        await pki.keys.delete(pki.authorities.get("root").key_id)
        pki.clock.advance(50 * DAY)
        await pki.status.maintain()
        assert (await pki.status.standing("root")).lists[0].problem is None
        pki.clock.advance(15 * DAY)
        for _ in range(3):
            await pki.status.maintain()
        assert "out of date from" in str((await pki.status.standing("root")).lists[0].problem)
        await pki.another_process().maintain()
        rows = await pki.database.read(
            lambda reader: reader.all(
                "SELECT object, outcome FROM audit WHERE action = 'crl.lapse'"
            )
        )
        assert rows == [("root", "failed")]
        pki.clock.advance(30 * DAY)
        assert "out of date since" in str((await pki.status.standing("root")).lists[0].problem)
        assert (await pki.status.crl("root")).next_update < pki.clock.now(), "served on"


async def test_the_last_list_of_an_authority_is_no_alarm(tmp_path: Path) -> None:
    async with open_pki(tmp_path) as pki:
        pki.clock.advance(pki.certificate().not_valid_after_utc - NOW - 2 * HOUR)
        await pki.status.maintain()
        assert (await pki.status.standing("issuing")).lists[0].problem is None
        rows = await pki.database.read(
            lambda reader: reader.all("SELECT object FROM audit WHERE action = 'crl.lapse'")
        )
        assert rows == []


async def test_numbers_grow_in_every_scope_under_concurrency(tmp_path: Path) -> None:
    settings = CRLSettings(shards=2, delta=DAY)
    async with open_pki(tmp_path, crl=settings) as pki:
        issued = [await pki.issue(f"{n}.example.com") for n in range(6)]
        processes = [pki.another_process() for _ in range(3)]
        for each in issued:
            await pki.revoke(each)
            await asyncio.gather(*(process.maintain() for process in processes))
        rows = await pki.database.read(
            lambda reader: reader.all(
                "SELECT scope, delta, number, generation FROM crl_lists "
                "WHERE issuer = 'issuing' ORDER BY scope, delta, number"
            )
        )
        for key in {row[:2] for row in rows}:
            shown = [row[3] for row in rows if row[:2] == key]
            assert shown == sorted(shown)
        delta = await pki.status.crl("issuing", delta=True)
        assert delta.entries == 5, "the first one was on the base"
        for process in processes:
            await process.stop()


async def test_two_processes_on_one_database(tmp_path: Path) -> None:
    """One revokes and publishes, the other one fetches: what was revoked before a fetch is on the
    list, and both publish."""
    settings = CRLSettings(shards=2, delta=DAY)
    async with open_pki(tmp_path, crl=settings) as pki:
        issued = [await pki.issue(f"{n}.example.com") for n in range(12)]
        await pki.status.maintain()
        database = open_database(pki.settings.storage.url, pki.home)
        authorities = Authorities(database, pki.clock, pki.keys, pki.audit, pki.settings)
        await authorities.load()
        other = StatusService(database, pki.clock, authorities, pki.keys, pki.audit, pki.settings)
        pki.revocation.on_change(pki.status.schedule)

        async def revoke_and_look(each: Issued) -> None:
            await pki.revoke(each)
            scope = scope_of(pki, each, 2)
            for service in (other, pki.status):
                for wanted, delta in ((scope, False), (scope, True), (FULL, False)):
                    shown = await service.crl("issuing", wanted, delta=delta)
                    assert each.record.serial in reasons(shown)

        try:
            for batch in (issued[:4], issued[4:8], issued[8:]):
                await asyncio.gather(*(revoke_and_look(each) for each in batch))
            await pki.status.settle()
            await other.settle()
            assert (await other.crl("issuing")).entries == 12
        finally:
            await other.stop()
            await database.close()
