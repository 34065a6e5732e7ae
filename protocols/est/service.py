"""The operations of one label (RFC 7030 section 3.2.2): who may, for which names, and what comes
of it. Every refusal is in the audit log with its cause and changes nothing."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import NameOID

from pkiserver.ca.model import CertificateRequest
from pkiserver.ca.policy import names_of
from pkiserver.ca.profiles import Profile
from pkiserver.config_types import KeyKind
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix import csr
from pkiserver.pkix.csr import CertificationRequest
from pkiserver.plugin import Services
from pkiserver.web.failures import Failures
from pkiserver.web.peer import Peer
from protocols.est import attributes, csrattrs, identity, keygen, linking, reenrollment
from protocols.est.attributes import ChangeSubjectName, RequestAttributes
from protocols.est.authentication import Authentication, Credentials
from protocols.est.codec import Part
from protocols.est.enrollment import Enrollment, Outcome
from protocols.est.identity import Identity
from protocols.est.keygen import PackageSigner
from protocols.est.quota import Quota
from protocols.est.settings import ESTSettings

_NO_FAULT_OF_THE_CLIENT = frozenset(
    {ErrorCode.CONFLICT, ErrorCode.UNAVAILABLE, ErrorCode.CONFIGURATION, ErrorCode.INTERNAL}
)


@dataclass(frozen=True, slots=True)
class GeneratedKey:
    """The answer of serverkeygen: the private key's part, and the certificate."""

    key: Part
    certificate: x509.Certificate


