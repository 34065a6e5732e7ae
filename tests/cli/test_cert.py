"""`cert`: what is issued, and what becomes of it."""

import datetime as dt
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.verification import PolicyBuilder, Store

from pkiserver.cli import issuing
from pkiserver.errors import PKIError
from pkiserver.pkix.names import dns_name
from tests.cli.conftest import CLI


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "a.test"


@pytest.fixture
def issued(cli: CLI, base: Path) -> dict[str, Any]:
    row: dict[str, Any] = cli("cert", "issue", "--dns", "a.test", "--out", base, "--json").json
    return row


def chain(base: Path) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(base.with_name(f"{base.name}.crt").read_bytes())


def key_of(base: Path) -> Any:
    path = base.with_name(f"{base.name}.key")
    return serialization.load_pem_private_key(path.read_bytes(), None)


def test_issue_writes_a_private_key_and_a_chain_that_verifies(
    cli: CLI, base: Path, home: Path
) -> None:
    """BASE.key is 0600, BASE.crt has the leaf first and the chain after, without the root."""
    words = ["--dns", "*.a.test", "--dns", "a.test", "--ip", "10.0.0.1"]
    result = cli("cert", "issue", "--profile", "tls-server", *words, "--out", base)
    assert result.status == 0, result.err
    assert stat.S_IMODE(base.with_name("a.test.key").stat().st_mode) == 0o600
    leaf, *rest = chain(base)
    assert key_of(base).public_key() == leaf.public_key()
    roots = x509.load_pem_x509_certificates((home / "root.pem").read_bytes())
    verifier = PolicyBuilder().store(Store(roots)).build_server_verifier(x509.DNSName("x.a.test"))
    assert verifier.verify(leaf, rest)[-1] == roots[0]
    assert roots[0] not in rest


def test_files_are_not_replaced_unasked(cli: CLI, base: Path, issued: dict[str, Any]) -> None:
    before = base.with_name("a.test.key").read_bytes()
    again = cli("cert", "issue", "--dns", "b.test", "--out", base)
    assert again.status == 2 and "--force" in again.err
    assert base.with_name("a.test.key").read_bytes() == before
    assert cli("cert", "issue", "--dns", "b.test", "--out", base, "--force").status == 0


def test_a_refusal_leaves_no_key_behind(cli: CLI, base: Path) -> None:
    result = cli("cert", "issue", "--profile", "smime", "--dns", "a.test", "--out", base)
    assert result.status == 2
    assert [path.name for path in base.parent.iterdir()] == ["pki"]
    assert cli("cert", "issue", "--dns", "a.test", "--out", base / "no" / "x").status == 2


