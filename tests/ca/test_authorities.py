"""The tree of authorities: creating within RFC 5280's limits, in recorded steps, one winner."""

import asyncio
import datetime as dt
import json
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, TypeVar, get_args

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pkiserver.ca import ledger, lint
from pkiserver.ca.audit import Audit
from pkiserver.ca.authorities import Authorities, bootstrap, key_kind, subject_name
from pkiserver.ca.issuance import Issuance
from pkiserver.ca.model import AuthorityStatus, CertificateStatus
from pkiserver.ca.subtrees import name_constraints
from pkiserver.config_types import KeyKind
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix import algorithms, cert
from pkiserver.storage import Transaction
from tests.ca.authority_support import (
    ACTOR,
    DAY,
    NOW,
    World,
    new_key,
    open_world,
    outside_root,
    wish,
)

BACKDATED = NOW.replace(microsecond=0) - dt.timedelta(minutes=5)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        yield world


T = TypeVar("T", bound=x509.ExtensionType)


def extension(certificate: x509.Certificate, kind: type[T]) -> T:
    return certificate.extensions.get_extension_for_class(kind).value


async def test_a_root_follows_rfc_5280_section_4_2_1(world: World) -> None:
    await world.root()
    root = world.authorities.certificate("root")
    root.verify_directly_issued_by(root)
    basic = root.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = root.extensions.get_extension_for_class(x509.KeyUsage)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, None)
    assert usage.critical and usage.value.key_cert_sign and usage.value.crl_sign
    assert not usage.value.digital_signature
    subject_key = extension(root, x509.SubjectKeyIdentifier).digest
    assert subject_key == algorithms.key_identifier(root.public_key())
    assert extension(root, x509.AuthorityKeyIdentifier).key_identifier == subject_key
    urls = (x509.CRLDistributionPoints, x509.AuthorityInformationAccess)
    assert not any(isinstance(each.value, urls) for each in root.extensions)


async def test_a_child_points_to_its_issuer_on_plain_http(world: World) -> None:
    await world.root()
    await world.child("issuing")
    own = world.authorities.certificate("issuing")
    root = world.authorities.certificate("root")
    own.verify_directly_issued_by(root)
    parent_key = extension(root, x509.SubjectKeyIdentifier).digest
    assert extension(own, x509.AuthorityKeyIdentifier).key_identifier == parent_key
    (point,) = extension(own, x509.CRLDistributionPoints)
    assert point.full_name is not None
    assert point.full_name[0].value == "http://pki.example.com/crl/root.crl"
    urls = [each.access_location.value for each in extension(own, x509.AuthorityInformationAccess)]
    assert urls == ["http://pki.example.com/ocsp/root", "http://pki.example.com/ca/root.cer"]


async def test_validity_is_whole_seconds_both_ends_counted(world: World) -> None:
    await world.root()
    root = world.authorities.certificate("root")
    assert root.not_valid_before_utc == BACKDATED
    assert root.not_valid_after_utc == BACKDATED + 7300 * DAY - dt.timedelta(seconds=1)


async def test_a_child_does_not_outlive_its_issuers(world: World) -> None:
    await world.root(validity=100 * DAY)
    await world.child("sub", validity=5000 * DAY)
    await world.child("issuing", "sub", validity=5000 * DAY)
    ends = {world.authorities.certificate(name).not_valid_after_utc for name in ("root", "issuing")}
    assert len(ends) == 1


async def test_an_expired_parent_issues_nothing(world: World) -> None:
    await world.root(validity=10 * DAY)
    world.clock.advance(11 * DAY)
    with pytest.raises(PKIError, match="not valid now"):
        await world.child("issuing")
    assert world.key_files() == {world.authorities.get("root").key_id}


async def test_serial_numbers_have_twenty_random_octets(world: World) -> None:
    await world.root()
    serials = {(await world.child(f"c{n}")).certificate for n in range(5)}
    numbers = {c.serial_number for c in serials if c is not None}
    assert len(numbers) == 5
    assert all(number.bit_length() == 159 for number in numbers)


