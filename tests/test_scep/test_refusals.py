"""What is refused, and how: CertRep FAILURE with HTTP 200 for what can be read, 400 with a line of
text for what cannot (RFC 8894 section 3.2.1.4, S8, S9, S36). Nothing is ever a 500."""

import base64
import contextlib
import datetime as dt
import random
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.cms import oids, signed_data
from pkiserver.errors import ErrorCode, MalformedMessage, PKIError
from pkiserver.pkix import csr, der
from protocols.scep import messages, query, validity
from protocols.scep.fail_info import FAIL_INFO_OF_CODE, FailInfo, Refusal, fail_info, fail_info_text
from protocols.scep.messages import CertRep, MessageType, PKIStatus
from tests.test_scep.client import (
    Device,
    encrypt,
    get_url,
    make_csr,
    new_transaction,
    rsa_key,
    self_signed,
)
from tests.test_scep.conftest import OpenWorld
from tests.test_scep.world import World


async def refused(world: World, device: Device, message: bytes, label: str = "default") -> Any:
    rep = await world.send(device, message, label)
    assert rep.status == PKIStatus.FAILURE
    assert rep.text
    return rep


def test_every_error_code_has_a_fail_info() -> None:
    assert set(FAIL_INFO_OF_CODE) == set(ErrorCode)
    assert fail_info(Refusal(FailInfo.BAD_TIME, "x")) is FailInfo.BAD_TIME
    assert fail_info_text(PKIError(ErrorCode.INTERNAL, "a secret path")) == "internal error"


@pytest.mark.parametrize("challenge", ["wrong", None, "A" * 32, "A" * 9000])
async def test_wrong_challenges(world: World, challenge: str | None) -> None:
    """1.3.9: FAILURE badRequest with HTTP 200, recorded, nothing issued."""
    device = await world.device()
    rep = await refused(world, device, device.pkcs_req(challenge))
    assert rep.fail_info == FailInfo.BAD_REQUEST
    assert await world.issued() == 0
    (row,) = await world.refusals()
    assert row["failInfo"] == "BAD_REQUEST" and row["rule"].startswith("scep.challenge.")
    assert challenge is None or challenge not in str(row)


@pytest.mark.parametrize(
    "options",
    [
        {"digest": "md5"},
        {"digest": "sha1"},
        {"encryption": "des-cbc"},
        {"csr": {"digest": "sha1"}},
        {"csr": {"digest": "md5"}},
    ],
    ids=str,
)
async def test_weak_algorithms_only_with_legacy(open_world: OpenWorld, options: Any) -> None:
    """S31: badAlg unless the section says legacy."""
    world = await open_world(old={"legacy": True})
    device = await world.device()
    message = device.pkcs_req(await world.challenge(), **dict(options))
    assert (await refused(world, device, message)).fail_info == FailInfo.BAD_ALG
    challenge = await world.challenge("old")
    message = device.pkcs_req(challenge, **dict(options))
    rep = await world.send(device, message, "old")
    assert rep.status == "0", rep.text
    if "digest" in options:
        assert rep.digest == options["digest"]
    if "encryption" in options:
        assert rep.content_encryption == "des-ede3-cbc"


async def test_short_keys(world: World) -> None:
    """S25: Apple's default of 1024 bits."""
    device = await world.device(key=rsa_key(0, 1024))
    rep = await refused(world, device, device.pkcs_req(await world.challenge()))
    assert rep.fail_info == FailInfo.BAD_ALG


async def test_a_signature_that_does_not_verify(world: World) -> None:
    """S5: badMessageCheck."""
    device = await world.device()
    message = device.pkcs_req(await world.challenge())
    rep = await refused(world, device, message[:-1] + bytes([message[-1] ^ 1]))
    assert rep.fail_info == FailInfo.BAD_MESSAGE_CHECK
    assert await world.issued() == 0


async def test_content_that_was_replaced(world: World) -> None:
    """1.3.3: messageDigest is compared."""
    device = await world.device()
    message = device.pkcs_req(await world.challenge())
    envelope = messages.parse(message).envelope
    other = encrypt(device.csr(await world.challenge()), device.ra)
    assert envelope is not None and len(other) == len(envelope)
    rep = await refused(world, device, message.replace(envelope, other))
    assert rep.fail_info == FailInfo.BAD_MESSAGE_CHECK


