"""Keys made by the server (RFC 7030 section 4.4): the request with the new key in it, and the
answer that brings the private key, as it is or encrypted once more inside of TLS.

The client's own key and signature in the request mean nothing (section 4.4.1), so the request is
signed anew with the key that was made for it.
"""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from pkiserver.ca.encoding import signature_algorithm
from pkiserver.cms import enveloped_data, signed_data
from pkiserver.config_types import KeyKind
from pkiserver.errors import ErrorCode, MalformedMessage, PKIError
from pkiserver.keys import PrivateKey, sign
from pkiserver.keys.generate import generate_key
from pkiserver.pkix import algorithms, cert, der
from protocols.est.attributes import RequestAttributes
from protocols.est.codec import Part
from protocols.est.identity import Identity

PKCS8_TYPE = "application/pkcs8"
ENVELOPED_TYPE = "application/pkcs7-mime; smime-type=server-generated-key"
KEY_PACKAGE = "2.16.840.1.101.2.1.2.78.5"
"""id-ct-KP-aKeyPackage (RFC 5958 section 2)."""

_CIPHERS = {
    "2.16.840.1.101.3.4.1.42": "aes256-cbc",
    "2.16.840.1.101.3.4.1.22": "aes192-cbc",
    "2.16.840.1.101.3.4.1.2": "aes128-cbc",
}


async def new_key(kind: KeyKind) -> PrivateKey:
    """In a thread: RSA takes its time."""
    return await asyncio.to_thread(generate_key, kind)


async def with_key(request: bytes, key: PrivateKey) -> bytes:
    """The request in DER for another key: subject and attributes stay, its proof of possession is
    the new key's. Raises `MalformedMessage`."""
    members = der.sequence_of(cert.split(request)[0])
    if len(members) != 4:
        raise MalformedMessage("the request does not follow RFC 2986")
    version, subject, _, attributes = members
    spki = algorithms.spki_der(key.public_key())
    info = der.encode(der.SEQUENCE, version.encoded, subject.encoded, spki, attributes.encoded)
    return cert.assemble(info, signature_algorithm(key.public_key()), await sign(key, info))


def private_key_info(key: PrivateKey) -> bytes:
    """PKCS #8 (RFC 5958), not encrypted."""
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


class PackageSigner(Protocol):
    """Signs what the server made, under a certificate of its own."""

    async def certificate(self) -> x509.Certificate:
        """With the key that signs; there is a valid one when this returns."""
        ...

    async def sign(self, data: bytes) -> bytes:
        """Of the kind that `keys.sign` makes."""
        ...


Seal = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Protection:
    """How the private key is protected inside of TLS. `seal` encrypts; None: it is not."""

    seal: Seal | None = field(default=None, repr=False)


def protection(
    attributes: RequestAttributes,
    identity: Identity,
    decrypt_key: Callable[[str], bytes],
    random_bytes: Callable[[int], bytes] = secrets.token_bytes,
) -> Protection:
    """What the request asks for. `decrypt_key` gives the key of a user by his id.

    Raises `PKIError` where that cannot be done: then there has to be no certificate either
    (sections 4.4.1.1 and 4.4.1.2).
    """
    symmetric, asymmetric = attributes.decrypt_key_id, attributes.asymmetric_decrypt_key_id
    if symmetric is None and asymmetric is None:
        return Protection()
    if symmetric is not None and asymmetric is not None:
        raise MalformedMessage("the request names two keys to encrypt with")
    cipher = _cipher(attributes.capabilities)
    if symmetric is not None:
        key = _users_key(symmetric, identity, decrypt_key)
        identifier = symmetric

        def seal(content: bytes) -> bytes:
            return enveloped_data.encrypt_kek(
                content, identifier, key, cipher,
                content_type=_SIGNED_DATA, random_bytes=random_bytes,
            )  # fmt: skip

        return Protection(seal)
    recipient = _clients_certificate(asymmetric or b"", identity)
    return Protection(
        lambda content: enveloped_data.encrypt(
            content, recipient, cipher, content_type=_SIGNED_DATA, random_bytes=random_bytes
        )
    )


_SIGNED_DATA = "1.2.840.113549.1.7.2"


def _cipher(capabilities: tuple[str, ...]) -> str:
    """The first the client names that we have; AES-256 where it names none."""
    if not capabilities:
        return "aes256-cbc"
    found = next((_CIPHERS[oid] for oid in capabilities if oid in _CIPHERS), None)
    if found is None:
        raise PKIError(
            ErrorCode.BAD_ALGORITHM,
            "none of the algorithms in SMIMECapabilities is AES in CBC mode",
            rule="est.serverkeygen",
        )
    return found


def _users_key(identifier: bytes, identity: Identity, decrypt_key: Callable[[str], bytes]) -> bytes:
    """The key named by a user's own name."""
    user = identity.user
    if user is None or identifier != user.name.encode():
        raise _no_key("DecryptKeyIdentifier has to be the name of the user whose password came")
    return decrypt_key(user.id)


def _clients_certificate(identifier: bytes, identity: Identity) -> x509.Certificate:
    own = identity.certificate
    if own is None or cert.subject_key_identifier(own.certificate) != identifier:
        raise _no_key(
            "AsymmetricDecryptKeyIdentifier has to be the subjectKeyIdentifier of the client's "
            "TLS certificate"
        )
    return own.certificate


def _no_key(detail: str) -> PKIError:
    return PKIError(ErrorCode.UNAUTHORIZED, detail, rule="est.serverkeygen")


async def key_part(key: PrivateKey, chosen: Protection, signer: PackageSigner) -> Part:
    """The first part of the answer (section 4.4.2): PKCS #8, or that in a key package (RFC 5958)
    that is signed and then encrypted."""
    info = private_key_info(key)
    if chosen.seal is None:
        return Part(PKCS8_TYPE, info)
    certificate = await signer.certificate()
    package = der.encode(der.SEQUENCE, info)
    tbs = signed_data.to_be_signed(package, KEY_PACKAGE, "sha256")
    signed = signed_data.encode(tbs, await signer.sign(tbs.data), certificate)
    # Section 6.3 of RFC 5652: of an inner SignedData, the content without the ContentInfo's shell.
    inner = der.read_one(der.sequence_of(signed)[1].contents, der.SEQUENCE)
    return Part(ENVELOPED_TYPE, chosen.seal(inner.encoded))