@pytest.mark.parametrize("root_kind", ["rsa-2048", "p384", "ed25519", "ml-dsa-44"])
async def test_every_kind_of_key_signs_every_other(world: World, root_kind: KeyKind) -> None:
    """A certificate is signed by what its issuer has, whatever key is in it."""
    authorities = world.authorities
    await authorities.create_root("root", wish("Root", 100), root_kind, actor=ACTOR)
    for kind in (kind for kind in get_args(KeyKind) if not kind.startswith("rsa-")):
        made = await authorities.create(f"c-{kind}", "root", wish(kind, 9), kind, actor=ACTOR)
        assert made.certificate is not None
        assert algorithms.describe(made.certificate.public_key()) == kind
        made.certificate.verify_directly_issued_by(authorities.certificate("root"))


async def test_certificates_pass_pkilint(world: World) -> None:
    await world.root()
    await world.child(
        "issuing",
        path_length=0,
        name_constraints=name_constraints(["dns:example.com", "ip:10.0.0.0/8"]),
        extended_key_usage=(ExtendedKeyUsageOID.SERVER_AUTH,),
        policies=(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"),),
    )
    for name in ("root", "issuing"):
        own = world.authorities.certificate(name)
        findings = lint.full(own.public_bytes(Encoding.DER))
        assert [f.code for f in findings if f.is_error] == [], own.subject


# Limits from above


async def test_section_4_2_1_9_path_lengths_shrink(world: World) -> None:
    await world.root(path_length=2)
    await world.child("a")
    await world.child("b", "a")
    lengths = [
        extension(world.authorities.certificate(name), x509.BasicConstraints).path_length
        for name in ("root", "a", "b")
    ]
    assert lengths == [2, 1, 0]
    with pytest.raises(PKIError, match="no further CA") as caught:
        await world.child("c", "b")
    assert (caught.value.code, caught.value.rule) == (
        ErrorCode.REFUSED_BY_PROFILE,
        "ca-certificate",
    )
    with pytest.raises(PKIError, match="at most"):
        await world.child("c", "a", path_length=1)


async def test_a_bound_far_above_counts_too(world: World) -> None:
    await world.root(path_length=2)
    await world.child("a", path_length=1)
    await world.child("b", "a", path_length=0)
    with pytest.raises(PKIError, match="no further CA"):
        await world.child("c", "b")


async def test_section_4_2_1_10_name_constraints_only_narrow(world: World) -> None:
    await world.root(name_constraints=name_constraints(["dns:example.com"]))
    await world.child("ok", name_constraints=name_constraints(["dns:a.example.com"]))
    limits = world.authorities.certificate("ok").extensions.get_extension_for_class(
        x509.NameConstraints
    )
    assert limits.critical
    with pytest.raises(PKIError, match="wider"):
        await world.child("no", name_constraints=name_constraints(["dns:example.org"]))
    with pytest.raises(PKIError, match="wider"):
        await world.child("no", "ok", name_constraints=name_constraints(["dns:b.example.com"]))


async def test_the_subject_of_a_ca_keeps_the_constraints_above_it(world: World) -> None:
    await world.root(name_constraints=name_constraints(["dirname:O=Example,C=CH"]))
    await world.child("ok")
    with pytest.raises(PKIError) as caught:
        await world.child("no", subject=subject_name("CN=Else,O=Other,C=CH"))
    assert caught.value.code is ErrorCode.REFUSED_NAME


async def test_purposes_nest(world: World) -> None:
    server, client = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
    await world.root(extended_key_usage=(server,))
    await world.child("ok", extended_key_usage=(server,))
    for wanted in ((client,), (server, client), ()):
        with pytest.raises(PKIError, match="restricted to other purposes"):
            await world.child("no", extended_key_usage=wanted)


async def test_section_6_1_a_child_never_has_the_name_of_a_ca_above(world: World) -> None:
    """Self-issued certificates escape path length and name constraints."""
    root = await world.root()
    assert root.certificate is not None
    with pytest.raises(PKIError, match="same subject"):
        await world.child("no", subject=root.certificate.subject)
    with pytest.raises(PKIError, match="same subject"):
        await world.child("no", subject=subject_name("CN=EXAMPLE ROOT,O=Example,C=CH"))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"subject": x509.Name([])}, "needs a subject"),
        ({"validity": dt.timedelta(0)}, "validity"),
        ({"validity": -DAY}, "validity"),
        ({"validity": 40_000 * DAY}, "validity"),
        ({"path_length": -1}, "path length"),
        ({"path_length": 11}, "path length"),
    ],
)
async def test_wishes_out_of_bounds_change_nothing(
    world: World, changes: dict[str, object], why: str
) -> None:
    with pytest.raises(PKIError, match=why) as caught:
        await world.root("root", **changes)
    assert caught.value.code is ErrorCode.REFUSED_BY_PROFILE
    assert world.authorities.list() == [] and world.key_files() == set()


