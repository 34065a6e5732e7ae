"""Independent checks of what was issued, by the `openssl` command alone."""

import re
from pathlib import Path

from interop.processes import InteropError, run

PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n", re.S)


def openssl(cwd: Path, *words: object, status: int | None = 0) -> str:
    """One `openssl` command; its output."""
    return run(["openssl", *words], cwd=cwd, status=status)


def self_signed(base: Path, name: str) -> Path:
    """BASE.key and BASE.crt, a self-signed server certificate for `name`; the certificate."""
    words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    words += ["-days", "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    words += ["-keyout", f"{base}.key", "-out", f"{base}.crt"]
    openssl(base.parent, *words)
    return base.with_suffix(".crt")


def new_key(path: Path, kind: str = "EC") -> Path:
    """A P-256 or RSA 2048 private key in PEM at `path`."""
    option = "ec_paramgen_curve:P-256" if kind == "EC" else "rsa_keygen_bits:2048"
    openssl(path.parent, "genpkey", "-algorithm", kind, "-pkeyopt", option, "-out", path)
    return path


def new_csr(path: Path, key: Path, *names: str, form: str = "PEM") -> Path:
    """A CSR at `path` with an empty subject and `names` as DNS names."""
    san = ",".join(f"DNS:{name}" for name in names)
    words = ["req", "-new", "-key", key, "-subj", "/", "-addext", f"subjectAltName={san}"]
    openssl(path.parent, *words, "-outform", form, "-out", path)
    return path


def split(chain: Path) -> list[Path]:
    """The certificates of a PEM file, each in a file of its own beside it, in order."""
    blocks = PEM.findall(chain.read_text())
    if not blocks:
        raise InteropError(f"no certificate in {chain}")
    parts = [chain.with_name(f"{chain.name}.{number}") for number in range(len(blocks))]
    for part, block in zip(parts, blocks, strict=True):
        part.write_text(block)
    return parts


def joined(path: Path, *files: Path) -> Path:
    """The text of `files` one after the other, at `path`."""
    path.write_text("".join(file.read_text() for file in files))
    return path


def serial(chain: Path) -> str:
    """Serial of the first certificate, upper-case hex."""
    output = openssl(chain.parent, "x509", "-in", chain, "-noout", "-serial")
    return output.strip().removeprefix("serial=")


def verify(chain: Path, roots: Path, key: Path | None = None, **expected: str) -> str:
    """Check a chain file (leaf first) to `roots` as a TLS server would need it; its serial.

    `expected` is `hostname` or `ip`; with `key` the leaf's public key must be of that key.
    """
    leaf, *issuers = split(chain)
    words = ["verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", str(roots)]
    if issuers:
        words += ["-untrusted", str(joined(chain.with_name(f"{chain.name}.ca"), *issuers))]
    for kind, value in expected.items():
        words += [f"-verify_{kind}", value]
    openssl(chain.parent, *words, leaf)
    if key is not None:
        of_leaf = openssl(chain.parent, "x509", "-in", leaf, "-noout", "-pubkey")
        of_key = openssl(chain.parent, "pkey", "-in", key, "-pubout")
        if of_leaf != of_key:
            raise InteropError(f"the certificate in {chain} is for another key than {key}")
    return serial(leaf)


def ocsp_status(chain: Path, root: Path) -> str:
    """`good` or `revoked` as the responder in the leaf's AIA says by POST, signature checked."""
    leaf, issuer = split(chain)[:2]
    output = _ocsp(leaf, issuer, root)
    found = re.search(rf"^{re.escape(str(leaf))}: (\w+)$", output, re.M)
    if "Response verify OK" not in output or found is None:
        raise InteropError(f"openssl ocsp does not accept the response\n{output}")
    if "WARNING: no nonce in response" in output:
        raise InteropError("the OCSP response does not repeat the nonce (RFC 8954)")
    return found[1]


def ocsp_response(chain: Path, root: Path) -> Path:
    """The responder's answer for the leaf, in DER beside the chain."""
    leaf, issuer = split(chain)[:2]
    path = chain.with_name(f"{chain.name}.ocsp")
    _ocsp(leaf, issuer, root, "-respout", str(path))
    return path


def _ocsp(leaf: Path, issuer: Path, root: Path, *options: str) -> str:
    url = openssl(leaf.parent, "x509", "-in", leaf, "-noout", "-ocsp_uri").strip()
    if not url:
        raise InteropError(f"no OCSP URL in {leaf}")
    words = ["ocsp", "-issuer", issuer, "-cert", leaf, "-url", url, "-timeout", "60"]
    return openssl(leaf.parent, *words, "-CAfile", root, "-verify_other", issuer, *options)
