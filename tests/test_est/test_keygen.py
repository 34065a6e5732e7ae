"""serverkeygen (RFC 7030 section 4.4, E19)."""

import base64
import email
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from pkiserver.cms import certs_only, content_info, enveloped_data, oids, signed_data
from pkiserver.pkix import cert, der
from protocols.est import keygen
from protocols.est.attributes import (
    ASYMMETRIC_DECRYPT_KEY_ID,
    DECRYPT_KEY_ID,
    SMIME_CAPABILITIES,
)
from protocols.est.service import decrypt_key
from tests.test_est.conftest import OpenWorld
from tests.test_est.support import PASSWORD, Held, World, issued, make_csr, new_key, peer_with

ALICE = ("alice", PASSWORD)


def parts(answer: httpx.Response) -> tuple[str, bytes, x509.Certificate]:
    """The media type and content of the key's part, and the certificate."""
    assert answer.status_code == 200, answer.text
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    read = email.message_from_bytes(head + answer.content)
    first, second = read.get_payload()  # type: ignore[str-unpack]
    assert second["Content-Type"] == "application/pkcs7-mime; smime-type=certs-only"  # type: ignore[index]
    (certificate,) = certs_only.parse(base64.b64decode(second.get_payload()))  # type: ignore[union-attr, arg-type]
    for part in (first, second):
        assert part["Content-Transfer-Encoding"] == "base64"  # type: ignore[index]
    return first["Content-Type"], base64.b64decode(first.get_payload()), certificate  # type: ignore


@pytest.mark.parametrize("kind", ["p256", "rsa-2048"])
async def test_plain(open_world: OpenWorld, kind: str) -> None:
    world = await open_world(f'[est.default]\nserver_keys = "{kind}"\n')
    await world.add_user()
    own = new_key()
    answer = await world.post(
        "serverkeygen", make_csr("dev1", ["dev1.example.org"], key=own), auth=ALICE
    )
    media_type, content, certificate = parts(answer)
    key = load_der_private_key(content, None)
    assert media_type == "application/pkcs8"
    assert key.public_key() == certificate.public_key()
    assert certificate.public_key() != own.public_key()
    assert isinstance(key, rsa.RSAPrivateKey if kind == "rsa-2048" else ec.EllipticCurvePrivateKey)
    assert certificate.subject.rfc4514_string() == "CN=dev1"
    assert answer.headers["cache-control"] == "no-store"


async def test_the_clients_signature_means_nothing(world: World) -> None:
    """Section 4.4.1: its key and signature are ignored."""
    request = bytearray(make_csr())
    request[-3] ^= 1
    parts(await world.post("serverkeygen", bytes(request), auth=ALICE))


async def test_each_time_another_key(world: World) -> None:
    request = make_csr()
    first = parts(await world.post("serverkeygen", request, auth=ALICE))
    second = parts(await world.post("serverkeygen", request, auth=ALICE))
    assert first[1] != second[1]


async def test_off(open_world: OpenWorld) -> None:
    world = await open_world('[est.default]\nserver_keys = "off"\n')
    await world.add_user()
    assert (await world.post("serverkeygen", make_csr(), auth=ALICE)).status_code == 404


async def test_no_key_is_in_the_audit_log(world: World) -> None:
    _, content, _ = parts(await world.post("serverkeygen", make_csr(), auth=ALICE))
    text = str(await world.rows("SELECT detail FROM audit")).encode()
    assert base64.b64encode(content)[20:60] not in text
    assert content.hex().encode()[20:60] not in text


def octets(value: bytes) -> bytes:
    return der.encode(der.OCTET_STRING, value)


def capabilities(*dotted: str) -> bytes:
    each = (der.encode(der.SEQUENCE, der.encode_oid(oid)) for oid in dotted)
    return der.encode(der.SEQUENCE, *each)


AES128, AES256 = "2.16.840.1.101.3.4.1.2", "2.16.840.1.101.3.4.1.42"


def opened_package(world: World, inner: bytes) -> bytes:
    """The PKCS #8 in a decrypted key package, whose signature is checked."""
    signed = signed_data.parse(content_info.encode(oids.SIGNED_DATA, inner))
    assert signed.content_type == keygen.KEY_PACKAGE
    (signer,) = signed.signers
    certificate = signed_data.signer_certificate(signed, signer)
    signed_data.verify(signed, signer, certificate.public_key())
    certificate.verify_directly_issued_by(world.runtime.services.authorities.certificate("issuing"))
    assert signed.content is not None
    (package,) = der.sequence_of(signed.content)
    return package.encoded


