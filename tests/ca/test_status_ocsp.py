"""OCSP answers (RFC 6960, RFC 9654, RFC 9919) and delegated responders, on a real database."""

import asyncio
import datetime as dt
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pkiserver.ca import encoding, ocsp_codec
from pkiserver.ca.audit import verify
from pkiserver.ca.authorities import Authorities
from pkiserver.ca.issuance import Issued
from pkiserver.ca.model import Reason
from pkiserver.ca.ocsp import MAX_WAITING
from pkiserver.clock import SystemClock
from pkiserver.config import OCSPSettings
from pkiserver.config_types import KeyKind
from pkiserver.errors import ErrorCode, MalformedMessage, PKIError
from pkiserver.pkix import algorithms, der
from pkiserver.storage import Row, Transaction
from tests.ca.status_support import (
    ACTOR,
    NOW,
    PKI,
    ask,
    ask_serial,
    has,
    open_pki,
    pem,
    tool,
    wish,
)
from tests.pkilint import pkilint

HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)
MLDSA = mldsa.MLDSA44PublicKey | mldsa.MLDSA65PublicKey | mldsa.MLDSA87PublicKey
ALGORITHMS: list[hashes.HashAlgorithm] = [
    hashes.SHA1(),
    hashes.SHA256(),
    hashes.SHA384(),
    hashes.SHA512(),
]


@pytest.fixture
async def pki(tmp_path: Path) -> AsyncIterator[PKI]:
    async with open_pki(tmp_path) as made:
        yield made


def load(data: bytes) -> ocsp.OCSPResponse:
    response = ocsp.load_der_ocsp_response(data)
    assert response.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL
    return response


def responder_of(response: ocsp.OCSPResponse) -> x509.Certificate:
    (certificate,) = response.certificates
    return certificate


def assert_signed(response: ocsp.OCSPResponse, issuer: x509.Certificate) -> None:
    """By a responder that the issuer itself named (RFC 6960 section 4.2.2.2)."""
    responder = responder_of(response)
    responder.verify_directly_issued_by(issuer)
    verify_signature(responder.public_key(), response.signature, response.tbs_response_bytes)
    bits = encoding.fields_of(responder).key_bits
    assert response.responder_key_hash == hashlib.sha1(bits).digest()
    assert response.responder_name is None


