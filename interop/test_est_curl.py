"""Every operation with curl and OpenSSL: the recipes as they stand, and what takes a little more
than a shell."""

import base64
import re
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_private_key

from interop import est_requests as requests
from interop import openssl, relying_party
from interop.est_pki import RECIPES, Client, EstPKI, Held, fenced
from interop.est_requests import Answer
from interop.processes import run
from interop.results import NewRow
from interop.tools import debian, debian_version, need

OPERATIONS = ("simpleenroll", "simplereenroll", "serverkeygen")


@pytest.fixture(autouse=True)
def version() -> str:
    need(debian("curl"))
    return debian_version("curl")


class Curl:
    """curl in a folder, and certificates by `openssl pkcs7`."""

    def __init__(self, client: Client) -> None:
        self.pki, self.folder = client.pki, client.folder

    def __call__(self, url: str, *options: object) -> Answer:
        """Over HTTPS; nothing is fatal."""
        head, body = self.folder / "curl.head", self.folder / "curl.body"
        for path in (head, body):
            path.unlink(missing_ok=True)
        words = ["curl", "-sS", "--http1.1", "--cacert", self.pki.root, "-D", head, "-o", body]
        run([*words, *options, url], cwd=self.folder)
        lines = head.read_text().splitlines()
        pairs = (line.partition(": ") for line in lines[1:] if line)
        content = body.read_bytes() if body.exists() else b""
        return Answer(int(lines[0].split()[1]), {name: value for name, _, value in pairs}, content)

    def post(self, operation: str, csr: Path, *options: object, label: str = "") -> Answer:
        place = f"{self.pki.est}/{label}/{operation}" if label else f"{self.pki.est}/{operation}"
        kind = ("-H", "Content-Type: application/pkcs10", "--data-binary", f"@{csr}")
        return self(place, *kind, *options)

    def certificate(self, der: bytes, name: str) -> Path:
        """The one certificate in a certs-only message, as PEM."""
        message, path = self.folder / f"{name}.p7", self.folder / f"{name}.crt"
        message.write_bytes(der)
        openssl.openssl(
            self.folder, "pkcs7", "-inform", "DER", "-in", message, "-print_certs", "-out", path
        )
        assert len(openssl.split(path)) == 1
        return path


@pytest.fixture
def curl(est_client: Client) -> Curl:
    return Curl(est_client)


def lint(certificate: Path) -> None:
    """pkilint has nothing to say; it reads no text before the certificate."""
    relying_party.lint("lint_pkix_cert", openssl.split(certificate)[0])


def by(held: Held) -> tuple[object, ...]:
    """curl's options for a client certificate."""
    return ("--cert", held.certificate, "--key", held.key)


def test_by_hand(est: EstPKI, est_client: Client, version: str, row: NewRow) -> None:
    """cacerts, csrattrs, simpleenroll, simplereenroll and serverkeygen, as the recipe says."""
    seen = row("curl, openssl", version, "EST: recipe by hand, every operation")
    folder = est_client.folder
    shown = est.recipe("est-curl.md", folder)
    assert "Subject Alternative Name" in shown
    for name in ("device", "next", "server-made"):
        lint(folder / f"{name}.crt")
    old, new = (openssl.serial(folder / f"{name}.crt") for name in ("device", "next"))
    assert old != new
    assert len(openssl.split(folder / "ca.pem")) == 2
    seen.passed("obtain")
    seen.passed("renew")
    est.revoke(old)
    issuing = openssl.split(folder / "ca.pem")[1]
    chain = openssl.joined(folder / "device.chain", folder / "device.crt", issuing)
    assert openssl.ocsp_status(chain, est.root) == "revoked"
    seen.passed("revoke")


