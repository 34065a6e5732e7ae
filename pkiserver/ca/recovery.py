"""What a crash left between the two transactions of an issuance, settled."""

import datetime as dt
import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field

import structlog

from pkiserver.ca import blocklist, ledger
from pkiserver.ca.audit import Audit
from pkiserver.ca.signer import Signer
from pkiserver.clock import Clock, epoch
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix import cert
from pkiserver.storage import Database, Reader, Transaction

ACTOR = "system:recovery"
_BATCH = 100

_log = structlog.get_logger("pkiserver.recovery")


@dataclass(frozen=True, slots=True)
class _Unfinished:
    """A row in `signing`."""

    id: str
    issuer: str
    serial: bytes
    profile: str
    spki_sha256: bytes
    not_after: int
    tbs: bytes = field(repr=False)
    signature_algorithm: bytes = field(repr=False)


def finish(
    tx: Transaction, audit: Audit, actor: str, certificate_id: str, serial: int, der: bytes
) -> None:
    """The second transaction: signing to issued. `PKIError` CONFLICT if it was done already."""
    if not ledger.complete(tx, certificate_id, der):
        raise PKIError(ErrorCode.CONFLICT, "the certificate was finished by somebody else")
    audit.append(
        tx,
        actor=actor,
        action="certificate.issue",
        object=certificate_id,
        detail={"serial": cert.serial_hex(serial), "sha256": hashlib.sha256(der).hexdigest()},
    )


class Recovery:
    """Finishes or abandons rows in `signing`.

    The same bytes are signed again: nothing with that serial was handed out. A row is abandoned if
    its certificate has expired, its key was blocked meanwhile, its authority may not sign any more,
    or it is not of a profile (an authority or a responder, whose maker starts anew). One whose CA
    key is away is left.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        audit: Audit,
        signer: Signer,
        profiles: Collection[str],
    ) -> None:
        self._database = database
        self._clock = clock
        self._audit = audit
        self._signer = signer
        self._profiles = profiles

    async def run(self, older_than: dt.timedelta) -> int:
        """Settle rows older than that; how many were."""
        before = epoch(self._clock.now() - older_than)
        settled, rows = 0, await self._unfinished(before, "")
        while rows:
            for row in rows:
                settled += await self._settle(row)
            rows = await self._unfinished(before, rows[-1].id)
        return settled

    async def _unfinished(self, before: int, after: str) -> list[_Unfinished]:
        def work(reader: Reader) -> list[_Unfinished]:
            rows = reader.all(
                "SELECT id, issuer, serial, profile, spki_sha256, not_after, tbs, "
                "signature_algorithm FROM certificates "
                "WHERE status = 'signing' AND created <= ? AND id > ? ORDER BY id LIMIT ?",
                (before, after, _BATCH),
            )
            return [_Unfinished(*row) for row in rows]

        return await self._database.read(work)

    async def _settle(self, row: _Unfinished) -> bool:
        try:
            if await self._database.lookup(lambda reader: self._is_hopeless(reader, row)):
                return await self._database.write(lambda tx: self._abandon(tx, row))
            issuer = self._signer.issuer(row.issuer, "issuer")
            _, der = await self._signer.sign(issuer, row.tbs, row.signature_algorithm)
            serial = int.from_bytes(row.serial)
            await self._database.write(
                lambda tx: finish(tx, self._audit, ACTOR, row.id, serial, der)
            )
        except PKIError as error:
            _log.warning("certificate.unfinished", certificate=row.id, cause=error.detail)
            return False
        return True

    def _is_hopeless(self, reader: Reader, row: _Unfinished) -> bool:
        if row.profile not in self._profiles or row.not_after < epoch(self._clock.now()):
            return True
        try:
            blocklist.check(reader, row.spki_sha256)
            self._signer.check_usable(reader, row.issuer, "issuer")
        except PKIError as error:
            return error.code in (ErrorCode.BAD_PUBLIC_KEY, ErrorCode.REFUSED_BY_PROFILE)
        return False

    def _abandon(self, tx: Transaction, row: _Unfinished) -> bool:
        if not ledger.abandon(tx, row.id):
            return False
        self._audit.append(tx, actor=ACTOR, action="certificate.abandon", object=row.id)
        return True
