"""jscep, which Google's connector for managed ChromeOS devices is built on; a driver of ours
(`interop/jscep`) where Maven and a JDK are. It encodes in BER, rejects nonces it has seen, and
reads PrintableString alone (S6, S7, S10). To see whether it renews, it verifies the old certificate
with its own key, which fails for an RSA key in a certificate with an ECDSA signature: below an EC
CA it enrols only."""

from pathlib import Path

import pytest

from interop import openssl, tools
from interop.processes import meanwhile, run
from interop.results import NewRow
from interop.scep_server import SCEPServer


def _driver(server: SCEPServer, folder: Path, name: str, label: str = "default") -> bool:
    """Whether it renewed."""
    classes = tools.need(tools.jscep_driver, optional=True)
    command = ["java", "-cp", f"{classes}:{classes}/*", "Driver", server.url(label), name]
    renews = server.kind.startswith("rsa")
    run(
        [*command, server.challenge(label), *(["renew"] if renews else [])], cwd=folder, seconds=240
    )
    return renews


@pytest.mark.parametrize("kind", ("rsa-2048", "p256"))
def test_enrol_renew_and_queries(
    kind: str, scep: dict[str, SCEPServer], workdir: Path, row: NewRow
) -> None:
    server, name = scep[kind], "jscep.example.test"
    seen = row("jscep", tools.JSCEP, f"SCEP, {kind} CA: GetCert and GetCRL too")
    renewed = _driver(server, workdir, name)
    seen.passed("obtain")
    serial = server.verify(workdir / "new.crt", workdir / "new.key")
    assert (openssl.serial(workdir / "old.crt") != serial) == renewed
    if renewed:
        seen.passed("renew")
    old, found = (workdir / file for file in ("old.crt", "found.crt"))
    assert openssl.serial(old) == openssl.serial(found)
    crl = ["crl", "-in", workdir / "crl.der", "-inform", "DER", "-noout"]
    assert "verify OK" in openssl.openssl(workdir, *crl, "-CAfile", server.issuing)


def test_it_polls(scep: dict[str, SCEPServer], workdir: Path, row: NewRow) -> None:
    """The enrolment and the renewal each wait for somebody."""
    server, name = scep["rsa-2048"], "waits.jscep.example.test"
    seen = row("jscep", tools.JSCEP, "SCEP, rsa-2048 CA: polls for approvals")

    def approve_twice() -> None:
        server.approve(name)
        server.approve(name)

    tools.need(tools.jscep_driver, optional=True)
    with meanwhile(approve_twice):
        _driver(server, workdir, name, "approved")
    server.verify(workdir / "new.crt", workdir / "new.key", hostname=name)
    seen.passed("obtain")
    seen.passed("renew")
