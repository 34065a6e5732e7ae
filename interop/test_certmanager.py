"""golang.org/x/crypto/acme in cert-manager's call sequence (interop/certmanager)."""

import re
from pathlib import Path

from interop import openssl, tools
from interop.processes import run
from interop.results import NewRow
from interop.target import Target


def test_certmanager(target: Target, workdir: Path, webroot: Path, row: NewRow) -> None:
    driver = tools.need(tools.go_driver, optional=True)
    module = Path(__file__).with_name("certmanager") / "go.mod"
    version = re.search(r"golang\.org/x/crypto (\S+)", module.read_text())
    assert version is not None
    what = "http-01 and dns-01 in one order; account key rollover"
    seen = row("x/crypto/acme as cert-manager", version[1], what)
    name = "certmanager.example.test"
    words = ["-directory", target.directory_url, "-bundle", target.ca_bundle, "-name", name]
    words += ["-webroot", webroot / ".well-known" / "acme-challenge"]
    words += ["-dns", target.dns.management_url, "-out", workdir, "-revoke"]
    if target.name != "pebble":  # which answers 400 to a second accept
        words.append("-repeat")
    run([driver, *words], cwd=workdir)
    serials = []
    for base in ("first", "second"):
        chain, key = workdir / f"{base}.pem", workdir / f"{base}.key"
        serials.append(openssl.verify(chain, target.roots, key, hostname=f"any.{name}"))
    assert serials[0] != serials[1]
    seen.passed("obtain")
    seen.passed("renew")
    assert target.operator.status(serials[1], workdir / "second.pem") == "revoked"
    assert target.operator.status(serials[0], workdir / "first.pem") == "good"
    seen.passed("revoke")
