"""A SCEP client, sans-IO: makes messages as devices make them and reads the answers. Variants of
real devices are keyword arguments."""

import base64
import datetime as dt
import functools
import hashlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from pkiserver.cms import (
    attributes,
    certs_only,
    content_info,
    enveloped_data,
    key_transport,
    oids,
    recipients,
    signed_data,
)
from pkiserver.cms.content_info import Algorithm, issuer_and_serial
from pkiserver.cms.key_transport import scheme_of
from pkiserver.cms.recipients import KeyTransRecipientInfo
from pkiserver.cms.signatures import hash_of
from pkiserver.pkix import der
from protocols.scep import messages
from protocols.scep.messages import MessageType

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
CHALLENGE_OID = "1.2.840.113549.1.9.7"


@functools.cache
def rsa_key(number: int = 0, bits: int = 2048) -> rsa.RSAPrivateKey:
    """Keys by number, made once per run."""
    return rsa.generate_private_key(65537, bits)


def make_csr(
    key: Key,
    common_name: str = "device-1",
    *,
    challenge: str | None = None,
    challenge_tag: int = der.UTF8_STRING,
    names: Sequence[x509.GeneralName] = (),
    digest: str = "sha256",
    extra: Sequence[tuple[str, bytes]] = (),
) -> bytes:
    """PKCS#10 by hand, so that attributes and string types are what the test wants. `extra` are
    attributes: type and the DER of the only value."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    wanted = list(extra)
    if challenge is not None:
        wanted.append((CHALLENGE_OID, der.encode(challenge_tag, _text(challenge, challenge_tag))))
    if names:
        san = der.encode(der.OCTET_STRING, x509.SubjectAlternativeName(names).public_bytes())
        extension = der.encode(der.SEQUENCE, der.encode_oid("2.5.29.17"), san)
        request = der.encode(der.SEQUENCE, extension)
        wanted.append(("1.2.840.113549.1.9.14", request))
    info = der.encode(
        der.SEQUENCE,
        der.encode_integer(0),
        subject.public_bytes(),
        _spki(key),
        der.encode(0xA0, *attributes.encode(wanted)),
    )
    algorithm, signature = _sign_csr(key, info, digest)
    return der.encode(der.SEQUENCE, info, algorithm, der.encode_bit_string(signature))


def _text(text: str, tag: int) -> bytes:
    codecs = {der.BMP_STRING: "utf-16-be", der.T61_STRING: "latin-1"}
    return text.encode(codecs.get(tag, "utf-8"))


def _spki(key: Key) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _sign_csr(key: Key, info: bytes, digest: str) -> tuple[bytes, bytes]:
    if isinstance(key, rsa.RSAPrivateKey):
        oid = next(oid for oid, name in oids.RSA_WITH.items() if name == digest)
        algorithm = der.encode(der.SEQUENCE, der.encode_oid(oid), der.encode(der.NULL))
        return algorithm, key.sign(info, padding.PKCS1v15(), hash_of(digest))
    oid = next(oid for oid, name in oids.ECDSA_WITH.items() if name == digest)
    return der.encode(der.SEQUENCE, der.encode_oid(oid)), key.sign(info, ec.ECDSA(hash_of(digest)))


def self_signed(key: Key, common_name: str = "device-1", serial: int = 1) -> x509.Certificate:
    """What a device makes for itself: expired long ago (S35)."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = x509.CertificateBuilder(name, name, key.public_key(), serial, START, START)
    return builder.sign(key, hashes.SHA256())


@dataclass
class Rep:
    """An answer that was verified as a strict client verifies it."""

    status: str
    fail_info: str | None
    text: str | None
    transaction_id: str
    sender_nonce: bytes
    recipient_nonce: bytes | None
    content: bytes | None
    digest: str
    content_encryption: str | None
    key_transport: tuple[str, str | None] | None
    message: signed_data.SignedData

    @property
    def certificates(self) -> tuple[x509.Certificate, ...]:
        assert self.content is not None
        return certs_only.parse(self.content)

    @property
    def certificate(self) -> x509.Certificate:
        return self.certificates[0]


