"""RFC 9773: when to renew, and which certificate an order replaces."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from pkiserver.ca import inventory
from pkiserver.ca.model import CertificateRecord, CertificateStatus
from pkiserver.pkix.names import AltName
from pkiserver.storage import Reader
from protocols.acme import ari
from protocols.acme.problems import Problem, ProblemType
from protocols.acme.records import Account
from protocols.acme.service.directory import Directory


@dataclass(frozen=True, slots=True)
class Predecessor:
    """A certificate that an order replaces; `due`: its renewal window has begun."""

    id: str
    due: bool


class Renewal:
    """Renewal information of the certificates of this server."""

    def __init__(self, directory: Directory) -> None:
        self._services = directory.services

    async def window(self, text: str) -> tuple[dt.datetime, dt.datetime]:
        """The suggested window of the certificate a CertID names. Raises 404."""
        record = await self._find(text)
        if record is None:
            raise Problem(ProblemType.MALFORMED, "no certificate has this CertID", status=404)
        return self._window(record)

    def _window(self, record: CertificateRecord) -> tuple[dt.datetime, dt.datetime]:
        return ari.suggested_window(
            record.not_before, record.not_after, self._services.clock.now(), record.revoked_at
        )

    async def predecessor(
        self, account: Account, text: str | None, names: Sequence[AltName]
    ) -> Predecessor | None:
        """The certificate that an order replaces (section 5). It has to be this
        account's and share a name with the order. One that is not ours is ignored: a client that
        moves here from another CA still renews."""
        if text is None:
            return None
        record = await self._find(text)
        if record is None:
            return None
        if record.requester != f"acme:{account.id}":
            raise Problem(
                ProblemType.MALFORMED, "replaces: the certificate belongs to another account"
            )
        theirs = await self._services.database.lookup(
            lambda reader: inventory.names_of(reader, record.id)
        )
        if not set(theirs) & set(names):
            raise Problem(
                ProblemType.MALFORMED, "replaces: the certificate shares no name with the order"
            )
        start, _ = self._window(record)
        return Predecessor(record.id, due=start <= self._services.clock.now())

    async def _find(self, text: str) -> CertificateRecord | None:
        cert_id = ari.parse_cert_id(text)
        issuers = [
            authority.name
            for authority in self._services.authorities.list()
            if self._services.authorities.key_identifier(authority.name) == cert_id.key_identifier
        ]

        def work(reader: Reader) -> CertificateRecord | None:
            for issuer in issuers:
                record = inventory.by_serial(reader, issuer, cert_id.serial)
                if record is not None and record.status is CertificateStatus.ISSUED:
                    return record
            return None

        return await self._services.database.lookup(work)
