"""RFC 2986: a request is read whole and proves possession, or is refused as BAD_CSR."""

import contextlib
import dataclasses
import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix import algorithms, cert, csr, der, names
from pkiserver.pkix.csr import parse
from tests.pkix import support

SAN_OID, KEY_USAGE_OID = "2.5.29.17", "2.5.29.15"
CN_OID = "2.5.4.3"


def refused(data: bytes, *, legacy: bool = False) -> PKIError:
    with pytest.raises(PKIError) as caught:
        parse(data, allow_legacy_hash=legacy)
    assert caught.value.code is ErrorCode.BAD_CSR
    return caught.value


def extension_request(*extensions: bytes, oid: str = csr.EXTENSION_REQUEST_OID) -> bytes:
    return support.attribute(oid, der.encode(der.SEQUENCE, *extensions))


def san(*general_names: bytes) -> bytes:
    return support.extension(SAN_OID, der.encode(der.SEQUENCE, *general_names))


def dns(text: bytes) -> bytes:
    return der.encode(0x82, text)


def cn(tag: int, octets: bytes) -> bytes:
    return support.rdn(CN_OID, der.encode(tag, octets))


def challenge(tag: int, octets: bytes) -> bytes:
    return support.attribute(csr.CHALLENGE_PASSWORD_OID, der.encode(tag, octets))


def key_usage() -> x509.KeyUsage:
    return x509.KeyUsage(True, False, True, False, False, False, False, False, False)


def test_everything_a_request_says() -> None:
    data = support.csr(
        x509.DNSName("WWW.example.com"),
        x509.DNSName("www.example.com"),
        x509.IPAddress(ipaddress.ip_address("192.0.2.1")),
        x509.RFC822Name("Jane@example.com"),
        common_name="Device 7",
        extensions=[
            key_usage(),
            x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]),
            x509.TLSFeature([x509.TLSFeatureType.status_request]),
            x509.BasicConstraints(True, None),
            x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x30\x00"),
        ],
        challenge=b"s3cret",
    )
    request = parse(data)
    assert request.der == data
    assert request.common_names == ("Device 7",)
    assert request.alt_names == (
        names.dns_name("www.example.com"),
        names.email("Jane@example.com"),
        names.ip_address("192.0.2.1"),
    )
    assert request.requested_names() == request.alt_names
    assert request.public_key == support.ec_key().public_key()
    assert request.spki == algorithms.spki_der(request.public_key)
    assert request.spki_sha256 == algorithms.spki_sha256(request.public_key)
    assert request.key_usage == key_usage()
    assert request.extended_key_usage == ("1.3.6.1.5.5.7.3.1",)
    assert request.must_staple and request.ca
    assert request.challenge_password == "s3cret"
    assert request.extension_oids[0] == SAN_OID and "1.2.3.4" in request.extension_oids
    assert request.signature_hash == "sha256"


def test_an_empty_request_as_certbot_sends_without_names() -> None:
    request = parse(support.csr())
    assert not request.subject.rdns
    assert not request.requested_names() and not request.common_names
    assert not request.extension_oids
    assert request.key_usage is None and request.challenge_password is None
    assert not request.must_staple and not request.ca


def test_the_challenge_password_is_not_shown() -> None:
    assert "s3cret" not in repr(parse(support.csr(challenge=b"s3cret")))


@pytest.mark.parametrize(
    ("common_name", "value"),
    [
        ("Example.COM", "dns:example.com"),
        ("*.example.com", "dns:*.example.com"),
        ("192.0.2.1", "ip:192.0.2.1"),
        ("2001:DB8::1", "ip:2001:db8::1"),
        ("Device 7", None),
        ("foo_bar", None),
        ("jane@example.com", None),
        ("::ffff:192.0.2.1", None),
    ],
)
def test_common_names_that_are_names(common_name: str, value: str | None) -> None:
    """A common name that reads as a host or an address is asked for too (CVE-2022-34831); one
    that is an address is that address, as acme.sh sends it."""
    data = support.csr(x509.DNSName("a.example"), common_name=common_name)
    expected = {"dns:a.example"} | ({value} if value else set())
    assert {str(name) for name in parse(data).requested_names()} == expected


def test_several_common_names() -> None:
    subject = cn(der.UTF8_STRING, b"a.example") + cn(der.PRINTABLE_STRING, b"b.example")
    request = parse(support.handmade_csr(subject=subject))
    assert request.common_names == ("a.example", "b.example")