def test_tls_1_2(est_by_address: EstPKI, workdir: Path, version: str, row: NewRow) -> None:
    """E9: `--tls-max 1.2`, and strongSwan's `pki`, which has no newer."""
    need(debian("pki", "strongswan-pki libstrongswan-extra-plugins"))
    seen = row("curl, openssl", version, "EST: recipe for TLS 1.2 only")
    est_by_address.recipe("est-tls12.md", workdir)
    for name in ("old.crt", "swan.crt"):
        words = ("x509", "-in", name, "-noout", "-subject")
        assert "old-1" in openssl.openssl(workdir, *words)
    seen.passed("obtain")


def test_approval(est: EstPKI, est_client: Client, version: str, row: NewRow) -> None:
    """202 and Retry-After, then the certificate (E13)."""
    seen = row("curl, openssl", version, "EST: recipe with approval (202)")
    est.recipe("est-approval.md", est_client.folder)
    lint(est_client.folder / "camera.crt")
    seen.passed("obtain")


def test_factory_certificates(
    est: EstPKI, est_client: Client, curl: Curl, version: str, row: NewRow
) -> None:
    """E22: anchors of one label, which are nothing to another."""
    seen = row("curl, openssl", version, "EST: recipe with a factory certificate")
    idevid = est.factory.device(est_client.folder, "SN-1")
    est.recipe("est-bootstrap.md", est_client.folder)
    seen.passed("obtain")
    seen.passed("renew")
    csr = est_client.folder / "device.csr"
    for label in ("", "reviewed", "linked"):
        for operation in OPERATIONS:
            assert curl.post(operation, csr, *by(idevid), label=label).status == 401, label
    stranger = openssl.self_signed(est_client.folder / "stranger", "SN-1")
    words = ["curl", "-sS", "--cacert", est.root, "--cert", stranger]
    words += ["--key", stranger.with_suffix(".key"), f"{est.est}/cacerts"]
    assert "curl: (" in run(words, cwd=est_client.folder, status=None)


def test_revoked_factory_certificates(est: EstPKI, est_client: Client, curl: Curl) -> None:
    """`client_crl`, with lists by `openssl ca` that the recipe puts in place."""
    folder = est_client.folder
    _, refresh = fenced(RECIPES / "est-bootstrap.md", "sh")

    def enrol(serial: str) -> Answer:
        csr = folder / f"{serial}.csr"
        words = ("-new", "-key", devices[serial].key, "-subj", f"/CN={serial}", "-out", csr)
        openssl.openssl(folder, "req", *words)
        return curl.post("simpleenroll", csr, *by(devices[serial]), label="factory")

    devices = {}
    for serial in ("SN-21", "SN-22"):
        (folder / serial).mkdir()
        devices[serial] = est.factory.device(folder / serial, serial)
        assert enrol(serial).status == 200
    est.factory.revoke(devices["SN-21"])
    est.script(refresh, folder)
    refused = enrol("SN-21")
    assert (refused.status, refused.body) == (403, b"CN=SN-21,O=Factory is revoked\n")
    assert enrol("SN-22").status == 200


def test_an_answer_is_as_the_rfcs_say(curl: Curl, est: EstPKI, est_client: Client) -> None:
    """E1, E2, E5, E7, E8, E10, E12."""
    ca = curl(f"{est.est}/cacerts")
    assert ca.fields["Content-Type"] == "application/pkcs7-mime"
    wishes = curl(f"{est.est}/csrattrs")
    assert wishes.fields["Content-Type"] == "application/csrattrs"
    password = est.add_user("wire")
    csr = est_client.request("wire")[1]
    enrolled = curl.post("simpleenroll", csr, "--user", f"wire:{password}")
    assert enrolled.fields["Content-Type"] == "application/pkcs7-mime; smime-type=certs-only"
    for answer in (ca, wishes, enrolled):
        assert answer.status == 200
        assert answer.fields["Content-Transfer-Encoding"] == "base64"
        assert answer.fields["Content-Length"] == str(len(answer.body))
        assert re.fullmatch(rb"[A-Za-z0-9+/]+=*", answer.body)
    curl.certificate(base64.b64decode(enrolled.body), "wire")
    asked = curl.post("simpleenroll", csr)
    assert (asked.status, asked.body) == (401, b"")
    assert asked.fields["WWW-Authenticate"].startswith("Basic realm=")