def verify_signature(key: CertificatePublicKeyTypes, signature: bytes, data: bytes) -> None:
    """What a relying party does with the response, by another implementation."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        digest = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[key.key_size]
        key.verify(signature, data, ec.ECDSA(digest))
    elif isinstance(key, rsa.RSAPublicKey):
        key.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
    else:
        assert isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey | MLDSA)
        key.verify(signature, data)


async def refusal(pki: PKI, request: bytes, authority: str = "issuing") -> ErrorCode:
    with pytest.raises(PKIError) as caught:
        await pki.status.ocsp(authority, request)
    return caught.value.code


def several(*serials_of: tuple[x509.Certificate, x509.Certificate]) -> bytes:
    """One request about several certificates."""
    singles = []
    for certificate, issuer in serials_of:
        tbs = der.sequence_of(der.sequence_of(ask(certificate, issuer))[0].encoded)
        singles.append(der.children(tbs[-1].contents)[0].encoded)
    return der.encode(der.SEQUENCE, der.encode(der.SEQUENCE, der.encode(der.SEQUENCE, *singles)))


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: str(a.name))
async def test_good_for_what_was_issued(pki: PKI, algorithm: hashes.HashAlgorithm) -> None:
    issued = await pki.issue()
    request = ask(issued.certificate, pki.certificate(), algorithm)
    answer = await pki.status.ocsp("issuing", request)
    response = load(answer.der)
    assert_signed(response, pki.certificate())
    assert response.certificate_status is ocsp.OCSPCertStatus.GOOD
    assert response.serial_number == issued.record.serial
    assert isinstance(response.hash_algorithm, type(algorithm))
    asked = ocsp_codec.parse_request(request).cert_ids[0]
    assert asked.encoded in answer.der, "the CertID is echoed octet for octet"


async def test_times_are_whole_seconds_in_order(pki: PKI) -> None:
    """RFC 9919: thisUpdate, producedAt and nextUpdate; nextUpdate is always there."""
    pki.clock.advance(dt.timedelta(microseconds=999_999))
    issued = await pki.issue()
    answer = await pki.status.ocsp("issuing", ask(issued.certificate, pki.certificate()))
    response = load(answer.der)
    assert response.this_update_utc == response.produced_at_utc == NOW == answer.this_update
    assert response.next_update_utc == NOW + pki.settings.ocsp.validity == answer.next_update
    assert answer.cacheable


@pytest.mark.parametrize("reason", [Reason.KEY_COMPROMISE, Reason.UNSPECIFIED, Reason.SUPERSEDED])
async def test_revoked_at_once_in_every_process(pki: PKI, reason: Reason) -> None:
    issued = await pki.issue()
    request = ask(issued.certificate, pki.certificate())
    other = pki.another_process()
    for service in (pki.status, other):
        good = load((await service.ocsp("issuing", request)).der)
        assert good.certificate_status is ocsp.OCSPCertStatus.GOOD
    pki.clock.advance(HOUR)
    await pki.revoke(issued, reason)
    for service in (pki.status, other):
        response = load((await service.ocsp("issuing", request)).der)
        assert response.certificate_status is ocsp.OCSPCertStatus.REVOKED
        assert response.revocation_time_utc == NOW + HOUR
        shown = response.revocation_reason
        assert (shown.value if shown else "unspecified") == reason.value


async def test_a_hold_is_visible_and_so_is_its_release(pki: PKI) -> None:
    issued = await pki.issue()
    request = ask(issued.certificate, pki.certificate())
    await pki.revoke(issued, Reason.CERTIFICATE_HOLD)
    held = load((await pki.status.ocsp("issuing", request)).der)
    assert held.revocation_reason is x509.ReasonFlags.certificate_hold
    await pki.revocation.release("issuing", issued.record.serial, actor=ACTOR)
    freed = load((await pki.status.ocsp("issuing", request)).der)
    assert freed.certificate_status is ocsp.OCSPCertStatus.GOOD


@pytest.mark.parametrize("serial", [1, 2**64, 2**158 + 12345])
async def test_never_good_for_a_serial_that_was_not_used(pki: PKI, serial: int) -> None:
    """Invariant 5; RFC 9919: no authoritative record is `unauthorized`."""
    request = ask_serial(serial, pki.certificate())
    assert await refusal(pki, request) is ErrorCode.UNAUTHORIZED


async def test_never_good_while_signing_nor_when_abandoned(pki: PKI) -> None:
    """A serial that is reserved has no certificate yet: it is answered as not issued."""
    issued = await pki.issue()
    request = ask(issued.certificate, pki.certificate())
    for status in ("signing", "abandoned"):
        await set_status(pki, issued, status)
        assert await refusal(pki, request) is ErrorCode.UNAUTHORIZED
    await set_status(pki, issued, "issued")
    assert await pki.status.ocsp("issuing", request)


async def set_status(pki: PKI, issued: Issued, status: str) -> None:
    await pki.database.write(
        lambda tx: tx.execute(
            "UPDATE certificates SET status = ? WHERE id = ?", (status, issued.record.id)
        )
    )


async def test_during_issuance_the_serial_is_not_good(pki: PKI) -> None:
    """Before the first transaction, and after a crash before the second."""
    prepared = await pki.prepare()
    request = ask_serial(prepared.serial, pki.certificate())
    assert await refusal(pki, request) is ErrorCode.UNAUTHORIZED
    with pytest.raises(RuntimeError, match="crash"):
        await pki.issuance.issue(prepared, on_issued=_crash)
    assert await refusal(pki, request) is ErrorCode.UNAUTHORIZED
    assert await pki.issuance.recover(dt.timedelta(0)) == 1
    found = load((await pki.status.ocsp("issuing", request)).der)
    assert found.certificate_status is ocsp.OCSPCertStatus.GOOD


def _crash(tx: Transaction) -> None:
    raise RuntimeError("crash")


async def test_another_issuer_is_unauthorized(pki: PKI) -> None:
    """By either hash: the same name with another key, the same key under another name."""
    issued = await pki.issue()
    assert await refusal(pki, ask(issued.certificate, pki.certificate("root"))) is (
        ErrorCode.UNAUTHORIZED
    )
    asked = ocsp_codec.parse_request(ask(issued.certificate, pki.certificate())).cert_ids[0]
    for name_hash, key_hash in (
        (asked.issuer_name_hash, bytes(32)),
        (bytes(32), asked.issuer_key_hash),
        (asked.issuer_name_hash[:20], asked.issuer_key_hash[:20]),
    ):
        request = ocsp.OCSPRequestBuilder().add_certificate_by_hash(
            name_hash.ljust(32, b"\0"), key_hash.ljust(32, b"\0"), asked.serial, hashes.SHA256()
        )
        data = request.build().public_bytes(Encoding.DER)
        assert await refusal(pki, data) is ErrorCode.UNAUTHORIZED


async def test_an_issuers_certificate_asked_at_the_wrong_authority(pki: PKI) -> None:
    issued = await pki.issue()
    request = ask(issued.certificate, pki.certificate())
    assert await refusal(pki, request, "root") is ErrorCode.UNAUTHORIZED
    assert await refusal(pki, request, "nobody") is ErrorCode.NOT_FOUND


async def test_sub_ca_is_answered_for_by_its_parent(pki: PKI) -> None:
    """A CA certificate of ours is in the inventory as any other."""
    request = ask(pki.certificate(), pki.certificate("root"))
    response = load((await pki.status.ocsp("root", request)).der)
    assert_signed(response, pki.certificate("root"))
    assert response.certificate_status is ocsp.OCSPCertStatus.GOOD


async def test_several_certificates_are_all_answered_or_none(pki: PKI) -> None:
    one, two = await pki.issue("one.example.com"), await pki.issue("two.example.com")
    await pki.revoke(two)
    issuer = pki.certificate()
    request = several((one.certificate, issuer), (two.certificate, issuer))
    responses = list(load((await pki.status.ocsp("issuing", request)).der).responses)
    assert [(r.serial_number, r.certificate_status) for r in responses] == [
        (one.record.serial, ocsp.OCSPCertStatus.GOOD),
        (two.record.serial, ocsp.OCSPCertStatus.REVOKED),
    ]
    foreign = several((one.certificate, issuer), (one.certificate, pki.certificate("root")))
    assert await refusal(pki, foreign) is ErrorCode.UNAUTHORIZED
    many = several(*[(one.certificate, issuer)] * 20)
    assert len(list(load((await pki.status.ocsp("issuing", many)).der).responses)) == 20


@pytest.mark.parametrize("length", [1, 16, 32, 128])
async def test_nonce_is_repeated_and_not_cacheable(pki: PKI, length: int) -> None:
    """RFC 9654: in responseExtensions."""
    issued = await pki.issue()
    request = ask(issued.certificate, pki.certificate(), nonce=b"n" * length)
    answer = await pki.status.ocsp("issuing", request)
    response = load(answer.der)
    found = response.extensions.get_extension_for_class(x509.OCSPNonce)
    assert found.value.nonce == b"n" * length and not found.critical
    assert len(response.single_extensions) == 0
    assert not answer.cacheable


@pytest.mark.parametrize("length", [0, 129])
async def test_nonce_of_another_length_is_malformed(pki: PKI, length: int) -> None:
    issued = await pki.issue()
    request = ask(issued.certificate, pki.certificate(), nonce=b"n" * length)
    with pytest.raises(MalformedMessage):
        await pki.status.ocsp("issuing", request)


async def test_responder_certificate(pki: PKI) -> None:
    """RFC 6960 section 4.2.2.2, BR 4.9.9 and 7.1.2.8: what it has and what it must not have."""
    issued = await pki.issue()
    answer = await pki.status.ocsp("issuing", ask(issued.certificate, pki.certificate()))
    certificate = responder_of(load(answer.der))
    shown = {extension.oid: extension for extension in certificate.extensions}
    usage = shown[x509.KeyUsage.oid]
    assert usage.critical and usage.value.digital_signature and not usage.value.key_cert_sign
    assert list(shown[x509.ExtendedKeyUsage.oid].value) == [ExtendedKeyUsageOID.OCSP_SIGNING]
    own_ski = pki.certificate().extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    assert shown[x509.AuthorityKeyIdentifier.oid].value.key_identifier == own_ski.value.digest
    assert x509.OCSPNoCheck.oid in shown
    assert set(shown) == {
        x509.KeyUsage.oid,
        x509.ExtendedKeyUsage.oid,
        x509.AuthorityKeyIdentifier.oid,
        x509.SubjectKeyIdentifier.oid,
        x509.OCSPNoCheck.oid,
    }
    assert certificate.not_valid_after_utc - NOW == pki.settings.ocsp.responder_validity
    assert certificate.not_valid_before_utc <= NOW
    assert b"Example" in certificate.subject.public_bytes()


async def test_responder_is_in_the_inventory_and_in_the_audit_log(pki: PKI) -> None:
    """Its serial is accounted for: it can be asked about, like everything the CA signed."""
    await pki.status.start()
    issued = await pki.issue()
    answer = await pki.status.ocsp("issuing", ask(issued.certificate, pki.certificate()))
    certificate = responder_of(load(answer.der))
    again = load((await pki.status.ocsp("issuing", ask(certificate, pki.certificate()))).der)
    assert again.certificate_status is ocsp.OCSPCertStatus.GOOD
    rows = await pki.database.read(
        lambda reader: reader.all("SELECT object FROM audit WHERE action = 'responder.create'")
    )
    assert sorted(rows) == [("issuing",), ("root",)]
    assert (await pki.database.read(verify)).broken is None


async def test_one_responder_for_all_who_ask_at_once(pki: PKI) -> None:
    issued = await pki.issue()
    request = ask(issued.certificate, pki.certificate())
    answers = await asyncio.gather(*(pki.status.ocsp("issuing", request) for _ in range(8)))
    assert len({responder_of(load(answer.der)) for answer in answers}) == 1


async def test_of_several_processes_one_makes_the_responder(pki: PKI) -> None:
    services = [pki.another_process() for _ in range(4)]
    await asyncio.gather(*(service.start() for service in services))
    count = await pki.database.read(
        lambda reader: reader.all("SELECT issuer, COUNT(*) FROM responders GROUP BY issuer")
    )
    assert sorted(count) == [("issuing", 1), ("root", 1)]
    assert len(list((pki.home / "keys").glob("ocsp-*.key"))) == 2
    leases = await pki.database.read(lambda reader: reader.all("SELECT name FROM leases"))
    assert leases == []


async def test_a_lease_left_by_a_crash_ends(pki: PKI) -> None:
    issued = await pki.issue()
    request = ask(issued.certificate, pki.certificate())
    until = int((NOW + dt.timedelta(seconds=60)).timestamp())
    await pki.database.write(
        lambda tx: tx.execute(
            "INSERT INTO leases (name, holder, until) VALUES ('responder:issuing', 'gone', ?)",
            (until,),
        )
    )
    assert await refusal(pki, request) is ErrorCode.UNAVAILABLE
    pki.clock.advance(dt.timedelta(seconds=60))
    assert await pki.status.ocsp("issuing", request)


async def test_responder_is_renewed_ahead_and_the_old_key_deleted(pki: PKI) -> None:
    await pki.status.maintain()
    issued = await pki.issue()
    request = ask(issued.certificate, pki.certificate())
    first = load((await pki.status.ocsp("issuing", request)).der)
    pki.clock.advance(20 * DAY)
    await pki.status.maintain()
    same = load((await pki.status.ocsp("issuing", request)).der)
    assert responder_of(same) == responder_of(first)
    pki.clock.advance(3 * DAY)
    await pki.status.maintain()
    second = load((await pki.another_process().ocsp("issuing", request)).der)
    renewed = load((await pki.status.ocsp("issuing", request)).der)
    assert responder_of(second) == responder_of(renewed) != responder_of(first)
    assert len(list((pki.home / "keys").glob("ocsp-issuing-*.key"))) == 2
    pki.clock.advance(8 * DAY)
    await pki.status.maintain()
    assert len(list((pki.home / "keys").glob("ocsp-issuing-*.key"))) == 1


async def test_a_revoked_responder_signs_no_more(pki: PKI) -> None:
    """Nobody asks for its status (nocheck), so it has to be the CA that stops using it."""
    issued = await pki.issue()
    request = ask(issued.certificate, pki.certificate())
    first = responder_of(load((await pki.status.ocsp("issuing", request)).der))
    await pki.revocation.revoke("issuing", first.serial_number, Reason.KEY_COMPROMISE, actor=ACTOR)
    second = responder_of(load((await pki.status.ocsp("issuing", request)).der))
    assert second != first
    assert responder_of(load((await pki.another_process().ocsp("issuing", request)).der)) == second
    assert len(list((pki.home / "keys").glob("ocsp-issuing-*.key"))) == 2
    await pki.status.maintain()
    assert len(list((pki.home / "keys").glob("ocsp-issuing-*.key"))) == 1
    await pki.revocation.revoke("issuing", second.serial_number, Reason.SUPERSEDED, actor=ACTOR)
    await pki.status.maintain()
    assert responder_of(load((await pki.status.ocsp("issuing", request)).der)) not in (
        first,
        second,
    )


async def test_a_responder_that_lost_its_key_is_replaced(pki: PKI) -> None:
    """As after a restore: nobody should have to wait until it would have been renewed."""
    await pki.status.prepare_offline("issuing", 200 * DAY)
    issued = await pki.issue()
    request = ask(issued.certificate, pki.certificate())
    (key,) = (pki.home / "keys").glob("ocsp-issuing-*.key")
    await pki.keys.delete(key.stem)
    restarted = pki.another_process()
    with pytest.raises(PKIError) as caught:
        await restarted.ocsp("issuing", request)
    assert caught.value.code is ErrorCode.UNAVAILABLE
    await asyncio.gather(*(pki.another_process().maintain() for _ in range(3)))
    answer = load((await restarted.ocsp("issuing", request)).der)
    assert answer.certificate_status is ocsp.OCSPCertStatus.GOOD
    await restarted.maintain()
    assert len(list((pki.home / "keys").glob("ocsp-issuing-*.key"))) == 1


async def test_a_responder_whose_key_is_away_with_all_others_is_not_given_up(pki: PKI) -> None:
    """A folder that is not mounted: when it is back, everything is as it was."""
    await pki.status.prepare_offline("issuing", 200 * DAY)
    issued = await pki.issue()
    request = ask(issued.certificate, pki.certificate())
    before = responder_of(load((await pki.status.ocsp("issuing", request)).der))
    kept = {path: path.read_bytes() for path in (pki.home / "keys").glob("*.key")}
    for path in kept:
        await pki.keys.delete(path.stem)
    await pki.another_process().maintain()
    assert await refusal(replace(pki, status=pki.another_process()), request) is (
        ErrorCode.UNAVAILABLE
    )
    for path, data in kept.items():
        path.write_bytes(data)
        path.chmod(0o600)
    restarted = pki.another_process()
    await restarted.maintain()
    assert responder_of(load((await restarted.ocsp("issuing", request)).der)) == before


async def test_no_answer_outlives_its_responder(tmp_path: Path) -> None:
    """nextUpdate is capped by the responder's notAfter, whatever the configuration."""
    settings = OCSPSettings(validity=10 * DAY, responder_validity=12 * DAY)
    async with open_pki(tmp_path, ocsp=settings) as pki:
        issued = await pki.issue()
        request = ask(issued.certificate, pki.certificate())
        for _ in range(10):
            answer = await pki.status.ocsp("issuing", request)
            end = responder_of(load(answer.der)).not_valid_after_utc
            assert pki.clock.now() < answer.next_update <= end
            pki.clock.advance(2 * DAY)
            await pki.status.maintain()