@dataclass
class Device:
    """A key, the certificate it signs with, and the certificates of the CA."""

    key: Key
    ca: tuple[x509.Certificate, ...]
    certificate: x509.Certificate
    common_name: str = "device-1"

    @classmethod
    def new(
        cls,
        ca: tuple[x509.Certificate, ...],
        *,
        number: int = 0,
        key: Key | None = None,
        common_name: str = "device-1",
    ) -> "Device":
        own = key or rsa_key(number)
        return cls(own, ca, self_signed(own, common_name), common_name)

    def with_certificate(self, certificate: x509.Certificate) -> "Device":
        return Device(self.key, self.ca, certificate, self.common_name)

    @property
    def ra(self) -> x509.Certificate:
        return self.ca[0]

    @property
    def transaction_id(self) -> str:
        """As strongSwan: of the key."""
        return hashlib.sha1(_spki(self.key)).hexdigest().upper()

    def csr(self, challenge: str | None = None, **options: Any) -> bytes:
        return make_csr(
            options.pop("key", self.key),
            options.pop("common_name", self.common_name),
            challenge=challenge,
            **options,
        )

    def pkcs_req(self, challenge: str | None = None, **options: Any) -> bytes:
        """A PKCSReq; options of `csr` in a dict under that name."""
        csr = self.csr(challenge, **options.pop("csr", {}))
        return self.message(MessageType.PKCS_REQ, csr, **options)

    def renewal_req(self, **options: Any) -> bytes:
        csr = self.csr(None, **options.pop("csr", {}))
        return self.message(MessageType.RENEWAL_REQ, csr, **options)

    def cert_poll(self, **options: Any) -> bytes:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.common_name)])
        data = der.encode(der.SEQUENCE, self.ca[1].subject.public_bytes(), subject.public_bytes())
        return self.message(MessageType.CERT_POLL, data, **options)

    def get_cert(self, wanted: x509.Certificate, **options: Any) -> bytes:
        data = issuer_and_serial(wanted.public_bytes(Encoding.DER)).encode()
        return self.message(options.pop("kind", MessageType.GET_CERT), data, **options)

    def get_crl(self, wanted: x509.Certificate, **options: Any) -> bytes:
        return self.get_cert(wanted, kind=MessageType.GET_CRL, **options)

    def message(
        self,
        kind: str,
        data: bytes | None,
        *,
        transaction_id: str | None = None,
        digest: str = "sha256",
        encryption: str = "aes128-cbc",
        key_transport: Literal["rsa-v1.5", "oaep"] = "rsa-v1.5",
        oaep_digest: str = "sha256",
        nonce: bytes | None = b"\x01" * 16,
        recipient: x509.Certificate | None = None,
        drop: Sequence[str] = (),
        tag: int = der.PRINTABLE_STRING,
        ber: bool = False,
    ) -> bytes:
        """A pkiMessage. `drop` leaves attributes out, `tag` is the string type of the others,
        `ber` encodes with indefinite lengths and strings in segments."""
        envelope = None
        if data is not None:
            envelope = encrypt(data, recipient or self.ra, encryption, key_transport, oaep_digest)
            envelope = indefinite(envelope) if ber else envelope
        identifier = transaction_id or self.transaction_id
        sent = [
            (messages.MESSAGE_TYPE, der.encode(tag, _text(kind, tag))),
            (messages.TRANSACTION_ID, der.encode(tag, _text(identifier, tag))),
        ]
        if nonce is not None:
            sent.append((messages.SENDER_NONCE, der.encode(der.OCTET_STRING, nonce)))
        sent = [(oid, value) for oid, value in sent if oid not in drop]
        tbs = signed_data.to_be_signed(envelope, oids.DATA, digest, sent)
        message = signed_data.encode(tbs, self._sign(tbs.data, digest), self.certificate)
        return indefinite(message) if ber else message

    def _sign(self, data: bytes, digest: str) -> bytes:
        if isinstance(self.key, rsa.RSAPrivateKey):
            return self.key.sign(data, padding.PKCS1v15(), hash_of(digest))
        return self.key.sign(data, ec.ECDSA(hash_of(digest)))

    def read(self, body: bytes, *, password: str | None = None) -> Rep:
        """The answer, or an AssertionError: what jscep and strongSwan look at is looked at."""
        message = signed_data.parse(body)
        (signer,) = message.signers
        own = signed_data.signer_certificate(message, signer)
        assert own == self.ra, "signed by the registration authority"
        assert signer.signature_algorithm.oid == oids.RSA, "S1: rsaEncryption"
        signed_data.verify(message, signer, own.public_key(), allow_legacy=True)
        assert signer.signed_attributes is not None
        elements = der.children(der.read_one(signer.signed_attributes, der.SET).contents)
        encoded = [each.encoded for each in elements]
        assert encoded == sorted(encoded), "S6: DER order"
        assert _printable(signer, messages.MESSAGE_TYPE) == MessageType.CERT_REP
        status = _printable(signer, messages.PKI_STATUS)
        assert status is not None
        nonce = attributes.single(signer.attributes, messages.SENDER_NONCE, der.OCTET_STRING)
        assert nonce is not None and len(nonce.contents) == 16, "S7"
        recipient = attributes.single(signer.attributes, messages.RECIPIENT_NONCE, der.OCTET_STRING)
        text = attributes.single(signer.attributes, messages.FAIL_INFO_TEXT, der.UTF8_STRING)
        assert (message.content is not None) == (status == "0"), "S8: no eContent but in SUCCESS"
        content, encryption, scheme = self._decrypt(message.content, password)
        return Rep(
            status=status,
            fail_info=_printable(signer, messages.FAIL_INFO),
            text=None if text is None else text.contents.decode(),
            transaction_id=_printable(signer, messages.TRANSACTION_ID) or "",
            sender_nonce=nonce.contents,
            recipient_nonce=None if recipient is None else recipient.contents,
            content=content,
            digest=signer.digest,
            content_encryption=encryption,
            key_transport=scheme,
            message=message,
        )

    def _decrypt(
        self, envelope: bytes | None, password: str | None
    ) -> tuple[bytes | None, str | None, tuple[str, str | None] | None]:
        """(content, its encryption, how its key was transported), as far as there are any."""
        if envelope is None:
            return None, None, None
        enveloped = enveloped_data.parse(envelope)
        if password is not None:
            content = enveloped_data.decrypt_password(enveloped, password.encode())
            return content, enveloped.content_encryption, None
        assert isinstance(self.key, rsa.RSAPrivateKey)
        content = enveloped_data.decrypt_key_transport(enveloped, self.certificate, self.key)
        (info,) = enveloped.recipients
        assert isinstance(info, KeyTransRecipientInfo)
        return content, enveloped.content_encryption, scheme_of(info)


