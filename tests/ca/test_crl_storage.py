"""Large lists: pages, pieces, history, what a crash leaves; lists from before they had
pages."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from pkiserver.ca import crl, crl_check, crl_publication, crl_service, crl_shelf, encoding
from pkiserver.ca import crl_store as store
from pkiserver.ca.crl_scope import CAS, FULL, USERS, Scope
from pkiserver.ca.model import Reason
from pkiserver.config import CRLSettings
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.keys import PrivateKey, sign
from pkiserver.pkix import cert
from pkiserver.storage import Database, Transaction, migrate, open_database
from pkiserver.storage.migrations import CORE
from tests.ca.status_support import ACTOR, PKI, open_pki
from tests.ca.test_crl import CA, KEY, NOW, build

_BAD = {"FATAL", "ERROR", "WARNING"}
HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)


@pytest.fixture
async def pki(tmp_path: Path) -> AsyncIterator[PKI]:
    async with open_pki(tmp_path) as made:
        yield made


async def bodies(pki: PKI) -> set[str]:
    rows = await pki.database.read(lambda reader: reader.all("SELECT body FROM crl_pages"))
    return {body for (body,) in rows}


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PAGE", 64)


# Pages


@pytest.mark.usefixtures("small_pages")
async def test_a_list_of_many_pages_is_what_was_signed(pki: PKI) -> None:
    for n in range(5):
        await pki.revoke(await pki.issue(f"{n}.example.com"))
    published = await pki.status.publish_crl("issuing")
    rows = await pki.database.read(
        lambda reader: reader.all("SELECT page FROM crl_pages WHERE body = ?", (published.body,))
    )
    assert len(rows) == -(-published.size // 64)
    found = await pki.another_process().crl("issuing")
    assert len(x509.load_der_x509_crl(found.der)) == 5 and len(found.der) == published.size


@pytest.mark.usefixtures("small_pages")
async def test_history_of_large_lists_is_short(pki: PKI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "HISTORY_OCTETS", 100)
    made = [await pki.status.publish_crl("issuing") for _ in range(5)]
    assert await bodies(pki) == {each.body for each in made[-2:]}
    await pki.status.crl("issuing")


@pytest.mark.usefixtures("small_pages")
async def test_who_loses_leaves_no_pages(pki: PKI, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another list was published while one was being signed."""
    other = pki.another_process()
    await pki.status.publish_crl("issuing")
    first = True

    async def interrupted(key: PrivateKey, data: bytes) -> bytes:
        nonlocal first
        if first:
            first = False
            await other.publish_crl("issuing")
        return await sign(key, data)

    monkeypatch.setattr(crl_publication, "sign", interrupted)
    published = await pki.status.publish_crl("issuing", 3 * DAY)
    assert published.next_update == pki.clock.now() + 3 * DAY
    rows = await pki.database.read(lambda reader: reader.all("SELECT body FROM crl_lists"))
    assert await bodies(pki) == {body for (body,) in rows}


async def test_pages_a_crash_left_are_removed_in_time(pki: PKI) -> None:
    await pki.status.maintain()
    kept = await bodies(pki)

    def leave(tx: Transaction) -> None:
        for page in range(9):
            store.add_page(tx, "left", page, b"x", pki.clock.now())

    await pki.database.write(leave)
    await pki.status.maintain()
    assert await bodies(pki) == kept | {"left"}, "somebody may be at it"
    pki.clock.advance(2 * HOUR)
    await pki.status.maintain()
    assert await bodies(pki) == kept


async def test_a_stored_list_that_changed_is_not_given_out(pki: PKI) -> None:
    published = await pki.status.publish_crl("issuing")
    await pki.database.write(
        lambda tx: tx.execute(
            "UPDATE crl_pages SET content = ? WHERE body = ?", (b"0", published.body)
        )
    )
    with pytest.raises(PKIError) as caught:
        await pki.status.crl("issuing")
    assert caught.value.code is ErrorCode.INTERNAL
    await pki.status.publish_crl("issuing")
    assert (await pki.status.crl("issuing")).entries == 0


async def test_memory_for_lists_is_bounded(pki: PKI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crl_shelf, "HELD_OCTETS", 1)
    for _ in range(2):
        for issuer in ("root", "issuing"):
            assert (await pki.status.crl(issuer)).issuer == issuer


# Who fetches while lists are slow to come


async def test_nobody_waits_longer_than_patience(pki: PKI, monkeypatch: pytest.MonkeyPatch) -> None:
    old = await pki.status.crl("issuing")
    assert not old.behind
    monkeypatch.setattr(crl_service, "PATIENCE", 0)
    await pki.revoke(await pki.issue())
    shown = await pki.status.crl("issuing")
    assert shown.number == old.number and shown.behind
    await pki.status.settle()
    shown = await pki.status.crl("issuing")
    assert shown.entries == 1 and not shown.behind


