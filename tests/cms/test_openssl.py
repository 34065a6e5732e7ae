"""The `openssl cms` command as the other side, both ways (RFC 5652; S4, S10, S22, S32)."""

import functools
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from pkiserver.cms import certs_only, content_encryption, enveloped_data, oids, signed_data
from pkiserver.errors import PKIError
from tests.cms import support

OPENSSL = shutil.which("openssl")
pytestmark = pytest.mark.skipif(OPENSSL is None, reason="needs the openssl command")

CONTENT = b"a request, or a certificate" * 200
KEK = bytes(range(32))
ALGORITHMS = {
    "des-ede3-cbc": "-des3",
    "aes128-cbc": "-aes128",
    "aes192-cbc": "-aes192",
    "aes256-cbc": "-aes256",
    "aes128-gcm": "-aes-128-gcm",
    "aes192-gcm": "-aes-192-gcm",
    "aes256-gcm": "-aes-256-gcm",
}
CMS = Callable[..., bytes]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("openssl")
    for name, key in (("rsa", support.rsa_key), ("ec", support.ec_key)):
        (folder / f"{name}.pem").write_bytes(support.pem_of(support.certificate(key)))
        (folder / f"{name}.key").write_bytes(support.key_pem(key()))
    (folder / "content").write_bytes(CONTENT)
    (folder / "empty").write_bytes(b"")
    return folder


@pytest.fixture
def cms(folder: Path) -> CMS:
    """`openssl cms` with these arguments; its output, or a CalledProcessError."""
    return functools.partial(_run, folder)


def _run(folder: Path, arguments: str, data: bytes | None = None) -> bytes:
    assert OPENSSL is not None
    if data is not None:
        (folder / "message").write_bytes(data)
    return subprocess.run(
        [OPENSSL, *arguments.split()], cwd=folder, capture_output=True, check=True, timeout=30
    ).stdout


@pytest.mark.parametrize("form", ["", "-stream", "-stream -keyid", "-nosmimecap"])
@pytest.mark.parametrize("key", ["rsa", "ec"])
@pytest.mark.parametrize("digest", ["sha256", "sha512"])
def test_signatures_of_openssl_verify(cms: CMS, form: str, key: str, digest: str) -> None:
    _verify(
        cms(
            f"cms -sign -binary -nodetach {form} -md {digest} -in content -signer {key}.pem "
            f"-inkey {key}.key -outform DER"
        )
    )


def test_rsassa_pss_and_signatures_without_attributes_verify(cms: CMS) -> None:
    signer = "-in content -signer rsa.pem -keyopt rsa_padding_mode:pss -inkey rsa.key"
    _verify(cms(f"cms -sign -binary -nodetach {signer} -outform DER"))
    plain = signer.replace("-keyopt rsa_padding_mode:pss", "")
    _verify(cms(f"cms -sign -binary -nodetach -noattr {plain} -outform DER"))


def _verify(data: bytes) -> None:
    signed = signed_data.parse(data)
    (signer,) = signed.signers
    certificate = signed_data.signer_certificate(signed, signer)
    signed_data.verify(signed, signer, certificate.public_key())
    assert signed.content == CONTENT


@pytest.mark.parametrize("key", ["rsa", "ec"])
@pytest.mark.parametrize("digest", ["sha1", "sha256", "sha512"])
def test_openssl_verifies_our_signatures(cms: CMS, key: str, digest: str) -> None:
    private = support.rsa_key if key == "rsa" else support.ec_key
    data = support.sign(CONTENT, key=private, digest=digest)
    options = f"-CAfile {key}.pem -purpose any -inform DER -in message -binary"
    assert cms(f"cms -verify {options}", data) == CONTENT
    data = support.sign(None, key=private, digest=digest)
    assert cms(f"cms -verify {options} -content empty", data) == b""


