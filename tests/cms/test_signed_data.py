"""Signatures over content and attributes (RFC 5652 section 5; checklist S1, S5, S6, S8, S10, S23,
S31, S35)."""

from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, padding, rsa
from cryptography.hazmat.primitives.serialization import pkcs7
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.cms import attributes, content_info, oids, signed_data
from pkiserver.cms.content_info import Algorithm, SubjectKeyIdentifier
from pkiserver.cms.signed_data import SignedData, SignerInfo
from pkiserver.errors import ErrorCode, MalformedMessage, PKIError
from pkiserver.pkix import der
from tests.cms import support

NULL = b"\x05\x00"


def read(data: bytes) -> tuple[SignedData, SignerInfo]:
    signed = signed_data.parse(data)
    (signer,) = signed.signers
    return signed, signer


def verify(data: bytes, *, allow_legacy: bool = False) -> SignedData:
    signed, signer = read(data)
    key = signed_data.signer_certificate(signed, signer).public_key()
    signed_data.verify(signed, signer, key, allow_legacy=allow_legacy)
    return signed


def refused(data: bytes, code: ErrorCode, *, allow_legacy: bool = False) -> str:
    with pytest.raises(PKIError) as caught:
        verify(data, allow_legacy=allow_legacy)
    assert caught.value.code is code
    return caught.value.detail


def by_hand(
    *,
    content: bytes | None = b"content",
    content_type: str = oids.DATA,
    attribute_list: list[bytes] | None = None,
    signed_bytes: bytes | None = None,
    digest: Algorithm | None = None,
    algorithm: Algorithm | None = None,
    hash_algorithm: hashes.HashAlgorithm | None = None,
    identifier: bytes | None = None,
    signature: bytes | None = None,
    bag: list[bytes] | None = None,
    unsigned: bytes = b"",
) -> bytes:
    """A SignedData by the RSA key, each part of which may be wrong."""
    own = support.der_of(support.certificate())
    if attribute_list is None:
        attribute_list = _attributes(content or b"")
    encoded = der.encode(der.SET, *attribute_list) if attribute_list else content or b""
    to_sign = encoded if signed_bytes is None else signed_bytes
    if signature is None:
        signature = support.rsa_key().sign(
            to_sign, padding.PKCS1v15(), hash_algorithm or hashes.SHA256()
        )
    digest = digest or Algorithm(oids.oid_of(oids.DIGESTS, "sha256"))
    signer = der.encode(
        der.SEQUENCE,
        der.encode_integer(1),
        identifier or content_info.issuer_and_serial(own).encode(),
        digest.encode(),
        der.encode(0xA0, *attribute_list) if attribute_list else b"",
        (algorithm or Algorithm(oids.RSA, NULL)).encode(),
        der.encode(der.OCTET_STRING, signature),
        unsigned,
    )
    return signed_data.assemble(
        content_type, content, [own] if bag is None else bag, signers=[signer]
    )


def _attributes(content: bytes, content_type: str = oids.DATA) -> list[bytes]:
    """In DER's order, as the signer has to have them."""
    tbs = signed_data.to_be_signed(content, content_type, "sha256", support.SCEP_ATTRIBUTES)
    return [child.encoded for child in der.children(der.read_one(tbs.data).contents)]


KEYS = [support.rsa_key, support.ec_key, support.p384_key]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("digest", ["sha224", "sha256", "sha384", "sha512"])
def test_what_is_signed_verifies(key: Callable[[], support.Key], digest: str) -> None:
    signed = verify(support.sign(key=key, digest=digest))
    assert signed.content == b"content"
    assert signed.signers[0].digest == digest
    assert signed.signers[0].attributes[support.MESSAGE_TYPE] == (
        der.encode(der.PRINTABLE_STRING, b"19"),
    )


def test_ed25519_goes_with_sha512() -> None:
    verify(support.sign(key=support.ed25519_key, digest="sha512"))
    with pytest.raises(PKIError) as caught:
        support.sign(key=support.ed25519_key, digest="sha256")
    assert caught.value.code is ErrorCode.BAD_ALGORITHM


def test_s1_an_rsa_signature_is_called_rsa_encryption() -> None:
    _, signer = read(support.sign())
    assert signer.signature_algorithm == Algorithm(oids.RSA, NULL)
    _, signer = read(support.sign(key=support.ec_key, digest="sha384"))
    assert signer.signature_algorithm == Algorithm("1.2.840.10045.4.3.3")


