"""Which certificates a RenewalReq may renew (RFC 8894 section 3.3.1.2): one of ours, of the same
section, not revoked, in its time. Whoever signs with it needs no challenge.

The drafts before RFC 8894 had no RenewalReq: a PKCSReq signed with the old certificate was the
renewal, and certmonger and older routers send it still. It is one here if it asks for nothing that
is not in the old certificate; otherwise it is an enrolment like any other.
"""

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.ca import inventory
from pkiserver.ca.model import CertificateRecord
from pkiserver.ca.policy import common_names_of, names_of
from pkiserver.pkix.csr import CertificationRequest
from pkiserver.plugin import Services
from protocols.scep import intune_store
from protocols.scep.fail_info import FailInfo, Refusal
from protocols.scep.settings import SCEPSettings


class Renewals:
    """Of one section."""

    def __init__(self, label: str, settings: SCEPSettings, services: Services) -> None:
        self._label = label
        self._settings = settings
        self._services = services

    async def renewable(self, signer: x509.Certificate) -> CertificateRecord:
        """RFC 8894 section 3.3.1.2, and the certificate has to be one this section may renew."""
        if not self._settings.renewal or self._settings.challenge == "intune":
            raise Refusal(
                FailInfo.BAD_REQUEST,
                "renewal needs a new challenge here: send a PKCSReq",
                rule="scep.renewal",
            )
        record = await own(self._services, signer)
        if record is None or not await self._is_of_section(record):
            raise Refusal(
                FailInfo.BAD_CERT_ID,
                "the request is not signed with a certificate that is renewed here",
                rule="scep.renewal",
            )
        self._check_renewable(record)
        revoked = await self._services.database.lookup(
            lambda reader: self._services.authorities.revoked_above(reader, record.issuer)
        )
        if revoked is not None:
            raise _not_renewed(f"is of the authority {revoked}, which is revoked")
        return record

    async def renewed_by(self, signer: x509.Certificate, request: CertificationRequest) -> bool:
        """Whether a PKCSReq with this request renews the certificate that signed it."""
        try:
            await self.renewable(signer)
        except Refusal:
            return False
        return _adds_nothing(request, signer)

    async def _is_of_section(self, record: CertificateRecord) -> bool:
        """Of its profile, or made by it under a profile that a challenge had named. Otherwise a
        server's certificate would become a device's. Not one of Intune's: it would not know of the
        new one, and so never have it revoked."""
        if await self._services.database.lookup(
            lambda reader: intune_store.section(reader, record.id)
        ):
            return False
        made_here = record.requester.startswith(f"scep:{self._label}/")
        return record.profile == self._settings.profile or made_here

    def _check_renewable(self, record: CertificateRecord) -> None:
        now = self._services.clock.now()
        problem = None
        if record.revoked_at is not None:
            problem = "is revoked"
        elif now > record.not_after + self._settings.renewal_grace:
            problem = "has expired"
        elif now < record.not_before:
            problem = "is not valid yet"
        elif self._settings.renewal_window and (
            now < record.not_after - self._settings.renewal_window
        ):
            problem = "has too long to go to be renewed"
        if problem is not None:
            raise _not_renewed(problem)


def _not_renewed(problem: str) -> Refusal:
    return Refusal(FailInfo.BAD_REQUEST, f"the certificate to renew {problem}", rule="scep.renewal")


def _adds_nothing(request: CertificationRequest, old: x509.Certificate) -> bool:
    """Every name in the request is in the old certificate, common names in either place."""
    names = names_of(old)
    common_names = {*common_names_of(old), *(name.value for name in names)}
    return set(request.common_names) <= common_names and set(request.alt_names) <= set(names)


async def own(services: Services, certificate: x509.Certificate) -> CertificateRecord | None:
    """The record of a certificate of ours, octet for octet."""
    der = certificate.public_bytes(Encoding.DER)
    records = await services.database.lookup(
        lambda reader: inventory.with_serial(reader, certificate.serial_number)
    )
    return next((record for record in records if record.der == der), None)
