"""OCSP, CRL and pkilint on what a certbot got from the server and gave back."""

import importlib.metadata
import urllib.request
from pathlib import Path

import pytest

from interop import openssl, relying_party, tools
from interop.results import NewRow
from interop.target import Target
from interop.test_certbot import Certbot


@pytest.fixture
def issued(target: Target, workdir: Path) -> tuple[Certbot, Path]:
    """A certbot and the chain it obtained."""
    if not target.serves_revocation():
        pytest.skip(f"{target.name} serves no CRL and no OCSP")
    certbot = Certbot(tools.need(tools.pypi(tools.CERTBOT, "certbot")), target, workdir)
    name = "relying.example.test"
    return certbot, certbot.obtain(*certbot.standalone(), "-d", name, name=name)


def _revoke(certbot: Certbot, chain: Path) -> None:
    certbot("revoke", "--cert-path", chain, "--no-delete-after-revoke", "--reason", "superseded",
            "--server", certbot.target.directory_url)  # fmt: skip


def test_ocsp(issued: tuple[Certbot, Path], target: Target, row: NewRow) -> None:
    """RFC 6960 by POST: good, then revoked as soon as the revocation was answered."""
    certbot, chain = issued
    seen = row("openssl ocsp", _openssl_version(chain), "OCSP by POST with a nonce")
    assert openssl.ocsp_status(chain, target.roots) == "good"
    seen.passed("obtain")
    _revoke(certbot, chain)
    assert openssl.ocsp_status(chain, target.roots) == "revoked"
    seen.passed("revoke")


def test_crl(issued: tuple[Certbot, Path], target: Target, row: NewRow) -> None:
    """RFC 5280 section 6.3 with the CRL from the distribution point."""
    certbot, chain = issued
    seen = row("openssl verify", _openssl_version(chain), "-crl_check, CRL from the CDP")
    assert relying_party.verify_with_crl(chain, target.roots).strip().endswith(": OK")
    seen.passed("obtain")
    _revoke(certbot, chain)
    relying_party.wait_until_on_crl(chain, target.roots)
    seen.passed("revoke")


def test_issuer_url(issued: tuple[Certbot, Path]) -> None:
    """RFC 5280 section 4.2.2.1: caIssuers serves the issuer's certificate in DER."""
    leaf, issuer = openssl.split(issued[1])[:2]
    text = openssl.openssl(
        leaf.parent, "x509", "-in", leaf, "-noout", "-ext", "authorityInfoAccess"
    )
    url = next(line.partition("URI:")[2] for line in text.splitlines() if "CA Issuers" in line)
    with urllib.request.urlopen(url, timeout=60) as answer:
        assert answer.headers["Content-Type"] == "application/pkix-cert"
        served = answer.read()
    der = issuer.with_suffix(".der")
    openssl.openssl(leaf.parent, "x509", "-in", issuer, "-outform", "DER", "-out", der)
    assert served == der.read_bytes()


def test_pkilint(issued: tuple[Certbot, Path], target: Target, row: NewRow) -> None:
    """No finding of WARNING or worse in leaf, issuer, root, CRL and OCSP response."""
    certbot, chain = issued
    leaf, issuer = openssl.split(chain)[:2]
    seen = row("pkilint", importlib.metadata.version("pkilint"), "leaf, CAs, CRL, OCSP response")
    for certificate in (leaf, issuer, target.roots):
        relying_party.lint("lint_pkix_cert", certificate)
    seen.passed("obtain")
    _revoke(certbot, chain)
    relying_party.wait_until_on_crl(chain, target.roots)
    relying_party.lint("lint_crl", relying_party.fetch_crl(leaf), "-t", "CRL", "-p", "PKIX")
    response = openssl.ocsp_response(chain, target.roots)
    relying_party.lint("lint_ocsp_response", response)
    seen.passed("revoke")


def _openssl_version(chain: Path) -> str:
    return openssl.openssl(chain.parent, "version").split()[1]