class Label:
    """One label."""

    def __init__(
        self,
        name: str,
        settings: ESTSettings,
        services: Services,
        authentication: Authentication,
        signer: PackageSigner,
    ) -> None:
        self.name = name
        self.settings = settings
        self._services = services
        self._authentication = authentication
        self._signer = signer
        self._quota = Quota(name, settings, services.clock)
        self._enrollment = Enrollment(name, settings, services, self._quota)
        self._refusals = Failures(
            settings.refusals_per_client, services.clock, "est.refusals_per_client"
        )
        # An RSA key takes a processor for seconds.
        self._generating = asyncio.Semaphore(1)

    @property
    def profile(self) -> Profile:
        return self._services.issuance.profiles[self.settings.profile]

    def ca_certificates(self) -> Sequence[x509.Certificate]:
        """The path of the CA that issues, and what clients need while keys change (RFC 7030
        section 4.1.3)."""
        authorities = self._services.authorities
        issuer = authorities.current(self.profile.issuer)
        found = [*authorities.path(issuer), *authorities.rollover_certificates(issuer)]
        return [*dict.fromkeys(found)]

    def csr_attributes(self, peer: Peer) -> bytes | None:
        """CsrAttrs in DER; None: nothing in particular is wanted."""
        link = linking.is_wanted(self.settings.proof_of_possession, peer)
        return csrattrs.encode(self.profile, self.settings, linking=link)

    async def enroll(self, credentials: Credentials, request: bytes) -> Outcome:
        """simpleenroll (section 4.2.1)."""
        async with self._admitted(credentials) as who:
            return await self._enroll(who, credentials, request)

    async def _enroll(self, who: Identity, credentials: Credentials, request: bytes) -> Outcome:
        asked = self._request(who, request)
        async with self._recorded(asked):
            parsed = csr.parse(request)
            self._check_link(attributes.parse(request), credentials.peer)
            self._check_names(who, parsed)
        return await self._enrollment.enroll(who, asked)

    async def reenroll(self, credentials: Credentials, request: bytes) -> Outcome:
        """simplereenroll (section 4.2.2): for the holder of a certificate of ours, or a
        registration authority."""
        async with self._admitted(credentials) as who:
            if identity.is_registration_authority(who, self.settings):
                return await self._enroll(who, credentials, request)
            return await self._reenroll(who, credentials, request)

    async def _reenroll(self, who: Identity, credentials: Credentials, request: bytes) -> Outcome:
        asked = self._request(who, request)
        async with self._recorded(asked):
            old = _held_certificate(who)
            parsed = csr.parse(request)
            wishes = attributes.parse(request)
            self._check_link(wishes, credentials.peer)
            reenrollment.check_same_names(parsed, old)
            asked = self._renewal(who, asked, old, wishes.change_subject_name)
        return await self._enrollment.enroll(who, asked)

    async def generate_key(self, credentials: Credentials, request: bytes) -> GeneratedKey:
        """serverkeygen (section 4.4)."""
        async with self._admitted(credentials) as who:
            return await self._generate_key(who, credentials, request)

    async def _generate_key(
        self, who: Identity, credentials: Credentials, request: bytes
    ) -> GeneratedKey:
        asked = self._request(who, request)
        async with self._recorded(asked):
            kind = self._generated_kind()
            wishes = attributes.parse(request)
            self._check_link(wishes, credentials.peer)
            chosen = keygen.protection(wishes, who, self._decrypt_key)
            async with self._generating:
                key = await keygen.new_key(kind)
            asked = dataclasses.replace(asked, csr=await keygen.with_key(request, key))
            self._check_names(who, csr.parse(asked.csr))
        prepared = await self._services.issuance.prepare(asked)
        async with self._recorded(asked):
            part = await keygen.key_part(key, chosen, self._signer)
        issued = await self._services.issuance.issue(
            prepared, on_reserved=lambda tx: self._quota.claim(tx, who, prepared)
        )
        return GeneratedKey(part, issued.certificate)

    def _generated_kind(self) -> KeyKind:
        kind = self.settings.server_keys
        if kind == "off":
            raise PKIError(
                ErrorCode.NOT_FOUND, "there is no serverkeygen here", rule="est.server_keys"
            )
        if self.profile.requires_approval:
            # The key would have to be kept until somebody has decided.
            raise PKIError(
                ErrorCode.REFUSED_BY_PROFILE,
                "no serverkeygen where a person has to approve; make a key and use simpleenroll",
                rule="approvals",
            )
        return kind

    def _request(self, who: Identity, request: bytes) -> CertificateRequest:
        return CertificateRequest(self.settings.profile, who.requester, request)

    def _check_names(self, who: Identity, asked: CertificationRequest) -> None:
        identity.check_names(who, asked, self.settings, self.profile.subject)

    def _check_link(self, wishes: RequestAttributes, peer: Peer) -> None:
        linking.check(self.settings.proof_of_possession, wishes.linking, peer)

    def _renewal(
        self,
        who: Identity,
        asked: CertificateRequest,
        old: x509.Certificate,
        change: ChangeSubjectName | None,
    ) -> CertificateRequest:
        """The names are the old certificate's, or what ChangeSubjectName says."""
        if change is None:
            return dataclasses.replace(asked, renewal_of=old)
        if not self.settings.change_subject:
            raise PKIError(
                ErrorCode.REFUSED_NAME, "names are not changed here", rule="est.change_subject"
            )
        subject = old.subject if change.subject is None else change.subject
        names = names_of(old) if change.alt_names is None else change.alt_names
        common_name = _common_name(subject)
        identity.check_changed_names(who, common_name, names)
        return dataclasses.replace(
            asked, names=names, subject_cn=common_name, names_beside_csr=True
        )

    def _decrypt_key(self, user: str) -> bytes:
        return decrypt_key(self._services, user)

    @asynccontextmanager
    async def _admitted(self, credentials: Credentials) -> AsyncIterator[Identity]:
        """Who it is. Whoever is refused too often has to wait: each refusal costs work and a row of
        the audit log."""
        who = await self._authentication.identify(credentials)
        source = str(who.requester)
        self._refusals.check(source)
        try:
            yield who
        except PKIError as error:
            if error.code not in _NO_FAULT_OF_THE_CLIENT:
                self._refusals.count(source)
            raise

    @asynccontextmanager
    async def _recorded(self, asked: CertificateRequest) -> AsyncIterator[None]:
        """Refusals of ours; those of issuance record themselves."""
        try:
            yield
        except PKIError as error:
            await self._services.issuance.record_refusal(asked, error)
            raise


def decrypt_key(services: Services, user: str) -> bytes:
    """The AES-256 key that a user's generated keys can be encrypted with. `user` is the id, so a
    user who is made anew has another one."""
    return services.derive_secret(f"est: decrypt key of user {user}")


def _held_certificate(who: Identity) -> x509.Certificate:
    held = who.certificate
    if held is None:
        raise who.problem or PKIError(
            ErrorCode.UNAUTHORIZED,
            "re-enrolment needs the certificate that is to be renewed as TLS client certificate",
            rule="est.reenroll",
        )
    if held.record is None:
        raise PKIError(
            ErrorCode.UNAUTHORIZED,
            "the client certificate is not one of ours; use simpleenroll",
            rule="est.reenroll",
        )
    return held.certificate


def _common_name(subject: x509.Name) -> str | None:
    found = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else None
