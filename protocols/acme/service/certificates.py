"""Certificates: download with alternate chains (RFC 8555 section 7.4.2) and revocation (7.6)."""

from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from pkiserver.ca import inventory
from pkiserver.ca.model import (
    REASONS_BY_CODE,
    CertificateRecord,
    Reason,
    Requester,
)
from pkiserver.errors import PKIError
from pkiserver.pkix import cert as pkix_cert
from pkiserver.pkix.algorithms import spki_sha256
from pkiserver.pkix.pem import encode_pem, pem_chain
from pkiserver.storage import Reader
from protocols.acme import messages
from protocols.acme.problems import Problem, ProblemType
from protocols.acme.records import Account
from protocols.acme.service.directory import Directory
from protocols.acme.store import accounts as account_store
from protocols.acme.store import authorizations as authorization_store

ALLOWED_REASONS = frozenset(
    {
        Reason.UNSPECIFIED,
        Reason.KEY_COMPROMISE,
        Reason.AFFILIATION_CHANGED,
        Reason.SUPERSEDED,
        Reason.CESSATION_OF_OPERATION,
        Reason.PRIVILEGE_WITHDRAWN,
    }
)
"""What a subscriber may claim. A hold and the CA's own reasons are the operator's."""


class Certificates:
    """Certificates as ACME clients reach them."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._services = directory.services

    async def chain(self, account: Account, certificate_id: str, number: int) -> tuple[bytes, int]:
        """PEM of the certificate and the chain of that number (0: the default), and how many
        chains there are. Raises 404, or 403 for another account's certificate."""
        record = await self._services.database.lookup(
            lambda reader: inventory.by_id(reader, certificate_id)
        )
        if record is None or record.der is None:
            raise _unknown()
        if record.requester != f"acme:{account.id}":
            raise Problem(ProblemType.UNAUTHORIZED, "the certificate belongs to another account")
        chains = self._services.authorities.chains(record.issuer)
        if number >= len(chains):
            raise Problem(ProblemType.MALFORMED, "no such chain", status=404)
        return encode_pem("CERTIFICATE", record.der) + pem_chain(chains[number]), len(chains)

    async def revoke_as_account(
        self, account: Account, message: messages.Revoke, address: str
    ) -> None:
        """By the account it was issued to, or one of the same directory that has proven control
        over all of its names and holds valid authorizations for them. Those given on trust do not
        count, nor do those of another directory, whose ways of proof may be weaker."""
        record = await self._find(message.certificate)
        if record.requester != f"acme:{account.id}":
            await self._require_all_names(account, record)
        await self._revoke(record, message.reason, Requester("acme", account.id, address))

    async def revoke_as_key_holder(
        self, key: PublicKeyTypes, message: messages.Revoke, address: str
    ) -> None:
        """By whoever signs with the certificate's own key."""
        record = await self._find(message.certificate)
        if record.spki_sha256 != spki_sha256(key):
            raise Problem(
                ProblemType.UNAUTHORIZED, "the request is not signed by the certificate's key"
            )
        await self._revoke(record, message.reason, Requester("acme", "certificate-key", address))

    async def _revoke(
        self, record: CertificateRecord, code: int | None, requester: Requester
    ) -> None:
        reason = REASONS_BY_CODE.get(code or 0)
        if reason is None or reason not in ALLOWED_REASONS:
            raise Problem(
                ProblemType.BAD_REVOCATION_REASON,
                f"reason {code} is not allowed; allowed are "
                + ", ".join(str(r.code) for r in sorted(ALLOWED_REASONS, key=lambda r: r.code)),
            )
        await self._services.revocation.revoke(
            record.issuer, record.serial, reason, actor=requester
        )

    async def _find(self, der: bytes) -> CertificateRecord:
        try:
            sent = pkix_cert.parse_certificate(der)
        except PKIError as error:
            raise Problem(ProblemType.MALFORMED, f"certificate: {error.detail}") from error
        records = await self._services.database.lookup(
            lambda reader: inventory.with_serial(reader, sent.serial_number)
        )
        for record in records:
            if record.der == der:
                return record
        raise _unknown()

    def _is_of_this_directory(self, reader: Reader, record: CertificateRecord) -> bool:
        account_id = record.requester.removeprefix("acme:")
        return account_store.account(reader, self._directory.name, account_id) is not None

    async def _require_all_names(self, account: Account, record: CertificateRecord) -> None:
        now = self._directory.now()

        def holds_all(reader: Reader) -> bool:
            if not self._is_of_this_directory(reader, record):
                return False
            names = inventory.names_of(reader, record.id)
            # A certificate without names is nobody's to revoke in this way.
            return bool(names) and all(
                authorization_store.has_proven(
                    reader, account.id, name.type, name.value.removeprefix("*."),
                    name.is_wildcard, now,
                )
                for name in names
            )  # fmt: skip

        if not await self._services.database.lookup(holds_all):
            raise Problem(
                ProblemType.UNAUTHORIZED,
                "the account neither owns the certificate nor holds authorizations for all of its "
                "names",
            )


def _unknown() -> Problem:
    return Problem(ProblemType.MALFORMED, "no such certificate", status=404)