async def test_without_its_key_the_last_list_is_given_out_at_once(pki: PKI) -> None:
    await pki.status.crl("issuing")
    issued = await pki.issue()
    await pki.keys.delete(pki.authorities.get("issuing").key_id)
    await pki.revoke(issued)
    for _ in range(3):
        assert (await pki.status.crl("issuing")).behind
    await pki.status.settle()
    assert str((await pki.status.standing("issuing")).lists[0].problem).startswith("due: ")


async def test_fetches_do_not_multiply_signatures(pki: PKI) -> None:
    """However many ask, whichever of the lists."""
    await pki.status.crl("issuing")
    await pki.revoke(await pki.issue())
    for _ in range(30):
        assert (await pki.status.crl("issuing")).entries == 1
    await pki.status.settle()
    rows = await pki.database.read(
        lambda reader: reader.all("SELECT number FROM crl_lists WHERE issuer = 'issuing'")
    )
    assert len(rows) == 2


async def test_the_first_list_is_made_once_for_all_who_ask(pki: PKI) -> None:
    fetched = await asyncio.gather(*(pki.status.crl("issuing") for _ in range(20)))
    assert len({each.number for each in fetched}) == 1
    await pki.keys.delete(pki.authorities.get("root").key_id)
    refused = await asyncio.gather(
        *(pki.status.crl("root") for _ in range(3)), return_exceptions=True
    )
    assert {each.code for each in refused if isinstance(each, PKIError)} == {ErrorCode.UNAVAILABLE}
    assert len(refused) == len([each for each in refused if isinstance(each, PKIError)])


# Reading back in pieces


def entries(count: int) -> list[bytes]:
    return [
        crl.encode_entry(serial, NOW, Reason.SUPERSEDED, None) for serial in range(1, count + 1)
    ]


def test_pieces_are_all_of_the_list() -> None:
    made = entries(40)
    data = build(*made)
    for cut in (1, 7, 20, 39):
        pieces = [sum(map(len, made[:cut])), sum(map(len, made[cut:]))]
        crl_check.check(data, CA, number=1, entries=40, pieces=pieces)


@pytest.mark.parametrize("pieces", [[20, 20], [1, 2, 3]])
def test_pieces_that_do_not_fit(pieces: list[int]) -> None:
    """Cut inside an entry: not parsed; not the whole list: it is read in one piece."""
    made = entries(4)
    lengths = [each * len(made[0]) // 10 for each in pieces]
    data = build(*made)
    if sum(lengths) != sum(map(len, made)):
        crl_check.check(data, CA, number=1, entries=4, pieces=lengths)
        return
    with pytest.raises(PKIError):
        crl_check.check(data, CA, number=1, entries=4, pieces=[lengths[0] + 1, lengths[1] - 1])


def test_an_entry_that_is_none_is_found_in_its_piece() -> None:
    made = entries(6)
    made[4] = b"\x30\x03\x02\x01\x05"
    with pytest.raises(PKIError) as caught:
        pieces = [len(each) for each in made]
        crl_check.check(build(*made), CA, number=1, entries=6, pieces=pieces)
    assert caught.value.code is ErrorCode.INTERNAL


def test_every_octet_counts() -> None:
    """Flipped anywhere, or cut off anywhere: it does not pass, and nothing else is raised."""
    made = entries(3)
    data = build(*made)
    pieces = [len(each) for each in made]
    for at in range(len(data)):
        for wrong in (data[:at], data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]):
            with pytest.raises(PKIError):
                crl_check.check(wrong, CA, number=1, entries=3, pieces=pieces)
    with pytest.raises(PKIError):
        crl_check.check(data + b"\0", CA, number=1, entries=3, pieces=pieces)


def test_base_of_a_delta_is_checked() -> None:
    tbs = crl.to_be_signed(CA, number=7, this_update=NOW, next_update=NOW + DAY, entries=[], base=5)
    algorithm = encoding.signature_algorithm(KEY.public_key())
    data = cert.assemble(tbs, algorithm, KEY.sign(tbs, ec.ECDSA(hashes.SHA256())))
    crl_check.check(data, CA, number=7, entries=0, base=5)
    for base in (None, 6):
        with pytest.raises(PKIError):
            crl_check.check(data, CA, number=7, entries=0, base=base)


# Databases from before


