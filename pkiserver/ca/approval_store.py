"""The approvals table. Each change of a status is compare-and-set: it names the status it leaves
and says whether it won.

    pending -> approved -> used          pending -> rejected
    pending, approved -> expired         rejected, used, expired: deleted when they are old
"""

import hashlib
import json
from collections.abc import Sequence

from pkiserver.ca.model import Approval, ApprovalStatus, CertificateRequest
from pkiserver.clock import epoch, from_epoch
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix.names import AltName
from pkiserver.storage import Reader, Row, Transaction

MOST_ROWS = 1000
RULE = "requires_approval"
_COLUMNS = (
    "id, profile, requester, subject, names, status, created, expires, decided_by, why, "
    "certificate, reference, key_kind, address, decided, csr"
)
_SELECT = f"SELECT {_COLUMNS} FROM approvals"
# What `status_at` says, for a list to be limited to.
_STATUS_NOW = (
    "CASE WHEN status IN ('pending', 'approved') AND expires <= ? THEN 'expired' ELSE status END"
)


def by_id(reader: Reader, approval_id: str, now: int) -> Approval | None:
    return _maybe(reader.one(f"{_SELECT} WHERE id = ?", (approval_id,)), now)


def of_request(
    reader: Reader, requester: str, reference: str, profile: str, csr: bytes, now: int
) -> Approval | None:
    """What was filed for exactly this request. The caller looks at the status: it may have expired
    without having been marked so yet."""
    row = reader.one(
        f"{_SELECT} WHERE requester = ? AND reference = ? AND profile = ? AND csr_sha256 = ? "
        "AND status <> 'expired'",
        (requester, reference, profile, hashlib.sha256(csr).digest()),
    )
    return _maybe(row, now)


def newest(
    reader: Reader, status: ApprovalStatus | None, now: int, limit: int = 100
) -> list[Approval]:
    """The newest first, of one status or of all."""
    where, params = "1 = 1", list[str | int]()
    if status is not None:
        where = f"{_STATUS_NOW} = ?"
        params = [now, status.value]
    rows = reader.all(
        f"{_SELECT} WHERE {where} ORDER BY created DESC, id DESC LIMIT ?",
        (*params, max(1, min(limit, MOST_ROWS))),
    )
    return [_approval(row, now) for row in rows]


def related(reader: Reader, name: str) -> Sequence[str]:
    """Of an approval, a certificate or a reference: the ids whose story is the same."""
    rows = reader.all(
        "SELECT id, reference, certificate FROM approvals "
        "WHERE id = ? OR reference = ? OR certificate = ? ORDER BY created DESC LIMIT 100",
        (name, name, name),
    )
    return [part for row in rows for part in row if part is not None]


def count_pending(reader: Reader, now: int, requester: str | None = None) -> int:
    """Undecided ones that have not expired, of one requester or of all."""
    sql = "SELECT count(*) FROM approvals WHERE status = 'pending' AND expires > ?"
    if requester is None:
        row = reader.one(sql, (now,))
    else:
        row = reader.one(f"{sql} AND requester = ?", (now, requester))
    return 0 if row is None else int(row[0])


def check(
    reader: Reader,
    approval_id: str | None,
    request: CertificateRequest,
    subject: str,
    names: Sequence[AltName],
    now: int,
) -> None:
    """Whether the approval is there to be used for this request and what policy made of it.
    Raises `PKIError`."""
    found = None if approval_id is None else by_id(reader, approval_id, now)
    if found is None:
        raise PKIError(ErrorCode.PENDING_APPROVAL, "a second person has to approve", rule=RULE)
    same_request = (found.profile, found.requester, found.csr) == (
        request.profile, str(request.requester), request.csr,
    )  # fmt: skip
    # Policy may have changed since somebody looked at it.
    if not same_request or (found.subject, found.names) != (subject, tuple(map(str, names))):
        raise PKIError(ErrorCode.UNAUTHORIZED, "something else was approved", rule=RULE)
    require_approved(found)


def require_approved(approval: Approval) -> None:
    """Raises `PKIError` for every other status."""
    refusal = _REFUSALS.get(approval.status)
    if refusal is not None:
        code, detail = refusal
        why = f": {approval.why}" if approval.why else ""
        raise PKIError(code, f"{detail}{why}", rule=RULE)


