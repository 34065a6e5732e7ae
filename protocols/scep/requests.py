"""What a PKCSReq or RenewalReq asks for, and the request for issuance made of it."""

import datetime as dt
import hashlib
from dataclasses import dataclass, field

from cryptography import x509

from pkiserver.ca.model import CertificateRequest, Requester
from pkiserver.pkix import csr
from pkiserver.pkix.algorithms import spki_sha256
from pkiserver.pkix.csr import CertificationRequest
from pkiserver.plugin import Services
from protocols.scep.challenge import Accepted, ChallengeRequest
from protocols.scep.messages import PKIMessage
from protocols.scep.settings import SCEPSettings
from protocols.scep.store import Key
from protocols.scep.validity import wished_validity


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that can be read: its signature and its proof of possession are verified."""

    key: Key
    csr: CertificationRequest
    signer_sha256: bytes
    address: str
    old: x509.Certificate | None = field(default=None)

    @property
    def password(self) -> str | None:
        """What an answer is encrypted with for a key that only signs. For none but the requested
        key: somebody who sends another's request in a message of his own would get an answer to
        try passwords on."""
        same = self.signer_sha256 == self.key.spki_sha256
        return self.csr.challenge_password if same else None

    @property
    def challenge(self) -> ChallengeRequest:
        return ChallengeRequest(
            transaction_id=self.key.transaction_id,
            csr=self.csr,
            csr_der=self.csr.der,
            challenge=self.csr.challenge_password,
            label=self.key.label,
            address=self.address,
        )


class Requests:
    """Of one section."""

    def __init__(self, label: str, settings: SCEPSettings, services: Services) -> None:
        self._label = label
        self._settings = settings
        self._services = services

    def read(self, message: PKIMessage, data: bytes, address: str) -> Ask:
        """The request in the messageData. Raises `PKIError` for what is none."""
        request = csr.parse(data, allow_legacy_hash=self._settings.legacy)
        key = Key(
            label=self._label,
            transaction_id=message.transaction_id,
            spki_sha256=request.spki_sha256,
            renewal_of="",
            content_sha256=_content(request),
        )
        return Ask(key, request, spki_sha256(message.certificate.public_key()), address)

    def of(self, ask: Ask, accepted: Accepted) -> CertificateRequest:
        """For issuance, on behalf of whoever was accepted."""
        profile = accepted.profile or self._settings.profile
        return self.build(profile, accepted.party, ask.address, ask.csr.der, ask.old)

    def build(
        self,
        profile: str,
        party: str,
        address: str,
        csr_der: bytes,
        old: x509.Certificate | None,
    ) -> CertificateRequest:
        """The same, from what the transaction has recorded."""
        return CertificateRequest(
            profile=profile,
            requester=Requester("scep", party, address),
            csr=csr_der,
            not_after=self._wished_end(profile, csr_der),
            renewal_of=old,
            allow_legacy_hash=self._settings.legacy,
        )

    def _wished_end(self, profile: str, csr_der: bytes) -> dt.datetime | None:
        """What the attribute of the CSR asks for, as far as the profile goes."""
        known = self._services.issuance.profiles.get(profile)
        wish = wished_validity(csr_der)
        if known is None or wish is None or wish >= known.validity:
            return None
        return self._services.clock.now() + wish


def _content(request: CertificationRequest) -> bytes:
    """A digest of what a request asks for, besides its key."""
    parts = [
        request.subject.public_bytes(),
        *(str(name).encode() for name in request.alt_names),
        *(oid.encode() for oid in request.extended_key_usage),
    ]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(4) + part)
    return digest.digest()
