"""Bouncy Castle's EST client (Debian's packages) through interop/java/EstDriver.java, over Java's
own TLS and over Bouncy Castle's."""

from pathlib import Path

import pytest

from interop import openssl, relying_party
from interop.est_pki import Client, EstPKI, Held
from interop.processes import InteropError, meanwhile, run
from interop.results import NewRow
from interop.tools import JARS, debian, debian_version, java_driver, need

CLIENT = "Bouncy Castle EST"
PACKAGE = "libbcpkix-java"
KINDS = {"EC": "P-256", "RSA": "RSA"}
PASSWORD = "interop"


@pytest.fixture(scope="session")
def driver() -> Path:
    return need(java_driver("EstDriver"))


class BouncyCastle:
    """The driver in a client's folder."""

    def __init__(self, driver: Path, client: Client) -> None:
        self._client = client
        path = ":".join(str(each) for each in (*JARS, driver))
        java = need(debian("java", "default-jdk-headless"))
        self._java = [java, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", path, "EstDriver"]

    def __call__(self, operation: str, out: str, **options: str) -> Held:
        """What the operation wrote: the certificate, and a key if there is one."""
        self.said(operation, out, **options)
        base = self._client.folder / out
        return Held(base.with_suffix(".key"), base.with_suffix(".crt"))

    def said(self, operation: str, out: str, **options: str) -> list[str]:
        """The lines it printed."""
        pki = self._client.pki
        known = {"port": str(pki.https_port), "root": str(pki.root), "out": out, **options}
        words = [f"{key}={value}" for key, value in known.items()]
        return run([*self._java, operation, *words], cwd=self._client.folder).splitlines()


@pytest.fixture
def bc(driver: Path, est_client: Client) -> BouncyCastle:
    return BouncyCastle(driver, est_client)


@pytest.mark.parametrize("kind", KINDS)
def test_enrol_and_renew(
    bc: BouncyCastle, est: EstPKI, est_client: Client, row: NewRow, kind: str
) -> None:
    """E7, E8: asked for the password first; then by certificate."""
    what = f"password, certificate; {KINDS[kind]}"
    seen = row(CLIENT, debian_version(PACKAGE), f"EST: {what}")
    assert len(openssl.split(bc("cacerts", "ca").certificate)) == 2
    name = f"bc-{kind.lower()}"
    login = f"{name}:{est.add_user(name, subject=name, dns=f'{name}.example.test')}"
    first = bc("enroll", "first", login=login, name=name, kind=kind)
    before = est_client.check(first, name)
    relying_party.lint("lint_pkix_cert", first.certificate)
    seen.passed("obtain")
    p12 = est_client.folder / "first.p12"
    words = ["pkcs12", "-export", "-in", first.certificate, "-inkey", first.key, "-out", p12]
    openssl.openssl(est_client.folder, *words, "-passout", f"pass:{PASSWORD}")
    renewed = bc("reenroll", "renewed", p12=str(p12), name=name, kind=kind)
    assert est_client.check(renewed, name) != before
    seen.passed("renew")
    est.revoke(before)
    assert est_client.status(first) == "revoked"
    seen.passed("revoke")
    with pytest.raises(InteropError, match="HTTP Status Code: 40[13]"):
        bc("reenroll", "again", p12=str(p12), name=name, kind=kind)


def test_label_and_generated_key(
    bc: BouncyCastle, est: EstPKI, est_client: Client, row: NewRow
) -> None:
    """E19, E25."""
    seen = row(CLIENT, debian_version(PACKAGE), "EST: label, serverkeygen, csrattrs")
    login = f"bc-keygen:{est.add_user('bc-keygen', label='rsa')}"
    made = bc("serverkeygen", "made", label="rsa", login=login, name="bc-keygen")
    est_client.check(made, "bc-keygen")
    assert "BEGIN RSA PRIVATE KEY" in made.key.read_text()
    seen.passed("obtain")
    with pytest.raises(InteropError, match="HTTP Status Code: 401"):
        bc("enroll", "other", login=login, name="bc-keygen")
    challenge_password = "1.2.840.113549.1.9.7"
    for version, wanted in (("TLSv1.2", True), ("TLSv1.3", False)):
        wishes = bc.said("csrattrs", "wishes", tls=version)
        assert "1.2.840.113549.1.9.14" in wishes
        assert (challenge_password in wishes) is wanted, version


def test_proof_of_possession(
    bc: BouncyCastle, est: EstPKI, est_client: Client, row: NewRow
) -> None:
    """E14: tls-unique by another implementation of TLS."""
    seen = row(CLIENT, debian_version(PACKAGE), "EST: tls-unique on TLS 1.2")
    login = f"bc-linked:{est.add_user('bc-linked', label='linked')}"
    known = {"label": "linked", "login": login, "name": "bc-linked", "jsse": "BC"}
    est_client.check(bc("pop", "linked", tls="TLSv1.2", **known), "bc-linked")
    seen.passed("obtain")
    with pytest.raises(InteropError, match="HTTP Status Code: 403"):
        bc("enroll", "not-linked", tls="TLSv1.2", **known)


def test_waits_for_an_approval(
    bc: BouncyCastle, est: EstPKI, est_client: Client, row: NewRow
) -> None:
    """E13."""
    seen = row(CLIENT, debian_version(PACKAGE), "EST: waits for a person to approve")
    login = f"bc-waits:{est.add_user('bc-waits', label='reviewed')}"
    with meanwhile(lambda: est.decide("approve", "bc-waits")):
        held = bc("enroll", "waits", label="reviewed", login=login, name="bc-waits")
    est_client.check(held, "bc-waits")
    seen.passed("obtain")
