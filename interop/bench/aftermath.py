"""What has to be true of a home after a crash."""

import hashlib
import json
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes

from interop.bench.witness import Held
from interop.processes import InteropError

_NOTHING_FOUND = {
    "foreign key violations": "PRAGMA foreign_key_check",
    "certificates still being signed": "SELECT id FROM certificates WHERE status = 'signing'",
    "orders still processing": "SELECT id FROM acme_orders WHERE status = 'processing'",
    "serials used twice": (
        "SELECT issuer, hex(serial) FROM certificates GROUP BY issuer, serial HAVING count(*) > 1"
    ),
    "valid orders without a certificate": (
        "SELECT o.id FROM acme_orders o LEFT JOIN certificates c ON c.id = o.certificate "
        "WHERE o.status = 'valid' AND (c.status IS NULL OR c.status <> 'issued')"
    ),
    "certificates whose issue is not in the audit log": (
        "SELECT id FROM certificates c WHERE status = 'issued' "
        "AND substr(requester, 1, instr(requester, ':')) IN ('acme:', 'est:', 'scep:') AND "
        "(SELECT count(*) FROM audit WHERE object = c.id AND action = 'certificate.issue') <> 1"
    ),
    "revocations on one side only": (
        "SELECT id FROM certificates c WHERE (revoked_at IS NULL) = EXISTS "
        "(SELECT 1 FROM revocations r WHERE r.issuer = c.issuer AND r.serial = c.serial)"
    ),
    "CRL numbers that did not grow": (
        "SELECT object, number FROM (SELECT object, json_extract(detail, '$.number') AS number, "
        "lag(json_extract(detail, '$.number')) OVER (PARTITION BY object, "
        "json_extract(detail, '$.scope'), json_extract(detail, '$.base') IS NULL "
        "ORDER BY sequence) "
        "AS previous FROM audit WHERE action = 'crl.publish') WHERE number <= previous"
    ),
    "names of one client in two certificates": (
        "SELECT value FROM certificate_names n JOIN certificates c ON c.id = n.certificate "
        "WHERE c.status = 'issued' AND value LIKE 'crash-%' GROUP BY value HAVING count(*) > 1"
    ),
    "challenges that are not for one certificate": (
        "SELECT s.id FROM scep_challenges s LEFT JOIN certificates c ON c.id = s.certificate "
        "WHERE s.used IS NOT NULL AND s.label = 'default' AND c.status IS NOT 'issued' UNION ALL "
        "SELECT certificate FROM scep_challenges WHERE certificate IS NOT NULL "
        "GROUP BY certificate HAVING count(*) > 1"
    ),
    "challenges whose use is not in the audit log once": (
        "SELECT id FROM scep_challenges s WHERE (used IS NOT NULL) <> "
        "(SELECT count(*) FROM audit WHERE object = s.id AND action = 'scep.challenge.use')"
    ),
    "SCEP transactions without a certificate": (
        "SELECT t.id FROM scep_transactions t LEFT JOIN certificates c ON c.id = t.certificate "
        "WHERE c.status IS NOT 'issued' AND t.approval IS NULL"
    ),
    "EST requests without a certificate": (
        "SELECT c.id FROM est_enrollments e LEFT JOIN certificates c ON c.id = e.certificate "
        "WHERE c.status IS NOT 'issued'"
    ),
    "certificates that nobody approved": (
        "SELECT id FROM certificates c WHERE profile = 'approved' AND status = 'issued' AND "
        "(SELECT count(*) FROM approvals WHERE certificate = c.id AND status = 'used') <> 1"
    ),
    "approvals that were not used once": (
        "SELECT a.id FROM approvals a LEFT JOIN certificates c ON c.id = a.certificate "
        "WHERE (a.status = 'used') <> (c.status IS 'issued') OR (a.status = 'used') <> "
        "(SELECT count(*) FROM audit WHERE object = a.id AND action = 'approval.use')"
    ),
}
"""Statements that return a row for everything that is wrong."""


_UNDER_WAY = " UNION ALL ".join(
    f"SELECT '{what}', count(*) FROM {table} WHERE status = '{status}'"
    for what, table, status in (
        ("orders pending", "acme_orders", "pending"),
        ("orders ready", "acme_orders", "ready"),
        ("orders processing", "acme_orders", "processing"),
        ("challenges processing", "acme_challenges", "processing"),
        ("certificates between serial and signature", "certificates", "signing"),
        ("requests waiting for approval", "approvals", "pending"),
        ("approvals not used yet", "approvals", "approved"),
    )
)


def query(database: Path, sql: str, mode: str = "ro") -> list[tuple[Any, ...]]:
    """Rows of a statement that only reads."""
    uri = f"file:{database}?mode={mode}"
    with closing(sqlite3.connect(uri, uri=True, timeout=30)) as connection:
        return connection.execute(sql).fetchall()


def audit_head(database: Path) -> str:
    """The newest committed audit row as `pkiserver audit verify --anchor` takes it."""
    newest = "SELECT sequence, hash FROM audit ORDER BY sequence DESC LIMIT 1"
    sequence, digest = query(database, newest)[0]
    return f"{sequence}:{bytes(digest).hex()}"


def under_way(database: Path, mode: str = "ro") -> Counter[str]:
    """How much of each kind has begun and not ended."""
    return Counter(dict(query(database, _UNDER_WAY, mode)))


def left_behind(database: Path) -> Counter[str]:
    """What was under way when the server died. It looks at a copy, so that the server itself is the
    first to open the database again."""
    with tempfile.TemporaryDirectory(dir=database.parent.parent) as folder:
        copy = Path(folder) / database.name
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                shutil.copyfile(f"{database}{suffix}", f"{copy}{suffix}")
        return under_way(copy, "rwc")


def check_database(database: Path) -> None:
    """Raises InteropError for the first thing that is wrong."""
    found = query(database, "PRAGMA integrity_check")
    if found != [("ok",)]:
        raise InteropError(f"integrity_check: {found[:10]}")
    for what, sql in _NOTHING_FOUND.items():
        if rows := query(database, sql):
            raise InteropError(f"{what}: {len(rows)}, such as {rows[:5]}")


def waiting(database: Path) -> list[str]:
    """The ids of requests that wait for an approval, the oldest first."""
    sql = "SELECT id FROM approvals WHERE status = 'pending' ORDER BY created, id"
    return [identifier for (identifier,) in query(database, sql)]


def check_approved(database: Path, approved: Iterable[str]) -> None:
    """What was approved, by the word of the command, does not wait any more."""
    if lost := set(waiting(database)) & set(approved):
        raise InteropError(f"approvals that were lost: {lost}")


def check_stored(database: Path, orders: Iterable[Held]) -> None:
    """Every certificate a client has is in the database, as issued."""
    stored = "SELECT der FROM certificates WHERE status = 'issued'"
    known = {hashlib.sha256(der).digest() for (der,) in query(database, stored)}
    for order in orders:
        if order.leaf.fingerprint(hashes.SHA256()) not in known:
            raise InteropError(f"the certificate of {order} is not in the database")


def check_log(text: str) -> None:
    """A server that starts after a crash has nothing to complain about."""
    for line in text.splitlines():
        if line.startswith("Traceback") or _level(line) in ("error", "critical"):
            raise InteropError(f"the server's log has an error:\n{text[-4000:]}")


def _level(line: str) -> str:
    with suppress(ValueError, AttributeError):
        return str(json.loads(line).get("level"))
    return ""