def _printable(signer: signed_data.SignerInfo, oid: str) -> str | None:
    element = attributes.single(signer.attributes, oid, der.PRINTABLE_STRING)
    return None if element is None else element.contents.decode("ascii")


def encrypt(
    data: bytes,
    recipient: x509.Certificate,
    encryption: str = "aes128-cbc",
    scheme: Literal["rsa-v1.5", "oaep"] = "rsa-v1.5",
    oaep_digest: str = "sha256",
) -> bytes:
    if encryption == "des-cbc":
        return _with_des(data, recipient)
    return enveloped_data.encrypt(
        data, recipient, encryption, key_transport=scheme, oaep_digest=oaep_digest
    )


def _with_des(data: bytes, recipient: x509.Certificate) -> bytes:
    """As old routers encrypt; our own library does not. Triple DES with one key thrice is DES."""
    key, vector = secrets.token_bytes(8), secrets.token_bytes(8)
    public_key = recipient.public_key()
    assert isinstance(public_key, rsa.RSAPublicKey)
    encryptor = Cipher(TripleDES(key * 3), modes.CBC(vector)).encryptor()
    missing = 8 - len(data) % 8
    ciphertext = encryptor.update(data + bytes([missing]) * missing) + encryptor.finalize()
    info = key_transport.encrypt_key(
        key, recipient.public_bytes(Encoding.DER), public_key, "rsa-v1.5", "sha256"
    )
    algorithm = Algorithm("1.3.14.3.2.7", der.encode(der.OCTET_STRING, vector))
    content = der.encode(
        der.SEQUENCE, der.encode_oid(oids.DATA), algorithm.encode(), der.encode(0x80, ciphertext)
    )
    body = (der.encode_integer(0), der.encode(der.SET, recipients.encode(info)), content)
    return content_info.encode(oids.ENVELOPED_DATA, der.encode(der.SEQUENCE, *body))


def indefinite(message: bytes) -> bytes:
    """BER as Apple and jscep send it: indefinite lengths down to the content, which comes in
    segments. Signed attributes and certificates stay as they are."""
    outer = der.sequence_of(message)
    content = der.read_one(outer[1].contents)
    members = der.children(content.contents)
    parts = [_encapsulated(member) for member in members]
    inner = _indefinite(der.SEQUENCE, *parts)
    return _indefinite(der.SEQUENCE, outer[0].encoded, _indefinite(0xA0, inner))


def _encapsulated(member: der.TLV) -> bytes:
    """EncapsulatedContentInfo or EncryptedContentInfo in segments, anything else as it is."""
    if member.tag != der.SEQUENCE:
        return member.encoded
    parts = list(der.children(member.contents))
    last = parts[-1]
    if last.tag == 0xA0:
        data = der.read_one(last.contents, der.OCTET_STRING).contents
        final = _indefinite(0xA0, _segments(0x24, data))
    elif last.tag == 0x80:
        final = _segments(0xA0, last.contents)
    else:
        return member.encoded
    return _indefinite(der.SEQUENCE, *(part.encoded for part in parts[:-1]), final)


def _segments(tag: int, data: bytes) -> bytes:
    pieces = [data[start : start + 1000] for start in range(0, len(data), 1000)]
    return _indefinite(tag, *(der.encode(der.OCTET_STRING, piece) for piece in pieces))


def _indefinite(tag: int, *contents: bytes) -> bytes:
    return bytes((tag, 0x80)) + b"".join(contents) + b"\x00\x00"


def get_url(message: bytes, form: Callable[[str], str] = lambda text: quote(text, safe="")) -> str:
    """The query of a PKIOperation by GET."""
    return f"operation=PKIOperation&message={form(base64.b64encode(message).decode())}"


def new_transaction() -> str:
    return secrets.token_hex(16)
