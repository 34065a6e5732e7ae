"""`ca rotate`, `activate`, `retire`, and the runbook that shows them."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tests.cli.conftest import CLI

RUNBOOK = Path(__file__).parents[2] / "docs" / "operations" / "rollover.md"


def commands() -> list[list[str]]:
    """What stands in the runbook for a person to type, in its order."""
    blocks = re.findall(r"^```sh\n(.*?)^```", RUNBOOK.read_text(), re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def issue(cli: CLI, tmp_path: Path, name: str) -> list[x509.Certificate]:
    base = tmp_path / name
    done = cli("cert", "issue", "--profile", "tls-server", "--dns", f"{name}.test", "--out", base)
    assert done.status == 0, done.err
    return x509.load_pem_x509_certificates(base.with_name(f"{name}.crt").read_bytes())


def turns(cli: CLI) -> dict[str, tuple[str, str]]:
    return {row["name"]: (row["turn"], row["status"]) for row in cli("ca", "list", "--json").json}


def revoke_what_is_left(cli: CLI, issuer: str) -> None:
    for row in cli("cert", "list", "--issuer", issuer, "--json").json:
        words = [row["serial"], "--reason", "superseded", "--issuer", issuer]
        if row["profile"] != "ocsp-responder":
            assert cli("cert", "revoke", *words).status == 0


def test_the_runbook_from_beginning_to_end(
    cli: CLI, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    issue(cli, tmp_path, "before")
    for words in commands():
        assert words.pop(0) == "pkiserver"
        if "--csr" in words:
            break
        if "--final" in words:
            refused = cli(*words)
            assert refused.status != 0 and "still valid" in refused.err
            revoke_what_is_left(cli, "issuing")
        done = cli(*words)
        assert done.status == 0, (words, done.err)
    assert turns(cli) == {
        "root": ("previous", "retired"),
        "root-2": ("current", "active"),
        "issuing": ("previous", "closed"),
        "issuing-2": ("previous", "retired"),
        "issuing-3": ("previous", "active"),
        "issuing-4": ("current", "active"),
    }
    roots = x509.load_pem_x509_certificates((home / "root.pem").read_bytes())
    names = [each.subject.rfc4514_string() for each in roots]
    assert names == ["CN=Example Root CA G2,O=Example", "CN=Example Root CA,O=Example"]
    leaf, issuer = issue(cli, tmp_path, "after")
    leaf.verify_directly_issued_by(issuer)
    assert cli("ca", "show", "issuing-4", "--json").json["parent"] == "root-2"
    assert (tmp_path / "root-2.pem").read_bytes().startswith(b"-----BEGIN CERTIFICATE-----")
    assert cli("audit", "verify").status == 0


def test_the_requests_of_the_runbook(
    cli: CLI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words, renewal, install = commands()[-3:]
    assert cli(*renewal[1:]).status == 0
    present = x509.load_pem_x509_certificates(cli("ca", "export", "issuing").out.encode())[0]
    csr = x509.load_pem_x509_csr((tmp_path / "renewal.csr").read_bytes())
    assert (csr.subject, csr.public_key()) == (present.subject, present.public_key())
    (tmp_path / "renewed.pem").write_text(cli("ca", "export", "issuing", "--chain").out)
    refused = cli(*install[1:])
    assert refused.status == 2 and "the certificate the authority has" in refused.err
    shown = cli(*words[1:], "--json").json
    assert (shown["name"], shown["status"], shown["turn"]) == ("issuing-2", "pending", "next")
    assert "ca install issuing-2" in shown["next_step"]
    csr = x509.load_pem_x509_csr((tmp_path / "issuing.csr").read_bytes())
    assert csr.is_signature_valid and isinstance(csr.public_key(), ec.EllipticCurvePublicKey)
    again = cli(*words[1:])
    assert again.status == 2 and "there already" in again.err


def show(cli: CLI, name: str) -> Any:
    return cli("ca", "show", name, "--json").json


def test_show_says_what_to_do_next(cli: CLI) -> None:
    assert show(cli, "issuing")["next_step"] is None
    cli("ca", "rotate", "issuing", "--prepare")
    assert show(cli, "issuing-2")["next_step"].endswith("pkiserver ca activate issuing-2")
    cli("ca", "activate", "issuing-2")
    assert show(cli, "issuing")["next_step"] == "pkiserver ca retire issuing"
    assert show(cli, "issuing")["generations"] == ["issuing", "issuing-2"]
    cli("ca", "retire", "issuing")
    shown = show(cli, "issuing")
    assert shown["valid_certificates"] == 1, "the server's own"
    assert shown["next_step"].startswith(f"wait until {shown['last_expires']}")
    revoke_what_is_left(cli, "issuing")
    assert show(cli, "issuing")["next_step"] == "pkiserver ca retire issuing --final"
    closed = cli("ca", "retire", "issuing", "--final", "--json").json
    assert (closed["status"], closed["signing_key"]) == ("closed", "destroyed")
    assert closed["next_step"] is None
    crl = next(row for row in cli("crl", "show", "--json").json if row["authority"] == "issuing")
    assert crl["next_update"] == closed["not_after"]


def test_show_says_that_an_authority_is_revoked_and_what_to_do(cli: CLI) -> None:
    cli("ca", "rotate", "issuing", "--prepare")
    for name, then in (
        ("issuing-2", "pkiserver ca retire issuing-2"),
        ("issuing", "pkiserver ca rotate issuing"),
        ("root", "pkiserver ca create NAME --root"),
    ):
        assert not show(cli, name)["revoked"]
        cli("cert", "revoke", show(cli, name)["serial"], "--reason", "cACompromise")
        shown = show(cli, name)
        assert shown["revoked"] and shown["status"] == "active"
        assert shown["next_step"] == f"its certificate is revoked: {then}"
    assert cli("ca", "list").out.count("active, revoked") == 3


def test_a_time_can_be_said(cli: CLI, tmp_path: Path) -> None:
    shown = cli("ca", "rotate", "issuing", "--activate-after", "30d", "--key", "ed25519",
                "--validity", "1y", "--subject", "CN=Next CA", "--json").json  # fmt: skip
    assert (shown["key"], shown["turn"], shown["subject"]) == ("ed25519", "next", "CN=Next CA")
    assert f"it takes over at {shown['takes_over']}" in shown["next_step"]
    assert issue(cli, tmp_path, "now")[1].subject.rfc4514_string() != "CN=Next CA"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["rotate", "nobody"], "no authority"),
        (["rotate", "issuing", "--prepare", "--activate-after", "1d"], "either"),
        (["rotate", "issuing", "--activate-after", "0d"], "longer than nothing"),
        (["rotate", "issuing", "--subject", "CN=Example Root CA,O=Example"], "same subject"),
        (["activate", "issuing"], "nothing comes after"),
        (["retire", "issuing"], "profiles issue from issuing"),
        (["retire", "issuing", "--final"], "only a retired authority"),
        (["retire", "issuing", "--final", "--force"], "only a retired authority"),
        (["retire", "nobody"], "no authority"),
    ],
)
def test_mistakes_are_one_line_and_change_nothing(cli: CLI, words: list[str], says: str) -> None:
    before = cli("ca", "list").out
    result = cli("ca", *words)
    assert result.status == 2 and says in result.err
    assert "Traceback" not in result.err
    assert cli("ca", "list").out == before


def test_a_revoked_root_leaves_the_file_of_roots(cli: CLI, home: Path) -> None:
    cli("ca", "rotate", "root")
    cli("ca", "activate", "root")
    assert (home / "root.pem").read_bytes().count(b"BEGIN") == 2
    cli("cert", "revoke", show(cli, "root")["serial"], "--reason", "cACompromise")
    assert cli("ca", "retire", "root").status == 0
    assert (home / "root.pem").read_text() == cli("ca", "export", "root-2").out


def test_a_root_pem_of_the_operator_s_own_is_left_alone(cli: CLI, home: Path) -> None:
    other = cli("ca", "create", "other", "--root", "--subject", "CN=Other").status
    assert other == 0
    bundle = cli("ca", "export", "other").out + (home / "root.pem").read_text()
    (home / "root.pem").write_text(bundle)
    assert cli("ca", "rotate", "root").status == 0
    assert (home / "root.pem").read_text() == bundle
    (home / "root.pem").unlink()
    assert cli("ca", "activate", "root").status == 0
    assert not (home / "root.pem").exists()


def test_an_offline_root_cannot_be_rotated(cli: CLI, home: Path) -> None:
    (home / "keys" / "root.key").unlink()
    result = cli("ca", "rotate", "root")
    assert result.status == 1 and "is it offline" in result.err
    assert cli("ca", "rotate", "issuing").status == 1


def test_after_a_compromise_the_line_goes_on_with_a_new_key(cli: CLI, tmp_path: Path) -> None:
    serial = show(cli, "issuing")["serial"]
    assert cli("cert", "revoke", serial, "--reason", "cACompromise").status == 0
    assert cli("ca", "retire", "issuing", "--force").status == 0
    assert cli("ca", "rotate", "issuing").status == 0
    issuer = issue(cli, tmp_path, "after")[1]
    assert issuer.subject.rfc4514_string() == "CN=Example Issuing CA G2,O=Example"