async def _old_database(home: Path) -> Database:
    """With the first core migration only, and what it knows of lists and revocations."""
    database = open_database("sqlite:///old.db", home)
    text = (CORE / "0001_core.sql").read_text()
    folder = home / "first"
    folder.mkdir()
    (folder / "0001_core.sql").write_text(text)
    statements = [s for s in text.split(";\n") if "CREATE" in s]

    def work(tx: Transaction) -> None:
        for statement in statements:
            tx.execute(statement[statement.index("CREATE") :])
        tx.execute(
            "INSERT INTO authorities (name, chain, key_id, spki_sha256, status, created, "
            "generation) VALUES ('root', ?, 'root', ?, 'active', 0, 1)",
            (b"", b""),
        )
        tx.execute("INSERT INTO status_generations (issuer, generation) VALUES ('root', 3)")
        tx.execute(
            "INSERT INTO crls (issuer, number, generation, this_update, next_update, entries, der) "
            "VALUES ('root', 1700000000, 3, 1700000000, 1900000000, 1, ?)",
            (b"a list",),
        )
        for serial, profile in ((b"\1", "tls-server"), (b"\2", "ca")):
            tx.execute(
                "INSERT INTO certificates (id, issuer, serial, status, profile, requester, "
                "subject, spki_sha256, not_before, not_after, created, tbs, signature_algorithm) "
                "VALUES (?, 'root', ?, 'issued', ?, '', '', ?, 0, 0, 0, ?, ?)",
                (serial.hex(), serial, profile, b"", b"", b""),
            )
            tx.execute(
                "INSERT INTO revocations (issuer, serial, revoked_at, reason, not_after, entry) "
                "VALUES ('root', ?, 0, 'superseded', 1900000000, ?)",
                (serial, b"entry" + serial),
            )

    await database.write(work)
    return database


async def test_lists_and_revocations_are_taken_along(tmp_path: Path) -> None:
    """The list of a root whose key is offline is the only one there is."""
    database = await _old_database(tmp_path)
    try:
        text = (CORE / "0003_crl.sql").read_text()
        folder = tmp_path / "third"
        folder.mkdir()
        (folder / "0003_crl.sql").write_text(text)
        await database.write(lambda tx: _apply(tx, text))
        state = await database.read(lambda reader: store.state(reader, "root", FULL))
        published = state.complete
        assert published is not None and published.number == 1700000000
        assert (published.form, published.sha256, state.changed) == (b"", None, 3)
        data = await database.read(lambda reader: store.load(reader, published.body))
        assert data == b"a list"
        since = dt.datetime.fromtimestamp(1, dt.UTC)
        for scope, expected in (
            (FULL, [b"entry\1", b"entry\2"]), (CAS, [b"entry\2"]), (USERS, [b"entry\1"]),
            (Scope("user", 2, 0), []),
        ):  # fmt: skip
            found = await database.read(
                lambda reader, scope=scope: store.entries(  # type: ignore[misc]
                    reader, "root", scope, since
                )
            )
            assert sorted(found[0]) == expected and found[1] == len(expected)
    finally:
        await database.close()


def _apply(tx: Transaction, text: str) -> None:
    lines = [line for line in text.splitlines() if not line.startswith("--")]
    for statement in "\n".join(lines).split(";\n"):
        if statement.strip():
            tx.execute(statement)


async def test_migrating_twice_changes_nothing(pki: PKI) -> None:
    assert await migrate(pki.database, {}) == []


# Lint


def lint(data: bytes) -> list[str]:
    """What pkilint's RFC 5280 linter says from WARNING on, in this process. It has no types."""
    loader, pkix, rules, extension, name = (
        cast(Any, import_module(f"pkilint.{module}"))
        for module in ("loader", "pkix", "pkix.crl", "pkix.extension", "pkix.name")
    )
    validator = rules.create_pkix_crl_validator_container(
        [
            pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
            pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
        ],
        [
            rules.create_issuer_validator_container([]),
            rules.create_validity_validator_container([]),
            rules.create_extensions_validator_container([]),
        ],
    )
    document = loader.RFC5280CertificateListDocumentLoader().load_document(data, "list")
    found = [f for result in validator.validate(document.root) for f in result.finding_descriptions]
    return [f.finding.code for f in found if f.finding.severity.name in _BAD]


async def test_pkilint_finds_nothing_in_any_list(tmp_path: Path) -> None:
    settings = CRLSettings(delta=DAY, shards=2, scopes="split")
    async with open_pki(tmp_path, crl=settings) as pki:
        reasons = (Reason.UNSPECIFIED, Reason.KEY_COMPROMISE, Reason.CERTIFICATE_HOLD)
        for n, reason in enumerate(reasons):
            issued = await pki.issue(f"{n}.example.com")
            await pki.status.maintain()
            await pki.revoke(issued, reason)
        await pki.revocation.release("issuing", issued.record.serial, actor=ACTOR)
        await pki.status.maintain()
        lists = (await pki.status.standing("issuing")).lists
        assert len(lists) == 8
        for scope in (FULL, CAS, Scope("user", 2, 0), Scope("user", 2, 1)):
            for delta in (False, True):
                data = (await pki.status.crl("issuing", scope, delta=delta)).der
                assert lint(data) == [], (scope, delta)
