"""The certificate that signs key packages (RFC 7030 section 4.4.2: "signed by the party that
generated the private key"): for the server's own name, made when first needed, kept in memory."""

import asyncio
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.ca.model import CertificateRequest, Requester
from pkiserver.keys import sign
from pkiserver.pkix.names import AltName, dns_name, ip_address, to_general_name
from pkiserver.plugin import Services

PROFILE = "tls-server"


class ServerSigner:
    """One per process."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._certificate: x509.Certificate | None = None
        self._lock = asyncio.Lock()

    async def certificate(self) -> x509.Certificate:
        """One with a third of its lifetime ahead. Raises `PKIError` if none can be issued."""
        async with self._lock:
            if self._certificate is None or not self._is_fresh(self._certificate):
                self._certificate = await self._issue()
            return self._certificate

    async def sign(self, data: bytes) -> bytes:
        """ECDSA with SHA-256."""
        return await sign(self._key, data)

    def _is_fresh(self, certificate: x509.Certificate) -> bool:
        lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        return self._services.clock.now() < certificate.not_valid_after_utc - lifetime / 3

    async def _issue(self) -> x509.Certificate:
        name = _name(self._services.settings.server.hostname)
        extension = x509.SubjectAlternativeName([to_general_name(name)])
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        csr = builder.add_extension(extension, critical=False).sign(self._key, hashes.SHA256())
        request = CertificateRequest(
            profile=PROFILE,
            requester=Requester("server", "est-key-packages"),
            csr=csr.public_bytes(Encoding.DER),
            names=[name],
        )
        issuance = self._services.issuance
        prepared = await issuance.prepare(request, unattended=True)
        return (await issuance.issue(prepared)).certificate


def _name(hostname: str) -> AltName:
    try:
        ipaddress.ip_address(hostname)
    except ValueError:
        return dns_name(hostname)
    return ip_address(hostname)
