"""`scep requests` and `scep mobileconfig`."""

import plistlib
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from tests.cli.conftest import CLI


def test_mobileconfig(cli: CLI, home: Path, tmp_path: Path) -> None:
    """S25: RSA 2048, both uses, the CA pinned, a challenge bound to the names."""
    out = tmp_path / "mac.mobileconfig"
    done = cli("scep", "mobileconfig", "--name", "mac-7", "--dns", "mac-7.example", "--out", out,
               "--organization", "Example")  # fmt: skip
    assert done.status == 0, done.err
    assert out.stat().st_mode & 0o777 == 0o600
    profile = plistlib.loads(out.read_bytes())
    root, scep = profile["PayloadContent"]
    anchor = x509.load_der_x509_certificate(root["PayloadContent"])
    assert anchor == x509.load_pem_x509_certificate((home / "root.pem").read_bytes())
    content = scep["PayloadContent"]
    assert content["URL"].startswith("http://") and content["URL"].endswith("/scep/default")
    assert (content["Keysize"], content["Key Type"], content["Key Usage"]) == (2048, "RSA", 5)
    assert content["Subject"] == [[["O", "Example"]], [["CN", "mac-7"]]]
    assert content["SubjectAltName"] == {"dNSName": ["mac-7.example"]}
    assert len(content["CAFingerprint"]) == hashes.SHA1().digest_size
    (challenge,) = cli("scep", "challenges", "list", "--json").json
    assert challenge["subjects"] == ["mac-7", "mac-7.example"]
    assert content["Challenge"] not in str(challenge)


def test_mobileconfig_is_the_same_profile_again(cli: CLI, tmp_path: Path) -> None:
    words = ["scep", "mobileconfig", "--name", "mac-7", "--no-challenge", "--out"]
    first, second = tmp_path / "1", tmp_path / "2"
    assert cli(*words, first).status == cli(*words, second).status == 0
    assert first.read_bytes() == second.read_bytes()
    assert "Challenge" not in plistlib.loads(first.read_bytes())["PayloadContent"][-1]
    again = cli(*words, first)
    assert again.status == 2 and "--force" in again.err
    assert cli(*words, first, "--force").status == 0


def test_mobileconfig_of_a_section_that_is_not_there(cli: CLI, tmp_path: Path) -> None:
    done = cli("scep", "mobileconfig", "--name", "x", "--label", "no", "--out", tmp_path / "x")
    assert done.status == 2 and "[scep.no]" in done.err
    assert not (tmp_path / "x").exists()


def test_requests_of_a_new_home(cli: CLI) -> None:
    assert cli("scep", "requests", "--json").json == []
    assert cli("scep", "requests").status == 0
