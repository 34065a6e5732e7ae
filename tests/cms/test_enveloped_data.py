"""Encryption for certificates, passwords and shared keys (RFC 5652 section 6, RFC 5083;
checklist S4, S10, S31, S32)."""

import functools
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import pkcs7
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.cms import (
    content_encryption,
    content_info,
    enveloped_data,
    key_transport,
    oids,
    recipients,
    shared_keys,
    signed_data,
)
from pkiserver.cms.content_info import Algorithm, SubjectKeyIdentifier
from pkiserver.cms.enveloped_data import EnvelopedData
from pkiserver.errors import ErrorCode, MalformedMessage, PKIError
from pkiserver.pkix import der
from tests.cms import support

CONTENT = b"a request, or a certificate"
NULL = b"\x05\x00"
ALGORITHMS = [name for name in content_encryption.KEY_SIZES if name != "des-cbc"]
KEK = bytes(range(32))
UNIFORM = "the message cannot be decrypted"


def decrypt(data: bytes, *, allow_legacy: bool = False) -> bytes:
    return enveloped_data.decrypt_key_transport(
        enveloped_data.parse(data),
        support.certificate(),
        support.rsa_key(),
        allow_legacy=allow_legacy,
    )


def refused(code: ErrorCode, call: Callable[[], object]) -> str:
    with pytest.raises(PKIError) as caught:
        call()
    assert caught.value.code is code
    return caught.value.detail


def by_hand(
    *,
    name: str = "aes128-cbc",
    key: bytes | None = None,
    encrypted_key: bytes | None = None,
    algorithm: Algorithm | None = None,
    key_algorithm: Algorithm | None = None,
    scheme: padding.AsymmetricPadding | None = None,
    ciphertext: bytes | None = None,
    identifier: content_info.Identifier | None = None,
    recipient_list: list[bytes] | None = None,
) -> bytes:
    """EnvelopedData for the RSA key, each part of which may be wrong."""
    vector = bytes(8 if name.startswith("des") else 16)
    cipher = content_encryption.ContentCipher(name, vector)
    right_key = bytes(range(1, 1 + cipher.key_size))
    if ciphertext is None:
        ciphertext, _ = cipher.encrypt(right_key, CONTENT)
    if encrypted_key is None:
        encrypted_key = (
            support.rsa_key()
            .public_key()
            .encrypt(right_key if key is None else key, scheme or padding.PKCS1v15())
        )
    own = content_info.issuer_and_serial(support.der_of(support.certificate()))
    info = recipients.KeyTransRecipientInfo(
        identifier or own, key_algorithm or Algorithm(oids.RSA, NULL), encrypted_key
    )
    encrypted = der.encode(
        der.SEQUENCE,
        der.encode_oid(oids.DATA),
        (algorithm or content_encryption.algorithm_of(cipher)).encode(),
        der.encode(0x80, ciphertext),
    )
    infos = [recipients.encode(info)] if recipient_list is None else recipient_list
    return content_info.encode(
        oids.ENVELOPED_DATA,
        der.encode(der.SEQUENCE, der.encode_integer(0), der.encode(der.SET, *infos), encrypted),
    )


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("content_type", [oids.DATA, oids.SIGNED_DATA])
def test_round_trip_for_each_kind_of_recipient(name: str, content_type: str) -> None:
    own = support.certificate()
    for scheme in ("rsa-v1.5", "oaep"):
        data = enveloped_data.encrypt(
            CONTENT,
            own,
            name,
            key_transport="oaep" if scheme == "oaep" else "rsa-v1.5",
            content_type=content_type,
        )
        assert decrypt(data) == CONTENT
        assert enveloped_data.parse(data).content_type == content_type
        assert enveloped_data.parse(data).content_encryption == name
    data = enveloped_data.encrypt_password(
        CONTENT, b"secret", name, iterations=10, content_type=content_type
    )
    assert enveloped_data.decrypt_password(enveloped_data.parse(data), b"secret") == CONTENT
    data = enveloped_data.encrypt_kek(CONTENT, b"id", KEK, name, content_type=content_type)
    assert enveloped_data.decrypt_kek(enveloped_data.parse(data), b"id", KEK) == CONTENT


