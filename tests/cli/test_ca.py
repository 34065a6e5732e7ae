"""`ca`, `crl`, `ocsp`: the authority tree and its services."""

import datetime as dt
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat, pkcs12
from cryptography.x509.oid import NameOID

from tests.cli.conftest import CLI

NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
DAY = dt.timedelta(days=1)


class Outside:
    """A root that is none of ours."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Outside Root")])
        self.certificate = self.sign(self.name, self.key.public_key())

    def sign(self, subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.Certificate:
        usage = x509.KeyUsage(
            digital_signature=False, content_commitment=False, key_encipherment=False,
            data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
            encipher_only=False, decipher_only=False,
        )  # fmt: skip
        own = x509.SubjectKeyIdentifier.from_public_key(self.key.public_key())
        return (
            x509.CertificateBuilder(
                self.name, subject, public_key, x509.random_serial_number(), NOW - DAY, NOW + DAY
            )
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own), critical=False
            )
            .sign(self.key, hashes.SHA256())
        )


@pytest.fixture(scope="session")
def outside() -> Outside:
    return Outside()


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)


def test_the_tree_of_a_new_home(cli: CLI) -> None:
    rows = cli("ca", "list", "--json").json
    assert [(row["name"], row["parent"]) for row in rows] == [("root", None), ("issuing", "root")]
    assert {row["signing_key"] for row in rows} == {"here"}
    assert "CN=Example Issuing CA" in cli("ca", "list").out


def test_fingerprints_are_shown_as_other_programs_show_them(cli: CLI) -> None:
    own = x509.load_pem_x509_certificate(cli("ca", "export", "issuing").out.encode())
    shown, text = cli("ca", "show", "issuing", "--json").json, cli("ca", "show", "issuing").out
    for name, algorithm in (("sha256", hashes.SHA256()), ("sha1", hashes.SHA1())):
        fingerprint = own.fingerprint(algorithm)
        assert shown[name] == fingerprint.hex()
        assert fingerprint.hex(":").upper() in text


def test_an_offline_key_is_shown(cli: CLI, home: Path) -> None:
    for path in (home / "keys").glob("root*.key"):
        path.unlink()
    assert cli("ca", "show", "root", "--json").json["signing_key"] == "offline"
    below = cli("ca", "create", "sub", "--parent", "root", "--subject", "CN=Sub")
    assert below.status == 1 and "offline" in below.err


def test_create_below_and_beside(cli: CLI) -> None:
    words = ["--subject", "CN=Lab CA,O=Example", "--permit", "dns:lab.test", "--exclude",
             "ip:0.0.0.0/0", "--path-length", "0", "--key", "p384", "--validity", "1y"]  # fmt: skip
    made = cli("ca", "create", "lab", "--parent", "root", *words, "--json").json
    assert made["permitted"] == ["dNSName:lab.test"] and made["path_length"] == 0
    assert (made["key"], made["parent"]) == ("p384", "root")
    second = cli("ca", "create", "second", "--root", "--subject", "CN=Second Root", "--json").json
    assert second["parent"] is None
    shown = {row["authority"]: row for row in cli("crl", "show", "--json").json}
    assert not shown["lab"]["due"] and not shown["second"]["due"]
    assert cli("ca", "create", "lab", "--parent", "root", "--subject", "CN=X").status == 2


@pytest.mark.parametrize(
    "words",
    [
        ["--subject", "CN=X"],
        ["--subject", "CN=X", "--root", "--parent", "root"],
        ["--subject", "CN=X", "--parent", "nobody"],
        ["--subject", "nonsense", "--root"],
        ["--subject", "CN=X", "--root", "--permit", "dns"],
        ["--subject", "CN=X", "--root", "--validity", "0d"],
        ["--subject", "CN=X", "--parent", "issuing"],
    ],
)
def test_create_refuses(cli: CLI, words: list[str]) -> None:
    result = cli("ca", "create", "new", *words)
    assert result.status == 2 and result.err.count("\n") == 1
    assert "new" not in cli("ca", "list").out


def test_a_request_for_an_outside_root_and_its_answer(
    cli: CLI, tmp_path: Path, outside: Outside
) -> None:
    request, answer = tmp_path / "sub.csr", tmp_path / "chain.pem"
    made = cli("ca", "csr", "sub", "--subject", "CN=Sub CA", "--out", request)
    assert made.status == 0, made.err
    assert cli("ca", "show", "sub", "--json").json["status"] == "pending"
    csr = x509.load_pem_x509_csr(request.read_bytes())
    public_key = csr.public_key()
    assert isinstance(public_key, ec.EllipticCurvePublicKey)
    certificate = outside.sign(csr.subject, public_key)
    answer.write_bytes(pem(certificate))
    assert "missing" in cli("ca", "install", "sub", answer).err
    answer.write_bytes(pem(outside.certificate, certificate))
    installed = cli("ca", "install", "sub", answer, "--json").json
    assert (installed["status"], installed["issuer"]) == ("active", "CN=Outside Root")
    exported = cli("ca", "export", "sub", "--chain").out.encode()
    assert exported == pem(certificate, outside.certificate)


@pytest.mark.parametrize("form", ["pem", "encrypted", "p12"])
def test_an_existing_ca_is_imported(
    cli: CLI, tmp_path: Path, outside: Outside, form: str, home: Path
) -> None:
    key_file, password = tmp_path / "ca.key", tmp_path / "password"
    password.write_text("secret\n")
    secret = serialization.BestAvailableEncryption(b"secret")
    if form == "p12":
        key_file.write_bytes(
            pkcs12.serialize_key_and_certificates(
                None, outside.key, outside.certificate, None, secret
            )
        )
        words: list[object] = ["--p12", key_file, "--password-file", password]
    else:
        (tmp_path / "ca.pem").write_bytes(pem(outside.certificate))
        protection = secret if form == "encrypted" else serialization.NoEncryption()
        key_file.write_bytes(
            outside.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)
        )
        words = ["--key", key_file, "--cert", tmp_path / "ca.pem"]
        words += ["--password-file", password] if form == "encrypted" else []
    imported = cli("ca", "import", "old", *words, "--json").json
    assert imported["subject"] == "CN=Outside Root"
    assert all(b"ENCRYPTED" in path.read_bytes() for path in (home / "keys").glob("*.key"))
    password.write_text("wrong\n")
    if form != "pem":
        assert cli("ca", "import", "again", *words).status == 2


def test_import_wants_all_of_it(cli: CLI, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    for words in ([], ["--key", tmp_path / "x"], ["--cert", tmp_path / "x"]):
        assert cli("ca", "import", "old", *words).status == 2


def test_export_as_der(cli: CLI, tmp_path: Path) -> None:
    out = tmp_path / "root.cer"
    assert cli("ca", "export", "root", "--der", "--out", out).status == 0
    assert x509.load_der_x509_certificate(out.read_bytes()).subject.rfc4514_string()
    assert cli("ca", "export", "root", "--der", "--out", out).status == 2
    assert cli("ca", "export", "root", "--der").status == 2


def test_crl_refresh_makes_a_higher_number(cli: CLI) -> None:
    before = cli("crl", "show", "issuing", "--json").json[0]
    after = cli("crl", "refresh", "issuing", "--json").json[0]
    assert after["number"] > before["number"]
    assert "issuing" in cli("crl", "show").out
    assert cli("crl", "refresh", "nobody").status == 2


def test_before_a_key_goes_offline(cli: CLI) -> None:
    """A list and a responder that outlast the default of days."""
    row = cli("crl", "refresh", "root", "--validity", "1y", "--json").json[0]
    assert dt.datetime.fromisoformat(row["next_update"]) > NOW + 300 * DAY
    responder = cli("ocsp", "show", "root", "--json").json[0]
    assert dt.datetime.fromisoformat(responder["responder_until"]) > NOW + 300 * DAY
    assert responder["problem"] is None and "sound" in cli("ocsp", "show").out


def test_a_responder_that_cannot_be_made_is_shown(cli: CLI, home: Path) -> None:
    for path in (home / "keys").glob("*root*.key"):
        path.unlink()
    assert "root is not here; is it offline" in cli("ocsp", "show", "root").out
