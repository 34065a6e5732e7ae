"""GetCert and GetCRL (RFC 8894 sections 3.3.4 and 3.3.5), for those who have no other way."""

from cryptography import x509

from pkiserver.ca import encoding, inventory
from pkiserver.cms import content_info
from pkiserver.cms.content_info import IssuerAndSerialNumber
from pkiserver.errors import ErrorCode, MalformedMessage
from pkiserver.plugin import Services
from pkiserver.storage import Reader
from protocols.scep import messages
from protocols.scep.exchange import unreadable
from protocols.scep.fail_info import FailInfo, Refusal
from protocols.scep.renewal import own

MOST_CRL = 1 << 20
"""Octets of a list that goes into a message: each is encrypted anew, for whoever asks."""


class Queries:
    """About the certificates of `issuer`, whatever its generation."""

    def __init__(self, services: Services, issuer: str) -> None:
        self._services = services
        self._issuer = issuer

    async def certificate(self, data: bytes, signer: x509.Certificate) -> x509.Certificate:
        """GetCert. For holders of a certificate of ours: it is no public directory."""
        wanted = _issuer_and_serial(data)
        holder = await own(self._services, signer)
        now = self._services.clock.now()
        if holder is None or holder.revoked_at is not None or holder.not_after <= now:
            raise Refusal(
                FailInfo.BAD_REQUEST,
                "certificates are given to holders of a valid certificate of ours",
                rule="scep.getCert",
            )
        found = await self._services.database.lookup(lambda reader: _find(reader, wanted))
        if found is None:
            raise _no_certificate()
        return found

    async def crl(self, data: bytes) -> bytes:
        """GetCRL. CRLs are for everybody."""
        wanted = _issuer_and_serial(data)
        for authority in self._services.authorities.line(self._issuer):
            certificate = authority.certificate
            if certificate is not None and encoding.fields_of(certificate).subject == wanted.issuer:
                crl = (await self._services.status.crl(authority.name)).der
                if len(crl) > MOST_CRL:
                    raise Refusal(
                        FailInfo.BAD_REQUEST,
                        "the CRL is too large for a message: get it from its distribution point",
                        rule="scep.getCRL",
                    )
                return crl
        raise _no_certificate()


def _issuer_and_serial(data: bytes) -> IssuerAndSerialNumber:
    try:
        return messages.parse_issuer_and_serial(data)
    except MalformedMessage as error:
        raise unreadable() from error


def _find(reader: Reader, wanted: IssuerAndSerialNumber) -> x509.Certificate | None:
    for record in inventory.with_serial(reader, wanted.serial):
        if record.der is not None and content_info.identifies(wanted, record.der):
            return x509.load_der_x509_certificate(record.der)
    return None


def _no_certificate() -> Refusal:
    return Refusal(
        FailInfo.BAD_CERT_ID, "there is no such certificate here", code=ErrorCode.NOT_FOUND
    )
