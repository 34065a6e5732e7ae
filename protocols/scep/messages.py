"""SCEP messages (RFC 8894 section 3): SignedData around an enveloped content, the transaction in
signed attributes. Sans-IO; what is outside the grammar raises `MalformedMessage`.

    pkiMessage    SignedData { pkcsPKIEnvelope: EnvelopedData { messageData } }, signed attributes:
                  messageType, transactionID, senderNonce; of answers pkiStatus, recipientNonce,
                  failInfo, failInfoText

Reading and believing are apart: `parse` says what the message claims, `verify` whether the key of
its certificate signed it. What that certificate is worth is decided elsewhere: a new device signs
with one it made itself (section 2.3), of version 1, expired or with any serial number.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509

from pkiserver.cms import attributes, content_info, oids, signed_data
from pkiserver.cms.content_info import IssuerAndSerialNumber
from pkiserver.cms.signed_data import SignedData, SignerInfo, ToBeSigned
from pkiserver.errors import ErrorCode, MalformedMessage, PKIError
from pkiserver.pkix import der
from protocols.scep.fail_info import FailInfo

MAX_SIZE = 256 * 1024
MAX_TRANSACTION_ID = 255
MAX_NONCE = 64
"""Octets. RFC 8894 says 16; devices send 8 and others none."""

_VERISIGN = "2.16.840.1.113733.1.9"
MESSAGE_TYPE = f"{_VERISIGN}.2"
PKI_STATUS = f"{_VERISIGN}.3"
FAIL_INFO = f"{_VERISIGN}.4"
SENDER_NONCE = f"{_VERISIGN}.5"
RECIPIENT_NONCE = f"{_VERISIGN}.6"
TRANSACTION_ID = f"{_VERISIGN}.7"
FAIL_INFO_TEXT = "1.3.6.1.5.5.7.24.1"


class MessageType(enum.StrEnum):
    """RFC 8894 section 3.2.1.2, by their numbers. UpdateReq is of drafts before it."""

    CERT_REP = "3"
    RENEWAL_REQ = "17"
    UPDATE_REQ = "18"
    PKCS_REQ = "19"
    CERT_POLL = "20"
    GET_CERT = "21"
    GET_CRL = "22"


class PKIStatus(enum.StrEnum):
    """RFC 8894 section 3.2.1.3."""

    SUCCESS = "0"
    FAILURE = "2"
    PENDING = "3"


@dataclass(frozen=True, slots=True)
class PKIMessage:
    """What a message claims. `envelope` is the enveloped content, None where there is none;
    `message_type` a number in text, which may be none we know; `sender_nonce` None if absent."""

    message_type: str
    transaction_id: str
    sender_nonce: bytes | None
    envelope: bytes | None = field(repr=False)
    certificate: x509.Certificate
    digest: str
    signed: SignedData = field(repr=False)
    signer: SignerInfo = field(repr=False)


def parse(data: bytes, *, max_size: int = MAX_SIZE) -> PKIMessage:
    """The message in BER octets."""
    signed = signed_data.parse(data, max_size=max_size)
    # Section 3.1: one signer. With more, whose transaction it is would be anybody's guess.
    if len(signed.signers) != 1:
        raise MalformedMessage("a pkiMessage has exactly one signer")
    signer = signed.signers[0]
    if signed.content_type != oids.DATA:
        raise MalformedMessage("the content of a pkiMessage is plain data")
    return PKIMessage(
        message_type=_message_type(signer),
        transaction_id=_transaction_id(signer),
        sender_nonce=_nonce(signer, SENDER_NONCE),
        envelope=signed.content or None,
        certificate=_certificate(signed, signer),
        digest=signer.digest,
        signed=signed,
        signer=signer,
    )


def verify(message: PKIMessage, *, allow_legacy: bool) -> None:
    """Whether the key of its own certificate signed the message: `PKIError` BAD_SIGNATURE,
    BAD_ALGORITHM."""
    key = message.certificate.public_key()
    if message.signer.signed_attributes is None:
        raise PKIError(ErrorCode.BAD_SIGNATURE, "the message has no signed attributes")
    signed_data.verify(message.signed, message.signer, key, allow_legacy=allow_legacy)


def _certificate(signed: SignedData, signer: SignerInfo) -> x509.Certificate:
    try:
        return signed_data.signer_certificate(signed, signer)
    except PKIError as error:
        # Without it there is nobody an answer could be for.
        raise MalformedMessage(error.detail) from error


def _message_type(signer: SignerInfo) -> str:
    text = _text(signer, MESSAGE_TYPE)
    if not (text.isascii() and text.isdecimal() and len(text) <= 4):
        raise MalformedMessage("messageType is not a number")
    return text


def _transaction_id(signer: SignerInfo) -> str:
    text = _text(signer, TRANSACTION_ID)
    if not (1 <= len(text) <= MAX_TRANSACTION_ID and text.isascii() and text.isprintable()):
        raise MalformedMessage(
            f"transactionID has not 1 to {MAX_TRANSACTION_ID} printable characters"
        )
    return text


def _text(signer: SignerInfo, oid: str) -> str:
    """Of any string type: PrintableString by the RFC, UTF8String from some clients."""
    values = signer.attributes.get(oid, ())
    if len(values) != 1:
        raise MalformedMessage(f"attribute {oid} is not there exactly once")
    return der.decode_text(der.read_one(values[0]))


def _nonce(signer: SignerInfo, oid: str) -> bytes | None:
    element = attributes.single(signer.attributes, oid, der.OCTET_STRING)
    if element is None:
        return None
    if len(element.contents) > MAX_NONCE:
        raise MalformedMessage(f"a nonce is longer than {MAX_NONCE} octets")
    return element.contents


# The messageData of queries


def parse_issuer_and_serial(data: bytes) -> IssuerAndSerialNumber:
    """GetCert and GetCRL (sections 3.3.4, 3.3.5)."""
    return content_info.parse_issuer_and_serial(der.read_one(data, der.SEQUENCE))


def parse_issuer_and_subject(data: bytes) -> tuple[bytes, bytes]:
    """CertPoll (section 3.3.3): IssuerAndSubject ::= SEQUENCE { issuer Name, subject Name }, both
    as DER."""
    members = der.sequence_of(data)
    if [member.tag for member in members] != [der.SEQUENCE, der.SEQUENCE]:
        raise MalformedMessage("IssuerAndSubject is not two names")
    return members[0].encoded, members[1].encoded


# Answers


@dataclass(frozen=True, slots=True)
class CertRep:
    """An answer. `envelope` goes with SUCCESS alone; `fail_info` and `text` with FAILURE."""

    status: PKIStatus
    envelope: bytes | None = field(default=None, repr=False)
    fail_info: FailInfo | None = None
    text: str = ""

    def __post_init__(self) -> None:
        if (self.envelope is not None) != (self.status is PKIStatus.SUCCESS):
            raise ValueError("an envelope goes with SUCCESS, and with nothing else")
        if (self.fail_info is not None) != (self.status is PKIStatus.FAILURE):
            raise ValueError("failInfo goes with FAILURE, and with nothing else")


def answer(rep: CertRep, request: PKIMessage, digest: str, sender_nonce: bytes) -> ToBeSigned:
    """The answer to `request`, to be signed with `digest`. Without an envelope eContent is left
    out (section 3.3.2); recipientNonce is the senderNonce of the request, if it had one."""
    return signed_data.to_be_signed(
        rep.envelope, oids.DATA, digest, _attributes(rep, request, sender_nonce)
    )


def _attributes(
    rep: CertRep, request: PKIMessage, sender_nonce: bytes
) -> Sequence[tuple[str, bytes]]:
    found = [
        (MESSAGE_TYPE, _printable(MessageType.CERT_REP)),
        (PKI_STATUS, _printable(rep.status)),
        (TRANSACTION_ID, _as_sent(request)),
        (SENDER_NONCE, der.encode(der.OCTET_STRING, sender_nonce)),
    ]
    if request.sender_nonce is not None:
        found.append((RECIPIENT_NONCE, der.encode(der.OCTET_STRING, request.sender_nonce)))
    if rep.fail_info is not None:
        found.append((FAIL_INFO, _printable(rep.fail_info)))
    if rep.text:
        found.append((FAIL_INFO_TEXT, der.encode(der.UTF8_STRING, rep.text.encode())))
    return found


def _printable(text: str) -> bytes:
    return der.encode(der.PRINTABLE_STRING, text.encode("ascii"))


def _as_sent(request: PKIMessage) -> bytes:
    """The same characters, as PrintableString whatever they came in: there are clients that read
    no other type, and it holds what transaction ids are made of."""
    return _printable(request.transaction_id)