@pytest.mark.parametrize(
    "key",
    [ed25519.Ed25519PrivateKey.generate(), mldsa.MLDSA44PrivateKey.generate()],
    ids=["ed25519", "ml-dsa-44"],
)
def test_keys_with_a_hash_of_their_own(
    key: ed25519.Ed25519PrivateKey | mldsa.MLDSA44PrivateKey,
) -> None:
    builder = x509.CertificateSigningRequestBuilder().subject_name(support.name())
    request = parse(builder.sign(key, None).public_bytes(Encoding.DER))
    assert request.signature_hash is None
    assert request.public_key == key.public_key()


def test_rsa_pss() -> None:
    builder = x509.CertificateSigningRequestBuilder().subject_name(support.name())
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
    signed = builder.sign(support.rsa_key(), hashes.SHA256(), rsa_padding=pss)
    assert parse(signed.public_bytes(Encoding.DER)).signature_hash == "sha256"


def test_compressed_points_have_one_digest_with_uncompressed_ones() -> None:
    """A blocked key stays blocked however its point is written."""
    key = support.ec_key().public_key()
    point = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    algorithm = der.sequence_of(algorithms.spki_der(key))[0].encoded
    spki = der.encode(der.SEQUENCE, algorithm, der.encode_bit_string(point))
    request = parse(support.handmade_csr(spki=spki))
    assert request.spki_sha256 == algorithms.spki_sha256(key)


def test_the_signature_is_verified() -> None:
    """RFC 2986 section 3: proof of possession."""
    stranger = ec.generate_private_key(ec.SECP256R1())

    def sign(data: bytes) -> bytes:
        return stranger.sign(data, ec.ECDSA(hashes.SHA256()))

    assert "does not verify" in refused(support.handmade_csr(sign=sign)).detail


LEGACY = {
    "sha1-rsa": (support.SHA1_WITH_RSA, support.rsa_signer(hashes.SHA1())),
    "md5-rsa": (support.MD5_WITH_RSA, support.rsa_signer(hashes.MD5())),
}


@pytest.mark.parametrize("kind", LEGACY)
def test_legacy_hashes_are_refused_unless_asked_for(kind: str) -> None:
    """Old SCEP devices: the library calls every such signature invalid."""
    algorithm, sign = LEGACY[kind]
    spki = algorithms.spki_der(support.rsa_key().public_key())
    data = support.handmade_csr(algorithm=algorithm, sign=sign, spki=spki)
    error = refused(data)
    assert error.rule == "csr.signature-hash" and kind[:3] in error.detail
    assert parse(data, allow_legacy_hash=True).signature_hash == kind.partition("-")[0]
    forged = support.handmade_csr(
        challenge(der.UTF8_STRING, b"x"), algorithm=algorithm, sign=lambda _: sign(b""), spki=spki
    )
    assert "does not verify" in refused(forged, legacy=True).detail


def test_ecdsa_with_sha1() -> None:
    def sign(data: bytes) -> bytes:
        return support.ec_key().sign(data, ec.ECDSA(hashes.SHA1()))

    data = support.handmade_csr(algorithm=support.SHA1_WITH_ECDSA, sign=sign)
    assert refused(data).rule == "csr.signature-hash"
    assert parse(data, allow_legacy_hash=True).signature_hash == "sha1"
    wrong_kind = support.handmade_csr(algorithm=support.SHA1_WITH_RSA, sign=sign)
    assert "not one of the request's key" in refused(wrong_kind, legacy=True).detail


@pytest.mark.parametrize(
    ("tag", "octets", "text"),
    [
        (der.UTF8_STRING, "é".encode(), "é"),
        (der.PRINTABLE_STRING, b"e", "e"),
        (der.IA5_STRING, b"e@", "e@"),
        (der.T61_STRING, b"\xe9", "é"),
        (der.BMP_STRING, "é".encode("utf-16-be"), "é"),
    ],
)
def test_challenge_passwords_of_every_string_type(tag: int, octets: bytes, text: str) -> None:
    """RFC 2985 section 5.4.1: a DirectoryString, and what devices make of it."""
    assert parse(support.handmade_csr(challenge(tag, octets))).challenge_password == text


def test_challenge_passwords_as_long_as_intunes_and_empty_ones() -> None:
    long = support.handmade_csr(challenge(der.UTF8_STRING, b"a" * 5000))
    assert parse(long).challenge_password == "a" * 5000
    assert parse(support.handmade_csr(challenge(der.UTF8_STRING, b""))).challenge_password is None


