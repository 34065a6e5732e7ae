"""Textual encodings (RFC 7468), read strictly: encapsulation boundaries on their own lines, base64
without stray characters, nothing but white space outside the blocks.

Explanatory text around blocks is refused, where RFC 7468 section 2 lets a parser skip it: a file
that is not understood to its last byte is not imported.
"""

import base64
import binascii
import re
from collections.abc import Iterable

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.errors import MalformedMessage
from pkiserver.pkix.cert import parse_certificate

MAX_BUNDLE_SIZE = 1024 * 1024
MAX_CERTIFICATES = 200
MAX_CSR_SIZE = 64 * 1024
CSR_LABELS = ("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST")

_BLOCK = re.compile(
    rb"\s*-----BEGIN ([A-Z0-9 ]{1,40})-----[ \t]*\r?\n"
    rb"([A-Za-z0-9+/=\r\n\t ]*?)"
    rb"\r?\n-----END ([A-Z0-9 ]{1,40})-----[ \t]*(?=\r?\n|\Z)"
)
_DER_SEQUENCE = b"\x30"


def decode_blocks(data: bytes, *, max_blocks: int) -> list[tuple[str, bytes]]:
    """(label, contents) of each block, in order; at least one, at most `max_blocks`."""
    blocks: list[tuple[str, bytes]] = []
    end = len(data.rstrip())
    offset = 0
    while offset < end:
        match = _BLOCK.match(data, offset)
        if match is None or match[1] != match[3]:
            raise MalformedMessage("not PEM: only complete blocks, with no text around them")
        if len(blocks) == max_blocks:
            raise MalformedMessage(f"more than {max_blocks} PEM blocks")
        blocks.append((match[1].decode("ascii"), decode_base64(match[2], "a PEM block")))
        offset = match.end()
    if not blocks:
        raise MalformedMessage("the file is empty")
    return blocks


def decode_base64(text: bytes, what: str) -> bytes:
    """Base64 (RFC 4648 section 4) with any white space. `MalformedMessage` says of `what`."""
    packed = b"".join(text.split())
    try:
        data = binascii.a2b_base64(packed, strict_mode=True)
    except binascii.Error as error:
        raise MalformedMessage(f"{what} is not base64") from error
    # Leftover bits of the last character that are not zero would be a second spelling.
    if binascii.b2a_base64(data, newline=False) != packed:
        raise MalformedMessage(f"{what} is not canonical base64")
    return data


def parse_certificates(data: bytes, *, max_size: int = MAX_BUNDLE_SIZE) -> list[x509.Certificate]:
    """One DER certificate, or a PEM bundle of CERTIFICATE blocks in the order of the file."""
    if len(data) > max_size:
        raise MalformedMessage(f"the bundle is larger than {max_size} octets")
    if data.startswith(_DER_SEQUENCE):
        return [parse_certificate(data)]
    blocks = decode_blocks(data, max_blocks=MAX_CERTIFICATES)
    if any(label != "CERTIFICATE" for label, _ in blocks):
        raise MalformedMessage("the bundle has PEM blocks that are not CERTIFICATE")
    return [parse_certificate(contents) for _, contents in blocks]


def csr_der(data: bytes, *, max_size: int = MAX_CSR_SIZE) -> bytes:
    """The DER octets of the one certification request in `data`, PEM or DER; not parsed yet."""
    if len(data) > 2 * max_size:
        raise MalformedMessage(f"the request is larger than {max_size} octets")
    if data.startswith(_DER_SEQUENCE):
        return data
    label, contents = decode_blocks(data, max_blocks=1)[0]
    if label not in CSR_LABELS:
        raise MalformedMessage("the PEM block is not a CERTIFICATE REQUEST")
    return contents


def encode_pem(label: str, data: bytes) -> bytes:
    """One block with 64 characters a line, newline-terminated (RFC 7468 section 2)."""
    text = base64.b64encode(data)
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    name = label.encode("ascii")
    return b"\n".join(
        (b"-----BEGIN " + name + b"-----", *lines, b"-----END " + name + b"-----", b"")
    )


def pem_chain(certificates: Iterable[x509.Certificate]) -> bytes:
    """CERTIFICATE blocks, each newline-terminated, in the order given (leaf first)."""
    return b"".join(
        encode_pem("CERTIFICATE", certificate.public_bytes(Encoding.DER))
        for certificate in certificates
    )
