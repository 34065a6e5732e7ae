"""One message and its answer: what is encrypted for the registration authority, and for the client
(RFC 8894 sections 3.1 to 3.3).

An answer uses the request's own algorithms. Whatever is wrong inside the encryption raises the one
and same `unreadable`, so that nobody learns from it what a ciphertext of somebody else holds.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from pkiserver.cms import certs_only, content_info, enveloped_data, signed_data
from pkiserver.cms.enveloped_data import Envelope
from pkiserver.cms.key_transport import KeyTransport, scheme_of
from pkiserver.cms.recipients import KeyTransRecipientInfo
from pkiserver.cms.signatures import LEGACY_DIGESTS, hash_of
from pkiserver.cms.signed_data import ToBeSigned
from pkiserver.errors import ErrorCode, MalformedMessage, PKIError
from protocols.scep import messages
from protocols.scep.fail_info import FailInfo, Refusal
from protocols.scep.messages import CertRep, PKIMessage, PKIStatus
from protocols.scep.registration import RegistrationAuthority

NONCE_SIZE = 16
_ANSWERED_WITH = {"des-cbc": "des-ede3-cbc"}
"""Single DES is read where it has to be, never written: who can read it can read triple DES."""
_DIGESTS = frozenset({"sha224", "sha256", "sha384", "sha512"})
_QUICK_BITS = 2048
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for all messages of a section: whether weak algorithms are accepted, and the
    secret that stands in for keys that cannot be decrypted."""

    legacy: bool
    substitute: bytes = field(repr=False)
    random_bytes: Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Opened:
    """The messageData, and how it was encrypted: `key_transport` with the digest of OAEP."""

    data: bytes = field(repr=False)
    content_encryption: str
    key_transport: tuple[KeyTransport, str | None]

    @property
    def answered_with(self) -> str:
        """The algorithm of the answer's content encryption."""
        return _ANSWERED_WITH.get(self.content_encryption, self.content_encryption)


@dataclass(frozen=True, slots=True)
class Result:
    """What goes into an answer; nothing while it is `pending`. `password` encrypts it for clients
    whose key only signs (RFC 8894 section 3.1)."""

    certificates: Sequence[x509.Certificate] = ()
    crls: Sequence[bytes] = ()
    password: str | None = field(default=None, repr=False)
    pending: bool = False