@settings(max_examples=40, deadline=None)
@given(
    content=st.binary(max_size=1000),
    name=st.sampled_from(ALGORITHMS),
    chunk=st.integers(1, 200),
    size=st.sampled_from([16, 24, 32]),
)
def test_round_trips_through_ber(content: bytes, name: str, chunk: int, size: int) -> None:
    """S10: encryptedContent [0] and encryptedKey in one piece or in segments."""
    data = enveloped_data.encrypt_kek(content, b"id", KEK[:size], name)
    for message in (
        data,
        support.to_ber(data, chunk=chunk),
        support.to_ber(data, chunk=chunk, implicit=True),
        support.to_ber(data, chunk=chunk, implicit=True, indefinite=False, long_lengths=4),
    ):
        enveloped = enveloped_data.parse(message)
        assert enveloped_data.decrypt_kek(enveloped, b"id", KEK[:size]) == content


@pytest.mark.parametrize("digest", ["sha1", "sha224", "sha256", "sha384", "sha512"])
def test_s4_oaep_with_each_digest(digest: str) -> None:
    data = enveloped_data.encrypt(
        CONTENT, support.certificate(), key_transport="oaep", oaep_digest=digest
    )
    assert decrypt(data) == CONTENT
    support.oracle(data)["recipient_infos"][0].native  # noqa: B018


def _oaep(
    mask: hashes.HashAlgorithm, digest: hashes.HashAlgorithm, label: bytes | None
) -> padding.OAEP:
    return padding.OAEP(padding.MGF1(mask), digest, label)


SHA1 = Algorithm(oids.oid_of(oids.DIGESTS, "sha1")).encode()
SHA256 = Algorithm(oids.oid_of(oids.DIGESTS, "sha256")).encode()
LABEL = Algorithm(oids.P_SPECIFIED, der.encode(der.OCTET_STRING, b"label")).encode()


@pytest.mark.parametrize(
    ("parameters", "scheme"),
    [
        (b"", _oaep(hashes.SHA1(), hashes.SHA1(), None)),
        (der.encode(der.SEQUENCE), _oaep(hashes.SHA1(), hashes.SHA1(), None)),
        (
            der.encode(
                der.SEQUENCE,
                der.encode(0xA0, SHA1),
                der.encode(0xA1, Algorithm(oids.MGF1, SHA1).encode()),
            ),
            _oaep(hashes.SHA1(), hashes.SHA1(), None),
        ),
        (
            der.encode(der.SEQUENCE, der.encode(0xA0, SHA256)),
            _oaep(hashes.SHA1(), hashes.SHA256(), None),
        ),
        (
            der.encode(
                der.SEQUENCE,
                der.encode(0xA1, Algorithm(oids.MGF1, SHA256).encode()),
                der.encode(0xA2, LABEL),
            ),
            _oaep(hashes.SHA256(), hashes.SHA1(), b"label"),
        ),
    ],
)
def test_s4_oaep_as_windows_and_others_write_its_parameters(
    parameters: bytes, scheme: padding.OAEP
) -> None:
    data = by_hand(key_algorithm=Algorithm(oids.RSA_OAEP, parameters), scheme=scheme)
    assert decrypt(data) == CONTENT


@pytest.mark.parametrize(
    "parameters",
    [
        der.encode(
            der.SEQUENCE, der.encode(0xA0, Algorithm(oids.oid_of(oids.DIGESTS, "md5")).encode())
        ),
        der.encode(der.SEQUENCE, der.encode(0xA0, Algorithm("1.2.3").encode())),
        der.encode(der.SEQUENCE, der.encode(0xA1, Algorithm("1.2.3").encode())),
        der.encode(der.SEQUENCE, der.encode(0xA2, Algorithm("1.2.3").encode())),
    ],
)
def test_oaep_with_unknown_parameters_is_refused(parameters: bytes) -> None:
    data = by_hand(key_algorithm=Algorithm(oids.RSA_OAEP, parameters))
    refused(ErrorCode.BAD_ALGORITHM, lambda: decrypt(data))


def test_the_scheme_of_a_request_is_known_for_an_answer_in_kind() -> None:
    def scheme(data: bytes) -> tuple[str, str | None]:
        info = enveloped_data.parse(data).recipients[0]
        assert isinstance(info, recipients.KeyTransRecipientInfo)
        return key_transport.scheme_of(info)

    own = support.certificate()
    assert scheme(enveloped_data.encrypt(CONTENT, own)) == ("rsa-v1.5", None)
    data = enveloped_data.encrypt(CONTENT, own, key_transport="oaep", oaep_digest="sha384")
    assert scheme(data) == ("oaep", "sha384")


