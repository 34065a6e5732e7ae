"""Bodies: base64 in every form clients send (E11, RFC 8951 section 3.1), and multipart (E19)."""

import base64
import contextlib
import email

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.errors import MalformedMessage
from pkiserver.pkix import pem
from pkiserver.pkix.pem import encode_pem
from protocols.est import codec
from protocols.est.codec import Part
from tests.test_est.support import make_csr

REQUEST = make_csr()
TEXT = base64.b64encode(REQUEST)


@pytest.mark.parametrize(
    "body",
    [
        TEXT,
        TEXT + b"\n",
        b"\r\n".join(TEXT[i : i + 64] for i in range(0, len(TEXT), 64)) + b"\r\n",
        b" \t".join(TEXT[i : i + 10] for i in range(0, len(TEXT), 10)),
        encode_pem("CERTIFICATE REQUEST", REQUEST),
        encode_pem("NEW CERTIFICATE REQUEST", REQUEST),
        b"\n" + encode_pem("CERTIFICATE REQUEST", REQUEST),
        REQUEST,
    ],
)
def test_every_form_of_a_request(body: bytes) -> None:
    """E11: base64 with any white space or none, PEM, DER."""
    assert codec.decode_request(body) == REQUEST


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \r\n",
        b"!" + TEXT,
        TEXT[:-1],
        TEXT + b"=",
        TEXT + b"\0",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN",
        encode_pem("CERTIFICATE REQUEST", REQUEST) * 2,
        b"A" * (codec.MAX_BODY + 1),
    ],
)
def test_other_bodies_are_refused(body: bytes) -> None:
    with pytest.raises(MalformedMessage):
        codec.decode_request(body)


@settings(max_examples=100)
@given(st.one_of(st.binary(max_size=300), st.text(max_size=300).map(str.encode)))
def test_anything_else_is_one_exception(body: bytes) -> None:
    with contextlib.suppress(MalformedMessage):
        codec.decode_request(body)


@settings(max_examples=100)
@given(st.binary(min_size=1, max_size=500), st.booleans())
def test_what_is_encoded_decodes(data: bytes, wrapped: bool) -> None:
    text = codec.encode_base64(data, wrapped=wrapped)
    assert pem.decode_base64(text, "it") == data
    assert (b"\n" in text) == wrapped


@settings(max_examples=100)
@given(st.lists(st.binary(max_size=200), min_size=1, max_size=3))
def test_multipart_is_read_by_others(contents: list[bytes]) -> None:
    """E19: CRLF, an encoding per part, a closing delimiter."""
    parts = [Part("application/pkcs8", content) for content in contents]
    body = codec.encode_multipart(parts, "est-1")
    assert body.count(b"\n") == body.count(b"\r\n")
    assert body.endswith(b"--est-1--\r\n")
    head = b"Content-Type: multipart/mixed; boundary=est-1\r\n\r\n"
    read = email.message_from_bytes(head + body)
    found = [part.get_payload(decode=True) for part in read.get_payload()]  # type: ignore[union-attr]
    assert found == contents
    assert not read.defects
