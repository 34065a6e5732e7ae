"""The authorities' tables: rows to values, and the transitions of an authority.

A transition is compare-and-set and says whether it won. Each moves the generation forward, by which
other processes see that the tree changed.
"""

import datetime as dt
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.ca.crl_scope import CA_BUCKET
from pkiserver.ca.model import Authority, AuthorityStatus
from pkiserver.clock import from_epoch
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix import der
from pkiserver.storage import Reader, Row, Transaction

CA_PROFILE = "ca"
"""What the inventory shows as the profile of a CA certificate."""
RESPONDER_PROFILE = "ocsp-responder"

Path = tuple[x509.Certificate, ...]
_COLUMNS = (
    "name, parent, certificate, chain, key_id, spki_sha256, "
    "CASE WHEN closed IS NULL THEN status ELSE 'closed' END, created"
)
_NEXT_GENERATION = "(SELECT COALESCE(MAX(generation), 0) + 1 FROM authorities)"


@dataclass(frozen=True, slots=True)
class Succession:
    """The authority that follows another one, and from when on it issues (None: not yet known)."""

    successor: str
    activates: dt.datetime | None


@dataclass(frozen=True, slots=True)
class Tree:
    """One state of the tables. `by_name` has parents before children; `paths` has, for each
    authority with a certificate, that and those above it, the root included; `cross` the chains
    that start with another certificate for its name and key; `successions` are by predecessor,
    `predecessors` by successor; `revoked` has the certificates of CAs that are, or on hold."""

    generation: int = 0
    by_name: Mapping[str, Authority] = field(default_factory=dict)
    paths: Mapping[str, Path] = field(default_factory=dict)
    cross: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    successions: Mapping[str, Succession] = field(default_factory=dict)
    predecessors: Mapping[str, str] = field(default_factory=dict)
    revoked: frozenset[x509.Certificate] = frozenset()


@dataclass(frozen=True, slots=True)
class NewAuthority:
    """A row to be. `csr` is set when the certificate is to come from outside."""

    name: str
    parent: str | None
    key_id: str
    spki_sha256: bytes
    csr: bytes | None = None


def generation(reader: Reader) -> int:
    """Of the newest change; 0 where there are no authorities."""
    row = reader.one("SELECT MAX(generation) FROM authorities")
    return (row[0] or 0) if row else 0


def read_tree(reader: Reader) -> Tree:
    """Everything."""
    rows = reader.all(
        f"SELECT {_COLUMNS} FROM authorities LEFT JOIN closures ON authority = name "
        "ORDER BY created, name"
    )
    by_name = _parents_first({row[0]: _authority(row) for row in rows})
    successions = _successions(reader)
    return Tree(
        generation=generation(reader),
        by_name=by_name,
        paths=_paths(by_name),
        cross=_cross(reader),
        successions=successions,
        predecessors={each.successor: name for name, each in successions.items()},
        revoked=_revoked(reader),
    )


def _parents_first(found: Mapping[str, Authority]) -> dict[str, Authority]:
    ordered: dict[str, Authority] = {}
    for _ in found:
        for name, authority in found.items():
            if authority.parent is None or authority.parent in ordered:
                ordered.setdefault(name, authority)
        if len(ordered) == len(found):
            return ordered
    if found:
        raise PKIError(ErrorCode.INTERNAL, "the table of authorities is not a tree")
    return ordered


def _paths(by_name: Mapping[str, Authority]) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for name, authority in by_name.items():
        if authority.certificate is not None:
            above = paths[authority.parent] if authority.parent else authority.outside
            paths[name] = (authority.certificate, *above)
    return paths


def _cross(reader: Reader) -> dict[str, tuple[Path, ...]]:
    chains: dict[str, tuple[Path, ...]] = {}
    for name, chain in reader.all(
        "SELECT authority, chain FROM cross_chains ORDER BY authority, created, sha256"
    ):
        chains[name] = (*chains.get(name, ()), split(chain))
    return chains


def _successions(reader: Reader) -> dict[str, Succession]:
    rows = reader.all("SELECT predecessor, successor, activates FROM successions")
    return {
        predecessor: Succession(successor, None if activates is None else from_epoch(activates))
        for predecessor, successor, activates in rows
    }


def _revoked(reader: Reader) -> frozenset[x509.Certificate]:
    rows = reader.all(
        "SELECT certificates.der FROM authorities "
        "JOIN revocations ON revocations.issuer = authorities.name AND revocations.bucket = ? "
        "JOIN certificates ON certificates.issuer = revocations.issuer "
        "AND certificates.serial = revocations.serial",
        (CA_BUCKET,),
    )
    return frozenset(x509.load_der_x509_certificate(der) for (der,) in rows)


def _authority(row: Row) -> Authority:
    name, parent, own, chain, key_id, spki_sha256, status, created = row
    return Authority(
        name=name,
        parent=parent,
        certificate=None if own is None else x509.load_der_x509_certificate(own),
        outside=split(chain),
        key_id=key_id,
        spki_sha256=bytes(spki_sha256),
        status=AuthorityStatus(status),
        created=from_epoch(created),
    )