_REFUSALS = {
    ApprovalStatus.PENDING: (ErrorCode.PENDING_APPROVAL, "a second person has to approve"),
    ApprovalStatus.REJECTED: (ErrorCode.UNAUTHORIZED, "the request was rejected"),
    ApprovalStatus.EXPIRED: (ErrorCode.UNAUTHORIZED, "nobody approved the request in time"),
    ApprovalStatus.USED: (ErrorCode.CONFLICT, "the approval was used already"),
}


def insert(tx: Transaction, new: Approval) -> None:
    """Raises `IntegrityError` if there is a live one of the same request."""
    tx.execute(
        f"INSERT INTO approvals ({_COLUMNS}, csr_sha256) "
        "VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        (
            new.id, new.profile, new.requester, new.subject, json.dumps(new.names), new.status,
            epoch(new.created), epoch(new.expires), new.decided_by, new.why, new.certificate,
            new.reference, new.key_kind, new.address, None, new.csr,
            hashlib.sha256(new.csr).digest(),
        ),
    )  # fmt: skip


def approve(tx: Transaction, approval_id: str, by: str, now: int, expires: int) -> bool:
    """Pending to approved, before it expires."""
    return (
        tx.execute(
            "UPDATE approvals SET status = 'approved', decided = ?, decided_by = ?, expires = ? "
            "WHERE id = ? AND status = 'pending' AND expires > ?",
            (now, by, expires, approval_id, now),
        )
        == 1
    )


def reject(tx: Transaction, approval_id: str, by: str, why: str, now: int) -> bool:
    """Pending to rejected, before it expires."""
    return (
        tx.execute(
            "UPDATE approvals SET status = 'rejected', decided = ?, decided_by = ?, why = ? "
            "WHERE id = ? AND status = 'pending' AND expires > ?",
            (now, by, why, approval_id, now),
        )
        == 1
    )


def use(tx: Transaction, approval_id: str, certificate: str, now: int) -> bool:
    """Approved to used, before it expires, for a certificate that is recorded already."""
    return (
        tx.execute(
            "UPDATE approvals SET status = 'used', certificate = ? "
            "WHERE id = ? AND status = 'approved' AND expires > ?",
            (certificate, approval_id, now),
        )
        == 1
    )


def due(reader: Reader, now: int, limit: int) -> list[str]:
    """The ids of those whose time is over."""
    rows = reader.all(
        "SELECT id FROM approvals WHERE status IN ('pending', 'approved') AND expires <= ? "
        "ORDER BY expires LIMIT ?",
        (now, limit),
    )
    return [row[0] for row in rows]


def expire(tx: Transaction, approval_id: str, now: int) -> bool:
    """Pending or approved to expired."""
    return (
        tx.execute(
            "UPDATE approvals SET status = 'expired' "
            "WHERE id = ? AND status IN ('pending', 'approved') AND expires <= ?",
            (approval_id, now),
        )
        == 1
    )


def delete_old(tx: Transaction, before: int, limit: int) -> int:
    """Delete what is over and expired before that moment; how many rows."""
    return tx.execute(
        "DELETE FROM approvals WHERE id IN (SELECT id FROM approvals "
        "WHERE status IN ('rejected', 'used', 'expired') AND expires < ? "
        "ORDER BY expires LIMIT ?)",
        (before, limit),
    )


def _maybe(row: Row | None, now: int) -> Approval | None:
    return None if row is None else _approval(row, now)


def _approval(row: Row, now: int) -> Approval:
    (
        identifier, profile, requester, subject, names, status, created, expires, decided_by, why,
        certificate, reference, key_kind, address, decided, csr,
    ) = row  # fmt: skip
    return Approval(
        id=identifier,
        profile=profile,
        requester=requester,
        subject=subject,
        names=tuple(json.loads(names)),
        status=status_at(ApprovalStatus(status), expires, now),
        created=from_epoch(created),
        expires=from_epoch(expires),
        decided_by=decided_by,
        why=why,
        certificate=certificate,
        reference=reference,
        key_kind=key_kind,
        address=address,
        decided=None if decided is None else from_epoch(decided),
        csr=bytes(csr),
    )


def status_at(stored: ApprovalStatus, expires: int, now: int) -> ApprovalStatus:
    """What an approval is now: what waits, for a decision or for its use, expires."""
    waits = stored in (ApprovalStatus.PENDING, ApprovalStatus.APPROVED)
    return ApprovalStatus.EXPIRED if waits and expires <= now else stored