async def test_responder_ends_with_its_authority(pki: PKI) -> None:
    issued = await pki.issue()
    end = pki.certificate().not_valid_after_utc
    pki.clock.advance(end - NOW - DAY)
    request = ask(issued.certificate, pki.certificate())
    answer = await pki.status.ocsp("issuing", request)
    assert responder_of(load(answer.der)).not_valid_after_utc == end
    pki.clock.advance(2 * DAY)
    assert await refusal(pki, request) is ErrorCode.UNAVAILABLE
    assert (await pki.status.standing("issuing")).responder_problem is None, "nobody asks"


async def test_offline_key_serves_on_with_the_responder_at_hand(pki: PKI) -> None:
    """Then tryLater, until the key is back."""
    await pki.status.prepare_offline("root", 200 * DAY)
    key_id = pki.authorities.get("root").key_id
    key = pki.keys.load(key_id)
    await pki.keys.delete(key_id)
    request = ask(pki.certificate(), pki.certificate("root"))
    assert (await pki.status.standing("root")).responder_problem is None
    pki.clock.advance(190 * DAY)
    await pki.status.maintain()
    assert await pki.status.ocsp("root", request)
    told = (await pki.status.standing("root")).responder_problem
    assert told is not None and "due" in told and "offline" in told
    pki.clock.advance(11 * DAY)
    await pki.status.maintain()
    assert await refusal(pki, request, "root") is ErrorCode.UNAVAILABLE
    assert (await pki.status.standing("root")).responder_problem == told
    await pki.keys.store(key_id, key)
    assert await pki.status.ocsp("root", request)
    assert (await pki.status.standing("root")).responder_problem is None


