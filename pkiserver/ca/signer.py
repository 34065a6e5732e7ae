"""Authorities as issuers: their paths, described once, and their signatures, verified."""

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from pkiserver.ca import crl_points
from pkiserver.ca.authorities import Authorities
from pkiserver.ca.crl_scope import Distribution
from pkiserver.ca.issuer import Issuer, describe
from pkiserver.ca.model import AuthorityStatus, Prepared
from pkiserver.config import CRLSettings
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.keys import PrivateKey
from pkiserver.keys.signing import sign_now, with_key
from pkiserver.pkix import cert
from pkiserver.storage import Reader, Transaction


class Signer:
    """Signs to-be-signed certificates with the authorities' keys."""

    def __init__(self, authorities: Authorities, http_base: str, crl: CRLSettings) -> None:
        self._authorities = authorities
        self._http_base = http_base
        self._crl = crl
        self._issuers: dict[str, tuple[tuple[x509.Certificate, ...], Issuer]] = {}

    def issuer(self, name: str, rule: str) -> Issuer:
        """An active authority. `PKIError` REFUSED_BY_PROFILE with `rule` for one that is not."""
        authority = self._authorities.get(name)
        if authority.status is not AuthorityStatus.ACTIVE:
            raise PKIError(
                ErrorCode.REFUSED_BY_PROFILE,
                f"the authority {name} is {authority.status} and issues nothing",
                rule=rule,
            )
        path = self._authorities.path(name)
        cached = self._issuers.get(name)
        if cached is None or cached[0] != path:
            cached = self._issuers[name] = (path, describe(name, path, self._http_base, self._crl))
        return cached[1]

    async def current(self, name: str) -> str:
        """The authority that issues now in the line of `name`; one that another process has made
        or retired a moment ago is known."""
        await self._authorities.refresh_if_changed()
        return self._authorities.current(name)

    def own_keys(self) -> frozenset[bytes]:
        """SHA-256 of the public keys of all authorities."""
        return frozenset(authority.spki_sha256 for authority in self._authorities.list())

    def check_key(self, issuer: str) -> None:
        """`PKIError` UNAVAILABLE if the authority's key cannot be used now."""
        self._authorities.key(issuer)

    def check_usable(self, reader: Reader, issuer: str, rule: str) -> None:
        """By what the database has now: another process may have retired the authority, and what
        it signs after its own certificate was revoked is worth nothing. `PKIError`
        REFUSED_BY_PROFILE with `rule`."""
        try:
            self._authorities.check_usable(reader, issuer)
        except PKIError as error:
            raise PKIError(error.code, error.detail, rule=rule) from error

    def remember_lists(self, tx: Transaction, prepared: Prepared) -> None:
        """Part of reserving a certificate: the lists it names go on while it is valid."""
        lists = Distribution(prepared.issuer, self._http_base, self._crl)
        crl_points.remember(tx, lists, prepared, ca=False)

    async def sign(
        self, issuer: Issuer, tbs: bytes, algorithm: bytes
    ) -> tuple[x509.Certificate, bytes]:
        """The certificate; its signature has been verified, since a fault in the signer can give
        the key away and a broken certificate must not leave."""
        key = self._authorities.key(issuer.name)
        return await with_key(key, lambda: _signed(key, issuer, tbs, algorithm))


def _signed(
    key: PrivateKey, issuer: Issuer, tbs: bytes, algorithm: bytes
) -> tuple[x509.Certificate, bytes]:
    der = cert.assemble(tbs, algorithm, sign_now(key, tbs))
    return _verified(der, issuer), der


def _verified(der: bytes, issuer: Issuer) -> x509.Certificate:
    certificate = x509.load_der_x509_certificate(der)
    try:
        certificate.verify_directly_issued_by(issuer.certificate)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError) as error:
        raise PKIError(
            ErrorCode.INTERNAL, f"the signature of authority {issuer.name} does not verify"
        ) from error
    return certificate