def test_windows_sends_an_attribute_for_each_pair() -> None:
    """[MS-WCCE] section 2.2.2.7.10: one attribute type, several times."""
    pair = support.attribute(csr.ENROLLMENT_NAME_VALUE_PAIR_OID, der.encode(der.SEQUENCE))
    assert parse(support.handmade_csr(pair, pair))


@pytest.mark.parametrize(
    ("tag", "octets"),
    [(der.UTF8_STRING, b"\xff"), (der.IA5_STRING, b"a" * 16385), (2, b"1")],
)
def test_bad_challenge_passwords(tag: int, octets: bytes) -> None:
    refused(support.handmade_csr(challenge(tag, octets)))


@pytest.mark.parametrize(
    ("tag", "octets", "text"),
    [
        (der.BMP_STRING, "gerät".encode("utf-16-be"), "gerät"),
        (der.T61_STRING, b"device", "device"),
        (der.UNIVERSAL_STRING, "gerät".encode("utf-32-be"), "gerät"),
    ],
)
def test_common_names_of_old_string_types(tag: int, octets: bytes, text: str) -> None:
    request = parse(support.handmade_csr(subject=cn(tag, octets)))
    assert request.common_names == (text,)


@pytest.mark.parametrize(
    "subject",
    [
        cn(der.T61_STRING, b"ger\xe4t"),
        cn(der.UTF8_STRING, b"\xff"),
        cn(der.BMP_STRING, b"a"),
        cn(der.UTF8_STRING, b"a" * 65),
        cn(der.UTF8_STRING, b""),
        cn(der.BIT_STRING, b"\x00a"),
        cn(der.INTEGER, b"\x01"),
        support.rdn("2.5.4.6", der.encode(der.PRINTABLE_STRING, b"CHE")),
        support.rdn("2.5.4.45", der.encode(der.UTF8_STRING, b"x"))[:-1],
        der.encode(der.SET),
        der.encode(der.SEQUENCE),
    ],
)
def test_subjects_nobody_should_certify(subject: bytes) -> None:
    refused(support.handmade_csr(subject=subject))


BAD_ATTRIBUTES = {
    "attribute twice": [challenge(der.UTF8_STRING, b"a"), challenge(der.UTF8_STRING, b"b")],
    "two values": [
        support.attribute(
            csr.CHALLENGE_PASSWORD_OID,
            der.encode(der.UTF8_STRING, b"a"),
            der.encode(der.UTF8_STRING, b"b"),
        )
    ],
    "no value": [support.attribute("1.2.3")],
    "not an attribute": [der.encode(der.SEQUENCE)],
    "extension twice": [extension_request(san(dns(b"a.example")), san(dns(b"b.example")))],
    "extensions in both attributes": [
        extension_request(san(dns(b"a.example")), oid=csr.MICROSOFT_EXTENSION_REQUEST_OID),
        extension_request(san(dns(b"b.example"))),
    ],
    "empty san": [extension_request(san())],
    "no dns name": [extension_request(san(dns(b"foo_bar.example")))],
    "refused dns name": [extension_request(san(dns(b"example.1")))],
    "dns name with a zero": [extension_request(san(dns(b"a.example\x00.b")))],
    "dns name not ascii": [extension_request(san(dns(b"\xff.example")))],
    "ip of five octets": [extension_request(san(der.encode(0x87, b"\x01" * 5)))],
    "ip with a mask": [extension_request(san(der.encode(0x87, b"\xff" * 8)))],
    "x400": [extension_request(san(der.encode(0xA3)))],
    "unknown form": [extension_request(san(der.encode(0x89, b"x")))],
    "long name in a directory name": [
        extension_request(
            san(der.encode(0xA4, der.encode(der.SEQUENCE, cn(der.UTF8_STRING, b"a" * 65))))
        )
    ],
    "malformed key usage": [extension_request(support.extension(KEY_USAGE_OID, b"\x30\x00"))],
    "value with more after it": [extension_request(support.extension(SAN_OID, b"\x30\x00\x00"))],
}


@pytest.mark.parametrize("attributes", BAD_ATTRIBUTES.values(), ids=BAD_ATTRIBUTES)
def test_bad_attributes(attributes: list[bytes]) -> None:
    refused(support.handmade_csr(*attributes))


def test_extensions_in_microsofts_attribute_are_read() -> None:
    data = support.handmade_csr(
        extension_request(san(dns(b"a.example")), oid=csr.MICROSOFT_EXTENSION_REQUEST_OID)
    )
    assert parse(data).alt_names == (names.dns_name("a.example"),)


