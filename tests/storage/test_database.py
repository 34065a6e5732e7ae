"""The contract of the `Database` port. Every test takes a database by the fixture `database` or
opens one by `open_at`, and uses portable SQL only: another engine joins by its own fixture."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pkiserver.errors import ErrorCode, PKIError
from pkiserver.storage import Database, IntegrityError, Reader, Row, Transaction, open_database

TABLE = "CREATE TABLE things (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, data BLOB)"


def insert(tx: Transaction, number: int, name: str) -> int:
    return tx.execute("INSERT INTO things (id, name) VALUES (?, ?)", (number, name))


async def names(database: Database) -> list[str]:
    rows = await database.read(lambda reader: reader.all("SELECT name FROM things ORDER BY id"))
    return [name for (name,) in rows]


async def open_at(home: Path) -> Database:
    return open_database("sqlite:///pki.db", home)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = await open_at(tmp_path)
    await database.write(lambda tx: tx.execute(TABLE))
    yield database
    await database.close()


async def test_what_was_written_is_there_for_every_kind_of_read(database: Database) -> None:
    assert await database.write(lambda tx: insert(tx, 1, "one")) == 1

    def work(reader: Reader) -> Row | None:
        return reader.one("SELECT id, name FROM things WHERE id = ?", (1,))

    assert await database.read(work) == await database.lookup(work) == (1, "one")
    assert await database.write(work) == (1, "one")


async def test_what_was_written_is_there_after_opening_again(tmp_path: Path) -> None:
    first = await open_at(tmp_path)
    await first.write(lambda tx: tx.execute(TABLE))
    await first.write(lambda tx: insert(tx, 1, "one"))
    await first.close()
    second = await open_at(tmp_path)
    assert await names(second) == ["one"]
    await second.close()


async def test_an_exception_takes_back_everything_and_reaches_the_caller(
    database: Database,
) -> None:
    def work(tx: Transaction) -> None:
        insert(tx, 1, "one")
        raise LookupError("not today")

    with pytest.raises(LookupError, match="not today"):
        await database.write(work)
    assert await names(database) == []


class Ending(BaseException):
    """As those that end a program are."""


async def test_even_exceptions_that_are_no_errors(database: Database) -> None:
    def work(tx: Transaction) -> None:
        insert(tx, 1, "one")
        raise Ending

    with pytest.raises(Ending):
        await database.write(work)
    assert await names(database) == []
    assert await database.write(lambda tx: insert(tx, 2, "two")) == 1


async def test_stop_iteration_does_not_keep_anybody_waiting(database: Database) -> None:
    """A future takes no StopIteration: those settled after it would wait for ever."""

    def work(tx: Transaction) -> int:
        insert(tx, 1, "one")
        empty: list[int] = []
        return next(iter(empty))

    outcomes = await asyncio.wait_for(
        asyncio.gather(
            database.write(work),
            database.write(lambda tx: insert(tx, 2, "two")),
            return_exceptions=True,
        ),
        10,
    )
    assert isinstance(outcomes[0], RuntimeError) and outcomes[1] == 1
    assert await names(database) == ["two"]


async def test_a_constraint_is_an_integrity_error(database: Database) -> None:
    await database.write(lambda tx: insert(tx, 1, "one"))
    with pytest.raises(IntegrityError):
        await database.write(lambda tx: insert(tx, 2, "one"))
    with pytest.raises(IntegrityError):
        await database.write(
            lambda tx: tx.execute_many(
                "INSERT INTO things (id, name) VALUES (?, ?)", [(3, "three"), (4, "one")]
            )
        )
    assert await names(database) == ["one"]


async def test_of_many_at_once_each_has_its_own_fate(database: Database) -> None:
    """Engines may commit several together: those that fail take back only their own."""

    async def add(number: int) -> object:
        def work(tx: Transaction) -> int:
            insert(tx, number, f"n{number}")
            if number % 3 == 0:
                raise LookupError
            return insert(tx, -number - 1, "taken" if number % 5 == 0 else f"m{number}")

        try:
            return await database.write(work)
        except (LookupError, IntegrityError) as error:
            return type(error)

    outcomes = await asyncio.gather(*(add(number) for number in range(200)))
    fives = [n for n in range(200) if n % 5 == 0 and n % 3]
    won = [n for n in fives if outcomes[n] == 1]
    assert len(won) == 1
    for number, outcome in enumerate(outcomes):
        if number % 3 == 0:
            assert outcome is LookupError
        elif number in fives and number not in won:
            assert outcome is IntegrityError
        else:
            assert outcome == 1
    assert len(await names(database)) == 2 * outcomes.count(1)


async def test_a_transaction_sees_its_own_writes_and_counts_rows(database: Database) -> None:
    def work(tx: Transaction) -> tuple[int, int, Row | None]:
        insert(tx, 1, "one")
        insert(tx, 2, "two")
        renamed = tx.execute("UPDATE things SET name = 'x' || name")
        none = tx.execute("UPDATE things SET name = 'y' WHERE id = 7")
        return renamed, none, tx.one("SELECT name FROM things WHERE id = 1")

    assert await database.write(work) == (2, 0, ("xone",))


async def test_compare_and_set_has_one_winner(database: Database) -> None:
    await database.write(lambda tx: insert(tx, 1, "free"))
    sql = "UPDATE things SET name = ? WHERE id = 1 AND name = 'free'"
    won = await asyncio.gather(
        *(database.write(lambda tx, n=n: tx.execute(sql, (f"w{n}",))) for n in range(20))  # type: ignore[misc]
    )
    assert sorted(won) == [0] * 19 + [1]


async def test_returning_and_on_conflict(database: Database) -> None:
    def upsert(tx: Transaction) -> Row | None:
        return tx.one(
            "INSERT INTO things (id, name) VALUES (1, 'one') ON CONFLICT (id) DO UPDATE "
            "SET name = things.name || '!' RETURNING name"
        )

    assert await database.write(upsert) == ("one",)
    assert await database.write(upsert) == ("one!",)


async def test_bytes_text_and_none_come_back_as_they_were(database: Database) -> None:
    await database.write(
        lambda tx: tx.execute(
            "INSERT INTO things (id, name, data) VALUES (?, ?, ?)", (2**62, "ä'☃", b"\x00\xff")
        )
    )
    await database.write(lambda tx: insert(tx, -1, ""))
    rows = await database.read(lambda reader: reader.all("SELECT id, name, data FROM things"))
    assert sorted(rows) == [(-1, "", None), (2**62, "ä'☃", b"\x00\xff")]


@pytest.mark.parametrize("how", ["read", "lookup"])
async def test_a_read_cannot_write(database: Database, how: str) -> None:
    run = database.read if how == "read" else database.lookup
    with pytest.raises(PKIError) as caught:
        await run(lambda reader: reader.all("DELETE FROM things RETURNING id"))
    assert caught.value.code is ErrorCode.UNAVAILABLE


async def test_a_read_sees_one_moment(database: Database) -> None:
    """What is committed during a read is not in it."""
    await database.write(lambda tx: insert(tx, 1, "one"))
    loop = asyncio.get_running_loop()

    def work(reader: Reader) -> tuple[Row | None, Row | None]:
        before = reader.one("SELECT COUNT(*) FROM things")
        write = asyncio.run_coroutine_threadsafe(
            database.write(lambda tx: insert(tx, 2, "two")), loop
        )
        write.result(10)
        return before, reader.one("SELECT COUNT(*) FROM things")

    assert await database.read(work) == ((1,), (1,))
    assert await names(database) == ["one", "two"]


async def test_each_gives_rows_one_by_one(database: Database) -> None:
    await database.write(
        lambda tx: tx.execute_many(
            "INSERT INTO things (id, name) VALUES (?, ?)", [(n, f"n{n}") for n in range(100)]
        )
    )

    def work(reader: Reader) -> list[int]:
        found = []
        for (number,) in reader.each("SELECT id FROM things WHERE id < ? ORDER BY id", (50,)):
            found.append(number)
            if number == 9:
                break
        return found

    assert await database.read(work) == list(range(10))


async def test_a_read_that_raises_leaves_the_reader_usable(database: Database) -> None:
    def work(reader: Reader) -> None:
        raise LookupError

    for run in (database.read, database.lookup) * 4:
        with pytest.raises(LookupError):
            await run(work)
    assert await names(database) == []


async def test_a_caller_that_is_cancelled_leaves_the_others_alone(database: Database) -> None:
    tasks = [
        asyncio.create_task(database.write(lambda tx, n=n: insert(tx, n, f"n{n}")))  # type: ignore[misc]
        for n in range(20)
    ]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes[::2])
    assert outcomes[1::2] == [1] * 10
    assert {f"n{n}" for n in range(1, 20, 2)} <= set(await names(database))


async def test_close_finishes_what_was_accepted_and_refuses_the_rest(tmp_path: Path) -> None:
    database = await open_at(tmp_path)
    await database.write(lambda tx: tx.execute(TABLE))
    tasks = [
        asyncio.create_task(database.write(lambda tx, n=n: insert(tx, n, f"n{n}")))  # type: ignore[misc]
        for n in range(200)
    ]
    await asyncio.sleep(0)
    await database.close()
    await database.close()
    assert await asyncio.wait_for(asyncio.gather(*tasks), 10) == [1] * 200
    for run in (database.read, database.lookup, database.write):
        with pytest.raises(PKIError, match="closed"):
            await run(lambda reader: None)
    again = await open_at(tmp_path)
    assert len(await names(again)) == 200
    await again.close()


async def test_the_change_mark_moves_with_every_commit_of_anybody(tmp_path: Path) -> None:
    one, two = await open_at(tmp_path), await open_at(tmp_path)
    await one.write(lambda tx: tx.execute(TABLE))
    for number in range(6):
        writer = (one, two)[number % 2]
        before = [await each.change_mark() for each in (one, two)]
        assert before == [await each.change_mark() for each in (one, two)]
        await writer.write(lambda tx, n=number: insert(tx, n, str(n)))  # type: ignore[misc]
        after = [await each.change_mark() for each in (one, two)]
        assert all(old != new for old, new in zip(before, after, strict=True))
    await one.close()
    await two.close()


async def test_the_change_mark_stays_while_nobody_commits(database: Database) -> None:
    before = await database.change_mark()
    await names(database)
    await database.lookup(lambda reader: reader.all("SELECT id FROM things"))
    assert await database.change_mark() == before


async def test_no_change_mark_of_a_closed_database(tmp_path: Path) -> None:
    closed = await open_at(tmp_path)
    await closed.close()
    with pytest.raises(PKIError) as caught:
        await closed.change_mark()
    assert caught.value.code is ErrorCode.UNAVAILABLE


async def test_bytes_of_many_rows_are_joined(database: Database) -> None:
    """As they are: NUL, and octets that are no text in any encoding."""
    pieces = [bytes(range(n % 256)) + b"\0\xff" for n in range(300)] + [b""]
    await database.write(lambda tx: tx.execute("CREATE TABLE pieces (n INTEGER, data BLOB)"))
    empty = await database.read(lambda reader: reader.joined("SELECT data FROM pieces WHERE n < 0"))
    assert empty == (b"", 0)
    await database.write(
        lambda tx: tx.execute_many(
            "INSERT INTO pieces (n, data) VALUES (?, ?)", list(enumerate(pieces))
        )
    )
    whole, count = await database.read(
        lambda reader: reader.joined("SELECT data FROM pieces WHERE n >= ? ORDER BY n", (0,))
    )
    assert (whole, count) == (b"".join(pieces), len(pieces))
