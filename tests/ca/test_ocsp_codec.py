"""The OCSP codec (RFC 6960, RFC 9654) against another implementation, truncation and noise."""

import contextlib
import datetime as dt
import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.ca import encoding, ocsp_codec
from pkiserver.ca.model import Reason
from pkiserver.ca.ocsp_codec import MAX_CERT_IDS, Plain, ResponseStatus, Revoked, SingleResponse
from pkiserver.errors import MalformedMessage
from pkiserver.pkix import der

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
KEY = ec.generate_private_key(ec.SECP256R1())
NONCE = x509.ObjectIdentifier("1.3.6.1.5.5.7.48.1.2")
SHA1 = der.encode(der.SEQUENCE, der.encode_oid("1.3.14.3.2.26"), der.encode(der.NULL))
SHA1_BARE = der.encode(der.SEQUENCE, der.encode_oid("1.3.14.3.2.26"))
ALGORITHMS: list[hashes.HashAlgorithm] = [
    hashes.SHA1(),
    hashes.SHA256(),
    hashes.SHA384(),
    hashes.SHA512(),
]


def certificate(serial: int = 1000) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test CA")])
    return (
        x509.CertificateBuilder(name, name, KEY.public_key(), serial)
        .not_valid_before(NOW)
        .not_valid_after(NOW + dt.timedelta(days=30))
        .sign(KEY, hashes.SHA256())
    )


CA = certificate()


def request_for(algorithm: hashes.HashAlgorithm, nonce: bytes | None = None) -> bytes:
    builder = ocsp.OCSPRequestBuilder().add_certificate(certificate(77), CA, algorithm)
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return builder.build().public_bytes(Encoding.DER)


def cert_id(serial: int = 77, algorithm: bytes = SHA1, name: bytes = bytes(20)) -> bytes:
    return der.encode(
        der.SEQUENCE,
        algorithm,
        der.encode(der.OCTET_STRING, name),
        der.encode(der.OCTET_STRING, bytes(20)),
        der.encode_integer(serial),
    )


def single(identifier: bytes, extensions: bytes = b"") -> bytes:
    wrapped = der.encode(0xA0, der.encode(der.SEQUENCE, extensions)) if extensions else b""
    return der.encode(der.SEQUENCE, identifier, wrapped)


def request(
    *singles: bytes, before: bytes = b"", extensions: bytes = b"", tail: bytes = b""
) -> bytes:
    wrapped = der.encode(0xA2, der.encode(der.SEQUENCE, extensions)) if extensions else b""
    tbs = der.encode(der.SEQUENCE, before, der.encode(der.SEQUENCE, *singles), wrapped)
    return der.encode(der.SEQUENCE, tbs, tail)


def nonce_extension(value: bytes) -> bytes:
    return encoding.extension(NONCE.dotted_string, value)


def refused(data: bytes) -> bool:
    with pytest.raises(MalformedMessage):
        ocsp_codec.parse_request(data)
    return True


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: str(a.name))
def test_a_library_request_reads_back(algorithm: hashes.HashAlgorithm) -> None:
    parsed = ocsp_codec.parse_request(request_for(algorithm, b"n" * 16))
    (found,) = parsed.cert_ids
    fields = encoding.fields_of(CA)
    assert found.hash_name == algorithm.name
    assert found.issuer_name_hash == hashlib.new(algorithm.name, fields.subject).digest()
    assert found.issuer_key_hash == hashlib.new(algorithm.name, fields.key_bits).digest()
    assert found.serial == 77
    assert parsed.nonce == der.encode(der.OCTET_STRING, b"n" * 16)


def test_absent_and_null_parameters_are_kept_as_they_came() -> None:
    """RFC 5754 section 2: both forms are in use; clients compare the CertID octet for octet."""
    ids = [cert_id(algorithm=SHA1), cert_id(algorithm=SHA1_BARE)]
    parsed = ocsp_codec.parse_request(request(*(single(i) for i in ids)))
    assert [found.encoded for found in parsed.cert_ids] == ids
    assert {found.hash_name for found in parsed.cert_ids} == {"sha1"}


def test_unknown_hash_is_not_malformed() -> None:
    md5 = der.encode(der.SEQUENCE, der.encode_oid("1.2.840.113549.2.5"), der.encode(der.NULL))
    parsed = ocsp_codec.parse_request(request(single(cert_id(algorithm=md5))))
    assert parsed.cert_ids[0].hash_name is None


