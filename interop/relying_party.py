"""What a relying party does with revocation data: fetch the CRL, ask OCSP, lint all of it."""

import contextlib
import importlib
import io
import re
import time
import urllib.request
import warnings
from pathlib import Path

from interop import openssl
from interop.processes import InteropError

CRL_SECONDS = 60
_URI = re.compile(r"URI:(\S+)")


def lint(kind: str, path: Path, *options: str) -> None:
    """InteropError if pkilint's command has a finding of WARNING or worse in the PEM or DER file.
    It runs in this process: loading it takes longer than what it does."""
    command = importlib.import_module(f"pkilint.bin.{kind}")
    findings = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(findings):
        # It leaves the file for the garbage collector to close.
        warnings.simplefilter("ignore", ResourceWarning)
        status = command.main(["lint", "-s", "WARNING", *options, str(path)])
    if status or findings.getvalue().strip():
        raise InteropError(f"{kind} {path.name}\n{findings.getvalue()}")


def crl_url(certificate: Path) -> str:
    """The first distribution point of the certificate."""
    words = ("x509", "-in", certificate, "-noout", "-ext", "crlDistributionPoints")
    found = _URI.search(openssl.openssl(certificate.parent, *words))
    if found is None:
        raise InteropError(f"no CRL distribution point in {certificate}")
    return found[1]


def fetch_crl(certificate: Path) -> Path:
    """The CRL from the certificate's distribution point, as PEM beside it."""
    url = crl_url(certificate)
    with urllib.request.urlopen(url, timeout=60) as answer:
        kind = answer.headers["Content-Type"]
        if kind != "application/pkix-crl":
            raise InteropError(f"{url} is served as {kind}")
        der = certificate.with_name(f"{certificate.name}.crl.der")
        der.write_bytes(answer.read())
    crl = certificate.with_name(f"{certificate.name}.crl")
    openssl.openssl(crl.parent, "crl", "-inform", "DER", "-in", der, "-out", crl)
    return crl


def check_crl(crl: Path, issuer: Path, roots: Path) -> None:
    """The CRL is signed by `issuer`, as openssl sees it."""
    anchors = openssl.joined(crl.with_name(f"{crl.name}.ca"), issuer, roots)
    output = openssl.openssl(crl.parent, "crl", "-in", crl, "-noout", "-CAfile", anchors)
    if "verify OK" not in output:
        raise InteropError(output)


def verify_with_crl(chain: Path, roots: Path) -> str:
    """Output of `openssl verify -crl_check` with a fresh CRL; any exit status."""
    leaf, issuer = openssl.split(chain)[:2]
    crl = fetch_crl(leaf)
    check_crl(crl, issuer, roots)
    words = ["verify", "-crl_check", "-CAfile", roots, "-untrusted", issuer]
    return openssl.openssl(chain.parent, *words, "-CRLfile", crl, leaf, status=None)


def wait_until_on_crl(chain: Path, roots: Path) -> None:
    """Until the CRL says revoked; InteropError after CRL_SECONDS."""
    deadline = time.monotonic() + CRL_SECONDS
    while "certificate revoked" not in (output := verify_with_crl(chain, roots)):
        if time.monotonic() > deadline:
            raise InteropError(f"not on the CRL after {CRL_SECONDS} s\n{output}")
        time.sleep(0.5)
