"""Migrations: once each, in order, all or nothing; a database that is not ours to change is left
alone."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pkiserver.errors import ErrorCode, PKIError
from pkiserver.storage import Database, migrate, open_database
from pkiserver.storage.migrations import CORE


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = open_database("sqlite:///pki.db", tmp_path)
    yield database
    await database.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "sql"
    folder.mkdir()
    (folder / "0001_first.sql").write_text(
        "-- A comment; with a semicolon;\nCREATE TABLE a (x TEXT);\n\n"
        "CREATE TABLE b (\n    x TEXT -- inside; a line\n);\nINSERT INTO a VALUES ('p; q');\n"
    )
    return folder


async def tables(database: Database) -> set[str]:
    rows = await database.read(
        lambda reader: reader.all("SELECT name FROM sqlite_master WHERE type = 'table'")
    )
    return {name for (name,) in rows}


async def test_each_is_applied_once_in_order(database: Database, folder: Path) -> None:
    (folder / "0002_second.sql").write_text("ALTER TABLE a ADD COLUMN y TEXT;\n")
    core = [f"core/{path.name}" for path in sorted(CORE.glob("*.sql"))]
    assert await migrate(database, {"x": folder}) == [
        *core,
        "x/0001_first.sql",
        "x/0002_second.sql",
    ]
    assert await migrate(database, {"x": folder}) == []
    assert {"a", "b", "audit", "certificates"} <= await tables(database)
    rows = await database.read(lambda reader: reader.all("SELECT x, y FROM a"))
    assert rows == [("p; q", None)]


async def test_several_processes_at_once_apply_each_once(database: Database, folder: Path) -> None:
    outcomes = await asyncio.gather(*(migrate(database, {"x": folder}) for _ in range(5)))
    assert sum("x/0001_first.sql" in outcome for outcome in outcomes) == 1


async def test_a_file_that_changed_after_it_was_applied_stops_the_start(
    database: Database, folder: Path
) -> None:
    await migrate(database, {"x": folder})
    (folder / "0001_first.sql").write_text("CREATE TABLE c (x TEXT);\n")
    (folder / "0002_second.sql").write_text("CREATE TABLE d (x TEXT);\n")
    with pytest.raises(PKIError, match=r"x/0001_first\.sql differs") as caught:
        await migrate(database, {"x": folder})
    assert caught.value.code is ErrorCode.CONFIGURATION
    assert not {"c", "d"} & await tables(database)


async def test_a_database_of_a_newer_version_stops_the_start(
    database: Database, folder: Path
) -> None:
    newer = folder / "0002_second.sql"
    newer.write_text("CREATE TABLE c (x TEXT);\n")
    await migrate(database, {"x": folder})
    newer.unlink()
    with pytest.raises(PKIError, match=r"newer pkiserver \(x/0002_second\.sql\)") as caught:
        await migrate(database, {"x": folder})
    assert caught.value.code is ErrorCode.CONFIGURATION


async def test_a_component_that_is_switched_off_is_no_newer_version(
    database: Database, folder: Path
) -> None:
    await migrate(database, {"x": folder})
    assert await migrate(database, {}) == []


async def test_one_that_fails_takes_everything_back(database: Database, folder: Path) -> None:
    (folder / "0002_second.sql").write_text("CREATE TABLE c (x TEXT);\nCREATE TABEL d (x TEXT);\n")
    with pytest.raises(PKIError):
        await migrate(database, {"x": folder})
    assert await tables(database) == set()


async def test_readers_see_what_a_migration_changed(database: Database, folder: Path) -> None:
    await migrate(database, {"x": folder})
    assert await database.lookup(lambda reader: reader.all("SELECT x FROM a")) == [("p; q",)]
    (folder / "0002_second.sql").write_text(
        "ALTER TABLE a ADD COLUMN y TEXT;\nUPDATE a SET y = 'z';\n"
    )
    await migrate(database, {"x": folder})
    for run in (database.lookup, database.read):
        assert await run(lambda reader: reader.all("SELECT * FROM a")) == [("p; q", "z")]


async def test_other_files_in_the_folder_are_left_alone(database: Database, folder: Path) -> None:
    for name in ("0002_second.sql.orig", "README", "2_x.sql", ".0003_x.sql.swp"):
        (folder / name).write_text("nonsense;")
    assert "x/0001_first.sql" in await migrate(database, {"x": folder})
