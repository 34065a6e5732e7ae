"""What relying parties' commands say about a certificate: one word, the same for all of them.
`InteropError` where a command does not trust the answer it got, or says neither."""

import base64
import re
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from interop.openssl import openssl
from interop.processes import InteropError, run
from interop.status_pki import Leaf, Tree

GOOD, REVOKED = "good", "revoked"


def expected(leaf: Leaf) -> str:
    """What everybody has to say."""
    return REVOKED if leaf.revoked else GOOD


# OpenSSL


def ocsp(
    issuer: Path, certificates: Sequence[Path], root: Path, url: str, *options: object
) -> list[str]:
    """`openssl ocsp`, its answer for each certificate in order."""
    words: list[object] = ["ocsp", *options, "-issuer", issuer]
    for certificate in certificates:
        words += ["-cert", certificate]
    words += ["-url", url, "-timeout", "60", "-CAfile", root, "-verify_other", issuer]
    return statuses(openssl(root.parent, *words), certificates)


def statuses(output: str, certificates: Sequence[Path]) -> list[str]:
    """From what `openssl ocsp` printed."""
    if "Response verify OK" not in output or "WARNING" in output:
        raise InteropError(f"openssl ocsp does not accept the response\n{output}")
    found = [re.search(rf"^{re.escape(str(c))}: (\w+)$", output, re.M) for c in certificates]
    if None in found:
        raise InteropError(f"openssl ocsp says nothing about a certificate\n{output}")
    return [match[1] for match in found if match is not None]


def reason(output: str) -> str:
    """The revocation reason `openssl ocsp` printed; empty without one."""
    found = re.search(r"^\tReason: (.+)$", output, re.M)
    return found[1] if found else ""


def get_url(url: str, request: Path) -> str:
    """RFC 6960 appendix A.1: base64, then percent-encoding."""
    encoded = base64.b64encode(request.read_bytes()).decode()
    return f"{url}/{urllib.parse.quote(encoded, safe='')}"


def verify(leaf: Path, root: Path, untrusted: Path, crls: Sequence[Path], *options: str) -> str:
    """`openssl verify` with these CRLs and no others."""
    words: list[object] = ["verify", *options, "-CAfile", root, "-untrusted", untrusted]
    for crl in crls:
        words += ["-CRLfile", crl]
    output = openssl(root.parent, *words, leaf, status=None)
    if output.strip() == f"{leaf}: OK":
        return GOOD
    if re.findall(r"^error (\d+)", output, re.M) == ["23"]:
        return REVOKED
    raise InteropError(output)


# GnuTLS


def ocsptool(certificate: Path, issuer: Path, answer: Path, *options: str) -> str:
    """`ocsptool --ask` at the URL in the certificate, then `--verify-response` of the answer."""
    base = ["ocsptool", "--ask", *options, "--load-cert", certificate, "--load-issuer", issuer]
    asked = run([*base, "--outfile", answer], cwd=answer.parent)
    words = ["ocsptool", "--verify-response", "--load-response", answer, "--load-trust", issuer]
    again = run(words, cwd=answer.parent)
    return _agreed(asked, again)


def _agreed(*outputs: str) -> str:
    found: set[str] = set()
    for output in outputs:
        status = re.search(r"^\t\tCertificate Status: (\w+)$", output, re.M)
        if "Verifying OCSP Response: Success." not in output or status is None:
            raise InteropError(output)
        found.add(status[1])
    if len(found) != 1:
        raise InteropError("\n".join(outputs))
    return found.pop()


def certtool_crl(crl: Path, issuer: Path) -> bool:
    """`certtool --verify-crl`: whether the issuer signed it."""
    words = ["certtool", "--verify-crl", "--infile", crl, "--load-ca-certificate", issuer]
    output = run(words, cwd=crl.parent, status=None)
    if "Verification output: " not in output:
        raise InteropError(output)
    return "Verification output: Verified." in output


def certtool(chain: Path, root: Path, crls: Path) -> str:
    """`certtool --verify` of a chain file with a file of CRLs."""
    words: list[object] = ["certtool", "--verify", "--verify-profile", "medium", "--infile", chain]
    words += ["--load-ca-certificate", root, "--load-crl", crls]
    output = run(words, cwd=chain.parent, status=None)
    last = output.strip().splitlines()[-1]
    if last.startswith("Chain verification output: Verified."):
        return GOOD
    if last.rstrip().endswith("The certificate chain is revoked."):
        return REVOKED
    raise InteropError(output)


# NSS


class NSS:
    """A certificate database that trusts the root of a tree."""

    def __init__(self, folder: Path, tree: Tree) -> None:
        self._folder = folder
        folder.mkdir()
        self._database = f"sql:{folder}"
        self._run("certutil", "-N", "--empty-password")
        self.add("root", tree.root, "CT,C,C")
        self.add("issuing", tree.issuing)

    def _run(self, *words: object, status: int | None = 0) -> str:
        return run([*words, "-d", self._database], cwd=self._folder, status=status)

    def add(self, nickname: str, certificate: Path, trust: str = ",,") -> None:
        self._run("certutil", "-A", "-n", nickname, "-t", trust, "-a", "-i", certificate)

    def add_crl(self, crl: Path) -> None:
        """`crlutil -I`: NSS checks the signature, and what it knows of the extensions."""
        output = self._run("crlutil", "-I", "-i", crl)
        if output.strip():
            raise InteropError(output)

    def certutil(self, nickname: str) -> str:
        """`certutil -V` as a TLS server's, by the CRLs in the database."""
        output = self._run("certutil", "-V", "-u", "V", "-n", nickname, status=None)
        return _said(output, "certificate is valid")

    def ocspclnt(self, nickname: str) -> str:
        """`ocspclnt -V`: asks the responder in the certificate, by GET first."""
        output = self._run("ocspclnt", "-V", nickname, "-u", "s", status=None)
        return _said(output, "succeeded.")

    def vfychain(self, leaf: Path, issuer: Path, method: str) -> str:
        """`vfychain -pp`: libpkix, which has to find revocation information by `method`."""
        words: list[object] = ["vfychain", "-u", "1", "-pp", "-g", "leaf", "-m", method]
        words += ["-s", "requireInfo,failIfNoInfo", "-d", self._database]
        output = run([*words, "-a", leaf, "-a", issuer], cwd=self._folder, status=None)
        return _said(output, "Chain is good!")


def _said(output: str, good: str) -> str:
    if output.strip().endswith(good):
        return GOOD
    if "Peer's Certificate has been revoked." in output:
        return REVOKED
    raise InteropError(output)


# Fetching


def fetch(url: str, kind: str) -> bytes:
    """What a GET answers, if it is of that media type."""
    with urllib.request.urlopen(url, timeout=60) as answer:
        if answer.headers["Content-Type"] != kind:
            raise InteropError(f"{url} is served as {answer.headers['Content-Type']}")
        body: bytes = answer.read()
    return body


def fetch_crl(url: str, path: Path) -> Path:
    """The CRL as PEM at `path`, as DER beside it."""
    der = path.with_suffix(".der")
    der.write_bytes(fetch(url, "application/pkix-crl"))
    openssl(path.parent, "crl", "-inform", "DER", "-in", der, "-out", path)
    return path
