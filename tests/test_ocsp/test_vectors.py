"""Requests that others have made: the vectors of pyca/cryptography (package cryptography_vectors,
folder x509/ocsp: real requests of DoD's responders, and hand-made ones), and what of PKITS can be
asked about: each of its certificates by each of its issuers."""

from pathlib import Path

import cryptography_vectors
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from pkiserver.ca import encoding, ocsp_codec
from pkiserver.errors import MalformedMessage

ROOT = Path(str(cryptography_vectors.__file__)).parent / "x509"
FOLDER = ROOT / "ocsp"
READ = {
    "ocsp-army.inapplicable-req": ("sha1", 1),
    "ocsp-army.revoked-req": ("sha1", 1),
    "ocsp-army.valid-req": ("sha1", 1),
    "req-acceptable-responses": ("sha1", 1),
    "req-ext-nonce": ("sha1", 1),
    "req-ext-unknown-oid": ("sha1", 1),
    "req-invalid-hash-alg": (None, 1),
    "req-multi-sha1": ("sha1", 2),
    "req-sha1": ("sha1", 1),
}
UNREADABLE = {"DSAParametersInheritedCACert", "BadSignedCACert"}
"""PKITS: key parameters that are elsewhere, a signature of no whole number of octets."""
REFUSED = {"req-duplicate-ext": "twice", "req-invalid-version": "version"}


def requests() -> set[str]:
    return {path.stem for path in FOLDER.glob("*.der") if path.stem.split("-")[-1] != "resp"} - {
        path.stem for path in FOLDER.glob("resp-*.der")
    }


def test_every_request_of_the_vectors_is_named_here() -> None:
    assert requests() == set(READ) | set(REFUSED)


@pytest.mark.parametrize("name", sorted(READ))
def test_requests_that_are_read(name: str) -> None:
    data = (FOLDER / f"{name}.der").read_bytes()
    parsed = ocsp_codec.parse_request(data)
    hash_name, count = READ[name]
    assert len(parsed.cert_ids) == count
    assert {each.hash_name for each in parsed.cert_ids} == {hash_name}
    assert all(each.encoded in data for each in parsed.cert_ids)
    assert (parsed.nonce is not None) == (name == "req-ext-nonce")
    if count == 1 and hash_name is not None:
        other = ocsp.load_der_ocsp_request(data)
        assert other.serial_number == parsed.cert_ids[0].serial
        assert other.issuer_key_hash == parsed.cert_ids[0].issuer_key_hash


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_requests_that_are_malformed(name: str) -> None:
    with pytest.raises(MalformedMessage, match=REFUSED[name]):
        ocsp_codec.parse_request((FOLDER / f"{name}.der").read_bytes())


@pytest.mark.parametrize("path", sorted(FOLDER.glob("resp-*.der")), ids=lambda path: path.stem)
def test_a_response_is_no_request(path: Path) -> None:
    with pytest.raises(MalformedMessage):
        ocsp_codec.parse_request(path.read_bytes())


@pytest.mark.parametrize("algorithm", [hashes.SHA1(), hashes.SHA256()], ids=lambda each: each.name)
def test_hashes_of_every_issuer_of_pkits(algorithm: hashes.SHA1 | hashes.SHA256) -> None:
    """NIST's test suite has names of every string type and RSA keys: what we take for the hashes
    of an issuer is what another implementation makes of its certificate."""
    compared = 0
    for path in sorted((ROOT / "PKITS_data" / "certs").glob("*CACert.crt")):
        if path.stem in UNREADABLE:
            continue
        issuer = x509.load_der_x509_certificate(path.read_bytes())
        builder = ocsp.OCSPRequestBuilder().add_certificate(issuer, issuer, algorithm)
        asked = builder.build().public_bytes(Encoding.DER)
        fields = encoding.fields_of(issuer)
        cert_id = ocsp_codec.parse_request(asked).cert_ids[0]
        for octets, found in (
            (fields.issuer, cert_id.issuer_name_hash),
            (fields.key_bits, cert_id.issuer_key_hash),
        ):
            digest = hashes.Hash(algorithm)
            digest.update(octets)
            assert digest.finalize() == found, path.name
        compared += 1
    assert compared > 100
