"""Certificates alone (RFC 7030 section 4.1.3, RFC 8894 section 3.4): S19, S20, S22, S34."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from pkiserver.cms import certs_only, oids, signed_data
from pkiserver.errors import MalformedMessage
from tests.cms import support

# The library would have the SET sorted; it reads the others all the same.
pytestmark = pytest.mark.filterwarnings("ignore:PKCS#7 certificates could not be parsed as DER")


def _three() -> list[x509.Certificate]:
    """In an order that DER would not give them."""
    made = [support.certificate(serial=serial, common_name=f"c{serial}") for serial in (3, 1, 2)]
    assert [support.der_of(c) for c in made] != sorted(support.der_of(c) for c in made)
    return made


def test_the_order_is_kept_and_others_read_it() -> None:
    certificates = _three()
    encoded = certs_only.encode(certificates)
    assert certs_only.parse(encoded) == tuple(certificates)
    assert pkcs7.load_der_pkcs7_certificates(encoded) == certificates


@pytest.mark.filterwarnings("error")
def test_the_order_of_der_is_there_for_readers_who_insist_on_it() -> None:
    encoded = certs_only.encode(_three(), in_order=False)
    assert set(pkcs7.load_der_pkcs7_certificates(encoded)) == set(_three())


def test_the_form_is_the_one_every_client_knows() -> None:
    content = support.oracle(certs_only.encode(_three()))
    assert content["version"].native == "v1"
    assert content["encap_content_info"].native == {"content_type": "data", "content": None}
    assert len(content["signer_infos"]) == len(content["digest_algorithms"]) == 0


def test_crls_go_along() -> None:
    crl = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(support.certificate().subject)
        .last_update(support.NOW)
        .next_update(support.NOW.replace(year=2027))
        .sign(support.ec_key(), hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    encoded = certs_only.encode([], [crl])
    assert signed_data.parse(encoded).crls == (crl,)
    assert len(support.oracle(encoded)["crls"]) == 1
    assert certs_only.parse(encoded) == ()


@pytest.mark.parametrize("name", ["amazon-roots.der", "amazon-roots.p7b", "isrg.pem"])
def test_bundles_of_others(name: str) -> None:
    data = support.vector(name)
    assert list(certs_only.parse(data)) == pkcs7.load_der_pkcs7_certificates(data)


def test_ber_is_read() -> None:
    encoded = certs_only.encode(_three())
    assert certs_only.parse(support.to_ber(encoded, chunk=7)) == tuple(_three())


def test_a_signed_message_is_not_one() -> None:
    for content in (None, b"content"):
        with pytest.raises(MalformedMessage):
            certs_only.parse(support.sign(content))
    unsigned = signed_data.assemble(oids.DATA, b"content", [])
    with pytest.raises(MalformedMessage):
        certs_only.parse(unsigned)


def test_what_is_no_certificate_is_malformed() -> None:
    for certificate in (b"\x30\x00", b"\x30\x03\x02\x01\x01"):
        with pytest.raises(MalformedMessage):
            certs_only.parse(signed_data.assemble(oids.DATA, None, [certificate]))