def test_s6_attributes_are_in_the_order_of_der() -> None:
    data = support.sign()
    info = support.oracle(data)["signer_infos"][0]
    assert info["signed_attrs"].untag().dump(force=True) == info["signed_attrs"].untag().dump()
    _, signer = read(data)
    assert signer.signed_attributes is not None
    attribute_set = der.read_one(signer.signed_attributes, der.SET)
    members = [child.encoded for child in der.children(attribute_set.contents)]
    assert members == sorted(members)


def test_s8_without_content_there_is_no_econtent_and_the_digest_is_that_of_nothing() -> None:
    data = support.sign(None)
    assert verify(data).content is None
    info = support.oracle(data)
    assert info["encap_content_info"]["content"].native is None


def test_s23_the_signers_certificate_comes_first() -> None:
    other = support.certificate(support.ec_key, serial=1)
    signed = verify(support.sign(certificates=[other]))
    assert signed.certificates == (
        support.der_of(support.certificate()),
        support.der_of(other),
    )


@settings(max_examples=40, deadline=None)
@given(
    content=st.none() | st.binary(max_size=500),
    values=st.dictionaries(st.integers(1, 40), st.binary(max_size=40), max_size=8),
    chunk=st.integers(1, 50),
)
def test_round_trips_through_ber(
    content: bytes | None, values: dict[int, bytes], chunk: int
) -> None:
    sent = [(f"1.2.3.{arc}", der.encode(der.OCTET_STRING, v)) for arc, v in values.items()]
    data = support.sign(content, key=support.ec_key, attributes=sent)
    for message in (data, support.to_ber(data, chunk=chunk), support.to_ber(data, long_lengths=3)):
        signed = verify(message)
        assert signed.content == content
        found = signed.signers[0].attributes
        assert {oid: found[oid] for oid, _ in sent} == {oid: (value,) for oid, value in sent}


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_s10_a_message_in_ber_verifies(chunk: int) -> None:
    data = support.sign(b"content" * 20)
    assert verify(support.to_ber(data, chunk=chunk)) == verify(data)


def test_s5_attributes_verify_in_the_order_they_were_signed_and_sent() -> None:
    backwards = list(reversed(_attributes(b"content")))
    verify(by_hand(attribute_list=backwards))


def test_s5_attributes_sent_in_another_order_than_signed_verify_in_that_of_der() -> None:
    in_order = _attributes(b"content")
    verify(
        by_hand(
            attribute_list=list(reversed(in_order)), signed_bytes=der.encode(der.SET, *in_order)
        )
    )


def test_s5_another_content_is_refused() -> None:
    """The messageDigest is compared with the content, not only signed."""
    assert "content" in refused(
        by_hand(content=b"another", attribute_list=_attributes(b"content")),
        ErrorCode.BAD_SIGNATURE,
    )


def test_another_attribute_or_signature_is_refused() -> None:
    data = support.sign()
    refused(data.replace(b"0123456789abcdef", b"0123456789abcdeF"), ErrorCode.BAD_SIGNATURE)
    refused(by_hand(signature=bytes(256)), ErrorCode.BAD_SIGNATURE)
    refused(by_hand(signature=b""), ErrorCode.BAD_SIGNATURE)


def test_another_key_is_refused() -> None:
    signed, signer = read(support.sign(key=support.ec_key))
    with pytest.raises(PKIError, match="verify"):
        other = ec.generate_private_key(ec.SECP256R1()).public_key()
        signed_data.verify(signed, signer, other)
    with pytest.raises(PKIError) as caught:
        signed_data.verify(signed, signer, support.rsa_key().public_key())
    assert caught.value.code is ErrorCode.BAD_ALGORITHM


def test_content_type_and_digest_have_to_be_signed() -> None:
    complete = _attributes(b"content")
    for oid in (oids.CONTENT_TYPE, oids.MESSAGE_DIGEST):
        rest = [one for one in complete if der.encode_oid(oid) not in one]
        refused(by_hand(attribute_list=rest), ErrorCode.BAD_SIGNATURE)
    other = _attributes(b"content", oids.SIGNED_DATA)
    refused(by_hand(attribute_list=other), ErrorCode.BAD_SIGNATURE)


