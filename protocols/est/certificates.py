"""Client certificates: ours, by the inventory; others, by a path to an anchor of the label.

TLS has verified that the client has the key and that some anchor of the listener stands above the
certificate. Which label's anchor that is, TLS cannot say, and of revocation it knows nothing: so
each label checks for itself (RFC 5280 section 6.1).
"""

import datetime as dt
import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pkiserver.ca import ca_path, inventory
from pkiserver.ca.authorities import Authorities
from pkiserver.ca.model import CertificateRecord, CertificateStatus
from pkiserver.ca.policy import names_of
from pkiserver.clock import Clock
from pkiserver.errors import ErrorCode, MalformedMessage, PKIError
from pkiserver.pkix import algorithms, cert, constraints
from pkiserver.pkix.csr import STRONG_HASHES
from pkiserver.pkix.names import AltName
from pkiserver.storage import Database, Reader
from pkiserver.web.peer import Peer
from protocols.est import crls
from protocols.est.crls import RevocationList
from protocols.est.files import WatchedFiles

CMC_RA = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.28")
"""id-kp-cmcRA (RFC 6402 section 2.10): may make requests for others."""
_MAY_BE_A_CLIENT = frozenset(
    {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
)
_MOST_CANDIDATES = 400


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """A certificate a client has proven to hold, and which holds here. `record` is its row in the
    inventory; None: it is an outside CA's."""

    certificate: x509.Certificate
    record: CertificateRecord | None

    @property
    def party(self) -> str:
        """Who it is in the audit log: the serial of ours, a fingerprint of others."""
        if self.record is not None:
            return f"cert:{cert.serial_hex(self.record.serial)}"
        der = self.certificate.public_bytes(Encoding.DER)
        return f"outside:{hashlib.sha256(der).hexdigest()[:32]}"

    @property
    def is_registration_authority(self) -> bool:
        """Ours, and it says so expressly."""
        return self.record is not None and CMC_RA in _purposes(self.certificate)

    @property
    def alt_names(self) -> frozenset[AltName]:
        """Those we understand; an outside certificate may have any."""
        try:
            return frozenset(names_of(self.certificate))
        except PKIError:
            return frozenset()

    @property
    def texts(self) -> frozenset[str]:
        """What it calls its holder: common names and serial numbers (IEEE 802.1AR section 8.6)."""
        found = self.certificate.subject
        return frozenset(
            str(attribute.value)
            for oid in (NameOID.COMMON_NAME, NameOID.SERIAL_NUMBER)
            for attribute in found.get_attributes_for_oid(oid)
        )


@dataclass(frozen=True, slots=True)
class OutsideCAs:
    """The outside CAs of a label, and what they have revoked; without files of that, nobody
    asks."""

    anchors: WatchedFiles[x509.Certificate]
    crls: WatchedFiles[RevocationList]


class ClientCertificates:
    """Which client certificates one label takes."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        authorities: Authorities,
        outside: OutsideCAs,
        profiles: Collection[str],
    ) -> None:
        self._database = database
        self._clock = clock
        self._authorities = authorities
        self._outside = outside
        self._profiles = frozenset(profiles)

    def listener_anchors(self) -> list[bytes]:
        """What the listener has to accept for this label: every CA of ours, whichever generation
        (the handshake would end before we could say anything), and the outside ones."""
        ours = [each.certificate for each in self._authorities.list()]
        return [
            certificate.public_bytes(Encoding.DER)
            for certificate in (*ours, *self._outside.anchors.known())
            if certificate is not None
        ]

    async def check(self, peer: Peer) -> ClientCertificate:
        """The peer's certificate, if this label takes it. `PKIError` UNAUTHORIZED says why not."""
        if peer.certificate_der is None:
            raise _refused("a client certificate is needed")
        der = peer.certificate_der
        certificate = _parsed(der)
        _check_leaf(certificate, self._clock.now())
        record = await self._database.lookup(lambda reader: self._ours(reader, certificate, der))
        if record is None:
            await self._check_outside(certificate, peer.chain_der)
        return ClientCertificate(certificate, record)

    def _ours(
        self, reader: Reader, certificate: x509.Certificate, der: bytes
    ) -> CertificateRecord | None:
        """Its row, if we issued exactly this certificate. Raises if it is not good any more."""
        records = inventory.with_serial(reader, certificate.serial_number)
        record = next((each for each in records if _is_of(each, der)), None)
        if record is None or record.status is not CertificateStatus.ISSUED:
            return None
        if record.der != der:
            # Such as (r, n - s) for the signature (r, s): an anchor above our own CA would take it
            # for an outside certificate, revoked or not.
            raise _refused("the client certificate is not encoded as the inventory has it")
        if record.revoked_at is not None:
            raise _refused("the client certificate is revoked")
        # Else whoever has any certificate of ours could have one for this label's purposes.
        if record.profile not in self._profiles:
            raise _refused(
                f"the client certificate is of the profile {record.profile}, which this label "
                "does not take (client_profiles)"
            )
        revoked = self._authorities.revoked_above(reader, record.issuer)
        if revoked is not None:
            raise _refused(f"the authority {revoked} is revoked")
        return record

    async def _check_outside(self, leaf: x509.Certificate, chain: Sequence[bytes]) -> None:
        anchors = self._outside.anchors.known()
        path = _path(leaf, [_parsed(der) for der in chain], anchors)
        if path is None:
            raise _refused("no authority of this label issued the client certificate")
        now = self._clock.now()
        try:
            ca_path.check(path[1:], now)
            _check_constraints(leaf, path[1:])
        except PKIError as error:
            raise _refused(f"the client certificate's path: {error.detail}") from error
        if self._outside.crls:
            crls.check(path, await self._outside.crls.known_large(), now)


def _path(
    leaf: x509.Certificate, chain: Sequence[x509.Certificate], anchors: Sequence[x509.Certificate]
) -> tuple[x509.Certificate, ...] | None:
    """From the leaf up to the nearest anchor; every signature is verified. An anchor is believed
    as it is, self-signed or not."""
    trusted, reached = set(anchors), {leaf}
    waiting: list[tuple[x509.Certificate, ...]] = [(leaf,)]
    candidates = [*dict.fromkeys([*anchors, *chain])][:_MOST_CANDIDATES]
    for path in waiting:
        if len(path) > ca_path.MAX_PATH:
            break
        for above in candidates:
            if above in reached or not ca_path.issued(above, path[-1]):
                continue
            if above in trusted:
                return (*path, above)
            reached.add(above)
            waiting.append((*path, above))
    return None


def _check_leaf(certificate: x509.Certificate, now: dt.datetime) -> None:
    """Section 6.1.3 (a), 4.2.1.3, 4.2.1.12; and the same demands on keys and hashes as on ours."""
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise _refused("the client certificate is not valid now")
    try:
        algorithms.check_public_key(certificate.public_key())
        used = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm as error:
        raise _refused("the client certificate's signature is of an unknown kind") from error
    except PKIError as error:
        raise _refused(f"the client certificate's key: {error.detail}") from error
    if used is not None and used.name not in STRONG_HASHES:
        raise _refused(f"the client certificate is signed over {used.name}, which is too weak")
    for extension in certificate.extensions:
        if extension.critical and isinstance(extension.value, x509.UnrecognizedExtension):
            raise _refused("the client certificate has a critical extension that is not known here")
    purposes = _purposes(certificate)
    if purposes and not purposes & _MAY_BE_A_CLIENT:
        raise _refused("the client certificate is not for TLS clients (clientAuth)")
    if not _may_sign(certificate):
        raise _refused("the client certificate's key usage lacks digitalSignature")


def _may_sign(certificate: x509.Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return usage.digital_signature


def _purposes(certificate: x509.Certificate) -> frozenset[x509.ObjectIdentifier]:
    """Its extended key usages; none: not limited."""
    try:
        value = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return frozenset()
    return frozenset(value)


def _check_constraints(leaf: x509.Certificate, above: Sequence[x509.Certificate]) -> None:
    """Section 6.1.3 (b) and (c)."""
    for authority in above:
        try:
            limits = authority.extensions.get_extension_for_class(x509.NameConstraints).value
        except x509.ExtensionNotFound:
            continue
        constraints.check(limits, names_of(leaf), leaf.subject)


def _parsed(der: bytes) -> x509.Certificate:
    try:
        return cert.parse_certificate(der)
    except MalformedMessage as error:
        raise _refused(f"the client certificate cannot be used: {error.detail}") from error


def _is_of(record: CertificateRecord, der: bytes) -> bool:
    """Whether it is this record's certificate, however its signature is encoded."""
    return record.der is not None and cert.split(record.der)[0] == cert.split(der)[0]


def _refused(detail: str) -> PKIError:
    return PKIError(ErrorCode.UNAUTHORIZED, detail, rule="est.client-certificate")