# No oracle


def _wrong_blocks() -> dict[str, bytes]:
    key = support.rsa_key()
    size = key.key_size // 8
    numbers = key.public_key().public_numbers()

    def raw(block: bytes) -> bytes:
        return pow(int.from_bytes(block), numbers.e, numbers.n).to_bytes(size)

    return {
        "no padding": raw(bytes(size - 1) + b"\x05"),
        "block type 1": raw(b"\x00\x01" + b"\xff" * (size - 19) + b"\x00" + bytes(16)),
        "short padding": raw(b"\x00\x02\x01\x01\x00" + bytes(size - 5)),
        "no separator": raw(b"\x00\x02" + b"\x01" * (size - 2)),
        "key too short": key.public_key().encrypt(bytes(15), padding.PKCS1v15()),
        "key too long": key.public_key().encrypt(bytes(32), padding.PKCS1v15()),
        "empty key": key.public_key().encrypt(b"", padding.PKCS1v15()),
        "another key": key.public_key().encrypt(b"0" * 16, padding.PKCS1v15()),
        "not a block": b"\x01" * 16,
        "beyond the modulus": b"\xff" * size,
        "empty": b"",
    }


@pytest.mark.parametrize("algorithm", [Algorithm(oids.RSA, NULL), Algorithm(oids.RSA_OAEP)])
@pytest.mark.parametrize("kind", _wrong_blocks())
def test_s4_whatever_is_wrong_with_the_key_looks_the_same(kind: str, algorithm: Algorithm) -> None:
    """RFC 3218: a message with a wrong key fails like one whose padding is not right; the
    ciphertext is such that only one key in 2^120 decrypts it."""
    data = by_hand(
        encrypted_key=_wrong_blocks()[kind], key_algorithm=algorithm, ciphertext=bytes(16 * 16)
    )
    outcomes = set()
    for _ in range(3):
        try:
            outcomes.add(decrypt(data))
        except PKIError as error:
            outcomes.add((error.code, error.detail, str(error)))  # type: ignore[arg-type]
    # A wrong key makes valid padding once in 256 times, and then does so every time.
    assert len(outcomes) == 1
    (outcome,) = outcomes
    assert isinstance(outcome, bytes) or outcome == (ErrorCode.BAD_SIGNATURE, UNIFORM, UNIFORM)


def test_the_substitute_depends_on_the_block_and_the_secret_alone() -> None:
    def substitute(block: bytes, secret: bytes) -> bytes:
        info = recipients.KeyTransRecipientInfo(
            SubjectKeyIdentifier(b""), Algorithm(oids.RSA, NULL), block
        )
        return key_transport.decrypt_key(info, support.rsa_key(), 16, secret)

    first = substitute(b"block", b"secret")
    assert len(first) == 16
    assert first == substitute(b"block", b"secret")
    assert first != substitute(b"other", b"secret")
    assert first != substitute(b"block", b"another")


@pytest.mark.parametrize("ciphertext", [b"", b"\x01" * 15, bytes(16), bytes(33)])
def test_bad_content_looks_like_a_bad_key(ciphertext: bytes) -> None:
    detail = refused(ErrorCode.BAD_SIGNATURE, lambda: decrypt(by_hand(ciphertext=ciphertext)))
    assert detail == UNIFORM


def test_a_changed_message_does_not_decrypt_with_gcm() -> None:
    data = enveloped_data.encrypt_kek(
        CONTENT, b"id", KEK, "aes256-gcm", content_type=oids.SIGNED_DATA
    )
    enveloped = enveloped_data.parse(data)
    assert enveloped.mac is not None and enveloped.authenticated_attributes
    for part, other in (
        (enveloped.encrypted_content, bytes(len(CONTENT))),
        (enveloped.mac, bytes(16)),
        (der.encode_oid(oids.SIGNED_DATA), der.encode_oid(oids.ENVELOPED_DATA)),
    ):
        assert data.count(part) >= 1
        changed = enveloped_data.parse(data.replace(part, other))
        call = functools.partial(enveloped_data.decrypt_kek, changed, b"id", KEK)
        assert refused(ErrorCode.BAD_SIGNATURE, call) == UNIFORM


# Algorithms


