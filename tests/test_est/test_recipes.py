"""The recipes are run as they stand, with curl and OpenSSL."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from pkiserver.pkix.pem import pem_chain
from pkiserver.testing import PKI
from tests.test_est.support import Factory

RECIPES = Path(__file__).parent.parent.parent / "docs" / "recipes"
CONFIGURATION = """
[est.default]
[est.factory]
profile = "device"
auth = ["mtls"]
client_ca = ["FACTORY"]
"""

pytestmark = pytest.mark.skipif(
    not (shutil.which("curl") and shutil.which("openssl") and shutil.which("bash")),
    reason="curl, openssl and bash are needed",
)


@pytest.fixture(scope="module")
def served(
    pki_factory: Callable[..., PKI], factory: Factory, tmp_path_factory: pytest.TempPathFactory
) -> PKI:
    path = tmp_path_factory.mktemp("anchors") / "factory.pem"
    path.write_bytes(pem_chain([factory.root.certificate, factory.issuing.certificate]))
    return pki_factory(configuration=CONFIGURATION.replace("FACTORY", str(path)))


def run(pki: PKI, recipe: str, folder: Path) -> str:
    """Every `sh` block, one after the other, in one shell that stops at the first failure."""
    text = (RECIPES / recipe).read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    assert blocks
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(blocks)],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "EST": f"{pki.https_base}/.well-known/est",
            "ROOT": str(pki.root_pem),
            "PKISERVER_HOME": str(pki.home),
        },
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificates(path.read_bytes())[0]


def test_by_hand(served: PKI, tmp_path: Path) -> None:
    shown = run(served, "est-curl.md", tmp_path)
    assert "Subject Alternative Name" in shown
    old, new = read(tmp_path / "device.crt"), read(tmp_path / "next.crt")
    assert old.subject == new.subject
    assert old.serial_number != new.serial_number
    assert (tmp_path / "server-made.key").read_text().startswith("-----BEGIN PRIVATE KEY")


def test_factory_certificates(served: PKI, factory: Factory, tmp_path: Path) -> None:
    device = factory.device("SN-1")
    key = device.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "idevid.key").write_bytes(key)
    chain = [device.certificate, factory.issuing.certificate]
    (tmp_path / "idevid.crt").write_bytes(pem_chain(chain))
    run(served, "est-bootstrap.md", tmp_path)
    assert read(tmp_path / "renewed.crt").subject.rfc4514_string() == "CN=SN-1"


def test_tls12(served: PKI, tmp_path: Path) -> None:
    run(served, "est-tls12.md", tmp_path)
    assert read(tmp_path / "old.crt").subject.rfc4514_string() == "CN=old-1"