@pytest.mark.parametrize("name", ["", "-a", "A", "a b", "a/b", "..", "a_b", "é", "a" * 64, "a\n"])
async def test_names_that_do_not_go_into_urls_are_refused(world: World, name: str) -> None:
    with pytest.raises(PKIError) as caught:
        await world.authorities.create_root(name, wish("Root", 10), "p256", actor=ACTOR)
    assert caught.value.code is ErrorCode.CONFIGURATION
    assert world.key_files() == set()


# The record


async def test_invariant_1_certificates_of_cas_are_in_the_inventory(world: World) -> None:
    await world.root()
    await world.child("issuing")
    rows = await world.all(f"SELECT {ledger.COLUMNS} FROM certificates ORDER BY created, issuer")
    records = {record.subject: record for record in map(ledger.record, rows)}
    for name in ("root", "issuing"):
        own = world.authorities.certificate(name)
        record = records[own.subject.rfc4514_string()]
        assert (record.issuer, record.profile) == ("root", "ca")
        assert record.status is CertificateStatus.ISSUED
        assert record.serial == own.serial_number
        assert record.spki_sha256 == world.authorities.get(name).spki_sha256


async def test_invariant_7_each_step_is_in_the_audit_log(world: World) -> None:
    await world.root()
    await world.authorities.retire("root", actor=ACTOR)
    assert await world.actions() == [
        ("authority.create", "root", "reserved"),
        ("authority.create", "root", "done"),
        ("authority.retire", "root", "done"),
    ]


async def test_invariant_9_refusals_are_in_the_audit_log_with_their_cause(world: World) -> None:
    tree, key = world.authorities, new_key()
    stranger = outside_root().path
    await world.root()
    before = await world.actions()
    wanted = subject_name("CN=Else")
    attempts: list[tuple[str, Coroutine[Any, Any, object]]] = [
        ("create", tree.create_root("root", wish("Again", 10), "p256", actor=ACTOR)),
        ("create", tree.create("sub", "nobody", wish("Sub", 10), "p256", actor=ACTOR)),
        ("request", tree.request("root", wanted, "p256", actor=ACTOR)),
        ("install", tree.install("root", stranger, actor=ACTOR)),
        ("import", tree.import_("other", stranger, key, actor=ACTOR)),
        ("cross", tree.add_chain("root", stranger, actor=ACTOR)),
    ]
    for _, attempt in attempts:
        with pytest.raises(PKIError) as caught:
            await attempt
        (row,) = await world.all("SELECT detail FROM audit ORDER BY sequence DESC LIMIT 1")
        assert json.loads(row[0]) == {"code": caught.value.code.value, "cause": caught.value.detail}
    actions = await world.actions()
    assert [each[0] for each in actions[len(before) :]] == [f"authority.{a}" for a, _ in attempts]
    assert {each[2] for each in actions[len(before) :]} == {"refused"}