def test_s31_single_des_only_where_allowed() -> None:
    data = by_hand(name="des-cbc")
    refused(ErrorCode.BAD_ALGORITHM, lambda: decrypt(data))
    assert decrypt(data, allow_legacy=True) == CONTENT
    refused(
        ErrorCode.BAD_ALGORITHM,
        lambda: enveloped_data.encrypt(CONTENT, support.certificate(), "des-cbc"),
    )


def test_unknown_algorithms_are_refused() -> None:
    refused(ErrorCode.BAD_ALGORITHM, lambda: decrypt(by_hand(algorithm=Algorithm("1.2.3"))))
    refused(ErrorCode.BAD_ALGORITHM, lambda: decrypt(by_hand(key_algorithm=Algorithm("1.2.3"))))
    refused(
        ErrorCode.BAD_ALGORITHM,
        lambda: enveloped_data.encrypt(CONTENT, support.certificate(), "rc4"),
    )
    refused(
        ErrorCode.BAD_ALGORITHM,
        lambda: enveloped_data.encrypt(CONTENT, support.certificate(support.ed25519_key)),
    )


def test_gcm_goes_with_auth_enveloped_data_alone() -> None:
    gcm = content_encryption.algorithm_of(content_encryption.ContentCipher("aes128-gcm", bytes(12)))
    refused(ErrorCode.BAD_ALGORITHM, lambda: decrypt(by_hand(algorithm=gcm)))


@pytest.mark.parametrize(
    "algorithm",
    [
        Algorithm("2.16.840.1.101.3.4.1.2"),
        Algorithm("2.16.840.1.101.3.4.1.2", NULL),
        Algorithm("2.16.840.1.101.3.4.1.2", der.encode(der.OCTET_STRING, bytes(8))),
        Algorithm("2.16.840.1.101.3.4.1.6", der.encode(der.OCTET_STRING, bytes(12))),
        Algorithm(
            "2.16.840.1.101.3.4.1.6",
            der.encode(der.SEQUENCE, der.encode(der.OCTET_STRING, bytes(7))),
        ),
    ],
)
def test_parameters_have_to_be_the_ciphers(algorithm: Algorithm) -> None:
    with pytest.raises(MalformedMessage):
        decrypt(by_hand(algorithm=algorithm))


# Recipients


def test_recipients_are_found_by_name_and_by_key_identifier() -> None:
    own = support.certificate()
    identifier = own.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert decrypt(by_hand(identifier=SubjectKeyIdentifier(identifier))) == CONTENT
    refused(
        ErrorCode.BAD_SIGNATURE,
        lambda: decrypt(by_hand(identifier=SubjectKeyIdentifier(b"other"))),
    )
    data = enveloped_data.encrypt(CONTENT, support.certificate(serial=1))
    refused(ErrorCode.BAD_SIGNATURE, lambda: decrypt(data))


def test_other_kinds_of_recipients_are_passed_over() -> None:
    data = enveloped_data.encrypt(CONTENT, support.certificate(support.ec_key))
    assert enveloped_data.parse(data).recipients == ()
    refused(ErrorCode.BAD_SIGNATURE, lambda: decrypt(data))
    enveloped = enveloped_data.parse(data)
    refused(ErrorCode.BAD_SIGNATURE, lambda: enveloped_data.decrypt_password(enveloped, b""))
    refused(ErrorCode.BAD_SIGNATURE, lambda: enveloped_data.decrypt_kek(enveloped, b"", KEK))


def test_a_wrong_password_or_key() -> None:
    enveloped = enveloped_data.parse(
        enveloped_data.encrypt_password(CONTENT, b"secret", iterations=10)
    )
    call = lambda: enveloped_data.decrypt_password(enveloped, b"Secret")  # noqa: E731
    assert refused(ErrorCode.BAD_SIGNATURE, call) == UNIFORM
    wrapped = enveloped_data.parse(enveloped_data.encrypt_kek(CONTENT, b"id", KEK))
    assert (
        refused(
            ErrorCode.BAD_SIGNATURE,
            lambda: enveloped_data.decrypt_kek(wrapped, b"id", bytes(32)),
        )
        == UNIFORM
    )
    refused(ErrorCode.BAD_ALGORITHM, lambda: enveloped_data.decrypt_kek(wrapped, b"id", bytes(16)))
    with pytest.raises(ValueError):
        enveloped_data.encrypt_kek(CONTENT, b"id", bytes(15))


