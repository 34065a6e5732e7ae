"""EST: requests that are damaged before and after they are signed, with attributes of every kind,
in every spelling of a body, by a user who is bound to one name and a certificate for it. No
certificate may come of them for another, and every refusal is a 4xx with a short text."""

import base64

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import AttributeOID, NameOID

from interop.fuzz.cases import Case, Cases, Reply, Rng, Subject, mutated
from interop.processes import run
from pkiserver.pkix import cert

NAME = "fuzzed"
MOST_TEXT = 600
"""Octets of a refusal."""
_OPERATIONS = (*(b"simpleenroll", b"simplereenroll", b"serverkeygen") * 5, b"fullcmc")
_PLACES = (b"/.well-known/est/",) * 20 + (
    b"/.well-known/est/default/", b"/.well-known/est/nobody/", b"/.well-known/est//",
    b"/.well-known/est/%2e%2e/", b"/.well-known/est/%00/",
)  # fmt: skip
_TYPES = (b"application/pkcs10",) * 20 + (
    b"application/pkcs10; charset=\x80", b"APPLICATION/PKCS10;", b"text/plain", b"", b"*/*",
)  # fmt: skip
_LOGINS = (b"Basic", b"Basic !", b"Basic " + b"QQ" * 4000, b"Bearer x", b"Basic Og==", b"\xff")
_ATTRIBUTES = (
    AttributeOID.CHALLENGE_PASSWORD,
    *(
        x509.ObjectIdentifier(text)
        for text in (
            "1.2.840.113549.1.9.15", "1.2.840.113549.1.9.16.2.37", "1.2.840.113549.1.9.16.2.54",
            "1.2.840.113549.1.9.16.2.56", "1.2.840.113549.1.9.16.2.58", "1.3.6.1.5.5.7.7.36",
            "1.2.3.4",
        )
    ),
)  # fmt: skip


def cases(subject: Subject) -> Cases:
    words = [subject.command, "est", "user", "add", NAME, "--home", subject.home]
    told = run([*words, "--subject", NAME, "--dns", f"{NAME}.example"], cwd=subject.home.parent)
    password = told.splitlines()[-1]
    login = b"Basic " + base64.b64encode(f"{NAME}:{password}".encode())
    key = ec.generate_private_key(ec.SECP256R1())

    def make(rng: Rng) -> Case:
        target = rng.choice(_PLACES) + rng.choice(_OPERATIONS)
        if rng.random() < 0.05:
            return _reading(rng, target)
        headers = [(b"content-type", rng.choice(_TYPES))]
        if rng.random() < 0.8:
            headers.append(
                (b"authorization", login if rng.random() < 0.95 else rng.choice(_LOGINS))
            )
        body = _spelled(rng, _request(rng, key))
        method = rng.choice((b"POST",) * 30 + (b"GET", b"PUT", b"HEAD"))
        return Case(method, target, tuple(headers), body, secure=True, check=_check)

    return make


def _reading(rng: Rng, target: bytes) -> Case:
    place = target.rpartition(b"/")[0]
    operation = rng.choice((b"cacerts", b"csrattrs", b"", b"cacerts/", b"crls", b"%63acerts"))
    return Case(rng.choice((b"GET", b"HEAD", b"POST")), place + b"/" + operation, secure=True)


def _request(rng: Rng, key: ec.EllipticCurvePrivateKey) -> bytes:
    """In DER: as it should be, damaged and then signed, or damaged when it was signed."""
    name = rng.choice((NAME,) * 8 + ("somebody", "", "*", f"{NAME}\x00", "\u202e", "a" * 64))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if rng.random() < 0.5:
        names = x509.SubjectAlternativeName([x509.DNSName(f"{NAME}.example")])
        builder = builder.add_extension(names, critical=rng.random() < 0.2)
    for oid in rng.sample(_ATTRIBUTES, rng.choice((0, 0, 1, 2, 4))):
        value = rng.choice((NAME.encode(), rng.randbytes(rng.choice((0, 20, 300)))))
        builder = builder.add_attribute(oid, value, _tag=rng.choice(list(_ASN1Type)))
    request = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    chance = rng.random()
    if chance < 0.4:
        info, algorithm, _ = cert.split(request)
        info = mutated(info, rng)
        return cert.assemble(info, algorithm, key.sign(info, ec.ECDSA(hashes.SHA256())))
    if chance < 0.8:
        return mutated(request, rng)
    return request if chance < 0.9 else rng.randbytes(rng.choice((0, 1, 40, 3000, 200_000)))


def _spelled(rng: Rng, data: bytes) -> bytes:
    text = base64.b64encode(data)
    form = rng.randrange(8)
    if form == 0:
        return data
    if form == 1:
        return base64.encodebytes(data)
    if form == 2:
        label = rng.choice((b"CERTIFICATE REQUEST", b"NEW CERTIFICATE REQUEST", b"X"))
        armour = b"-----%s %s-----\n"
        return armour % (b"BEGIN", label) + base64.encodebytes(data) + armour % (b"END", label)
    if form == 3:
        return mutated(text, rng)
    if form == 4:
        return b" \r\n\t".join((text[:20], text[20:], b""))
    return text


def _check(reply: Reply) -> str | None:
    kind = reply.headers.get(b"content-type", b"")
    if reply.status == 200:
        return _check_issued(reply, kind)
    if reply.status < 400:
        return "neither a certificate nor a refusal"
    if reply.status == 401:
        return "401 with a body" if reply.body else None
    if reply.body and not kind.startswith(b"text/plain"):
        return f"a refusal in {kind!r}"
    return "a long refusal" if len(reply.body) > MOST_TEXT else None


def _check_issued(reply: Reply, kind: bytes) -> str | None:
    if kind.startswith(b"multipart/mixed"):
        found = reply.body.split(b"\r\n\r\n")[-1].split(b"\r\n")[0]
    elif kind == b"application/pkcs7-mime; smime-type=certs-only":
        found = reply.body
    else:
        return f"200 with {kind!r}"
    (certificate,) = pkcs7.load_der_pkcs7_certificates(base64.b64decode(found))
    names = [str(item.value) for item in certificate.subject]
    extensions = certificate.extensions
    try:
        others = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names += [str(item.value) for item in others]
    except x509.ExtensionNotFound:
        pass
    wrong = set(names) - {NAME, f"{NAME}.example"}
    return f"a certificate for {wrong}" if wrong else None