def test_only_plain_data_is_signed_without_attributes() -> None:
    verify(by_hand(attribute_list=[]))
    refused(by_hand(attribute_list=[], content_type=oids.SIGNED_DATA), ErrorCode.BAD_SIGNATURE)


@pytest.mark.parametrize(("name", "algorithm"), [("sha1", hashes.SHA1()), ("md5", hashes.MD5())])
def test_s31_sha1_and_md5_only_where_allowed(name: str, algorithm: hashes.HashAlgorithm) -> None:
    tbs = signed_data.to_be_signed(b"content", oids.DATA, name)
    data = by_hand(
        attribute_list=[c.encoded for c in der.children(der.read_one(tbs.data).contents)],
        digest=Algorithm(oids.oid_of(oids.DIGESTS, name)),
        hash_algorithm=algorithm,
    )
    refused(data, ErrorCode.BAD_ALGORITHM)
    verify(data, allow_legacy=True)


def test_algorithms_may_be_named_with_their_digest_but_not_another() -> None:
    verify(by_hand(algorithm=Algorithm("1.2.840.113549.1.1.11", NULL)))
    for oid in ("1.2.840.113549.1.1.13", "1.2.840.10045.4.3.2", "1.2.3", oids.ED25519):
        refused(by_hand(algorithm=Algorithm(oid)), ErrorCode.BAD_ALGORITHM)
    refused(by_hand(digest=Algorithm("1.2.3")), ErrorCode.BAD_ALGORITHM)


def _pss(*members: bytes) -> Algorithm:
    return Algorithm(oids.RSA_PSS, der.encode(der.SEQUENCE, *members))


def _explicit(tag: int, *contents: bytes) -> bytes:
    return der.encode(tag, *contents)


SHA256 = Algorithm(oids.oid_of(oids.DIGESTS, "sha256")).encode()
HASH = _explicit(0xA0, SHA256)
MASK = _explicit(0xA1, Algorithm(oids.MGF1, SHA256).encode())
SALT = _explicit(0xA2, der.encode_integer(32))


def _pss_signature() -> bytes:
    tbs = der.encode(der.SET, *_attributes(b"content"))
    scheme = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    return support.rsa_key().sign(tbs, scheme, hashes.SHA256())


def test_rsassa_pss_verifies() -> None:
    signature = _pss_signature()
    verify(by_hand(signature=signature, algorithm=_pss(HASH, MASK, SALT)))
    trailer = _explicit(0xA3, der.encode_integer(1))
    verify(by_hand(signature=signature, algorithm=_pss(HASH, MASK, SALT, trailer)))


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ((HASH, MASK), ErrorCode.BAD_SIGNATURE),
        ((HASH, SALT), ErrorCode.BAD_SIGNATURE),
        ((MASK, SALT), ErrorCode.BAD_ALGORITHM),
        ((HASH, MASK, _explicit(0xA2, der.encode_integer(-1))), ErrorCode.BAD_ALGORITHM),
        ((HASH, MASK, _explicit(0xA2, der.encode_integer(1 << 40))), ErrorCode.BAD_ALGORITHM),
        ((HASH, MASK, SALT, _explicit(0xA3, der.encode_integer(2))), ErrorCode.BAD_ALGORITHM),
        ((HASH, _explicit(0xA1, Algorithm("1.2.3", SHA256).encode())), ErrorCode.BAD_ALGORITHM),
        ((SALT, HASH), ErrorCode.MALFORMED),
        ((HASH, _explicit(0xA1, SHA256 + SHA256)), ErrorCode.MALFORMED),
    ],
)
def test_rsassa_pss_with_other_parameters_is_refused(
    members: tuple[bytes, ...], code: ErrorCode
) -> None:
    refused(by_hand(signature=_pss_signature(), algorithm=_pss(*members)), code)


def test_rsassa_pss_without_parameters_is_refused() -> None:
    refused(by_hand(algorithm=Algorithm(oids.RSA_PSS)), ErrorCode.BAD_ALGORITHM)


def _key_identifier() -> bytes:
    extension = support.certificate().extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return extension.value.digest