async def test_a_message_for_somebody_else(world: World) -> None:
    device = await world.device()
    message = device.pkcs_req(await world.challenge(), recipient=device.certificate)
    rep = await refused(world, device, message)
    assert rep.fail_info == FailInfo.BAD_MESSAGE_CHECK
    assert "not encrypted for this registration authority" in rep.text


async def test_whatever_is_wrong_inside_looks_the_same(world: World) -> None:
    """S4: no oracle. A key that is none, a padding that is none, content that is none."""
    device = await world.device()
    good = device.csr(await world.challenge())
    contents = [b"", b"noise", good[:-1], good + b"\x00", good[:-5] + b"wrong", good[::-1]]
    texts = {
        (await refused(world, device, device.message(MessageType.PKCS_REQ, content))).text
        for content in contents
    }
    envelope = encrypt(good, device.ra)
    for position in (-1, -17, -40, 200):
        broken = bytearray(envelope)
        broken[position] ^= 1
        tbs = signed_data.to_be_signed(
            bytes(broken), oids.DATA, "sha256",
            [
                (messages.MESSAGE_TYPE, der.encode(der.PRINTABLE_STRING, b"19")),
                (messages.TRANSACTION_ID, der.encode(der.PRINTABLE_STRING, b"t")),
            ],
        )  # fmt: skip
        message = signed_data.encode(tbs, device._sign(tbs.data, "sha256"), device.certificate)
        rep = await refused(world, device, message)
        assert rep.fail_info == FailInfo.BAD_MESSAGE_CHECK
        if position != 200:
            texts.add(rep.text)
    assert len(texts) == 1
    assert await world.issued() == 0


@pytest.mark.parametrize("kind", ["0", "3", "4", "23", "9999"])
async def test_unknown_message_types(world: World, kind: str) -> None:
    device = await world.device()
    rep = await refused(world, device, device.message(kind, b"0\x00"))
    assert rep.fail_info == FailInfo.BAD_REQUEST


@pytest.mark.parametrize("kind", [MessageType.CERT_POLL, MessageType.GET_CERT, MessageType.GET_CRL])
@pytest.mark.parametrize("content", [b"", b"\x30\x00", b"\x04\x01a", b"junk"])
async def test_queries_that_ask_nothing(world: World, kind: str, content: bytes) -> None:
    device = await world.device()
    rep = await refused(world, device, device.message(kind, content))
    assert rep.fail_info == FailInfo.BAD_MESSAGE_CHECK


async def test_a_message_without_content(world: World) -> None:
    device = await world.device()
    rep = await refused(world, device, device.message(MessageType.PKCS_REQ, None))
    assert rep.fail_info == FailInfo.BAD_MESSAGE_CHECK


@pytest.mark.parametrize(
    "options",
    [
        {"drop": [messages.TRANSACTION_ID]},
        {"drop": [messages.MESSAGE_TYPE]},
        {"transaction_id": "x" * 256},
        {"nonce": b"x" * 65},
    ],
    ids=str,
)
async def test_messages_that_cannot_be_answered_are_400(world: World, options: Any) -> None:
    """S36."""
    device = await world.device()
    answer = await world.post(device.pkcs_req("x", **options))
    assert answer.status_code == 400
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.text.count("\n") == 1


async def test_what_policy_refuses(open_world: OpenWorld) -> None:
    world = await open_world(
        strict={"profile": "strict"},
        profiles={"strict": {"issuer": "issuing", "validity": "1d", "subject": "CN={cn}",
                             "dns": {"allow": ["*.corp.example"]}}},
    )  # fmt: skip
    device = await world.device()
    message = device.pkcs_req(
        await world.challenge("strict"), csr={"names": [x509.DNSName("other.example")]}
    )
    rep = await refused(world, device, message, "strict")
    assert rep.fail_info == FailInfo.BAD_REQUEST
    assert "other.example" in rep.text


# Bytes of every kind


def outcome(device: Device, status: int, body: bytes) -> str:
    if status == 200:
        return f"FAILURE {device.read(body).fail_info}"
    return str(status)


async def test_truncated_at_every_byte(world: World) -> None:
    """Issue: malformed and truncated CMS gets only 4xx or FAILURE, never a 500."""
    device = await world.device()
    message = device.pkcs_req("x", encryption="aes256-cbc")
    for length in range(0, len(message), 7):
        answer = await world.post(message[:length])
        assert answer.status_code == 400, length


