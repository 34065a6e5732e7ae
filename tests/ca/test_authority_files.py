"""Files an operator brings: read whole and strictly, or refused with one exception."""

import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs7,
    pkcs12,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.ca.authority_files import (
    MAX_FILE_SIZE,
    read_certificates,
    read_pkcs12,
    read_private_key,
)
from pkiserver.errors import MalformedMessage
from pkiserver.pkix.pem import encode_pem, pem_chain
from tests.ca.authority_support import OutsideCA, below, outside_root

PASSWORD = b"secret"
CA: OutsideCA = below(outside_root())
CHAIN = list(CA.path)
P7B = pkcs7.serialize_certificates(CHAIN, Encoding.DER)
KEY = CA.key
PKCS8 = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
ENCRYPTED = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(PASSWORD))
P12 = pkcs12.serialize_key_and_certificates(
    b"ca",
    KEY,  # type: ignore[arg-type]
    CHAIN[0],
    CHAIN[1:],
    BestAvailableEncryption(PASSWORD),
)


def test_certificates_as_pem_der_and_pkcs7() -> None:
    assert read_certificates(pem_chain(CHAIN)) == CHAIN
    assert read_certificates(CHAIN[0].public_bytes(Encoding.DER)) == CHAIN[:1]
    assert set(read_certificates(P7B)) == set(CHAIN)
    assert set(read_certificates(encode_pem("PKCS7", P7B))) == set(CHAIN)
    assert set(read_certificates(encode_pem("CMS", P7B) + pem_chain(CHAIN[:1]))) == set(CHAIN)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\n", b"garbage", PKCS8, pem_chain(CHAIN) + PKCS8, pem_chain(CHAIN)[:-30],
        CHAIN[0].public_bytes(Encoding.DER) + b"\x00", P7B[:-1], P7B + b"\x00", b"0\x00",
        bytes(MAX_FILE_SIZE + 1), encode_pem("CERTIFICATE", b"0\x00"), encode_pem("PKCS7", b"0"),
    ],
)  # fmt: skip
def test_files_without_certificates_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        read_certificates(data)


def same(key: object) -> bool:
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key.public_key() == KEY.public_key()


def test_private_keys_as_pem_and_der() -> None:
    assert same(read_private_key(PKCS8))
    assert same(read_private_key(ENCRYPTED, PASSWORD))
    der = KEY.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    assert same(read_private_key(der))
    traditional = KEY.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    assert same(read_private_key(traditional))


@pytest.mark.parametrize(
    ("data", "password", "why"),
    [
        (ENCRYPTED, None, "needs its password"),
        (ENCRYPTED, b"wrong", "does not open"),
        (PKCS8, PASSWORD, "is not encrypted"),
        (b"", None, "does not open"),
        (bytes(MAX_FILE_SIZE + 1), None, "larger"),
        (pem_chain(CHAIN), None, "does not open"),
        (
            x25519.X25519PrivateKey.generate().private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
            ),
            None,
            "no private key of a kind that signs",
        ),
    ],
)
def test_keys_that_do_not_open_say_why(data: bytes, password: bytes | None, why: str) -> None:
    with pytest.raises(MalformedMessage, match=why) as caught:
        read_private_key(data, password)
    assert "secret" not in caught.value.detail


def test_pkcs12_holds_key_and_certificates() -> None:
    found = read_pkcs12(P12, PASSWORD)
    assert same(found.key)
    assert found.certificates[0] == CHAIN[0] and set(found.certificates) == set(CHAIN)
    assert "PrivateKey" not in repr(found)


@pytest.mark.parametrize(
    ("data", "password"),
    [(P12, b"wrong"), (P12, None), (b"", None), (P12[:-1], PASSWORD), (P7B, PASSWORD),
     (bytes(MAX_FILE_SIZE + 1), None)],
)  # fmt: skip
def test_pkcs12_that_does_not_open_is_refused(data: bytes, password: bytes | None) -> None:
    with pytest.raises(MalformedMessage):
        read_pkcs12(data, password)


def test_pkcs12_without_a_key_is_refused() -> None:
    data = pkcs12.serialize_key_and_certificates(None, None, None, CHAIN, NoEncryption())
    with pytest.raises(MalformedMessage, match="no private key"):
        read_pkcs12(data, None)


@given(st.one_of(st.binary(max_size=300), st.integers(0, len(P7B) - 1).map(lambda n: P7B[:n])))
@settings(max_examples=100)
def test_any_bytes_are_read_or_refused_typed(data: bytes) -> None:
    for read in (read_certificates, read_private_key, lambda b: read_pkcs12(b, PASSWORD)):
        with pytest.raises(MalformedMessage):
            read(data)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")
def test_files_as_openssl_writes_them(tmp_path: Path) -> None:
    (tmp_path / "chain.pem").write_bytes(pem_chain(CHAIN))
    (tmp_path / "key.pem").write_bytes(PKCS8)

    def openssl(*arguments: str) -> bytes:
        done = subprocess.run(
            ["openssl", *arguments], cwd=tmp_path, capture_output=True, check=True
        )
        return done.stdout

    for form in ("DER", "PEM"):
        written = openssl("crl2pkcs7", "-nocrl", "-certfile", "chain.pem", "-outform", form)
        assert set(read_certificates(written)) == set(CHAIN)
    written = openssl(
        "pkcs12", "-export", "-in", "chain.pem", "-inkey", "key.pem", "-passout", "pass:secret"
    )
    assert set(read_pkcs12(written, PASSWORD).certificates) == set(CHAIN)
    written = openssl("ec", "-in", "key.pem", "-aes256", "-passout", "pass:secret")
    assert same(read_private_key(written, PASSWORD))
