"""The pytest fixtures of `pkiserver.testing`, as somebody else's tests would use them."""

import re
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509 import ocsp

from pkiserver.errors import PKIError
from pkiserver.testing import PKI

DOCUMENT = Path(__file__).parent.parent / "docs" / "testing.md"
SECONDS = 60


def pytest_run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A run of its own, with warnings as errors and no configuration of ours."""
    (folder / "pytest.ini").write_text(
        "[pytest]\naddopts = -p no:asyncio\nfilterwarnings = error\n"
    )
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def test_the_example_of_the_document_runs(tmp_path: Path) -> None:
    example = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "test_example.py").write_text("\n".join(example))
    done = pytest_run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_runs_that_do_not_use_it_pay_nothing(tmp_path: Path) -> None:
    """The plug-in is loaded by every pytest where pkiserver is installed."""
    (tmp_path / "test_other.py").write_text(
        "import sys\n"
        "def test_nothing_is_imported():\n"
        "    for name in ('pkiserver.app', 'cryptography', 'starlette', 'typer', 'pydantic'):\n"
        "        assert name not in sys.modules\n"
    )
    done = pytest_run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_document_names_every_member() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    public = {name for name in vars(PKI) if not name.startswith("_")}
    assert all(f"`{name}" in text for name in public)


def test_issue_and_revoke_show_in_ocsp_and_crl(pki: PKI) -> None:
    issued = pki.issue("a.test", ip=["10.0.0.1"], key="rsa-2048")
    leaf, issuer = x509.load_pem_x509_certificates(issued.chain.read_bytes())
    assert f"{leaf.serial_number:x}" == issued.serial.lstrip("0")
    assert status(pki, leaf, issuer) is ocsp.OCSPCertStatus.GOOD
    pki.revoke(issued, reason="superseded")
    assert status(pki, leaf, issuer) is ocsp.OCSPCertStatus.REVOKED
    with urllib.request.urlopen(f"{pki.http_base}/crl/issuing.crl") as answer:
        crl = x509.load_der_x509_crl(answer.read())
    assert crl.get_revoked_certificate_by_serial_number(leaf.serial_number) is not None


def status(pki: PKI, leaf: x509.Certificate, issuer: x509.Certificate) -> ocsp.OCSPCertStatus:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding

    builder = ocsp.OCSPRequestBuilder().add_certificate(leaf, issuer, hashes.SHA256())
    request = urllib.request.Request(
        f"{pki.http_base}/ocsp/issuing",
        builder.build().public_bytes(Encoding.DER),
        {"Content-Type": "application/ocsp-request"},
    )
    with urllib.request.urlopen(request) as answer:
        return ocsp.load_der_ocsp_response(answer.read()).certificate_status


def test_contexts_trust_this_pki_alone(pki: PKI) -> None:
    context = pki.ssl_context_client()
    assert len(context.get_ca_certs()) == 1
    assert context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname
    client = pki.issue(common_name="someone", profile="tls-client")
    assert pki.ssl_context_client(client).cert_store_stats()["x509_ca"] == 1


def test_refusals_reach_the_caller(pki: PKI) -> None:
    with pytest.raises(PKIError):
        pki.issue("a.test", profile="smime")


def test_others_have_homes_ports_and_configurations_of_their_own(
    pki: PKI, pki_factory: Callable[..., PKI]
) -> None:
    other = pki_factory('[acme.default]\nprofile = "device"\n')
    assert other.home != pki.home and other.directory_url != pki.directory_url
    assert other.settings.section("acme")["default"].model_dump()["profile"] == "device"


def test_a_configuration_that_is_wrong_is_said(pki_factory: Callable[..., PKI]) -> None:
    with pytest.raises(RuntimeError) as caught:
        pki_factory("[nonsense]\n")
    assert "nonsense" in str(caught.value.__cause__)


def test_est_takes_client_certificates(pki: PKI) -> None:
    issued = pki.issue(common_name="dev1", profile="device")
    context = pki.ssl_context_client(issued)
    with urllib.request.urlopen(f"{pki.est_url}/cacerts", context=context) as answer:
        assert answer.headers["Content-Type"] == "application/pkcs7-mime"