def _with_password(derivation: Algorithm | None, algorithm: Algorithm, key: bytes) -> EnvelopedData:
    info = recipients.PasswordRecipientInfo(derivation, algorithm, key)
    return enveloped_data.parse(by_hand(recipient_list=[recipients.encode(info)]))


def _pbkdf2(iterations: int, *rest: bytes) -> Algorithm:
    salt = der.encode(der.OCTET_STRING, b"salt")
    return Algorithm(
        oids.PBKDF2, der.encode(der.SEQUENCE, salt, der.encode_integer(iterations), *rest)
    )


_CBC = content_encryption.ContentCipher("aes128-cbc", bytes(16))
PWRI = Algorithm(oids.PWRI_KEK, content_encryption.algorithm_of(_CBC).encode())


@pytest.mark.parametrize(
    ("derivation", "algorithm", "code"),
    [
        (None, PWRI, ErrorCode.BAD_ALGORITHM),
        (Algorithm("1.2.3"), PWRI, ErrorCode.BAD_ALGORITHM),
        (_pbkdf2(1), Algorithm("1.2.3"), ErrorCode.BAD_ALGORITHM),
        (
            _pbkdf2(1),
            Algorithm(oids.PWRI_KEK, Algorithm("1.2.3").encode()),
            ErrorCode.BAD_ALGORITHM,
        ),
        (
            _pbkdf2(1),
            Algorithm(
                oids.PWRI_KEK,
                content_encryption.algorithm_of(
                    content_encryption.ContentCipher("aes128-gcm", bytes(12))
                ).encode(),
            ),
            ErrorCode.BAD_ALGORITHM,
        ),
        (_pbkdf2(1, Algorithm("1.2.3").encode()), PWRI, ErrorCode.BAD_ALGORITHM),
        (_pbkdf2(0), PWRI, ErrorCode.MALFORMED),
        (_pbkdf2(-1), PWRI, ErrorCode.MALFORMED),
        (_pbkdf2(shared_keys.MAX_ITERATIONS + 1), PWRI, ErrorCode.MALFORMED),
        (_pbkdf2(1 << 400), PWRI, ErrorCode.MALFORMED),
        (_pbkdf2(1, der.encode_integer(32)), PWRI, ErrorCode.MALFORMED),
        (_pbkdf2(1), PWRI, ErrorCode.BAD_SIGNATURE),
        (_pbkdf2(1, der.encode_integer(16)), PWRI, ErrorCode.BAD_SIGNATURE),
    ],
)
def test_password_recipients_of_all_kinds_of_wrong(
    derivation: Algorithm | None, algorithm: Algorithm, code: ErrorCode
) -> None:
    for key in (b"", bytes(16), bytes(17), bytes(32), bytes(2048)):
        enveloped = _with_password(derivation, algorithm, key)
        refused(code, functools.partial(enveloped_data.decrypt_password, enveloped, b"password"))


def test_rfc_3211_wrapping_of_a_key_of_any_length() -> None:
    """Sections 2.3.1, 2.3.2; DES keys are shorter than a block of AES."""
    for size in (8, 16, 24, 27, 28, 29, 32):
        key = bytes(range(size))
        info = shared_keys.wrap_with_password(key, b"password", 10, bytes)
        assert shared_keys.unwrap_with_password(info, b"password") == key


def test_the_first_vector_of_rfc_3211() -> None:
    """Section 3: key "password", DES in CBC mode, PBKDF2 with 5 iterations of HMAC-SHA-1."""
    cipher = content_encryption.ContentCipher("des-cbc", bytes.fromhex("EFE598EF21B33D6D"))
    kek = shared_keys._derive(
        Algorithm(
            oids.PBKDF2,
            der.encode(
                der.SEQUENCE,
                der.encode(der.OCTET_STRING, bytes.fromhex("1234567878563412")),
                der.encode_integer(5),
            ),
        ),
        b"password",
        8,
    )
    assert kek == bytes.fromhex("D1DAA78615F287E6")
    content_key = bytes.fromhex("8C627C897323A2F8")
    wrapped = bytes.fromhex("B81B2565EE373CA6DEDCA26A178B0C10")
    assert shared_keys._unwrap_twice(cipher, kek, wrapped) == content_key


# What is not EnvelopedData


