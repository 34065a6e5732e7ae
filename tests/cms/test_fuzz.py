"""Damaged messages: a result or one of the two refusals, never another error, never much time."""

import functools
import random
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interop import mutations
from pkiserver.cms import ber, certs_only, content_info, enveloped_data, signed_data
from pkiserver.errors import PKIError
from pkiserver.pkix import der
from tests.cms import support

# What a certificate may have wrong and be read all the same.
pytestmark = pytest.mark.filterwarnings(
    "ignore::cryptography.utils.CryptographyDeprecationWarning", "ignore::UserWarning"
)

KEK = bytes(16)


def try_signed(data: bytes) -> None:
    try:
        signed = signed_data.parse(data)
        for signer in signed.signers:
            certificate = signed_data.signer_certificate(signed, signer)
            key = certificate.public_key()
            signed_data.verify(signed, signer, key, allow_legacy=True)
    except PKIError:
        return


def try_certificates(data: bytes) -> None:
    try:
        certs_only.parse(data)
    except PKIError:
        return


def try_enveloped(data: bytes) -> None:
    try:
        enveloped = enveloped_data.parse(data)
    except PKIError:
        return
    for decrypt in (
        functools.partial(
            enveloped_data.decrypt_key_transport,
            recipient_certificate=support.certificate(),
            private_key=support.rsa_key(),
            allow_legacy=True,
        ),
        functools.partial(enveloped_data.decrypt_kek, key_identifier=b"id", key=KEK),
        functools.partial(enveloped_data.decrypt_password, password=b"secret"),
    ):
        try:
            decrypt(enveloped)
        except PKIError:
            continue


def _corpus() -> dict[str, tuple[bytes, Callable[[bytes], None]]]:
    own, ec = support.certificate(), support.certificate(support.ec_key)
    signed = support.sign(b"content", key=support.ec_key)
    enveloped = enveloped_data.encrypt(b"content", own, key_transport="oaep")
    kek = enveloped_data.encrypt_kek(b"c", b"id", KEK, "aes128-gcm", content_type="1.2.3")
    return {
        "signed": (signed, try_signed),
        "signed, BER": (support.to_ber(signed, chunk=20), try_signed),
        "enveloped": (enveloped, try_enveloped),
        "enveloped, BER": (support.to_ber(enveloped, chunk=9, implicit=True), try_enveloped),
        "with a key": (kek, try_enveloped),
        "with a password": (
            enveloped_data.encrypt_password(b"content", b"secret", iterations=1),
            try_enveloped,
        ),
        "agreed": (enveloped_data.encrypt(b"content", ec), try_enveloped),
        "certificates": (certs_only.encode([ec]), try_certificates),
    }


CORPUS = _corpus()


@pytest.mark.parametrize("name", CORPUS)
def test_cut_off_before_each_octet(name: str) -> None:
    message, attempt = CORPUS[name]
    for cut in mutations.truncations(message):
        with pytest.raises(PKIError):
            content_info.parse(cut)
        attempt(cut)


@pytest.mark.parametrize("mask", [0xFF, 0x01])
@pytest.mark.parametrize("name", CORPUS)
def test_each_octet_changed(name: str, mask: int) -> None:
    message, attempt = CORPUS[name]
    for damaged in mutations.flips(message, mask):
        attempt(damaged)


@pytest.mark.parametrize("name", CORPUS)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_changed_in_many_ways(name: str, seed: int) -> None:
    message, attempt = CORPUS[name]
    attempt(mutations.mutate(message, random.Random(seed)))


@pytest.mark.parametrize("name", [name for name in CORPUS if "BER" not in name])
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_elements_changed_in_messages_that_are_der(name: str, seed: int) -> None:
    message, attempt = CORPUS[name]
    attempt(mutations.restructure(message, random.Random(seed)))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400))
def test_random_octets(data: bytes) -> None:
    for attempt in (try_signed, try_enveloped, try_certificates):
        attempt(data)
        attempt(content_info.encode("1.2.840.113549.1.7.2", der.encode(der.SEQUENCE, data)))
        attempt(content_info.encode("1.2.840.113549.1.7.3", der.encode(der.SEQUENCE, data)))


@pytest.mark.parametrize(
    "data",
    [
        b"\x30\x80" * (ber.MAX_SIZE // 2),
        b"\x24\x80" * (ber.MAX_SIZE // 2),
        der.encode(der.SEQUENCE, b"\x05\x00" * (ber.MAX_SIZE // 2 - 4)),
        der.encode(der.SEQUENCE, b"\x30\x00" * (ber.MAX_SIZE // 2 - 4)),
        b"\x24\x80" + b"\x04\x00" * (ber.MAX_SIZE // 2 - 2) + b"\x00\x00",
        (b"\x30\x80" * 31 + b"\x05\x00" * 19_000).ljust(ber.MAX_SIZE, b"\x00"),
    ],
)
def test_the_time_for_hostile_octets_is_bounded(data: bytes) -> None:
    started = time.process_time()
    for attempt in (try_signed, try_enveloped, try_certificates):
        attempt(data)
    assert time.process_time() - started < 2


@pytest.mark.parametrize("name", CORPUS)
def test_mutations_are_the_same_for_the_same_numbers(name: str) -> None:
    message, _ = CORPUS[name]
    for change in (mutations.mutate, mutations.restructure):
        if change is mutations.restructure and "BER" in name:
            continue
        made = {change(message, random.Random(seed)) for seed in range(20)}
        assert made == {change(message, random.Random(seed)) for seed in range(20)}
        assert len(made) > 10
