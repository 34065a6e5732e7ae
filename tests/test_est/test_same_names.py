"""E20: which requests are for the names of the certificate that is renewed, and which only look
like it."""

import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

from pkiserver.errors import PKIError
from pkiserver.pkix import cert, csr, der
from protocols.est.reenrollment import check_same_names
from tests.test_est.conftest import OpenWorld
from tests.test_est.support import issued, make_csr, new_key, peer_with

CN = NameOID.COMMON_NAME
ORG = NameOID.ORGANIZATION_NAME
OU = NameOID.ORGANIZATIONAL_UNIT_NAME
KEY = new_key()
ALT_NAMES = (x509.DNSName("a.example.org"), x509.RFC822Name("Me@example.org"))


def attribute(
    oid: x509.ObjectIdentifier, text: str, kind: _ASN1Type = _ASN1Type.UTF8String
) -> x509.NameAttribute[str]:
    return x509.NameAttribute(oid, text, kind)


def rdns(*found: x509.RelativeDistinguishedName | x509.NameAttribute[str]) -> x509.Name:
    return x509.Name(list(found))  # type: ignore[arg-type]


OLD = rdns(attribute(ORG, "Müller"), attribute(CN, "dev1"))


def certificate() -> x509.Certificate:
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(OLD)
        .issuer_name(OLD)
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(ALT_NAMES), critical=False)
        .sign(KEY, hashes.SHA256())
    )


def refused(subject: x509.Name, *alt_names: x509.GeneralName) -> bool:
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if alt_names:
        builder = builder.add_extension(x509.SubjectAlternativeName(alt_names), critical=False)
    request = builder.sign(KEY, hashes.SHA256())
    try:
        check_same_names(csr.parse(request.public_bytes(Encoding.DER)), certificate())
    except PKIError:
        return True
    return False


SAME = [
    OLD,
    rdns(attribute(ORG, "Müller"), attribute(CN, "dev1", _ASN1Type.PrintableString)),
    rdns(attribute(ORG, "Müller", _ASN1Type.BMPString), attribute(CN, "dev1", _ASN1Type.BMPString)),
    rdns(attribute(ORG, "Müller"), attribute(CN, "dev1", _ASN1Type.T61String)),
]
OTHER = {
    "the other order": rdns(attribute(CN, "dev1"), attribute(ORG, "Müller")),
    "one RDN of two": rdns(
        x509.RelativeDistinguishedName([attribute(CN, "dev1"), attribute(ORG, "Müller")])
    ),
    "another type": rdns(attribute(OU, "Müller"), attribute(CN, "dev1")),
    "upper case": rdns(attribute(ORG, "MÜLLER"), attribute(CN, "dev1")),
    "decomposed": rdns(attribute(ORG, "Mu\u0308ller"), attribute(CN, "dev1")),
    "a NUL": rdns(attribute(ORG, "Müller"), attribute(CN, "dev1\0")),
    "a NUL and more": rdns(attribute(ORG, "Müller"), attribute(CN, "dev1\0.example.org")),
    "a blank": rdns(attribute(ORG, "Müller"), attribute(CN, " dev1")),
    "two blanks for one": rdns(attribute(ORG, "Müller  "), attribute(CN, "dev1")),
    "a zero-width joiner": rdns(attribute(ORG, "Müller"), attribute(CN, "dev1\u200d")),
    "look-alikes": rdns(attribute(ORG, "Müller"), attribute(CN, "d\u0435v1")),
    "two bytes as one character": rdns(
        attribute(ORG, "Müller"), attribute(CN, "\u6465\u7631", _ASN1Type.BMPString)
    ),
    "one more": rdns(attribute(ORG, "Müller"), attribute(CN, "dev1"), attribute(OU, "x")),
    "one twice": rdns(attribute(ORG, "Müller"), attribute(CN, "dev1"), attribute(CN, "dev1")),
    "one less": rdns(attribute(CN, "dev1")),
    "none": rdns(),
}
OTHER_ALT_NAMES = {
    "none": (),
    "one less": ALT_NAMES[:1],
    "another type": (ALT_NAMES[0], x509.UniformResourceIdentifier("mailto:Me@example.org")),
    "the local part in other case": (ALT_NAMES[0], x509.RFC822Name("me@example.org")),
    "a DNS name for an address": (ALT_NAMES[0], x509.DNSName("example.org")),
    "one more": (*ALT_NAMES, x509.DNSName("b.example.org")),
    "one more of an odd type": (*ALT_NAMES, x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))),
    "one more otherName": (
        *ALT_NAMES,
        x509.OtherName(x509.ObjectIdentifier("1.2.3"), b"\x0c\x01x"),
    ),
    "the whole subject": (*ALT_NAMES, x509.DirectoryName(OLD)),
}


@pytest.mark.parametrize("subject", SAME)
def test_the_same_subject(subject: x509.Name) -> None:
    assert not refused(subject, *ALT_NAMES)


@pytest.mark.parametrize("subject", OTHER.values(), ids=OTHER)
def test_another_subject(subject: x509.Name) -> None:
    assert refused(subject, *ALT_NAMES)


def test_alternative_names_in_another_order_and_spelling() -> None:
    assert not refused(OLD, ALT_NAMES[1], x509.DNSName("A.Example.ORG"), ALT_NAMES[0])


@pytest.mark.parametrize("names", OTHER_ALT_NAMES.values(), ids=OTHER_ALT_NAMES)
def test_other_alternative_names(names: tuple[x509.GeneralName, ...]) -> None:
    assert refused(OLD, *names)


async def test_the_new_certificate_has_the_octets_of_the_old(open_world: OpenWorld) -> None:
    """Whatever kinds of strings the request had; also where the profile has changed meanwhile."""
    world = await open_world(
        '[profiles.device]\nsubject = "CN={cn},O={o},C=CH,emailAddress=x@example.org"\n'
        "[est.default]\n"
    )
    await world.add_user()
    held = await world.enroll(
        rdns(attribute(ORG, "Müller"), attribute(CN, "dev1")), ["b.org", "a.org"]
    )
    later = await open_world('[profiles.device]\nsubject = "CN={cn}"\n[est.default]\n')
    old = held.certificate.subject
    request = make_csr(
        x509.Name([
            attribute(each.oid, str(each.value), _ASN1Type.BMPString)
            if each.oid in (CN, ORG) else each for each in old
        ]),
        ["a.org", "b.org"],
    )  # fmt: skip
    new = issued(await later.post("simplereenroll", request, peer=peer_with(held)))
    assert subject_of(new) == subject_of(held.certificate)
    san = x509.SubjectAlternativeName
    assert new.extensions.get_extension_for_class(san) == (
        held.certificate.extensions.get_extension_for_class(san)
    )


def subject_of(found: x509.Certificate) -> bytes:
    """The octets, as they are in the certificate."""
    tbs = der.sequence_of(cert.split(found.public_bytes(Encoding.DER))[0])
    return tbs[5].encoded