async def test_invariant_6_of_many_who_want_a_name_one_gets_it(world: World) -> None:
    await world.root()
    processes = [await world.another_process() for _ in range(6)]
    results = await asyncio.gather(
        *(
            each.create("issuing", "root", wish(f"Issuing {n}", 10), "p256", actor=ACTOR)
            for n, each in enumerate(processes)
        ),
        return_exceptions=True,
    )
    refused = [r for r in results if isinstance(r, PKIError) and r.code is ErrorCode.CONFLICT]
    assert len(refused) == 5
    assert len(await world.all("SELECT 1 FROM certificates WHERE status = 'issued'")) == 2
    await world.authorities.refresh_if_changed()
    assert world.key_files() == {a.key_id for a in world.authorities.list()}


async def test_the_key_file_has_the_authority_s_name(world: World) -> None:
    """So that an operator who takes a root offline knows which file it is."""
    await world.keys.generate("sub", "p256")
    await world.root()
    sub = await world.child("sub")
    assert world.key_files() == {"root", "sub", sub.key_id} and sub.key_id != "sub"


async def test_another_process_sees_the_change_when_it_looks(world: World) -> None:
    other = await world.another_process()
    await world.root()
    with pytest.raises(PKIError) as caught:
        other.get("root")
    assert caught.value.code is ErrorCode.NOT_FOUND
    await other.refresh_if_changed()
    assert other.certificate("root") == world.authorities.certificate("root")
    await world.authorities.retire("root", actor=ACTOR)
    await other.refresh_if_changed()
    assert other.get("root").status is AuthorityStatus.RETIRED


async def interrupted(world: World, name: str) -> None:
    """A crash after the first transaction: what was written then is all there is."""
    process = await world.another_process()
    task = asyncio.create_task(
        process.create(name, "root", wish("Interrupted", 10), "rsa-2048", actor=ACTOR)
    )
    while not await world.all("SELECT 1 FROM certificates WHERE status = 'signing'"):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_invariant_1_a_crash_before_the_signature_is_settled_and_the_name_is_free_again(
    world: World,
) -> None:
    await world.authorities.create_root("root", wish("Root", 100), "rsa-4096", actor=ACTOR)
    await interrupted(world, "issuing")
    await world.authorities.refresh_if_changed()
    assert world.authorities.get("issuing").status is AuthorityStatus.PENDING
    with pytest.raises(PKIError) as caught:
        await world.child("issuing")
    assert caught.value.code is ErrorCode.CONFLICT, "somebody may still be at it"
    issuance = Issuance(world.database, world.clock, world.authorities, world.audit, world.settings)
    assert await issuance.recover(dt.timedelta(0)) == 1
    made = await world.child("issuing")
    assert made.status is AuthorityStatus.ACTIVE
    statuses = await world.all("SELECT status FROM certificates ORDER BY status")
    assert [status for (status,) in statuses] == ["abandoned", "issued", "issued"]


class FullLog(Audit):
    """Takes the row of the first transaction and no other."""

    def append(self, tx: Transaction, *, outcome: str = "done", **row: Any) -> None:
        if outcome == "done":
            raise PKIError(ErrorCode.UNAVAILABLE, "the disk is full")
        super().append(tx, outcome=outcome, **row)


async def test_a_failure_between_the_transactions_is_settled_at_once(world: World) -> None:
    await world.root()
    process = Authorities(
        world.database, world.clock, world.keys, FullLog(world.clock), world.settings
    )
    await process.load()
    with pytest.raises(PKIError, match="disk is full"):
        await process.create("issuing", "root", wish("Issuing", 10), "p256", actor=ACTOR)
    assert (await world.actions())[-3:] == [
        ("authority.create", "issuing", "reserved"),
        ("authority.create", "issuing", "failed"),
        ("authority.create", "issuing", "refused"),
    ]
    assert await world.all("SELECT 1 FROM certificates WHERE status = 'abandoned'")
    assert (await world.child("issuing")).status is AuthorityStatus.ACTIVE