def read_csr(reader: Reader, name: str) -> bytes | None:
    """The request an outside CA has to answer, DER."""
    row = reader.one("SELECT csr FROM authorities WHERE name = ?", (name,))
    return row[0] if row else None


def add_pending(tx: Transaction, new: NewAuthority, now: int) -> bool:
    """Take the name; whether it was free. Free is also a name whose maker was interrupted: it has
    neither a certificate nor a request, and nothing is being signed for its key."""
    won = tx.execute(
        "INSERT INTO authorities (name, parent, csr, chain, key_id, spki_sha256, status, created, "
        f"generation) VALUES (?, ?, ?, ?, ?, ?, 'pending', ?, {_NEXT_GENERATION}) "
        "ON CONFLICT (name) DO UPDATE SET parent = excluded.parent, csr = excluded.csr, "
        "key_id = excluded.key_id, spki_sha256 = excluded.spki_sha256, "
        "created = excluded.created, generation = excluded.generation "
        "WHERE authorities.status = 'pending' AND authorities.csr IS NULL AND NOT EXISTS ("
        "SELECT 1 FROM certificates WHERE certificates.spki_sha256 = authorities.spki_sha256 "
        f"AND certificates.profile = '{CA_PROFILE}' AND certificates.status = 'signing')",
        (new.name, new.parent, new.csr, b"", new.key_id, new.spki_sha256, now),
    )
    if won:
        # What was interrupted may have had a place in a line; whoever takes over says his own.
        tx.execute("DELETE FROM successions WHERE successor = ?", (new.name,))
    tx.execute(
        "INSERT INTO status_generations (issuer, generation) VALUES (?, 1) "
        "ON CONFLICT (issuer) DO NOTHING",
        (new.name,),
    )
    return won == 1


def activate(
    tx: Transaction,
    name: str,
    key_id: str,
    path: Sequence[x509.Certificate],
    parent: str | None = None,
) -> bool:
    """Pending to active: its certificate and, unless that is by our `parent`, those above."""
    changed = tx.execute(
        "UPDATE authorities SET certificate = ?, chain = ?, parent = ?, status = 'active', "
        f"generation = {_NEXT_GENERATION} "
        "WHERE name = ? AND key_id = ? AND status = 'pending'",
        (
            path[0].public_bytes(Encoding.DER),
            b"" if parent else join(path[1:]),
            parent,
            name,
            key_id,
        ),
    )
    return changed == 1


def renew(
    tx: Transaction,
    name: str,
    before: x509.Certificate,
    path: Sequence[x509.Certificate],
    parent: str | None,
) -> bool:
    """Another certificate, and those above it unless our `parent` issued it; False if the present
    one is not `before` any more."""
    changed = tx.execute(
        "UPDATE authorities SET certificate = ?, chain = ?, parent = ?, "
        f"generation = {_NEXT_GENERATION} "
        "WHERE name = ? AND certificate = ? AND status = 'active'",
        (
            path[0].public_bytes(Encoding.DER),
            b"" if parent else join(path[1:]),
            parent,
            name,
            before.public_bytes(Encoding.DER),
        ),
    )
    return changed == 1


def retire(tx: Transaction, name: str) -> bool:
    """Active to retired; so is one that awaits an answer which is not wanted any more."""
    changed = tx.execute(
        f"UPDATE authorities SET status = 'retired', generation = {_NEXT_GENERATION} "
        "WHERE name = ? AND (status = 'active' OR status = 'pending' AND csr IS NOT NULL)",
        (name,),
    )
    return changed == 1


def succeed(
    tx: Transaction, predecessor: str, successor: str, activates: int | None, now: int
) -> bool:
    """Name the next authority of a line; False if there is one."""
    changed = tx.execute(
        "INSERT INTO successions (predecessor, successor, created, activates) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (predecessor) DO NOTHING",
        (predecessor, successor, now, activates),
    )
    return changed == 1


def take_over(tx: Transaction, predecessor: str, successor: str, now: int) -> bool:
    """Have an active successor issue from now on; False if it does already."""
    changed = tx.execute(
        "UPDATE successions SET activates = ? WHERE predecessor = ? AND successor = ? "
        "AND (activates IS NULL OR activates > ?) "
        "AND EXISTS (SELECT 1 FROM authorities WHERE name = ? AND status = 'active')",
        (now, predecessor, successor, now, successor),
    )
    touch(tx, successor)
    return changed == 1


def call_off(tx: Transaction, successor: str, now: int) -> bool:
    """Take out of the line an authority that has not taken over; False if it has, or is first."""
    changed = tx.execute(
        "DELETE FROM successions WHERE successor = ? AND (activates IS NULL OR activates > ? "
        "OR EXISTS (SELECT 1 FROM authorities WHERE name = ? AND status = 'pending'))",
        (successor, now, successor),
    )
    return changed == 1