def test_the_signer_is_found_by_key_identifier() -> None:
    identifier = SubjectKeyIdentifier(_key_identifier())
    data = by_hand(identifier=identifier.encode())
    assert read(data)[1].identifier == identifier
    verify(data)
    verify(support.to_ber(data, chunk=5, implicit=True))


def test_the_signer_is_found_with_another_string_type_in_the_issuer() -> None:
    own = content_info.issuer_and_serial(support.der_of(support.certificate()))
    printable = own.issuer.replace(b"\x0c\x07Example", b"\x13\x07Example")
    assert printable != own.issuer
    verify(by_hand(identifier=content_info.IssuerAndSerialNumber(printable, own.serial).encode()))
    other = own.issuer.replace(b"Example", b"exAmple")
    refused(
        by_hand(identifier=content_info.IssuerAndSerialNumber(other, own.serial).encode()),
        ErrorCode.BAD_SIGNATURE,
    )


def test_a_signer_that_is_not_in_the_message() -> None:
    refused(by_hand(bag=[]), ErrorCode.BAD_SIGNATURE)
    refused(by_hand(bag=[support.der_of(support.certificate(serial=7))]), ErrorCode.BAD_SIGNATURE)
    refused(by_hand(identifier=SubjectKeyIdentifier(b"none").encode()), ErrorCode.BAD_SIGNATURE)


def test_s35_a_broken_certificate_beside_the_signers_does_not_matter() -> None:
    own = support.der_of(support.certificate())
    broken = [b"\x30\x00", b"\x30\x03\x02\x01\x01", der.encode(der.SEQUENCE, b"\x30\x00" * 3)]
    verify(by_hand(bag=[*broken, own]))
    attribute_certificate = der.encode(0xA2, b"\x02\x01\x01")
    assert verify(by_hand(bag=[attribute_certificate, own])).certificates == (own,)


def test_s35_a_signer_of_version_1_long_expired() -> None:
    """TBSCertificate without version and extensions, as some devices make one."""
    own = support.certificate()
    fields = der.sequence_of(own.tbs_certificate_bytes)
    validity = der.encode(
        der.SEQUENCE, der.encode(0x17, b"990101000000Z"), der.encode(0x17, b"000101000000Z")
    )
    # serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo
    pieces = [field.encoded for field in (*fields[1:4], *fields[5:7])]
    tbs = der.encode(der.SEQUENCE, *pieces[:3], validity, *pieces[3:])
    algorithm = der.sequence_of(support.der_of(own))[1].encoded
    old = der.encode(der.SEQUENCE, tbs, algorithm, der.encode_bit_string(bytes(256)))
    signed, signer = read(by_hand(bag=[old]))
    assert signed_data.signer_certificate(signed, signer).version is x509.Version.v1
    verify(by_hand(bag=[old]))


def test_a_signer_whose_certificate_is_broken_is_malformed() -> None:
    own = support.der_of(support.certificate())
    broken = own.replace(
        b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01", b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x7f"
    )
    refused(by_hand(bag=[broken]), ErrorCode.MALFORMED)


def test_s35_a_broken_certificate_does_not_hide_the_one_with_the_key_identifier() -> None:
    own = support.der_of(support.certificate())
    rsa, no_key = (bytes.fromhex(f"2a864886f70d0101{end}") for end in ("01", "7f"))
    broken = own.replace(rsa, no_key)
    identifier = SubjectKeyIdentifier(_key_identifier()).encode()
    verify(by_hand(identifier=identifier, bag=[broken, own]))


def test_keys_that_cannot_have_signed_are_refused() -> None:
    signed, signer = read(by_hand(algorithm=_pss(HASH, MASK, SALT)))
    numbers = support.rsa_key().public_key().public_numbers()
    small = rsa.RSAPublicNumbers(numbers.e, numbers.n >> 1530 | 1).public_key()
    for key, code in (
        (small, ErrorCode.BAD_SIGNATURE),
        (ed448.Ed448PrivateKey.generate().public_key(), ErrorCode.BAD_ALGORITHM),
    ):
        with pytest.raises(PKIError) as caught:
            signed_data.verify(signed, signer, key)
        assert caught.value.code is code


def test_unsigned_attributes_are_passed_over() -> None:
    verify(by_hand(unsigned=der.encode(0xA1, *attributes.encode([("1.2.3", NULL)]))))