async def test_a_revoked_or_retired_authority_makes_no_children(world: World) -> None:
    await world.root()
    await world.child("sub")
    await world.child("subsub", "sub")
    serial = world.authorities.certificate("sub").serial_number
    await world.database.write(
        lambda tx: tx.execute(
            "INSERT INTO revocations (issuer, serial, revoked_at, reason, not_after, entry) "
            "VALUES ('root', ?, 0, 'cACompromise', 0, ?)",
            (cert.serial_bytes(serial), b""),
        )
    )
    for parent in ("sub", "subsub"):
        with pytest.raises(PKIError, match="authority sub is revoked"):
            await world.child("no", parent)
    await world.authorities.retire("root", actor=ACTOR)
    with pytest.raises(PKIError, match="not active"):
        await world.child("no")
    with pytest.raises(PKIError) as caught:
        await world.authorities.retire("root", actor=ACTOR)
    assert caught.value.code is ErrorCode.CONFLICT
    assert len(world.key_files()) == 3


async def test_a_key_that_is_offline_is_unavailable(world: World) -> None:
    root = await world.root()
    (world.home / "keys" / f"{root.key_id}.key").unlink()
    other = await world.another_process()
    with pytest.raises(PKIError, match="offline") as caught:
        other.key("root")
    assert caught.value.code is ErrorCode.UNAVAILABLE
    with pytest.raises(PKIError, match="offline"):
        await other.create("issuing", "root", wish("Issuing", 10), "p256", actor=ACTOR)
    with pytest.raises(PKIError) as missing:
        other.key("nobody")
    assert missing.value.code is ErrorCode.NOT_FOUND


# Looking up


async def test_paths_chains_and_roots(world: World) -> None:
    await world.root()
    await world.root("other")
    await world.child("sub")
    await world.child("issuing", "sub")
    tree = world.authorities
    root, sub, issuing = (tree.certificate(name) for name in ("root", "sub", "issuing"))
    assert tree.path("issuing") == (issuing, sub, root)
    assert tree.chain("issuing") == (issuing, sub)
    assert tree.chain("root") == ()
    assert tree.chains("issuing") == ((issuing, sub),)
    assert set(tree.roots()) == {root, tree.certificate("other")}
    assert [authority.name for authority in tree.list()].index("sub") > 0
    assert tree.key_identifier("sub") == extension(sub, x509.SubjectKeyIdentifier).digest


async def test_bootstrap_makes_a_root_and_an_issuing_ca(world: World) -> None:
    root, issuing = await bootstrap(world.authorities, organization='Ex, "Ample" + {Co} #1\\')
    assert (root.name, issuing.name, issuing.parent) == ("root", "issuing", "root")
    assert root.certificate is not None and issuing.certificate is not None
    assert algorithms.describe(root.certificate.public_key()) == "p384"
    assert algorithms.describe(issuing.certificate.public_key()) == "p256"
    assert extension(issuing.certificate, x509.BasicConstraints).path_length == 0
    (organization,) = root.certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    assert organization.value == 'Ex, "Ample" + {Co} #1\\'
    years = (root.certificate.not_valid_after_utc - NOW).days / 365
    assert round(years) == 20


async def test_bootstrap_with_other_keys_and_without_a_name(world: World) -> None:
    root, issuing = await bootstrap(world.authorities, root_key="ml-dsa-65", issuing_key="ed25519")
    assert root.certificate is not None and issuing.certificate is not None
    assert root.certificate.subject.rfc4514_string() == "CN=pkiserver Root CA"
    assert algorithms.describe(issuing.certificate.public_key()) == "ed25519"


async def test_bootstrap_refuses_an_unknown_kind_before_anything_is_made(world: World) -> None:
    with pytest.raises(PKIError, match="no key kind 'dsa'"):
        await bootstrap(world.authorities, issuing_key="dsa")
    assert world.key_files() == set()
    assert key_kind("p521") == "p521"
