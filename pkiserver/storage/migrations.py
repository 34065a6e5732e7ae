"""Schema migrations: numbered SQL files per component, applied once each, in order, atomically.

A file is `NNNN_what.sql`. The core's are in `pkiserver/storage/sql`, a protocol's in its own
`migrations` folder. What was applied is remembered with a digest: a file that changed after it was
applied stops the start, since the database would no longer be what the code expects.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from pkiserver.errors import configuration_error
from pkiserver.storage.database import Database, Transaction

CORE = Path(__file__).with_name("sql")
_FILE = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_TABLE = """CREATE TABLE IF NOT EXISTS schema_migrations (
    component TEXT NOT NULL, name TEXT NOT NULL, digest TEXT NOT NULL,
    PRIMARY KEY (component, name))"""


async def migrate(database: Database, components: Mapping[str, Path]) -> list[str]:
    """Bring the schema up to date; the names applied now, as `component/file`. Raises `PKIError`
    CONFIGURATION if an applied file changed or an unknown one was applied (a newer version)."""
    return await database.write(lambda tx: _migrate(tx, {"core": CORE, **components}))


def _migrate(tx: Transaction, components: Mapping[str, Path]) -> list[str]:
    tx.execute(_TABLE)
    done = {
        (component, name): digest
        for component, name, digest in tx.all(
            "SELECT component, name, digest FROM schema_migrations"
        )
    }
    applied: list[str] = []
    for component, folder in components.items():
        files = sorted(path for path in folder.iterdir() if _FILE.fullmatch(path.name))
        _refuse_newer(component, {path.name for path in files}, set(done))
        for path in files:
            if _apply(tx, component, path, done.get((component, path.name))):
                applied.append(f"{component}/{path.name}")
    return applied


def _apply(tx: Transaction, component: str, path: Path, known_digest: str | None) -> bool:
    text = path.read_text(encoding="utf-8")
    digest = hashlib.sha256(text.encode()).hexdigest()
    if known_digest == digest:
        return False
    if known_digest is not None:
        raise configuration_error(
            f"migration {component}/{path.name} differs from the one this database was made with; "
            "install the version of pkiserver that made it, or restore the file"
        )
    for statement in _statements(text):
        tx.execute(statement)
    tx.execute(
        "INSERT INTO schema_migrations (component, name, digest) VALUES (?, ?, ?)",
        (component, path.name, digest),
    )
    return True


def _refuse_newer(component: str, known: set[str], done: set[tuple[str, str]]) -> None:
    newer = sorted(name for owner, name in done if owner == component and name not in known)
    if newer:
        raise configuration_error(
            f"the database was used by a newer pkiserver ({component}/{newer[0]}); upgrade first"
        )


def _statements(text: str) -> list[str]:
    """Statements end with a semicolon at the end of a line; `--` starts a comment line."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("--")]
    parts = re.split(r";\s*(?:\n|$)", "\n".join(lines))
    return [part.strip() for part in parts if part.strip()]