@pytest.mark.parametrize(
    "data",
    [
        b"\x30\x00",
        content_info.encode(oids.DATA, b"\x04\x00"),
        content_info.encode(oids.SIGNED_DATA, b"\x04\x00"),
        content_info.encode(oids.SIGNED_DATA, b"\x30\x00"),
        content_info.encode(oids.SIGNED_DATA, b"\x30\x00\x30\x00"),
        der.encode(der.SEQUENCE, der.encode_oid(oids.SIGNED_DATA)),
        support.vector("authenticode.der"),
        by_hand(attribute_list=[b"\x30\x00"]),
        by_hand(attribute_list=attributes.encode([("1.2.3", NULL), ("1.2.3", NULL)])),
        by_hand(
            attribute_list=[attributes.encode([("1.2.3", NULL)])[0].replace(b"\x30", b"\x31", 1)]
        ),
        by_hand(attribute_list=attributes.encode((f"1.2.{i}", NULL) for i in range(65))),
        by_hand(bag=[support.der_of(support.certificate())] * 65),
        by_hand(bag=[b"\x04\x00"]),
        by_hand(identifier=der.encode(der.SEQUENCE, b"\x30\x00", der.encode(der.INTEGER))),
        by_hand(
            identifier=der.encode(der.SEQUENCE, b"\x30\x00", der.encode(der.INTEGER, bytes(65)))
        ),
        by_hand(algorithm=Algorithm(oids.RSA, NULL + NULL)),
        signed_data.assemble(oids.DATA, None, [], signers=[b"\x30\x00"]),
        signed_data.assemble(oids.DATA, None, [], signers=[b"\x30\x00"] * 17),
        support.sign() + b"\x00",
    ],
)
def test_what_does_not_follow_the_grammar_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        signed_data.parse(data)


def test_an_attribute_that_should_have_one_value_and_has_two() -> None:
    tbs = signed_data.to_be_signed(b"content", oids.DATA, "sha256")
    complete = [c.encoded for c in der.children(der.read_one(tbs.data).contents)]
    digest = der.children(der.read_one(complete[1]).contents)
    twice = der.encode(der.SET, der.children(digest[1].contents)[0].encoded * 2)
    doubled = der.encode(der.SEQUENCE, digest[0].encoded, twice)
    refused(by_hand(attribute_list=[complete[0], doubled]), ErrorCode.MALFORMED)


def test_the_size_is_limited() -> None:
    with pytest.raises(MalformedMessage, match="larger"):
        signed_data.parse(support.sign(), max_size=1000)


def test_the_librarys_own_signatures_verify() -> None:
    """cryptography signs other attributes: signingTime, SMIMECapabilities."""
    builder = (
        pkcs7.PKCS7SignatureBuilder()
        .set_data(b"content")
        .add_signer(support.certificate(support.ec_key), support.ec_key(), hashes.SHA384())
    )
    data = builder.sign(serialization.Encoding.DER, [pkcs7.PKCS7Options.Binary])
    signed = verify(data)
    assert signed.content == b"content" and oids.SIGNING_TIME in signed.signers[0].attributes


def test_an_enrolment_of_an_apple_device_verifies() -> None:
    data = (support.VECTORS / "PKCSReq.der").read_bytes()
    refused(data, ErrorCode.BAD_ALGORITHM)
    signed = verify(data, allow_legacy=True)
    assert signed.signers[0].digest == "sha1"
    assert signed.signers[0].attributes[support.MESSAGE_TYPE] == (b"\x13\x0219",)


def test_an_answer_of_a_go_server_verifies() -> None:
    verify((support.VECTORS / "CertRep.der").read_bytes(), allow_legacy=True)


def test_an_answer_of_ndes_verifies_with_the_certificate_it_does_not_carry() -> None:
    data = (support.VECTORS / "CertRep-no-certificates.der").read_bytes()
    refused(data, ErrorCode.BAD_SIGNATURE, allow_legacy=True)
    signed, signer = read(data)
    candidates = x509.load_pem_x509_certificates((support.VECTORS / "ca2.pem").read_bytes())
    (own,) = (
        candidate
        for candidate in candidates
        if content_info.identifies(signer.identifier, support.der_of(candidate))
    )
    signed_data.verify(signed, signer, own.public_key(), allow_legacy=True)
