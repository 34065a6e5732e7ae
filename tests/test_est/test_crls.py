"""`client_crl`: what outside CAs have revoked, in files (RFC 5280 section 6.3)."""

import contextlib
import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from pkiserver.errors import ErrorCode, MalformedMessage, PKIError
from pkiserver.pkix.pem import encode_pem, pem_chain
from protocols.est import crls
from tests.test_est.conftest import OpenWorld
from tests.test_est.support import Factory, Held, World, make_csr, peer_with

CONFIGURATION = """
[est.factory]
auth = ["mtls"]
client_ca = ["factory.pem"]
client_crl = ["root.crl", "issuing.crl"]
"""
URL = "http://factory.test/1.crl"


def crl(
    issuer: Held,
    *revoked: Held,
    days: int = 1,
    signer: Held | None = None,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> bytes:
    now = issuer.certificate.not_valid_before_utc + dt.timedelta(hours=23)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(now)
        .next_update(now + dt.timedelta(days=days))
    )
    for each in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(each.certificate.serial_number)
        builder = builder.add_revoked_certificate(entry.revocation_date(now).build())
    for value, critical in extensions:
        builder = builder.add_extension(value, critical=critical)
    made = builder.sign((signer or issuer).key, hashes.SHA256())
    return made.public_bytes(Encoding.DER)


def point(**changes: object) -> x509.IssuingDistributionPoint:
    known: dict[str, object] = {
        "full_name": None, "relative_name": None, "only_some_reasons": None,
        "only_contains_user_certs": False, "only_contains_ca_certs": False,
        "indirect_crl": False, "only_contains_attribute_certs": False,
    }  # fmt: skip
    return x509.IssuingDistributionPoint(**{**known, **changes})  # type: ignore[arg-type]


HERE = point(full_name=[x509.UniformResourceIdentifier(URL)])


@pytest.fixture
def files(home: Path, factory: Factory) -> Path:
    """In the home, with lists that revoke nothing."""
    (home / "factory.pem").write_bytes(pem_chain([factory.root.certificate]))
    (home / "root.crl").write_bytes(crl(factory.root))
    (home / "issuing.crl").write_bytes(crl(factory.issuing))
    return home


async def enroll(world: World, factory: Factory, device: Held) -> tuple[int, str]:
    name = device.certificate.subject.rfc4514_string().removeprefix("CN=")
    peer = peer_with(device, factory.issuing)
    answer = await world.post("factory/simpleenroll", make_csr(name), peer=peer)
    return answer.status_code, answer.text


async def test_what_is_revoked_is_out(open_world: OpenWorld, files: Path, factory: Factory) -> None:
    """As soon as the file says so; also the CA between, in PEM."""
    world = await open_world(CONFIGURATION)
    mine, other = factory.device("SN-1"), factory.device("SN-2")
    assert (await enroll(world, factory, mine))[0] == 200
    (files / "issuing.crl").write_bytes(crl(factory.issuing, mine))
    status, text = await enroll(world, factory, mine)
    assert (status, text) == (403, "CN=SN-1 is revoked\n")
    assert (await enroll(world, factory, other))[0] == 200
    (files / "root.crl").write_bytes(encode_pem("X509 CRL", crl(factory.root, factory.issuing)))
    status, text = await enroll(world, factory, other)
    assert (status, text) == (403, "CN=Factory CA is revoked\n")
    assert len(await world.refusals()) == 2


@pytest.mark.parametrize("what", ["root.crl", "issuing.crl"])
async def test_without_a_current_list_nobody_is_in(
    open_world: OpenWorld, files: Path, factory: Factory, what: str
) -> None:
    """Overdue, from the future, of somebody else, or signed by somebody else."""
    device, forger = factory.device("SN-1"), Factory()
    issuer = factory.root if what == "root.crl" else factory.issuing
    world = await open_world(CONFIGURATION)
    for unfit in (
        crl(factory.issuing if issuer is factory.root else factory.root),
        crl(issuer, signer=forger.root),
        crl(issuer, extensions=[(HERE, True)]),
    ):
        (files / what).write_bytes(unfit)
        status, text = await enroll(world, factory, device)
        assert status == 403
        assert "no current CRL" in text
    (files / what).write_bytes(crl(issuer))
    assert (await enroll(world, factory, device))[0] == 200
    world.clock.advance(dt.timedelta(days=1))
    assert (await enroll(world, factory, device))[0] == 403
    world.clock.advance(dt.timedelta(days=-1, hours=-3))
    assert (await enroll(world, factory, device))[0] == 403