@pytest.mark.parametrize("wished", [(), (AES128,), ("1.2.3", AES256, AES128)])
async def test_encrypted_for_a_user(world: World, wished: tuple[str, ...]) -> None:
    """Section 4.4.1.1: DecryptKeyIdentifier is the user's name."""
    attributes = {DECRYPT_KEY_ID: octets(b"alice")}
    if wished:
        attributes[SMIME_CAPABILITIES] = capabilities(*wished)
    request = make_csr(key=new_key(), attributes=attributes)
    media_type, content, certificate = parts(await world.post("serverkeygen", request, auth=ALICE))
    assert media_type == "application/pkcs7-mime; smime-type=server-generated-key"
    ((user,),) = await world.rows("SELECT id FROM est_users")
    secret = decrypt_key(world.runtime.services, str(user))
    enveloped = enveloped_data.parse(content)
    inner = enveloped_data.decrypt_kek(enveloped, b"alice", secret)
    key = load_der_private_key(opened_package(world, inner), None)
    assert key.public_key() == certificate.public_key()


async def test_the_package_signers_own_certificate_waits_for_nobody(open_world: OpenWorld) -> None:
    world = await open_world("[profiles.tls-server]\nrequires_approval = true\n[est.default]\n")
    await world.add_user()
    request = make_csr(key=new_key(), attributes={DECRYPT_KEY_ID: octets(b"alice")})
    parts(await world.post("serverkeygen", request, auth=ALICE))


async def rsa_client(world: World) -> tuple[x509.Certificate, rsa.RSAPrivateKey]:
    key = rsa.generate_private_key(65537, 2048)
    answer = await world.post("simpleenroll", make_csr("dev1", key=key), auth=ALICE)
    return issued(answer), key


async def test_encrypted_for_the_clients_certificate(world: World) -> None:
    """Section 4.4.1.2: AsymmetricDecryptKeyIdentifier is its subjectKeyIdentifier."""
    own, own_key = await rsa_client(world)
    identifier = cert.subject_key_identifier(own)
    assert identifier is not None
    attributes = {
        ASYMMETRIC_DECRYPT_KEY_ID: octets(identifier),
        SMIME_CAPABILITIES: capabilities(AES256),
    }
    request = make_csr("dev1", key=new_key(), attributes=attributes)
    peer = peer_with(Held(own, new_key()))
    _, content, certificate = parts(await world.post("serverkeygen", request, peer=peer))
    enveloped = enveloped_data.parse(content)
    inner = enveloped_data.decrypt_key_transport(enveloped, own, own_key)
    key = load_der_private_key(opened_package(world, inner), None)
    assert key.public_key() == certificate.public_key()


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is needed")
async def test_encrypted_for_a_certificate_with_an_ec_key(world: World, tmp_path: Path) -> None:
    """Section 4.4.1.2 with key agreement; OpenSSL is the client."""
    held = await world.enroll("dev1")
    identifier = cert.subject_key_identifier(held.certificate)
    assert identifier is not None
    attributes = {ASYMMETRIC_DECRYPT_KEY_ID: octets(identifier)}
    request = make_csr("dev1", key=new_key(), attributes=attributes)
    _, content, certificate = parts(await world.post("serverkeygen", request, peer=peer_with(held)))
    pem = held.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "client.pem").write_bytes(pem + held.certificate.public_bytes(Encoding.PEM))
    inner = subprocess.run(
        ["openssl", "cms", "-decrypt", "-inform", "DER", "-inkey", "client.pem",
         "-recip", "client.pem"],
        input=content, capture_output=True, check=True, cwd=tmp_path,
    ).stdout  # fmt: skip
    key = load_der_private_key(opened_package(world, inner), None)
    assert key.public_key() == certificate.public_key()


@pytest.mark.parametrize(
    ("attributes", "status"),
    [
        ({DECRYPT_KEY_ID: octets(b"bob")}, 403),
        ({ASYMMETRIC_DECRYPT_KEY_ID: octets(b"\1\2")}, 403),
        ({DECRYPT_KEY_ID: octets(b"alice"), SMIME_CAPABILITIES: capabilities("1.2.3")}, 400),
        ({DECRYPT_KEY_ID: octets(b"alice"), ASYMMETRIC_DECRYPT_KEY_ID: octets(b"\1")}, 400),
        ({DECRYPT_KEY_ID: octets(b"")}, 400),
    ],
)
async def test_what_cannot_be_encrypted_is_not_issued(
    world: World, attributes: dict[str, bytes], status: int
) -> None:
    """No certificate, and never the key in the clear where protection was asked for."""
    request = make_csr(key=new_key(), attributes=attributes)
    answer = await world.post("serverkeygen", request, auth=ALICE)
    assert answer.status_code == status
    assert await world.certificates() == 0
    assert len(await world.refusals()) == 1


async def test_names_are_checked_as_ever(open_world: OpenWorld) -> None:
    world = await open_world()
    await world.add_user(names={"cn": ["dev1"]})
    assert (await world.post("serverkeygen", make_csr("dev2"), auth=ALICE)).status_code == 403


async def test_the_request_is_signed_anew() -> None:
    key = new_key()
    request = await keygen.with_key(make_csr("dev1", ["a.example.org"], challenge="x"), key)
    read = x509.load_der_x509_csr(request)
    assert read.is_signature_valid
    assert read.public_key() == key.public_key()
    assert len(read.attributes) == 2
    key.public_key().verify(read.signature, read.tbs_certrequest_bytes, ec.ECDSA(hashes.SHA256()))