def test_labels(curl: Curl, est: EstPKI, est_client: Client) -> None:
    """E25: users of one label are nobody in another; what is no label is a 404 in text."""
    password = est.add_user("labelled", label="rsa")
    csr = est_client.request("labelled")[1]
    login = ("--user", f"labelled:{password}")
    found = {
        label: curl.post("simpleenroll", csr, *login, label=label).status
        for label in ("rsa", "", "factory", "nobody")
    }
    assert found == {"rsa": 200, "": 401, "factory": 403, "nobody": 404}
    full = curl(f"{est.est}/fullcmc", "-H", "Content-Type: application/pkcs7-mime", "-d", "x")
    assert full.status == 404
    assert full.fields["Content-Type"].startswith("text/plain")
    assert b"simpleenroll" in full.body


@pytest.mark.parametrize("kind", ["EC", "RSA"])
def test_generated_keys_for_a_certificate(
    curl: Curl, est: EstPKI, est_client: Client, version: str, row: NewRow, kind: str
) -> None:
    """RFC 7030 section 4.4.1.2: `openssl cms -decrypt` with the client's own key."""
    seen = row("curl, openssl cms", version, f"EST: serverkeygen, enveloped, {kind} key")
    name = f"keygen-{kind.lower()}"
    password = est.add_user(name)
    key, csr = est_client.request(name, kind)
    got = curl.post("simpleenroll", csr, "--user", f"{name}:{password}")
    held = Held(key, curl.certificate(base64.b64decode(got.body), name))
    est_client.check(held, name)
    own = x509.load_pem_x509_certificate(held.certificate.read_bytes())
    identifier = own.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    answer = _generated(curl, name, {requests.ASYMMETRIC_DECRYPT_KEY_ID: identifier}, *by(held))
    _check_package(curl, answer, "-recip", held.certificate, "-inkey", held.key)
    seen.passed("obtain")


def test_generated_keys_for_a_shared_key(
    curl: Curl, est: EstPKI, version: str, row: NewRow
) -> None:
    """RFC 7030 section 4.4.1.1: `openssl cms -decrypt -secretkey`; for somebody else's key nothing
    is issued."""
    seen = row("curl, openssl cms", version, "EST: serverkeygen, enveloped for a shared key")
    password = est.add_user("keygen-shared")
    secret = est.cli("est", "user", "key", "keygen-shared").splitlines()[-1]
    login = ("--user", f"keygen-shared:{password}")
    identifier = {requests.DECRYPT_KEY_ID: b"keygen-shared"}
    answer = _generated(curl, "keygen-shared", identifier, *login)
    wrapped = ("-secretkey", secret, "-secretkeyid", b"keygen-shared".hex())
    _check_package(curl, answer, *wrapped)
    seen.passed("obtain")
    other = _generated(curl, "keygen-shared", {requests.DECRYPT_KEY_ID: b"wire"}, *login)
    assert other.status == 403


def test_generated_rsa_keys(curl: Curl, est: EstPKI, est_client: Client) -> None:
    """In the clear inside of TLS, of the kind the label says."""
    password = est.add_user("keygen-rsa2", label="rsa")
    csr = est_client.request("keygen-rsa2")[1]
    login = ("--user", f"keygen-rsa2:{password}")
    answer = curl.post("serverkeygen", csr, *login, label="rsa")
    (kind, key), (_, message) = requests.parts(answer.fields, answer.body)
    assert kind == "application/pkcs8"
    path = curl.folder / "made.key"
    path.write_bytes(key)
    text = openssl.openssl(curl.folder, "pkey", "-inform", "DER", "-in", path, "-noout", "-text")
    assert "Private-Key: (2048 bit" in text
    pem = curl.folder / "made.pem"
    openssl.openssl(curl.folder, "pkey", "-inform", "DER", "-in", path, "-out", pem)
    est_client.check(Held(pem, curl.certificate(message, "made")), "keygen-rsa2")


