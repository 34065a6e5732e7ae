"""The HTTPS listener's certificate, which the server issues to itself and renews in time."""

import ipaddress

import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pkiserver.ca import inventory
from pkiserver.ca.model import CertificateRequest, Requester
from pkiserver.errors import PKIError
from pkiserver.home import Home, write_private
from pkiserver.keys import KeyProvider
from pkiserver.pkix.names import AltName, dns_name, ip_address, to_general_name
from pkiserver.pkix.pem import pem_chain
from pkiserver.plugin import Services

log = structlog.get_logger("pkiserver.server_certificate")

PROFILE = "tls-server"
LOCAL = (dns_name("localhost"), ip_address("127.0.0.1"), ip_address("::1"))


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class ServerCertificate:
    """Keeps `keys/server.pem` fresh. The listeners see the file change and load it."""

    def __init__(self, services: Services, keys: KeyProvider) -> None:
        self._services = services
        self._keys = keys
        self._path = Home(services.settings.home).server_pem

    async def ensure(self) -> None:
        """Issue a certificate if there is none that serves: it is revoked, for other names, of
        another authority or with another chain than new ones would be, or a third of its lifetime
        is all that is left.
        Nothing is done if the operator brings one. Raises `PKIError` if there is none to serve
        with; while an old one has not expired, a failure is logged and tried again."""
        leaf = self._leaf()
        if self._services.settings.server.certificate or await self._serves_on(leaf):
            return
        try:
            await self._renew()
        except PKIError as error:
            if leaf is None or leaf.not_valid_after_utc <= self._services.clock.now():
                raise
            log.warning("server certificate not renewed", why=error.detail)

    async def _renew(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        prepared = await self._services.issuance.prepare(
            CertificateRequest(
                profile=PROFILE,
                requester=Requester("server", "https"),
                csr=self._csr(key),
                names=self._names(),
            ),
            unattended=True,
        )
        issued = await self._services.issuance.issue(prepared)
        leaf = x509.load_der_x509_certificate(issued.der)
        chain = self._services.authorities.linked_chain(prepared.issuer)
        write_private(self._path, self._key_pem(key) + pem_chain([leaf, *chain]))

    def _names(self) -> list[AltName]:
        hostname = self._services.settings.server.hostname
        own = ip_address(hostname) if _is_ip(hostname) else dns_name(hostname)
        local = LOCAL if own in LOCAL else ()
        return sorted({own, *local})

    def _csr(self, key: ec.EllipticCurvePrivateKey) -> bytes:
        names = x509.SubjectAlternativeName([to_general_name(name) for name in self._names()])
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        request = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
        return request.public_bytes(serialization.Encoding.DER)

    def _key_pem(self, key: ec.EllipticCurvePrivateKey) -> bytes:
        return key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(self._keys.passphrase()),
        )

    async def _serves_on(self, leaf: x509.Certificate | None) -> bool:
        if leaf is None:
            return False
        authorities = self._services.authorities
        issuer = authorities.current(self._services.settings.profiles[PROFILE].issuer)
        try:
            leaf.verify_directly_issued_by(authorities.certificate(issuer))
        except (InvalidSignature, ValueError, TypeError):
            return False
        if not self._path.read_bytes().endswith(
            pem_chain([leaf, *authorities.linked_chain(issuer)])
        ):
            return False
        record = await self._services.database.lookup(
            lambda reader: inventory.by_serial(reader, issuer, leaf.serial_number)
        )
        return record is not None and record.revoked_at is None and self._is_fresh(leaf)

    def _leaf(self) -> x509.Certificate | None:
        """The certificate in the file; None unless its key is there and opens."""
        try:
            pem = self._path.read_bytes()
            leaf = x509.load_pem_x509_certificates(pem)[0]
            key = serialization.load_pem_private_key(pem, self._keys.passphrase())
        except (OSError, ValueError, TypeError):
            return None
        return leaf if key.public_key() == leaf.public_key() else None

    def _is_fresh(self, leaf: x509.Certificate) -> bool:
        lifetime = leaf.not_valid_after_utc - leaf.not_valid_before_utc
        now = self._services.clock.now()
        names = set(leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        wanted = {to_general_name(name) for name in self._names()}
        return names == wanted and now < leaf.not_valid_after_utc - lifetime / 3