async def test_a_changed_byte_anywhere(world: World) -> None:
    device = await world.device()
    rng = random.Random(8894)
    for message in (device.pkcs_req("x"), device.pkcs_req("x", ber=True), device.cert_poll()):
        for _ in range(60):
            changed = bytearray(message)
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
            answer = await world.post(bytes(changed))
            assert answer.status_code in (200, 400)
            if answer.status_code == 200:
                parsed = signed_data.parse(answer.content)
                assert parsed.content is None, "nothing but FAILURE"
    assert await world.issued() == 0


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_the_parsers_raise_one_exception(data: bytes) -> None:
    for parse in (
        messages.parse,
        messages.parse_issuer_and_serial,
        messages.parse_issuer_and_subject,
        query.parse_query,
        query.decode_message,
    ):
        with contextlib.suppress(MalformedMessage):
            parse(data)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_message_with_changes_is_read_or_malformed(data: st.DataObject) -> None:
    message = bytearray(_SAMPLE)
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MalformedMessage):
        messages.parse(bytes(message))


def _sample() -> bytes:
    key = rsa_key()
    certificate = self_signed(key)
    return Device(key, (certificate, certificate), certificate).pkcs_req("x")


_SAMPLE = _sample()


def test_round_trip() -> None:
    message = messages.parse(_SAMPLE)
    assert message.message_type == MessageType.PKCS_REQ
    assert message.sender_nonce == b"\x01" * 16
    messages.verify(message, allow_legacy=False)


def test_answers_are_whole() -> None:
    with pytest.raises(ValueError, match="envelope"):
        CertRep(PKIStatus.SUCCESS)
    with pytest.raises(ValueError, match="failInfo"):
        CertRep(PKIStatus.FAILURE)
    with pytest.raises(ValueError, match="failInfo"):
        CertRep(PKIStatus.PENDING, fail_info=FailInfo.BAD_ALG)


# Limits


async def test_addresses_that_fail_too_often_wait(open_world: OpenWorld) -> None:
    """Guessing a challenge is slow; the rest is not recorded either."""
    world = await open_world(few={"failures_per_address": "3/1h"})
    device = await world.device()
    for n in range(5):
        message = device.pkcs_req("guess", transaction_id=new_transaction())
        rep = await refused(world, device, message, "few")
        assert ("too many" in rep.text) == (n >= 3)
    assert len(await world.refusals()) == 3
    good = device.pkcs_req(await world.challenge("few"), transaction_id=new_transaction())
    assert "too many" in (await refused(world, device, good, "few")).text
    world.clock.advance(dt.timedelta(hours=1))
    assert (await world.send(device, good, "few")).status == "2"  # the challenge has expired


async def test_a_device_that_enrols_too_often_waits(open_world: OpenWorld) -> None:
    """Per subject, over all keys and processes."""
    world = await open_world(few={"enrolments_per_device": "2/1h"})
    for number in range(3):
        device = await world.device(number=number)
        rep = await world.send(device, device.pkcs_req(await world.challenge("few")), "few")
        assert rep.status == ("0" if number < 2 else "2")
    assert "too many certificates for this subject" in (rep.text or "")
    other = await world.device(number=3, common_name="device-2")
    rep = await world.send(other, other.pkcs_req(await world.challenge("few")), "few")
    assert rep.status == "0"


@given(st.binary(max_size=300))
@settings(max_examples=60, deadline=None)
def test_get_messages_survive_every_form(data: bytes) -> None:
    """S12."""
    text = base64.b64encode(data)
    for form in (
        text,
        text.rstrip(b"="),
        text.replace(b"+", b" "),
        text.replace(b"+", b"-").replace(b"/", b"_"),
        b"\r\n".join(text[n : n + 64] for n in range(0, len(text), 64)),
    ):
        assert query.decode_message(form) == data
    parsed = query.parse_query(get_url(data).encode())
    assert query.decode_message(parsed.message) == data
    raw = query.parse_query(b"message=" + text + b"&Operation=x&other=1")
    assert (raw.operation, query.decode_message(raw.message)) == ("x", data)


def test_a_parameter_twice_is_refused() -> None:
    with pytest.raises(MalformedMessage):
        query.parse_query(b"operation=GetCACert&operation=PKIOperation")


def test_validity_of_requests_without_a_wish() -> None:
    assert validity.wished_validity(make_csr(rsa_key())) is None
    broken = (csr.ENROLLMENT_NAME_VALUE_PAIR_OID, der.encode(der.SEQUENCE))
    assert validity.wished_validity(make_csr(rsa_key(), extra=[broken])) is None