def test_openssl_reads_bundles(cms: CMS) -> None:
    data = certs_only.encode([support.certificate(), support.certificate(support.ec_key)])
    printed = cms("pkcs7 -inform DER -in message -print_certs", data)
    assert x509.load_pem_x509_certificates(printed) == list(certs_only.parse(data))


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize(
    "options",
    [
        "-recip rsa.pem",
        "-stream -keyid -recip rsa.pem",
        "-stream -recip rsa.pem -keyopt rsa_padding_mode:oaep",
        "-recip rsa.pem -keyopt rsa_padding_mode:oaep -keyopt rsa_oaep_md:sha256",
    ],
)
def test_envelopes_of_openssl_decrypt(cms: CMS, name: str, options: str) -> None:
    data = cms(f"cms -encrypt -binary -in content {ALGORITHMS[name]} -outform DER {options}")
    enveloped = enveloped_data.parse(data)
    assert enveloped.content_encryption == name
    decrypted = enveloped_data.decrypt_key_transport(
        enveloped, support.certificate(), support.rsa_key()
    )
    assert decrypted == CONTENT


@pytest.mark.parametrize("name", ALGORITHMS)
def test_passwords_and_keys_of_openssl_decrypt(cms: CMS, name: str) -> None:
    encrypt = f"cms -encrypt -binary -stream -in content {ALGORITHMS[name]} -outform DER"
    for size in (16, 24, 32):
        data = cms(f"{encrypt} -secretkey {KEK[:size].hex()} -secretkeyid 0102")
        enveloped = enveloped_data.parse(data)
        assert enveloped_data.decrypt_kek(enveloped, b"\x01\x02", KEK[:size]) == CONTENT
    if not name.endswith("gcm"):
        enveloped = enveloped_data.parse(cms(f"{encrypt} -pwri_password secret"))
        assert enveloped_data.decrypt_password(enveloped, b"secret") == CONTENT


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("content_type", [oids.DATA, oids.SIGNED_DATA])
def test_openssl_decrypts_our_envelopes(cms: CMS, name: str, content_type: str) -> None:
    def decrypts(data: bytes, options: str) -> None:
        try:
            found = cms(f"cms -decrypt -binary -inform DER -in message {options}", data)
        except subprocess.CalledProcessError as error:
            if b"Type=CMS_AuthEnvelopedData" in error.stderr and content_type != oids.DATA:
                pytest.skip("this openssl (3.0.20 is one) does not read authAttrs (RFC 5083)")
            raise
        assert found == CONTENT

    rsa, ec = support.certificate(), support.certificate(support.ec_key)
    encrypt = functools.partial(enveloped_data.encrypt, CONTENT, content_type=content_type)
    decrypts(encrypt(rsa, name), "-recip rsa.pem -inkey rsa.key")
    decrypts(encrypt(rsa, name, key_transport="oaep"), "-recip rsa.pem -inkey rsa.key")
    decrypts(encrypt(ec, name), "-recip ec.pem -inkey ec.key")
    decrypts(
        enveloped_data.encrypt_kek(CONTENT, b"\x01\x02", KEK, name, content_type=content_type),
        f"-secretkey {KEK.hex()} -secretkeyid 0102",
    )
    decrypts(
        enveloped_data.encrypt_password(
            CONTENT, b"secret", name, iterations=10, content_type=content_type
        ),
        "-pwri_password secret",
    )


def test_single_des_of_openssl_decrypts_where_allowed(cms: CMS) -> None:
    try:
        data = cms(
            "cms -encrypt -binary -provider legacy -provider default -in content -des-cbc "
            "-outform DER -recip rsa.pem"
        )
    except subprocess.CalledProcessError:
        pytest.skip("this openssl has no single DES")
    enveloped = enveloped_data.parse(data)
    decrypt = functools.partial(
        enveloped_data.decrypt_key_transport, enveloped, support.certificate(), support.rsa_key()
    )
    assert decrypt(allow_legacy=True) == CONTENT
    with pytest.raises(PKIError):
        decrypt()


def test_every_algorithm_is_tried_against_openssl() -> None:
    assert {*ALGORITHMS, "des-cbc"} == set(content_encryption.KEY_SIZES)
