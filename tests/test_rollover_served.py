"""A server that goes on issuing while the command line rolls its CAs over."""

import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID

from pkiserver.cli.main import main
from pkiserver.clock import monotonic
from pkiserver.server_certificate import ServerCertificate
from pkiserver.serving import worker
from pkiserver.testing import PKI, Issued
from tests.cli.conftest import logs_as_they_were

__all__ = ["logs_as_they_were"]


@pytest.fixture
def quick_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener looks at the file of its certificate often."""
    monkeypatch.setattr(worker, "TLS_LOOK_SECONDS", 0.1)


@pytest.fixture
def own_pki(pki_factory: Callable[..., PKI]) -> PKI:
    return pki_factory()


class Customer:
    """Asks for certificates all the time; any failure ends it and is seen in `end`."""

    def __init__(self, pki: PKI) -> None:
        self._pki = pki
        self._stop = threading.Event()
        self.issued: list[Issued] = []
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self.issued.append(self._pki.issue("busy.test"))
        except BaseException as error:
            self._failure = error

    def end(self) -> list[Issued]:
        self._stop.set()
        self._thread.join(30)
        if self._failure is not None:
            raise self._failure
        return self.issued


def run(pki: PKI, *words: str) -> None:
    assert main(["ca", *words, "--home", str(pki.home)]) == 0


def chain(issued: Issued) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(issued.chain.read_bytes())


@pytest.mark.usefixtures("logs_as_they_were")
def test_no_request_fails_and_nothing_is_restarted(own_pki: PKI) -> None:
    before = own_pki.issue("before.test")
    customer = Customer(own_pki)
    run(own_pki, "rotate", "issuing", "--prepare")
    run(own_pki, "activate", "issuing")
    after = own_pki.issue("after.test")
    run(own_pki, "rotate", "root")
    run(own_pki, "activate", "root")
    run(own_pki, "rotate", "issuing")
    last = own_pki.issue("last.test")
    issuers = [issued.issuer for issued in customer.end()]
    assert [each.issuer for each in (before, after, last)] == ["issuing", "issuing-2", "issuing-3"]
    assert {"issuing", "issuing-3"} <= set(issuers) and issuers == sorted(issuers)
    for issued in (before, after, last):
        status_and_issuer_are_where_the_certificate_says(own_pki, issued)
    roots = x509.load_pem_x509_certificates(httpx.get(f"{own_pki.http_base}/roots.pem").content)
    assert len(roots) == 2 and chain(last)[1].issuer == roots[1].subject


def status_and_issuer_are_where_the_certificate_says(pki: PKI, issued: Issued) -> None:
    leaf, issuer = chain(issued)
    access = {
        each.access_method: each.access_location.value
        for each in leaf.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    }
    fetched = httpx.get(access[AuthorityInformationAccessOID.CA_ISSUERS]).content
    assert x509.load_der_x509_certificate(fetched) == issuer
    builder = ocsp.OCSPRequestBuilder().add_certificate(leaf, issuer, hashes.SHA256())
    answer = httpx.post(
        access[AuthorityInformationAccessOID.OCSP],
        content=builder.build().public_bytes(Encoding.DER),
        headers={"Content-Type": "application/ocsp-request"},
    )
    status = ocsp.load_der_ocsp_response(answer.content)
    assert status.certificate_status is ocsp.OCSPCertStatus.GOOD
    (point,) = leaf.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    assert point.full_name is not None
    crl = x509.load_der_x509_crl(httpx.get(point.full_name[0].value).content)
    assert crl.issuer == issuer.subject


@pytest.mark.usefixtures("logs_as_they_were")
def test_a_server_with_the_new_certificate_is_trusted_by_whoever_has_the_old_root(
    quick_look: None, own_pki: PKI
) -> None:
    """Its chain carries NewWithOld."""
    run(own_pki, "rotate", "root")
    run(own_pki, "activate", "root")
    run(own_pki, "rotate", "issuing")
    assert own_pki.issue("next.test").issuer == "issuing-2"
    own_pki._worker.wait_for(
        lambda runtime: ServerCertificate(runtime.services, runtime.keys).ensure()
    )
    new, old = x509.load_pem_x509_certificates(Path(own_pki.root_pem).read_bytes())
    pem = (own_pki.home / "keys" / "server.pem").read_bytes()
    leaf, *rest = x509.load_pem_x509_certificates(pem)
    assert len(rest) == 2
    wait_until_served(own_pki, leaf)
    for root in (new, old):
        trust = ssl.create_default_context(cadata=root.public_bytes(Encoding.PEM).decode())
        answer = httpx.get(f"{own_pki.https_base}/healthz", verify=trust, trust_env=False)
        assert answer.status_code == 200


def wait_until_served(pki: PKI, leaf: x509.Certificate) -> None:
    """The listener looks at its file from time to time."""
    address, deadline = urlsplit(pki.https_base), monotonic() + 60
    assert address.hostname and address.port
    while monotonic() < deadline:
        pem = ssl.get_server_certificate((address.hostname, address.port))
        if x509.load_pem_x509_certificate(pem.encode()) == leaf:
            return
        threading.Event().wait(0.1)
    raise AssertionError("the new certificate is not served")