def close(tx: Transaction, name: str, now: int) -> bool:
    """Retired to closed, for good."""
    # Retired once is retired for ever, so what is read here still holds when the row is written.
    if tx.one("SELECT 1 FROM authorities WHERE name = ? AND status = 'retired'", (name,)) is None:
        return False
    changed = tx.execute(
        "INSERT INTO closures (authority, closed) VALUES (?, ?) ON CONFLICT (authority) DO NOTHING",
        (name, now),
    )
    touch(tx, name)
    return changed == 1


def is_closed(reader: Reader, name: str) -> bool:
    """As the database has it now."""
    return reader.one("SELECT 1 FROM closures WHERE authority = ?", (name,)) is not None


def touch(tx: Transaction, name: str) -> None:
    """Have every process read the tree again."""
    tx.execute(f"UPDATE authorities SET generation = {_NEXT_GENERATION} WHERE name = ?", (name,))


@dataclass(frozen=True, slots=True)
class Outstanding:
    """Certificates that relying parties may still ask about: how many, and when the last of them
    expires. Neither those revoked for good count, which the last list shows, nor responders and
    others of the server's own, nor certificates of the line's own keys (self-signed and links).
    `revoked_until`: when the last that is revoked for good expires."""

    count: int = 0
    last: dt.datetime | None = None
    revoked_until: dt.datetime | None = None


def outstanding(reader: Reader, name: str, line: Sequence[bytes], now: int) -> Outstanding:
    """What `name` issued and has not expired; `line` are the SHA-256 of its line's keys. Profiles
    of the server's own have a dot in their names (`Issuance.add_profile`)."""
    row = reader.one(
        "SELECT COUNT(*), MAX(not_after) FROM certificates WHERE issuer = ? AND not_after >= ? "
        "AND status IN ('issued', 'signing') AND profile <> ? AND profile NOT LIKE '%.%' "
        "AND (revoked_at IS NULL OR reason = 'certificateHold') "
        f"AND spki_sha256 NOT IN ({', '.join('?' * len(line))})",
        (name, now, RESPONDER_PROFILE, *line),
    )
    revoked = reader.one(
        "SELECT MAX(not_after) FROM revocations WHERE issuer = ? AND not_after >= ?", (name, now)
    )
    count, last = row or (0, None)
    return Outstanding(count, _moment(last), _moment(revoked[0] if revoked else None))


def _moment(seconds: int | None) -> dt.datetime | None:
    return None if seconds is None else from_epoch(seconds)


def status_generation(reader: Reader, name: str) -> int:
    """Of the newest change to what relying parties are told."""
    row = reader.one("SELECT generation FROM status_generations WHERE issuer = ?", (name,))
    return 0 if row is None else int(row[0])


def add_cross_chain(tx: Transaction, name: str, path: Sequence[x509.Certificate], now: int) -> bool:
    """Keep another chain of an authority; False if it is there already."""
    chain = join(path)
    added = tx.execute(
        "INSERT INTO cross_chains (authority, sha256, chain, created) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (authority, sha256) DO NOTHING",
        (name, hashlib.sha256(chain).digest(), chain, now),
    )
    touch(tx, name)
    return added == 1


def key_in_use(reader: Reader, spki_sha256: bytes, but: str) -> bool:
    """Whether an authority other than `but` has this key."""
    row = reader.one(
        "SELECT 1 FROM authorities WHERE spki_sha256 = ? AND name <> ?", (spki_sha256, but)
    )
    return row is not None


def key_of(reader: Reader, name: str) -> str | None:
    """The identifier of an authority's key, as the database has it now."""
    row = reader.one("SELECT key_id FROM authorities WHERE name = ?", (name,))
    return None if row is None else str(row[0])


def is_active(reader: Reader, name: str) -> bool:
    """As the database has it now, whatever this process read before."""
    row = reader.one("SELECT 1 FROM authorities WHERE name = ? AND status = 'active'", (name,))
    return row is not None


def is_pending(reader: Reader, name: str) -> bool:
    """Without a certificate, as the database has it now."""
    row = reader.one("SELECT 1 FROM authorities WHERE name = ? AND status = 'pending'", (name,))
    return row is not None


def is_revoked(reader: Reader, issuer: str, serial: bytes) -> bool:
    """Revoked, or on hold."""
    row = reader.one("SELECT 1 FROM revocations WHERE issuer = ? AND serial = ?", (issuer, serial))
    return row is not None


def in_inventory(reader: Reader, issuer: str, serial: bytes, certificate: bytes) -> bool:
    """Whether exactly this certificate is there."""
    row = reader.one(
        "SELECT 1 FROM certificates WHERE issuer = ? AND serial = ? AND der = ?",
        (issuer, serial, certificate),
    )
    return row is not None


def join(certificates: Sequence[x509.Certificate]) -> bytes:
    """Their DER, one after the other."""
    return b"".join(certificate.public_bytes(Encoding.DER) for certificate in certificates)


def split(chain: bytes) -> Path:
    """The reverse of `join`."""
    return tuple(x509.load_der_x509_certificate(each.encoded) for each in der.children(chain))