def test_number_of_certificates_is_bounded() -> None:
    many = [single(cert_id(n + 1)) for n in range(MAX_CERT_IDS)]
    assert len(ocsp_codec.parse_request(request(*many)).cert_ids) == MAX_CERT_IDS
    assert refused(request(*many, single(cert_id(5))))
    assert refused(request())


@pytest.mark.parametrize("length", [1, 15, 16, 32, 33, 128])
def test_nonce_lengths_of_rfc_9654(length: int) -> None:
    value = der.encode(der.OCTET_STRING, bytes(length))
    parsed = ocsp_codec.parse_request(request(single(cert_id()), extensions=nonce_extension(value)))
    assert parsed.nonce == value


@pytest.mark.parametrize("length", [0, 129, 1000])
def test_nonce_lengths_outside_rfc_9654_are_malformed(length: int) -> None:
    value = der.encode(der.OCTET_STRING, bytes(length))
    assert refused(request(single(cert_id()), extensions=nonce_extension(value)))


def test_nonce_that_is_no_octet_string_or_twice_is_malformed() -> None:
    assert refused(request(single(cert_id()), extensions=nonce_extension(b"raw bytes")))
    good = nonce_extension(der.encode(der.OCTET_STRING, bytes(16)))
    assert refused(request(single(cert_id()), extensions=good + good))


def test_critical_unknown_extensions_are_malformed_others_ignored() -> None:
    """RFC 6960 section 4.4, for the request and for one certificate."""
    unknown = encoding.extension("1.2.3.4", b"x")
    critical = encoding.extension("1.2.3.4", b"x", critical=True)
    assert ocsp_codec.parse_request(request(single(cert_id(), unknown), extensions=unknown))
    assert refused(request(single(cert_id()), extensions=critical))
    assert refused(request(single(cert_id(), critical)))


def test_acceptable_responses_must_have_basic() -> None:
    def listing(*oids: str) -> bytes:
        value = der.encode(der.SEQUENCE, *(der.encode_oid(oid) for oid in oids))
        return request(
            single(cert_id()), extensions=encoding.extension("1.3.6.1.5.5.7.48.1.4", value)
        )

    assert ocsp_codec.parse_request(listing("1.2.3", "1.3.6.1.5.5.7.48.1.1"))
    assert refused(listing("1.2.3"))
    assert refused(listing())


def test_service_locator_and_preferred_algorithms_are_tolerated() -> None:
    """RFC 6960 sections 4.4.6 and 4.4.7: a responder may ignore them, in whatever shape."""
    locator = encoding.extension("1.3.6.1.5.5.7.48.1.7", b"\x30\x00")
    preferred = encoding.extension("1.3.6.1.5.5.7.48.1.8", b"\x30\x00")
    data = request(single(cert_id(), extensions=locator), extensions=preferred)
    assert len(ocsp_codec.parse_request(data).cert_ids) == 1


def test_version_and_requestor_name() -> None:
    v1 = der.encode(0xA0, der.encode_integer(0))
    requestor = der.encode(0xA1, der.encode(0x82, b"client.example"))
    assert ocsp_codec.parse_request(request(single(cert_id()), before=v1 + requestor))
    assert refused(request(single(cert_id()), before=der.encode(0xA0, der.encode_integer(1))))


def test_signed_request_is_tolerated() -> None:
    """RFC 6960 section 4.1.2: nobody is authorised by it here, so it is not verified."""
    signature = der.encode(der.SEQUENCE, SHA1, der.encode_bit_string(b"sig"))
    assert ocsp_codec.parse_request(
        request(single(cert_id()), tail=der.encode(0xA0, signature))
    ).cert_ids
    assert refused(request(single(cert_id()), tail=der.encode(0xA0, SHA1)))
    assert refused(request(single(cert_id()), tail=der.encode(0xA1, signature)))


@pytest.mark.parametrize("octets", [b"", b"\x00\x01", b"\xff\xff", bytes(65)])
def test_serial_that_is_no_der_integer_is_malformed(octets: bytes) -> None:
    broken = cert_id().removesuffix(der.encode_integer(77)) + der.encode(der.INTEGER, octets)
    body = der.children(broken[2:])
    assert refused(request(single(der.encode(der.SEQUENCE, *(part.encoded for part in body)))))


