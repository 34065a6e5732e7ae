"""RFC 7468, the strict form."""

import base64
import contextlib

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.errors import MalformedMessage
from pkiserver.pkix import pem
from tests.pkix import support

LEAF, ISSUER = support.certificate("leaf"), support.certificate("issuer")
CHAIN = pem.pem_chain([LEAF, ISSUER])
REQUEST = support.csr()


def test_a_chain_is_leaf_first_and_newline_terminated() -> None:
    assert LEAF.public_bytes(Encoding.PEM) + ISSUER.public_bytes(Encoding.PEM) == CHAIN
    assert CHAIN.endswith(b"-----END CERTIFICATE-----\n")


@pytest.mark.parametrize(
    "data",
    [
        CHAIN,
        CHAIN.rstrip(),
        CHAIN.replace(b"\n", b"\r\n"),
        b"\n\n" + CHAIN + b"\n \n",
    ],
    ids=["plain", "no final newline", "crlf", "blank lines"],
)
def test_bundles_are_read_in_order(data: bytes) -> None:
    assert pem.parse_certificates(data) == [LEAF, ISSUER]


def test_der_is_read_as_it_is() -> None:
    assert pem.parse_certificates(LEAF.public_bytes(Encoding.DER)) == [LEAF]


def block(label: str, text: bytes, end: str | None = None) -> bytes:
    return (
        f"-----BEGIN {label}-----\n".encode() + text + f"\n-----END {end or label}-----\n".encode()
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"  \n",
        CHAIN + b"x",
        b"x" + CHAIN,
        b"x\n" + CHAIN,
        CHAIN[:-10],
        CHAIN.replace(b"-----BEGIN", b"----BEGIN"),
        CHAIN.replace(
            b"-----END CERTIFICATE-----\n-----BEGIN", b"-----END CERTIFICATE----------BEGIN"
        ),
        CHAIN + block("PRIVATE KEY", b"AAAA"),
        block("CERTIFICATE", b"AAAA", "X509 CRL"),
        block("CERTIFICATE", b""),
        block("CERTIFICATE", b"AA=="),
        block("CERTIFICATE", b"AAA"),
        block("CERTIFICATE", b"AA==AAAA"),
        block("CERTIFICATE", b"MAF="),
        block("CERTIFICATE", b"Proc-Type: 4,ENCRYPTED\n\nAAAA"),
        LEAF.public_bytes(Encoding.DER) + b"\n",
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        pem.parse_certificates(data)


def test_the_number_and_size_are_bounded() -> None:
    with pytest.raises(MalformedMessage, match="more than 200"):
        pem.parse_certificates(block("CERTIFICATE", b"AAAA") * 201)
    with pytest.raises(MalformedMessage, match="larger than 10"):
        pem.parse_certificates(CHAIN, max_size=10)


@pytest.mark.parametrize("label", pem.CSR_LABELS)
def test_one_request_in_either_label(label: str) -> None:
    assert pem.csr_der(pem.encode_pem(label, REQUEST)) == REQUEST
    assert pem.csr_der(REQUEST) == REQUEST


@pytest.mark.parametrize(
    "data",
    [
        b"",
        CHAIN,
        LEAF.public_bytes(Encoding.PEM),
        pem.encode_pem("CERTIFICATE REQUEST", REQUEST) * 2,
        b"A" * (2 * pem.MAX_CSR_SIZE + 1),
    ],
)
def test_other_than_one_request_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        pem.csr_der(data)


@given(st.binary(min_size=1, max_size=300))
@settings(max_examples=50)
def test_blocks_read_back(data: bytes) -> None:
    text = pem.encode_pem("X509 CRL", data)
    assert pem.decode_blocks(text, max_blocks=1) == [("X509 CRL", data)]
    assert all(len(line) <= 64 for line in text.splitlines())


@given(st.data())
@settings(max_examples=100)
def test_mutations_raise_only_malformed(data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(CHAIN)))
    inserted = data.draw(st.binary(max_size=3) | st.sampled_from([b"-----", b"\n", b"="]))
    with contextlib.suppress(MalformedMessage):
        pem.parse_certificates(CHAIN[:position] + inserted + CHAIN[position + 1 :])


def test_long_near_misses_take_linear_time() -> None:
    data = b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(bytes(600_000)) + b"\n" * 100_000
    with pytest.raises(MalformedMessage):
        pem.parse_certificates(data)