async def test_a_broken_file_changes_nothing_until_the_list_is_overdue(
    open_world: OpenWorld, files: Path, factory: Factory
) -> None:
    world = await open_world(CONFIGURATION)
    mine, other = factory.device("SN-1"), factory.device("SN-2")
    (files / "issuing.crl").write_bytes(crl(factory.issuing, mine))
    assert (await enroll(world, factory, mine))[0] == 403
    (files / "issuing.crl").write_bytes(b"<html>")
    with capture_logs() as logs:
        assert (await enroll(world, factory, mine))[0] == 403
        assert (await enroll(world, factory, other))[0] == 200
    assert ["issuing.crl" in each.get("detail", "") for each in logs] == [True]
    (files / "issuing.crl").unlink()
    assert (await enroll(world, factory, mine))[0] == 403
    world.clock.advance(dt.timedelta(days=1))
    assert (await enroll(world, factory, other))[0] == 403


def test_a_list_for_those_that_point_to_it(factory: Factory) -> None:
    """Section 6.3.3 (b) (2): one of several shards says nothing of the others' certificates."""
    (shard,) = crls.parse(crl(factory.issuing, extensions=[(HERE, True)]))
    issuing = factory.issuing.certificate
    pointing, other = (factory.device("SN-1", crl=url).certificate for url in (URL, URL + "2"))
    assert shard.is_for(pointing, issuing)
    assert not shard.is_for(other, issuing)


@pytest.mark.parametrize("part", ["reasons", "crl_issuer"])
def test_a_point_for_some_reasons_or_of_another_issuer(factory: Factory, part: str) -> None:
    """Section 6.3.3 (d): the list there does not say everything of this certificate."""
    (shard,) = crls.parse(crl(factory.issuing, extensions=[(HERE, True)]))
    issuing = factory.issuing
    values: dict[str, Any] = {
        "reasons": frozenset([x509.ReasonFlags.key_compromise]),
        "crl_issuer": [x509.DirectoryName(factory.root.certificate.subject)],
    }
    limit = {"reasons": None, "crl_issuer": None, part: values[part]}
    where = x509.DistributionPoint([x509.UniformResourceIdentifier(URL)], None, **limit)
    now = factory.now
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuing.certificate.subject)
        .public_key(issuing.key.public_key())
        .serial_number(5)
        .not_valid_before(now)
        .not_valid_after(now)
        .add_extension(x509.CRLDistributionPoints([where]), critical=False)
        .sign(issuing.key, hashes.SHA256())
    )
    assert not shard.is_for(certificate, issuing.certificate)


def test_two_lists(factory: Factory) -> None:
    """Of which one says that it is revoked."""
    device = factory.device("SN-1")
    path = [device.certificate, factory.issuing.certificate]
    good = crls.parse(crl(factory.issuing))
    bad = crls.parse(crl(factory.issuing, device))
    now = factory.now
    crls.check(path, good, now)
    for lists in ([*good, *bad], [*bad, *good]):
        with pytest.raises(PKIError, match="is revoked"):
            crls.check(path, lists, now)


@pytest.mark.parametrize(
    "extension",
    [
        point(only_contains_user_certs=True),
        point(only_contains_ca_certs=True),
        point(only_contains_attribute_certs=True),
        point(indirect_crl=True),
        point(only_some_reasons=frozenset([x509.ReasonFlags.key_compromise])),
        x509.DeltaCRLIndicator(1),
        x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0"),
    ],
)
def test_lists_that_do_not_say_everything(factory: Factory, extension: x509.ExtensionType) -> None:
    with pytest.raises(MalformedMessage):
        crls.parse(crl(factory.issuing, extensions=[(extension, True)]))


def test_what_is_no_list(factory: Factory) -> None:
    good = crl(factory.issuing)
    for data in (
        b"", good[:-1], good + b"\0", factory.root.der, encode_pem("CERTIFICATE", good),
        pem_chain([factory.root.certificate]), b"0" * (crls.MAX_SIZE + 1),
    ):  # fmt: skip
        with pytest.raises(MalformedMessage):
            crls.parse(data)


@given(st.binary(max_size=200), st.booleans())
def test_parsing_raises_malformed_only(data: bytes, armoured: bool) -> None:
    with contextlib.suppress(MalformedMessage):
        crls.parse(encode_pem("X509 CRL", data) if armoured else b"0" + data)


async def test_mistakes_in_the_configuration(open_world: OpenWorld, files: Path) -> None:
    for text, what in (
        ('[est.default]\nclient_crl = ["root.crl"]\n', "client_ca"),
        (CONFIGURATION.replace("root.crl", "missing.crl"), "missing.crl"),
        (CONFIGURATION.replace("root.crl", "factory.pem"), "client_crl"),
    ):
        with pytest.raises(PKIError) as refused:
            await open_world(text)
        assert refused.value.code is ErrorCode.CONFIGURATION
        assert what in refused.value.detail