def test_a_request_brings_its_own_key_and_names(cli: CLI, base: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    request = base.with_name("request.csr")
    request.write_bytes(issuing.request_for(key, [dns_name("csr.test")], None))
    row = cli("cert", "issue", "--csr", request, "--out", base, "--json").json
    assert row["names"] == ["dns:csr.test"]
    assert not base.with_name("a.test.key").exists()
    assert chain(base)[0].public_key() == key.public_key()
    other = cli("cert", "issue", "--csr", request, "--dns", "b.test", "--out", base, "--force")
    assert other.status == 2 and "not authorised" in other.err


def test_validity_is_at_most_the_profiles(cli: CLI, base: Path) -> None:
    words = ["cert", "issue", "--dns", "a.test", "--out", base]
    assert cli(*words, "--validity", "400d").status == 2
    assert cli(*words, "--validity", "1h").status == 0
    leaf = chain(base)[0]
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc < dt.timedelta(hours=2)


@pytest.mark.parametrize("kind", ["p384", "rsa-2048", "ed25519"])
def test_kinds_of_keys(cli: CLI, base: Path, kind: str) -> None:
    assert cli("cert", "issue", "--dns", "a.test", "--key", kind, "--out", base).status == 0
    assert issuing.kind_of(chain(base)[0]) == kind


def test_renew_keeps_names_and_kind_and_changes_the_key(
    cli: CLI, base: Path, issued: dict[str, Any]
) -> None:
    before = chain(base)[0]
    row = cli("cert", "renew", issued["serial"], "--out", base, "--json").json
    after = chain(base)[0]
    assert row["serial"] != issued["serial"] and row["names"] == issued["names"]
    assert after.public_key() != before.public_key()
    assert key_of(base).public_key() == after.public_key()
    assert cli("cert", "show", issued["serial"], "--json").json["state"] == "valid"


def test_renew_refuses_what_is_revoked_or_not_its_business(
    cli: CLI, base: Path, issued: dict[str, Any]
) -> None:
    cli("cert", "revoke", issued["serial"], "--reason", "superseded")
    key = base.with_name("a.test.key").read_bytes()
    assert "revoked" in cli("cert", "renew", issued["serial"], "--out", base).err
    assert base.with_name("a.test.key").read_bytes() == key
    authority = cli("ca", "show", "issuing", "--json").json["serial"]
    assert cli("cert", "renew", authority, "--out", base).status == 2


def test_revoke_needs_a_reason_and_is_final(cli: CLI, issued: dict[str, Any]) -> None:
    serial = issued["serial"]
    assert "--reason" in cli("cert", "revoke", serial).err
    assert cli("cert", "revoke", serial, "--reason", "removeFromCRL").status == 2
    assert cli("cert", "revoke", serial, "--reason", "superseded").status == 0
    assert cli("cert", "revoke", serial, "--reason", "superseded").status == 2
    assert cli("cert", "release", serial).status == 2
    shown = cli("cert", "show", serial, "--json").json
    assert (shown["state"], shown["reason"]) == ("revoked", "superseded")


def test_a_hold_is_released(cli: CLI, issued: dict[str, Any]) -> None:
    serial = issued["serial"].upper()
    held = cli("cert", "revoke", serial, "--reason", "certificateHold", "--json").json
    assert held["state"] == "on hold"
    assert cli("cert", "release", serial, "--json").json["state"] == "valid"


def test_a_revocation_is_in_the_list_at_once(cli: CLI, issued: dict[str, Any]) -> None:
    """Also when no server runs that would publish it."""
    before = cli("crl", "show", "issuing", "--json").json[0]
    cli("cert", "revoke", issued["serial"], "--reason", "keyCompromise",
        "--invalid-since", issued["not_before"])  # fmt: skip
    after = cli("crl", "show", "issuing", "--json").json[0]
    assert (after["entries"], after["due"]) == (1, False)
    assert after["number"] > before["number"]


def test_lists_are_filtered_and_go_on_by_id(cli: CLI, base: Path, issued: dict[str, Any]) -> None:
    second = cli("cert", "issue", "--dns", "x.a.test", "--out", base, "--force", "--json").json
    cli("cert", "revoke", second["id"], "--reason", "unspecified")

    def serials(*words: str) -> list[str]:
        return [row["serial"] for row in cli("cert", "list", *words, "--json").json]

    assert serials("--name", "a.test") == [issued["serial"]]
    assert set(serials("--below", "A.test")) == {issued["serial"], second["serial"]}
    assert serials("--revoked") == [second["serial"]]
    assert second["serial"] not in serials("--not-revoked")
    assert serials("--profile", "tls-server", "--before", issued["id"])[-1] != issued["serial"]
    assert "a.test" in cli("cert", "list", "--below", "a.test").out
    soon = cli("cert", "expiring", "--within", "91d", "--json").json
    assert issued["serial"] in [row["serial"] for row in soon]
    assert cli("cert", "expiring", "--within", "1h", "--json").json == []


def test_export_as_pem_der_and_pkcs12(
    cli: CLI, base: Path, issued: dict[str, Any], tmp_path: Path
) -> None:
    serial = issued["serial"]
    assert cli("cert", "export", serial).out.encode() == base.with_name("a.test.crt").read_bytes()
    der, p12, password = tmp_path / "a.der", tmp_path / "a.p12", tmp_path / "password"
    assert cli("cert", "export", serial, "--der", "--out", der).status == 0
    leaf = x509.load_der_x509_certificate(der.read_bytes())
    password.write_text("correct horse\n")
    words = ["cert", "export", serial, "--p12", "--password-file", password]
    key = base.with_name("a.test.key")
    assert cli(*words, "--key", key, "--out", p12).status == 0
    bag = pkcs12.load_pkcs12(p12.read_bytes(), b"correct horse")
    assert bag.cert is not None and bag.cert.certificate == leaf
    assert bag.key is not None and bag.key.public_key() == leaf.public_key()
    assert [each.certificate for each in bag.additional_certs] == chain(base)[1:]
    assert stat.S_IMODE(p12.stat().st_mode) == 0o600
    assert "terminal" in cli(*words[:4], "--key", key, "--out", p12, "--force").err


def test_export_refuses_a_key_of_another_certificate(
    cli: CLI, base: Path, issued: dict[str, Any], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    cli("cert", "issue", "--dns", "b.test", "--out", other)
    result = cli(
        "cert", "export", issued["serial"], "--p12", "--key", tmp_path / "other.key",
        "--out", tmp_path / "x.p12",
    )  # fmt: skip
    assert result.status == 2 and "not the key" in result.err
    for words in (["--p12"], ["--der"], ["--der", "--p12"], ["--key", other]):
        assert cli("cert", "export", issued["serial"], *words).status == 2


def test_no_private_key_is_ever_printed(cli: CLI, issued: dict[str, Any]) -> None:
    shown = cli("cert", "show", issued["serial"])
    exported = cli("cert", "export", issued["serial"])
    authority = cli("ca", "export", "issuing", "--chain")
    assert all("PRIVATE" not in result.out for result in (shown, exported, authority))


def test_the_serial_has_many_spellings(cli: CLI, issued: dict[str, Any]) -> None:
    serial = issued["serial"]
    for text in (serial.upper(), f"00{serial}", issued["id"]):
        assert cli("cert", "show", text, "--json").json["id"] == issued["id"]
    assert cli("cert", "show", serial, "--issuer", "root").status == 2


def test_names_are_sorted_once_each_and_checked() -> None:
    names = issuing.alt_names(dns=["b.test", "a.test", "B.test"], ip=["::1"], email=None)
    assert [str(name) for name in names] == ["dns:a.test", "dns:b.test", "ip:::1"]
    for given in ({"dns": ["a b"]}, {"ip": ["1.2.3"]}, {"email": ["x"]}, {"uri": ["x"]}):
        with pytest.raises(PKIError):
            issuing.alt_names(**given)


@pytest.mark.parametrize(("bits", "kind"), [(2049, "rsa-2048"), (3100, "rsa-3072")])
def test_rsa_of_an_odd_size_counts_as_the_next_smaller(bits: int, kind: str) -> None:
    key = rsa.generate_private_key(65537, bits)
    now = dt.datetime(2027, 1, 1, tzinfo=dt.UTC)
    name = x509.Name([])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now)
    assert issuing.kind_of(builder.sign(key, hashes.SHA256())) == kind
