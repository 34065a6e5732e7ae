"""Whole enrolment messages, each as a family of devices sends it: an envelope for the registration
authority inside a message signed with the device's own certificate (RFC 8894 section 3)."""

from cryptography import x509

from pkiserver.cms import enveloped_data, signed_data
from pkiserver.cms.key_transport import KeyTransport
from pkiserver.pkix import csr, der
from tests.cms import support
from tests.pkix import support as pkix


def _request(challenge: bytes) -> bytes:
    return pkix.csr(common_name="device", challenge=challenge)


def _ra() -> x509.Certificate:
    return support.certificate(serial=99, common_name="RA")


def _envelope(request: bytes, algorithm: str, scheme: KeyTransport = "rsa-v1.5") -> bytes:
    return enveloped_data.encrypt(
        request, _ra(), algorithm, key_transport=scheme, oaep_digest="sha1"
    )


def _open(message: bytes, *, allow_legacy: bool = False) -> bytes:
    """What a server does with it."""
    signed = signed_data.parse(message)
    (signer,) = signed.signers
    key = signed_data.signer_certificate(signed, signer).public_key()
    signed_data.verify(signed, signer, key, allow_legacy=allow_legacy)
    assert signed.content is not None
    return enveloped_data.decrypt_key_transport(
        enveloped_data.parse(signed.content),
        _ra(),
        support.rsa_key(),
        allow_legacy=allow_legacy,
    )


def _indefinite(tag: int, *contents: bytes) -> bytes:
    return bytes((tag, 0x80)) + b"".join(contents) + b"\x00\x00"


def _segments(octets: bytes, size: int = 1000) -> list[bytes]:
    pieces = [octets[at : at + size] for at in range(0, len(octets), size)]
    return [der.encode(der.OCTET_STRING, piece) for piece in pieces]


def _content_info(message: bytes) -> tuple[bytes, tuple[der.TLV, ...]]:
    kind, content = der.sequence_of(message)
    return kind.encoded, der.children(der.read_one(content.contents).contents)


def streamed_envelope(message: bytes, size: int) -> bytes:
    """EnvelopedData as generators write it that do not know the length beforehand: RecipientInfos
    in DER, everything around the ciphertext of indefinite length, it itself in segments."""
    kind, members = _content_info(message)
    *before, encrypted = members
    inner_type, algorithm, ciphertext = der.children(encrypted.contents)
    content = _indefinite(
        der.SEQUENCE,
        inner_type.encoded,
        algorithm.encoded,
        _indefinite(0xA0, *_segments(ciphertext.contents, size)),
    )
    body = _indefinite(der.SEQUENCE, *(member.encoded for member in before), content)
    return _indefinite(der.SEQUENCE, kind, _indefinite(0xA0, body))


def streamed_signature(message: bytes, size: int) -> bytes:
    """SignedData likewise: certificates and SignerInfos in DER."""
    kind, members = _content_info(message)
    version, digests, encapsulated, certificates, signers = members
    inner_type, content = der.children(encapsulated.contents)
    octets = der.read_one(content.contents, der.OCTET_STRING).contents
    body = _indefinite(
        der.SEQUENCE,
        version.encoded,
        digests.encoded,
        _indefinite(
            der.SEQUENCE,
            inner_type.encoded,
            _indefinite(0xA0, _indefinite(0x24, *_segments(octets, size))),
        ),
        _indefinite(0xA0, certificates.contents),
        signers.encoded,
    )
    return _indefinite(der.SEQUENCE, kind, _indefinite(0xA0, body))


def test_s10_jscep_and_googles_connector() -> None:
    """Bouncy Castle's generators: segments of 1000 octets, AES, SHA-256 or SHA-512."""
    request = _request(b"secret")
    for digest in ("sha256", "sha512"):
        envelope = streamed_envelope(_envelope(request, "aes128-cbc"), 1000)
        message = streamed_signature(support.sign(envelope, digest=digest), 1000)
        assert _open(message) == request


def test_s10_apple() -> None:
    """Security framework: the envelope in segments, triple DES, SHA-1 on devices of old."""
    request = _request(b"secret")
    envelope = streamed_envelope(_envelope(request, "des-ede3-cbc"), 512)
    message = streamed_signature(support.sign(envelope, digest="sha1"), 1024)
    assert _open(message, allow_legacy=True) == request
    modern = streamed_signature(support.sign(envelope, digest="sha512"), 1024)
    assert _open(modern) == request


def test_s4_windows() -> None:
    """RSAES-OAEP with default parameters and a long challenge, as Intune makes them."""
    request = pkix.csr(common_name="device", challenge=b"x" * 3000)
    envelope = _envelope(request, "aes256-cbc", "oaep")
    assert _open(support.sign(envelope)) == request


def test_s31_cisco() -> None:
    """IOS of old: MD5 or SHA-1, triple DES."""
    request = _request(b"secret")
    for digest in ("md5", "sha1"):
        message = support.sign(_envelope(request, "des-ede3-cbc"), digest=digest)
        assert _open(message, allow_legacy=True) == request


def test_what_comes_out_is_the_request() -> None:
    opened = _open(support.sign(_envelope(_request(b"secret"), "aes128-cbc")))
    assert csr.parse(opened).challenge_password == "secret"