@dataclass(slots=True)
class Exchange:
    """A message and who answers it: the registration authority it is encrypted for, as the client
    may know no other, once that is seen."""

    message: PKIMessage
    address: str
    terms: Terms
    authority: RegistrationAuthority
    usable: Sequence[RegistrationAuthority]
    _envelope: Envelope | None = field(default=None, init=False, repr=False)

    async def with_keys(self, work: Callable[..., T], *given: object) -> T:
        """What `work` gives, here if no key is large: a change of threads costs about as much."""
        certificates = (self.message.certificate, *(each.certificate for each in self.usable))
        if all(_is_quick(certificate) for certificate in certificates):
            return work(*given)
        return await asyncio.to_thread(work, *given)

    # The request

    def open(self) -> Opened:
        """The content of a message that its own key has signed."""
        message, legacy = self.message, self.terms.legacy
        messages.verify(message, allow_legacy=legacy)
        if message.envelope is None:
            raise _bad_message("the message is empty")
        try:
            enveloped = enveloped_data.parse(message.envelope, max_size=messages.MAX_SIZE)
        except MalformedMessage as error:
            raise _bad_message(error.detail) from error
        self.authority, info = _recipient(enveloped, self.usable)
        try:
            data = enveloped_data.decrypt_key_transport(
                enveloped,
                self.authority.certificate,
                self.authority.key,
                allow_legacy=legacy,
                substitute_secret=self.terms.substitute,
            )
        except PKIError as error:
            if error.code is not ErrorCode.BAD_SIGNATURE:
                raise
            raise unreadable() from error
        return Opened(data, enveloped.content_encryption, scheme_of(info))

    def check_answerable(self, opened: Opened, password: str | None) -> None:
        """Before anything is issued that could not be sent: there are keys that nothing, or not
        this much, can be encrypted for. With a password everything can be, but it takes long."""
        if password is None or self._is_rsa():
            self._envelope = self._for_signer(opened)

    # The answer

    def success(self, opened: Opened, result: Result) -> bytes:
        """SUCCESS, or PENDING: encrypted for the certificate the request was signed with."""
        if result.pending:
            return self.answer(CertRep(PKIStatus.PENDING))
        content = certs_only.encode(result.certificates, result.crls)
        return self.answer(
            CertRep(PKIStatus.SUCCESS, self._encrypted(content, opened, result.password))
        )

    def answer(self, rep: CertRep) -> bytes:
        nonce = self.terms.random_bytes(NONCE_SIZE)
        return signed(self.authority, messages.answer(rep, self.message, self._digest(), nonce))

    def _encrypted(self, content: bytes, opened: Opened, password: str | None) -> bytes:
        if password is not None and not self._is_rsa():
            return enveloped_data.encrypt_password(
                content,
                password.encode(),
                opened.answered_with,
                random_bytes=self.terms.random_bytes,
            )
        envelope, self._envelope = self._envelope or self._for_signer(opened), None
        return envelope.encrypt(content)

    def _for_signer(self, opened: Opened) -> Envelope:
        scheme, digest = opened.key_transport
        return enveloped_data.for_certificate(
            self.message.certificate,
            opened.answered_with,
            key_transport=scheme,
            oaep_digest=digest or "sha256",
            random_bytes=self.terms.random_bytes,
        )

    def _digest(self) -> str:
        """The request's own, if it is one that is accepted."""
        allowed = _DIGESTS | (LEGACY_DIGESTS if self.terms.legacy else frozenset())
        return self.message.digest if self.message.digest in allowed else "sha256"

    def _is_rsa(self) -> bool:
        return isinstance(self.message.certificate.public_key(), rsa.RSAPublicKey)


def signed(authority: RegistrationAuthority, tbs: ToBeSigned) -> bytes:
    """As SignedData, by the registration authority."""
    signature = authority.key.sign(tbs.data, padding.PKCS1v15(), hash_of(tbs.digest))
    return signed_data.encode(tbs, signature, authority.certificate)


def unreadable() -> Refusal:
    """Of what the encryption hides. Its `__cause__` is for the audit log."""
    return Refusal(
        FailInfo.BAD_MESSAGE_CHECK,
        "the message cannot be decrypted, or is not what its type says",
        code=ErrorCode.BAD_SIGNATURE,
        rule="scep.messageData",
    )


def _bad_message(detail: str) -> Refusal:
    return Refusal(FailInfo.BAD_MESSAGE_CHECK, detail, code=ErrorCode.MALFORMED)


def _is_quick(certificate: x509.Certificate) -> bool:
    """Whether its key is RSA of at most 2048 bits: a few tenths of a millisecond with the private
    one. For others there is a password to be made a key of, which is slow by intent."""
    key = certificate.public_key()
    return isinstance(key, rsa.RSAPublicKey) and key.key_size <= _QUICK_BITS


def _recipient(
    enveloped: enveloped_data.EnvelopedData, usable: Sequence[RegistrationAuthority]
) -> tuple[RegistrationAuthority, KeyTransRecipientInfo]:
    """The registration authority that can decrypt, and what is encrypted for it."""
    for info in enveloped.recipients:
        if isinstance(info, KeyTransRecipientInfo):
            for authority in usable:
                own = content_info.certificate_der(authority.certificate)
                if content_info.identifies(info.identifier, own):
                    return authority, info
    raise Refusal(
        FailInfo.BAD_MESSAGE_CHECK,
        "the message is not encrypted for this registration authority: let the client get the CA "
        "certificates again",
        code=ErrorCode.BAD_SIGNATURE,
        rule="scep.recipient",
    )
