"""Asking OCSP and fetching CRLs as a relying party does, all the time, whether the server is there
or not. What it was told once has to stay true."""

import asyncio
import http.client
import random
import threading
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from interop.bench.witness import Held, Revocation
from interop.processes import InteropError

CRL_SECONDS = 60
"""A list that shows every acknowledged revocation is out by then."""
LOOK_SECONDS = 0.2
_LATEST, _OLDER = 3, 2
"""Of what was revoked, how many of the latest and of all are asked for at a time."""


@dataclass
class CRLs:
    """The lists at one URL, by their numbers."""

    url: str
    issuer: x509.Certificate
    seen: dict[int, bytes] = field(default_factory=dict)
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock)

    def fetch(self) -> x509.CertificateRevocationList:
        """The present list. Raises InteropError if its number goes back or stood for another."""
        with self._one_at_a_time:
            return self._fetch()

    def _fetch(self) -> x509.CertificateRevocationList:
        der = get(self.url)
        found = x509.load_der_x509_crl(der)
        if not found.is_signature_valid(cast(ec.EllipticCurvePublicKey, self.issuer.public_key())):
            raise InteropError("the CRL is not signed by the issuer")
        number = found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        latest = max(self.seen, default=0)
        if number < latest or self.seen.setdefault(number, der) != der:
            raise InteropError(f"{self.url}: number {number} after {latest}, or with other bytes")
        return found


class RelyingParty:
    """Of one issuer. `base_url` is of the plain HTTP listener."""

    def __init__(self, base_url: str, issuer: x509.Certificate) -> None:
        self._issuer = issuer
        self._complete = CRLs(f"{base_url}/crl/issuing.crl", issuer)
        self._delta = CRLs(f"{base_url}/crl/issuing.delta.crl", issuer)
        self._revoked: list[x509.Certificate] = []
        self.asked = 0
        """How often OCSP answered for a certificate that was revoked."""

    def hear(self, revoked: x509.Certificate) -> None:
        """The revocation was acknowledged: from now on nobody says good."""
        self._revoked.append(revoked)

    async def watch(self) -> None:
        """Look again and again, until cancelled; the server may be away."""
        while True:
            await asyncio.to_thread(self._look)
            await asyncio.sleep(LOOK_SECONDS)

    def _look(self) -> None:
        known = self._revoked[:]
        for leaf in known[-_LATEST:] + random.sample(known, min(_OLDER, len(known))):
            with suppress(OSError, http.client.HTTPException):
                found = self._ocsp_status(leaf, by_get=random.random() < 0.5)
                if found in ("GOOD", "UNKNOWN"):
                    raise InteropError(f"OCSP says {found} for {leaf.serial_number:x}: revoked")
                self.asked += found == "REVOKED"
        for lists in (self._complete, self._delta):
            with suppress(OSError, http.client.HTTPException):
                lists.fetch()

    async def check(self, orders: Sequence[Held]) -> None:
        """OCSP says what the clients know, and the list soon says so too. A revocation that was
        acknowledged is never good again."""
        await asyncio.to_thread(self._check_ocsp, orders)
        revoked = {
            order.leaf.serial_number
            for order in orders
            if order.revocation is Revocation.ACKNOWLEDGED
        }
        missing = revoked
        try:
            async with asyncio.timeout(CRL_SECONDS):
                while missing:
                    current = await asyncio.to_thread(self._complete.fetch)
                    missing = revoked - {entry.serial_number for entry in current}
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise InteropError(f"{len(missing)} revocations are on no list") from None

    def _check_ocsp(self, orders: Sequence[Held]) -> None:
        for order in orders:
            expected = "REVOKED" if order.revocation is Revocation.ACKNOWLEDGED else "GOOD"
            found = self._ocsp_status(order.leaf)
            if found != expected:
                raise InteropError(f"OCSP says {found} for {order}, not {expected}")

    def _ocsp_status(self, leaf: x509.Certificate, *, by_get: bool = False) -> str:
        builder = ocsp.OCSPRequestBuilder().add_certificate(leaf, self._issuer, hashes.SHA256())
        request = builder.build().public_bytes(Encoding.DER)
        url = _ocsp_url(leaf)
        answer = get(f"{url}/{quote(b64encode(request), safe='')}") if by_get else get(url, request)
        response = ocsp.load_der_ocsp_response(answer)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            return response.response_status.name
        if response.serial_number != leaf.serial_number:
            raise InteropError("the OCSP response is for another certificate")
        self._check_signature(response)
        return response.certificate_status.name

    def _check_signature(self, response: ocsp.OCSPResponse) -> None:
        """By a responder that the issuer made (RFC 6960 section 4.2.2.2)."""
        responder = response.certificates[0]
        responder.verify_directly_issued_by(self._issuer)
        usage = responder.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        if ExtendedKeyUsageOID.OCSP_SIGNING not in usage:
            raise InteropError("the OCSP response is not signed by a responder")
        algorithm = response.signature_hash_algorithm or hashes.SHA256()
        key = cast(ec.EllipticCurvePublicKey, responder.public_key())
        key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(algorithm))


def _ocsp_url(leaf: x509.Certificate) -> str:
    access = leaf.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    return next(
        str(item.access_location.value)
        for item in access
        if item.access_method == AuthorityInformationAccessOID.OCSP
    )


def get(url: str, body: bytes | None = None) -> bytes:
    """The body at a URL, or what an OCSP request posted there is answered with."""
    headers = {"Content-Type": "application/ocsp-request"} if body else {}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, body, headers), timeout=30
        ) as answer:
            data: bytes = answer.read()
    except urllib.error.HTTPError as error:
        raise InteropError(f"{url}: {error.code}") from error
    return data
