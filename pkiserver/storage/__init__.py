"""The one door to the database: the `Database` port, its engines and the migrations."""

from pathlib import Path

from pkiserver.errors import configuration_error
from pkiserver.storage.database import Database, IntegrityError, Reader, Row, Transaction
from pkiserver.storage.migrations import migrate
from pkiserver.storage.sqlite import SQLiteDatabase

__all__ = ["Database", "IntegrityError", "Reader", "Row", "Transaction", "migrate", "open_database"]

_SQLITE = "sqlite:///"


def open_database(url: str, home: Path) -> Database:
    """The database `storage.url` names; a relative SQLite path is below `home`."""
    if not url.startswith(_SQLITE):
        raise configuration_error("storage.url: write it as sqlite:///FILE")
    return SQLiteDatabase(home / url.removeprefix(_SQLITE))
