"""What can be fetched while keys change: every generation at its own URLs, the links in `.p7c`, the
next root in the bundle."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs7
from starlette.applications import Starlette

from pkiserver.ca import closing
from pkiserver.ca.authorities import Rotation
from pkiserver.web.hot import HotPaths
from pkiserver.web.problems import exception_handlers
from protocols.crl.http import CA_PREFIX, CRL_PREFIX, ROOTS_PATH, Downloads, Library
from tests.ca.status_support import PKI, open_pki

WHO = "test:tester"


@pytest.fixture
async def pki(tmp_path: Path) -> AsyncIterator[PKI]:
    """Root and issuing CA have a second generation, and the first issuing CA is closed."""
    async with open_pki(tmp_path) as pki:
        authorities = pki.authorities
        await authorities.rotate("root", Rotation(activate_after=None), actor=WHO)
        await authorities.rotate("issuing", Rotation(), actor=WHO)
        await pki.status.maintain()
        await authorities.retire("issuing", actor=WHO)
        await closing.close(authorities, pki.status, pki.clock, "issuing", actor=WHO)
        yield pki


async def fetch(pki: PKI, path: str) -> bytes:
    library = Library(pki.status, pki.authorities, pki.clock)
    app = HotPaths(
        Starlette(exception_handlers=exception_handlers()),
        prefixes={
            CRL_PREFIX: Downloads(CRL_PREFIX, library.crl),
            CA_PREFIX: Downloads(CA_PREFIX, library.certificate),
            ROOTS_PATH: Downloads(ROOTS_PATH, library.roots),
        },
    )
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://pki.example.com") as http:
        response = await http.get(path)
        assert response.status_code == 200
        return response.content


@pytest.mark.parametrize("name", ["root", "root-2", "issuing", "issuing-2"])
async def test_every_generation_has_its_certificate_and_its_list(pki: PKI, name: str) -> None:
    own = x509.load_der_x509_certificate(await fetch(pki, f"/ca/{name}.cer"))
    assert own == pki.certificate(name)
    crl = x509.load_der_x509_crl(await fetch(pki, f"/crl/{name}.crl"))
    key = own.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey) and crl.is_signature_valid(key)


async def test_the_next_root_is_in_the_bundle(pki: PKI) -> None:
    found = x509.load_pem_x509_certificates(await fetch(pki, "/roots.pem"))
    assert set(found) == {pki.certificate("root"), pki.certificate("root-2")}


async def test_rfc_5280_4_2_2_1_links_are_among_the_certificates_of_a_p7c(pki: PKI) -> None:
    links = {name: pki.authorities.links(name) for name in ("root", "root-2")}
    for name, expected in (
        ("root", {pki.certificate("root"), *links["root"]}),
        ("root-2", {pki.certificate("root-2"), *links["root-2"]}),
        ("issuing-2", {pki.certificate("issuing-2"), *links["root"]}),
    ):
        found = pkcs7.load_der_pkcs7_certificates(await fetch(pki, f"/ca/{name}.p7c"))
        assert set(found) == expected