def _generated(
    curl: Curl, name: str, attributes: dict[x509.ObjectIdentifier, bytes], *options: object
) -> Answer:
    csr = curl.folder / f"{name}.der"
    csr.write_bytes(requests.request(name, attributes=attributes))
    return curl.post("serverkeygen", csr, *options)


def _check_package(curl: Curl, answer: Answer, *options: object) -> None:
    """The first part decrypts to a signed key package (RFC 5958) with the key of the certificate in
    the second (RFC 7030 section 4.4.2)."""
    assert answer.status == 200, answer.body
    (kind, enveloped), (_, message) = requests.parts(answer.fields, answer.body)
    assert kind == "application/pkcs7-mime; smime-type=server-generated-key"
    folder = curl.folder
    (folder / "enveloped").write_bytes(enveloped)
    words = ["cms", "-decrypt", "-inform", "DER", "-in", "enveloped", "-out", "inner"]
    openssl.openssl(folder, *words, *options)
    # RFC 5652 section 6.3: what is in it is a SignedData without its ContentInfo.
    shell = _der(0x06, bytes.fromhex("2a864886f70d010702")), (folder / "inner").read_bytes()
    (folder / "signed").write_bytes(_der(0x30, shell[0], _der(0xA0, shell[1])))
    words = ["cms", "-verify", "-inform", "DER", "-in", "signed", "-out", "package"]
    openssl.openssl(folder, *words, "-purpose", "any", "-CAfile", _authorities(curl))
    package = (folder / "package").read_bytes()
    key = load_der_private_key(_contents(package), None)
    made = x509.load_pem_x509_certificate(curl.certificate(message, "generated").read_bytes())
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.public_key() == made.public_key()


def _authorities(curl: Curl) -> Path:
    curl.pki.script(
        'cat "$ROOT" > cas.pem; curl -fsS "$HTTP/ca/issuing.pem" >> cas.pem', curl.folder
    )
    return curl.folder / "cas.pem"


def _der(tag: int, *contents: bytes) -> bytes:
    content = b"".join(contents)
    size = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    length = bytes((len(content),)) if len(content) < 128 else bytes((0x80 | len(size),)) + size
    return bytes((tag,)) + length + content


def _contents(der: bytes) -> bytes:
    """Of the outermost element."""
    return der[2 + (der[1] & 0x7F if der[1] & 0x80 else 0) :]


def test_proof_of_possession(est: EstPKI, row: NewRow) -> None:
    """E14, E16, RFC 7030 section 3.5, as a client of TLS 1.2 computes it."""
    seen = row("Python ssl", ssl.OPENSSL_VERSION.split()[1], "EST: tls-unique on TLS 1.2")
    password = est.add_user("linked", label="linked")
    login = requests.basic("linked", password)
    path = "/.well-known/est/linked/simpleenroll"

    def enrol(version: ssl.TLSVersion, *, right: bool) -> Answer:
        with requests.connection(est.https_port, est.root, version) as sock:
            unique = sock.get_channel_binding("tls-unique") or b""
            text = base64.b64encode(unique if right else unique[::-1]).decode()
            csr = requests.request("linked", attributes={requests.CHALLENGE_PASSWORD: text})
            return requests.post(sock, path, base64.b64encode(csr), Authorization=login)

    assert enrol(ssl.TLSVersion.TLSv1_2, right=True).status == 200
    seen.passed("obtain")
    assert enrol(ssl.TLSVersion.TLSv1_2, right=False).status == 403
    assert enrol(ssl.TLSVersion.TLSv1_3, right=True).status == 403
    with requests.connection(est.https_port, est.root, ssl.TLSVersion.TLSv1_2) as sock:
        csr = base64.b64encode(requests.request("linked"))
        assert requests.post(sock, path, csr, Authorization=login).status == 403