@pytest.mark.parametrize("value", [-5, 0, 1 << 200])
def test_serial_no_certificate_has_is_read(value: int) -> None:
    assert ocsp_codec.parse_request(request(single(cert_id(value)))).cert_ids[0].serial == value


def test_oversized_request_is_refused_unread() -> None:
    assert refused(bytes(ocsp_codec.MAX_REQUEST_SIZE + 1))


def test_truncation_and_trailing_octets_are_malformed() -> None:
    data = request_for(hashes.SHA256(), b"n" * 16)
    assert all(refused(data[:end]) for end in range(len(data)))
    assert refused(data + b"\x00")


@settings(max_examples=100)
@given(st.binary(max_size=200))
def test_noise_raises_only_malformed(data: bytes) -> None:
    assert refused(data)


@settings(max_examples=100)
@given(st.integers(min_value=0), st.integers(0, 255))
def test_flipped_octets_raise_only_malformed(position: int, value: int) -> None:
    data = bytearray(request_for(hashes.SHA1(), b"n" * 16))
    data[position % len(data)] = value
    with contextlib.suppress(MalformedMessage):
        ocsp_codec.parse_request(bytes(data))


def sign(data: bytes) -> bytes:
    return ocsp_codec.basic_response(
        data,
        encoding.signature_algorithm(KEY.public_key()),
        KEY.sign(data, ec.ECDSA(hashes.SHA256())),
        CA.public_bytes(Encoding.DER),
    )


def respond(*responses: SingleResponse, nonce: bytes | None = None) -> ocsp.OCSPResponse:
    data = ocsp_codec.response_data(
        responder_key_hash=hashlib.sha1(encoding.fields_of(CA).key_bits).digest(),
        produced_at=NOW,
        this_update=NOW,
        next_update=NOW + dt.timedelta(hours=1),
        responses=responses,
        nonce=nonce,
    )
    return ocsp.load_der_ocsp_response(sign(data))


def test_response_reads_back_in_another_implementation() -> None:
    asked = ocsp_codec.parse_request(request_for(hashes.SHA256(), b"n" * 16))
    response = respond(SingleResponse(asked.cert_ids[0], Plain.GOOD), nonce=asked.nonce)
    KEY.public_key().verify(
        response.signature, response.tbs_response_bytes, ec.ECDSA(hashes.SHA256())
    )
    assert response.certificate_status is ocsp.OCSPCertStatus.GOOD
    assert response.serial_number == 77
    assert response.this_update_utc == response.produced_at_utc == NOW
    assert response.next_update_utc == NOW + dt.timedelta(hours=1)
    assert response.responder_name is None and response.responder_key_hash is not None
    assert response.certificates == [CA]
    assert response.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == b"n" * 16


@pytest.mark.parametrize("reason", [r for r in Reason if r is not Reason.REMOVE_FROM_CRL])
def test_revoked_with_reason(reason: Reason) -> None:
    asked = ocsp_codec.parse_request(request_for(hashes.SHA1())).cert_ids[0]
    response = respond(SingleResponse(asked, Revoked(NOW - dt.timedelta(days=1), reason)))
    assert response.certificate_status is ocsp.OCSPCertStatus.REVOKED
    assert response.revocation_time_utc == NOW - dt.timedelta(days=1)
    shown = response.revocation_reason
    assert (shown.value if shown else "unspecified") == reason.value


def test_several_certificates_in_one_response() -> None:
    asked = ocsp_codec.parse_request(request(*(single(cert_id(n)) for n in (5, 6))))
    revoked = Revoked(NOW, Reason.SUPERSEDED)
    response = respond(
        SingleResponse(asked.cert_ids[0], Plain.GOOD), SingleResponse(asked.cert_ids[1], revoked)
    )
    found = [(one.serial_number, one.certificate_status) for one in response.responses]
    assert found == [(5, ocsp.OCSPCertStatus.GOOD), (6, ocsp.OCSPCertStatus.REVOKED)]


@pytest.mark.parametrize(
    "status", [s for s in ResponseStatus if s is not ResponseStatus.SUCCESSFUL]
)
def test_error_responses(status: ResponseStatus) -> None:
    response = ocsp.load_der_ocsp_response(ocsp_codec.error_response(status))
    assert response.response_status.value == status


def test_a_successful_response_is_no_error() -> None:
    with pytest.raises(ValueError, match="successful"):
        ocsp_codec.error_response(ResponseStatus.SUCCESSFUL)