def test_names_that_are_never_issued_are_kept_for_policy_to_refuse() -> None:
    registered = extension_request(san(der.encode(0x88, b"\x2a\x03")))
    assert str(parse(support.handmade_csr(registered)).alt_names[0]) == "other:registeredID:1.2.3"


def test_the_number_of_names_is_bounded() -> None:
    many = [dns(f"h{n}.example".encode()) for n in range(csr.MAX_NAMES + 1)]
    assert "more than 1000" in refused(support.handmade_csr(extension_request(san(*many)))).detail
    assert len(parse(support.handmade_csr(extension_request(san(*many[1:])))).alt_names) == 1000


REQUEST = support.csr(x509.DNSName("a.example"), common_name="a.example", challenge=b"x")


def test_truncation_at_every_byte_and_trailing_ones() -> None:
    for end in range(len(REQUEST)):
        refused(REQUEST[:end])
    for more in (b"\x00", b"\n", REQUEST):
        refused(REQUEST + more)


def test_the_size_is_bounded() -> None:
    with pytest.raises(PKIError, match="larger than 10"):
        parse(REQUEST, max_size=10)


def test_a_request_without_an_attributes_field() -> None:
    """The field is not OPTIONAL in RFC 2986 section 4.1."""
    info = der.encode(
        der.SEQUENCE,
        der.encode_integer(0),
        der.encode(der.SEQUENCE),
        algorithms.spki_der(support.ec_key().public_key()),
    )
    data = der.encode(
        der.SEQUENCE,
        info,
        support.SHA256_WITH_ECDSA,
        der.encode_bit_string(support.ecdsa(info)),
    )
    assert "attributes" in refused(data).detail


@given(st.data())
@settings(max_examples=100)
def test_changed_octets_are_refused(data: st.DataObject) -> None:
    """The signature covers everything but its own algorithm, whose change is refused as well."""
    position = data.draw(st.integers(0, len(REQUEST) - 1))
    octet = data.draw(st.integers(0, 255).filter(lambda o: o != REQUEST[position]))
    refused(REQUEST[:position] + bytes((octet,)) + REQUEST[position + 1 :])


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0x81, 0x82, 0x86, 0x87, 0x88, 0xA0, 0xA4, 0x30]),
            st.binary(max_size=20),
        ),
        max_size=3,
    ),
    st.sampled_from([0x0C, 0x13, 0x14, 0x16, 0x1C, 0x1E, 0x03, 0x30]),
    st.binary(max_size=70),
)
@settings(max_examples=100)
def test_signed_nonsense_is_read_or_refused(
    general_names: list[tuple[int, bytes]], tag: int, common_name: bytes
) -> None:
    """With a valid signature, so that every reader behind it is reached."""
    encoded = [der.encode(name_tag, value) for name_tag, value in general_names]
    data = support.handmade_csr(extension_request(san(*encoded)), subject=cn(tag, common_name))
    with contextlib.suppress(PKIError):
        request = parse(data)
        assert dataclasses.replace(request) == request
        assert set(request.alt_names) <= set(request.requested_names())


@given(st.binary(max_size=300))
@settings(max_examples=50)
def test_random_octets_are_refused(data: bytes) -> None:
    refused(data)


@pytest.mark.parametrize("kind", ["rsa", "ec"])
def test_attributes_out_of_order_are_read_and_their_signature_is_checked(kind: str) -> None:
    """strongSwan sends its extension request before a shorter challenge password."""
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    key = support.rsa_key() if kind == "rsa" else ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "r1")]))
        .add_attribute(x509.oid.AttributeOID.CHALLENGE_PASSWORD, b"secret")
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("a.example")]), critical=False)
    )
    in_order = builder.sign(key, hashes.SHA256())
    info, algorithm, _ = cert.split(in_order.public_bytes(Encoding.DER))
    members = der.sequence_of(info)
    attributes = [each.encoded for each in der.children(members[3].contents)]
    reversed_info = der.encode(
        der.SEQUENCE,
        *(member.encoded for member in members[:3]),
        der.encode(0xA0, *reversed(attributes)),
    )
    if isinstance(key, rsa.RSAPrivateKey):
        signature = key.sign(reversed_info, padding.PKCS1v15(), hashes.SHA256())
    else:
        signature = key.sign(reversed_info, ec.ECDSA(hashes.SHA256()))
    request = parse(cert.assemble(reversed_info, algorithm, signature))
    assert request.challenge_password == "secret"
    assert [str(name) for name in request.alt_names] == ["dns:a.example"]
    # The signature over the sorted ones is not one over these.
    refused(cert.assemble(reversed_info, algorithm, in_order.signature))