async def test_pending_authority_has_no_answers(pki: PKI) -> None:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Pending")])
    await pki.authorities.request("pending", subject, "p256", actor="test")
    await pki.status.maintain()
    assert await refusal(pki, ask_serial(5, pki.certificate()), "pending") is (
        ErrorCode.UNAUTHORIZED
    )


async def test_responder_of_an_authority_made_by_another_process(pki: PKI) -> None:
    """The command line makes authorities while the server runs."""
    elsewhere = Authorities(pki.database, pki.clock, pki.keys, pki.audit, pki.settings)
    await elsewhere.load()
    pki.clock.advance(dt.timedelta(seconds=1))
    await elsewhere.create("late", "root", wish("Late", 100), "p256", actor="test")
    request = ask_serial(5, elsewhere.certificate("late"))
    assert await refusal(pki, request, "late") is ErrorCode.UNAUTHORIZED


KINDS = [
    "rsa-2048", "rsa-3072", "rsa-4096", "p384", "p521", "ed25519", "ed448",
    "ml-dsa-44", "ml-dsa-65", "ml-dsa-87",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_of_authority_has_a_responder_of_its_kind(
    tmp_path: Path, kind: KeyKind
) -> None:
    """Who can verify the certificate can verify the answer about it; pkilint finds nothing."""
    async with open_pki(tmp_path, issuing_kind=kind) as pki:
        issued = await pki.issue()
        await pki.revoke(issued)
        request = ask(issued.certificate, pki.certificate())
        answer = await pki.status.ocsp("issuing", request)
        response = load(answer.der)
        assert_signed(response, pki.certificate())
        made = algorithms.describe(responder_of(response).public_key())
        assert made == ("rsa-3072" if kind == "rsa-4096" else kind)
        file = tmp_path / "response.der"
        file.write_bytes(answer.der)
        status, findings = pkilint("lint_ocsp_response", file)
        assert status == 0, findings


async def test_a_key_that_a_crash_left_without_a_certificate_is_removed(pki: PKI) -> None:
    """Between the key and its certificate: found by the draft's row, after an hour, and nothing
    else is touched."""
    await pki.status.maintain()
    left = "ocsp-issuing-0123456789abcdef"
    await pki.keys.generate(left, "p256")
    begun = int(NOW.timestamp())
    await pki.database.write(
        lambda tx: tx.execute("INSERT INTO key_drafts VALUES (?, ?)", (left, begun))
    )
    before = sorted((pki.home / "keys").glob("*.key"))
    pki.clock.advance(HOUR)
    await pki.another_process().maintain()
    assert sorted((pki.home / "keys").glob("*.key")) == before
    pki.clock.advance(dt.timedelta(seconds=1))
    await pki.another_process().maintain()
    after = sorted((pki.home / "keys").glob("*.key"))
    assert set(before) - set(after) == {pki.home / "keys" / f"{left}.key"}
    assert await drafts(pki) == []


async def test_making_a_responder_leaves_no_draft(pki: PKI) -> None:
    await pki.status.maintain()
    assert await drafts(pki) == []


async def test_a_failed_responder_leaves_neither_key_nor_draft(
    pki: PKI, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> bytes:
        raise PKIError(ErrorCode.UNAVAILABLE, "the token was pulled out")

    monkeypatch.setattr("pkiserver.ca.responders.sign", fails)
    issued = await pki.issue()
    assert await refusal(pki, ask(issued.certificate, pki.certificate())) is ErrorCode.UNAVAILABLE
    assert list((pki.home / "keys").glob("ocsp-*.key")) == []
    assert await drafts(pki) == []


async def drafts(pki: PKI) -> list[Row]:
    return await pki.database.read(lambda reader: reader.all("SELECT * FROM key_drafts"))


async def test_unissued_serials_as_unknown(tmp_path: Path) -> None:
    """ocsp.unissued; certificates of other issuers stay `unauthorized`."""
    async with open_pki(tmp_path, ocsp=OCSPSettings(unissued="unknown")) as pki:
        issued = await pki.issue()
        for serial in (1, 2**158 + 1):
            answer = await pki.status.ocsp("issuing", ask_serial(serial, pki.certificate()))
            response = load(answer.der)
            assert_signed(response, pki.certificate())
            assert response.certificate_status is ocsp.OCSPCertStatus.UNKNOWN
            assert len(response.extensions) == 0 and not answer.cacheable
        foreign = ask(issued.certificate, pki.certificate("root"))
        assert await refusal(pki, foreign) is ErrorCode.UNAUTHORIZED


async def test_unissued_serials_as_revoked(tmp_path: Path) -> None:
    """RFC 6960 sections 2.2 and 4.4.8: the extended definition of revoked."""
    async with open_pki(tmp_path, ocsp=OCSPSettings(unissued="revoked")) as pki:
        one = await pki.issue()
        made_up = load((await pki.status.ocsp("issuing", ask_serial(7, pki.certificate()))).der)
        assert_signed(made_up, pki.certificate())
        assert made_up.certificate_status is ocsp.OCSPCertStatus.REVOKED
        assert made_up.revocation_time_utc == dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
        assert made_up.revocation_reason is x509.ReasonFlags.certificate_hold
        (extended,) = made_up.extensions
        assert extended.oid.dotted_string == "1.3.6.1.5.5.7.48.1.9" and not extended.critical
        assert isinstance(extended.value, x509.UnrecognizedExtension)
        assert extended.value.value == b"\x05\x00"
        assert len(made_up.single_extensions) == 0
        good = load((await pki.status.ocsp("issuing", ask(one.certificate, pki.certificate()))).der)
        assert good.certificate_status is ocsp.OCSPCertStatus.GOOD and not len(good.extensions)


@pytest.mark.parametrize("unissued", ["unknown", "revoked"])
@pytest.mark.parametrize("number", [0, -1, -(2**70), 2**159, 2**200])
async def test_numbers_no_certificate_can_have_are_unissued(
    tmp_path: Path, unissued: str, number: int
) -> None:
    async with open_pki(tmp_path, ocsp=OCSPSettings.model_validate({"unissued": unissued})) as pki:
        issued = await pki.issue()
        asked = ask(issued.certificate, pki.certificate())
        cert_id = ocsp_codec.parse_request(asked).cert_ids[0].encoded
        members = der.sequence_of(cert_id)
        changed = der.encode(
            der.SEQUENCE,
            *(member.encoded for member in members[:3]),
            der.encode(der.INTEGER, number.to_bytes(number.bit_length() // 8 + 1, signed=True)),
        )
        single = der.encode(der.SEQUENCE, changed)
        request = der.encode(
            der.SEQUENCE, der.encode(der.SEQUENCE, der.encode(der.SEQUENCE, single))
        )
        response = load((await pki.status.ocsp("issuing", request)).der)
        assert response.certificate_status.name == unissued.upper()
        assert changed in (await pki.status.ocsp("issuing", request)).der


async def test_unissued_among_several(tmp_path: Path) -> None:
    async with open_pki(tmp_path, ocsp=OCSPSettings(unissued="revoked")) as pki:
        issued = await pki.issue()
        made_up = await pki.prepare()
        first = der.sequence_of(
            der.sequence_of(ask(issued.certificate, pki.certificate()))[0].encoded
        )
        second = der.sequence_of(
            der.sequence_of(ask_serial(made_up.serial, pki.certificate()))[0].encoded
        )
        singles = [der.children(each[-1].contents)[0].encoded for each in (first, second)]
        request = der.encode(
            der.SEQUENCE, der.encode(der.SEQUENCE, der.encode(der.SEQUENCE, *singles))
        )
        answer = await pki.status.ocsp("issuing", request)
        found = [each.certificate_status for each in load(answer.der).responses]
        assert found == [ocsp.OCSPCertStatus.GOOD, ocsp.OCSPCertStatus.REVOKED]
        assert not answer.cacheable


async def test_archive_cutoff_with_expired_certificates(tmp_path: Path) -> None:
    """RFC 6960 section 4.4.4: producedAt less the time that status is kept."""
    async with open_pki(tmp_path, ocsp=OCSPSettings(archive_cutoff=365 * DAY)) as pki:
        issued = await pki.issue()
        request = ask(issued.certificate, pki.certificate())
        young = load((await pki.status.ocsp("issuing", request)).der)
        assert len(young.single_extensions) == 0
        await pki.revoke(issued)
        pki.clock.advance(100 * DAY)
        old = load((await pki.status.ocsp("issuing", request)).der)
        assert old.certificate_status is ocsp.OCSPCertStatus.REVOKED
        (cutoff,) = old.single_extensions
        assert cutoff.oid.dotted_string == "1.3.6.1.5.5.7.48.1.6" and not cutoff.critical
        assert isinstance(cutoff.value, x509.UnrecognizedExtension)
        expected = encoding.generalized_time(old.produced_at_utc - 365 * DAY)
        assert cutoff.value.value == expected


async def test_expired_certificates_are_answered_without_archive_cutoff(pki: PKI) -> None:
    issued = await pki.issue()
    pki.clock.advance(100 * DAY)
    request = ask(issued.certificate, pki.certificate())
    response = load((await pki.status.ocsp("issuing", request)).der)
    assert response.certificate_status is ocsp.OCSPCertStatus.GOOD
    assert len(response.single_extensions) == 0


async def test_too_many_signatures_at_once_are_try_later(tmp_path: Path) -> None:
    """A slow signer does not gather a queue without end."""
    async with open_pki(tmp_path, issuing_kind="p384") as pki:
        await pki.status.maintain()
        issued = await pki.issue()
        request = ask(issued.certificate, pki.certificate())
        asked = [pki.status.ocsp("issuing", request) for _ in range(MAX_WAITING + 10)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        refused = [each for each in answers if isinstance(each, PKIError)]
        assert len(refused) == 10
        assert {(each.code, each.retry_after) for each in refused} == {(ErrorCode.UNAVAILABLE, 1)}
        assert await pki.status.ocsp("issuing", request)


async def test_both_hashes_of_rfc_9919_in_one_request(pki: PKI) -> None:
    """A client that asks by SHA-1 and by SHA-256 gets both, each as it was asked."""
    issued = await pki.issue()
    asked = [
        ask(issued.certificate, pki.certificate(), each)
        for each in (hashes.SHA1(), hashes.SHA256())
    ]
    members = [der.sequence_of(der.sequence_of(each)[0].encoded)[-1] for each in asked]
    singles = [der.children(each.contents)[0].encoded for each in members]
    request = der.encode(der.SEQUENCE, der.encode(der.SEQUENCE, der.encode(der.SEQUENCE, *singles)))
    answer = await pki.status.ocsp("issuing", request)
    responses = list(load(answer.der).responses)
    assert [each.hash_algorithm.name for each in responses] == ["sha1", "sha256"]
    for each in asked:
        assert ocsp_codec.parse_request(each).cert_ids[0].encoded in answer.der


@pytest.mark.skipif(not has("openssl"), reason="needs openssl")
@pytest.mark.parametrize("digest", ["sha1", "sha256", "sha384", "sha512"])
async def test_openssl_verifies_the_response(tmp_path: Path, digest: str) -> None:
    async with open_pki(tmp_path, now=SystemClock().now()) as pki:
        good, bad = await pki.issue("good.example.com"), await pki.issue("bad.example.com")
        await pki.revoke(bad)
        root = pem(tmp_path / "root.pem", [pki.certificate("root")])
        issuer = pem(tmp_path / "issuer.pem", [pki.certificate()])
        certs = [
            pem(tmp_path / f"{i}.pem", [each.certificate]) for i, each in enumerate((good, bad))
        ]
        request, response = tmp_path / "request.der", tmp_path / "response.der"
        asked = [part for file in certs for part in (f"-{digest}", "-cert", file)]
        made = tool("openssl", "ocsp", "-no_nonce", "-issuer", issuer, *asked, "-reqout", request)
        assert made.returncode == 0, made.stdout
        answer = await pki.status.ocsp("issuing", request.read_bytes())
        response.write_bytes(answer.der)
        shown = tool(
            "openssl", "ocsp", "-no_nonce", "-respin", response, "-issuer", issuer, *asked,
            "-CAfile", root, "-verify_other", issuer,
        )  # fmt: skip
        assert "Response verify OK" in shown.stdout, shown.stdout
        assert "0.pem: good" in shown.stdout and "1.pem: revoked" in shown.stdout
        assert "Reason: superseded" in shown.stdout


@pytest.mark.skipif(not has("ocsptool"), reason="needs ocsptool")
async def test_gnutls_verifies_the_response(tmp_path: Path) -> None:
    async with open_pki(tmp_path, now=SystemClock().now()) as pki:
        issued = await pki.issue()
        issuer = pem(tmp_path / "issuer.pem", [pki.certificate()])
        response = tmp_path / "response.der"
        answer = await pki.status.ocsp("issuing", ask(issued.certificate, pki.certificate()))
        response.write_bytes(answer.der)
        shown = tool(
            "ocsptool", "--verify-response", "--load-response", response, "--load-trust", issuer
        )
        assert "Success" in shown.stdout, shown.stdout


async def test_pkilint_finds_nothing_in_the_response(pki: PKI, tmp_path: Path) -> None:
    issued = await pki.issue()
    await pki.revoke(issued)
    answer = await pki.status.ocsp("issuing", ask(issued.certificate, pki.certificate()))
    file = tmp_path / "response.der"
    file.write_bytes(answer.der)
    status, findings = pkilint("lint_ocsp_response", file)
    assert status == 0, findings


async def test_pkilint_finds_nothing_in_the_responder_certificate(pki: PKI, tmp_path: Path) -> None:
    issued = await pki.issue()
    answer = await pki.status.ocsp("issuing", ask(issued.certificate, pki.certificate()))
    file = tmp_path / "responder.pem"
    file.write_bytes(responder_of(load(answer.der)).public_bytes(Encoding.PEM))
    status, findings = pkilint("lint_cabf_serverauth_cert", file, "-t", "OCSP-RESPONDER")
    assert status == 0, findings