@pytest.mark.parametrize(
    "data",
    [
        b"\x30\x00",
        support.sign(),
        content_info.encode(oids.ENVELOPED_DATA, b"\x04\x00"),
        content_info.encode(oids.ENVELOPED_DATA, b"\x30\x00"),
        by_hand(recipient_list=[]),
        by_hand(recipient_list=[b"\x30\x00"]),
        by_hand(recipient_list=[b"\x04\x00"]),
        by_hand(recipient_list=[b"\xa1\x00"] * 33),
        by_hand(recipient_list=[b"\xa2\x00"]),
        by_hand(recipient_list=[b"\xa3\x00"]),
        by_hand() + b"\x00",
        support.vector("enveloped-no-content.der"),
    ],
)
def test_what_does_not_follow_the_grammar_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        enveloped_data.parse(data)


def test_authenticated_attributes_have_to_name_the_content() -> None:
    """RFC 5083 section 2.1."""
    data = enveloped_data.encrypt_kek(
        CONTENT, b"id", KEK, "aes128-gcm", content_type=oids.SIGNED_DATA
    )
    named = der.encode(der.SET, der.encode_oid(oids.SIGNED_DATA))
    with pytest.raises(MalformedMessage, match="another"):
        enveloped_data.parse(
            data.replace(named, der.encode(der.SET, der.encode_oid(oids.ENVELOPED_DATA)))
        )
    members = der.sequence_of(data)
    body = der.children(der.read_one(members[1].contents).contents)
    without = [child.encoded for child in body if child.tag != 0xA1]
    with pytest.raises(MalformedMessage, match="no authenticated attributes"):
        enveloped_data.parse(
            content_info.encode(oids.AUTH_ENVELOPED_DATA, der.encode(der.SEQUENCE, *without))
        )


def test_versions_are_those_of_section_6_1() -> None:
    def version(data: bytes) -> str:
        found: str = support.oracle(data)["version"].native
        return found

    assert version(enveloped_data.encrypt(CONTENT, support.certificate())) == "v0"
    assert version(enveloped_data.encrypt(CONTENT, support.certificate(support.ec_key))) == "v2"
    assert version(enveloped_data.encrypt_kek(CONTENT, b"id", KEK)) == "v2"
    assert version(enveloped_data.encrypt_password(CONTENT, b"x", iterations=1)) == "v3"


# Others


def test_the_librarys_envelopes_decrypt_and_ours_in_the_library() -> None:
    own = support.certificate()
    options = [pkcs7.PKCS7Options.Binary]
    data = (
        pkcs7.PKCS7EnvelopeBuilder()
        .set_data(CONTENT)
        .add_recipient(own)
        .encrypt(serialization.Encoding.DER, options)
    )
    assert decrypt(data) == CONTENT
    ours = enveloped_data.encrypt(CONTENT, own, "aes256-cbc")
    assert pkcs7.pkcs7_decrypt_der(ours, own, support.rsa_key(), []) == CONTENT


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("enveloped-rsa-oaep.pem", b"Hello, world!"),
        ("enveloped-triple-des.pem", b"Hello, World!\r\n"),
    ],
)
def test_vectors_of_the_library(name: str, content: bytes) -> None:
    key = serialization.load_pem_private_key(
        support.library_file("x509/custom/ca/rsa_key.pem"), None
    )
    own = x509.load_pem_x509_certificate(support.library_file("x509/custom/ca/rsa_ca.pem"))
    assert isinstance(key, rsa.RSAPrivateKey)
    enveloped = enveloped_data.parse(support.vector(name))
    assert enveloped_data.decrypt_key_transport(enveloped, own, key) == content


def test_the_request_of_an_apple_device_decrypts() -> None:
    content = signed_data.parse((support.VECTORS / "PKCSReq.der").read_bytes()).content
    assert content is not None
    enveloped = enveloped_data.parse(content)
    own = x509.load_pem_x509_certificate((support.VECTORS / "ca.crt").read_bytes())
    assert enveloped.content_encryption == "des-ede3-cbc"
    request = enveloped_data.decrypt_key_transport(enveloped, own, _ca_key())
    # A CertificationRequest, of a version there is not: 2.
    info = der.sequence_of(der.sequence_of(request)[0].encoded)
    assert info[0].encoded == der.encode_integer(2)
    assert b"com.apple.security.scep" in info[1].encoded


def _ca_key() -> rsa.RSAPrivateKey:
    key = serialization.load_pem_private_key((support.VECTORS / "ca.key").read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key
