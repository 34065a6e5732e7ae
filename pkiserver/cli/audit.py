"""`audit list`, `verify`, `export`: the tamper-evident log."""

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from pkiserver.ca import history
from pkiserver.ca.audit import Head, Verified, verify
from pkiserver.ca.history import Entry
from pkiserver.cli.context import (
    DEFAULT_HOME,
    HomeOption,
    JSONOption,
    LimitOption,
    require_free,
    with_core,
)
from pkiserver.cli.output import moment, print_json, print_table, say
from pkiserver.core import Core
from pkiserver.errors import ErrorCode, PKIError, configuration_error
from pkiserver.storage import Reader


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(help="The tamper-evident log", no_args_is_help=True)
    group.command("list")(list_)
    group.command("verify")(verify_)
    group.command("export")(export)
    app.add_typer(group, name="audit")


def list_(
    actor: Annotated[str | None, typer.Option(help="By whom, such as cli:root")] = None,
    action: Annotated[
        str | None, typer.Option(help="What, such as certificate.revoke, or certificate")
    ] = None,
    thing: Annotated[str | None, typer.Option("--object", help="On what: an id or name")] = None,
    before: Annotated[
        int | None, typer.Option(min=1, help="Only rows before this sequence number")
    ] = None,
    limit: LimitOption = 100,
    home: HomeOption = DEFAULT_HOME,
    as_json: JSONOption = False,
) -> None:
    """The newest rows, oldest of them first."""

    def read(reader: Reader) -> list[Entry]:
        return history.newest(
            reader, actor=actor, action=action, object=thing, before=before, limit=limit
        )

    async def work(core: Core) -> list[Entry]:
        return await core.services.database.read(read)

    entries = with_core(home, work)
    if as_json:
        print_json([entry_json(entry) for entry in entries])
        return
    print_table(
        ["SEQUENCE", "AT", "ACTOR", "ACTION", "OBJECT", "OUTCOME"],
        [[e.sequence, moment(e.at), e.actor, e.action, e.object, e.outcome] for e in entries],
    )


def verify_(
    anchor: Annotated[
        str | None,
        typer.Option(metavar="SEQUENCE:HASH", help="What an earlier 'audit verify' printed"),
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JSONOption = False,
) -> None:
    """Walk the chain of hashes. Keep the last line somewhere else and give it as --anchor next
    time: without one, rows cut off at the end cannot be noticed."""
    known = None if anchor is None else _anchor(anchor)

    async def work(core: Core) -> Verified:
        return await core.services.database.read(lambda reader: verify(reader, known))

    result = with_core(home, work)
    head = f"{result.head.sequence}:{result.head.hash.hex()}"
    if as_json:
        print_json(
            {"rows": result.rows, "broken": result.broken, "problem": result.problem, "head": head}
        )
    if result.broken is not None:
        raise PKIError(ErrorCode.INTERNAL, f"audit row {result.broken}: {result.problem}")
    if not as_json:
        say(f"{result.rows} rows, the chain holds.")
        say(head)


def export(
    out: Annotated[Path | None, typer.Option(help="File; standard output if not given")] = None,
    after: Annotated[int, typer.Option(min=0, help="Only rows after this sequence number")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the file")] = False,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Every row as a line of JSON."""
    if out is not None:
        require_free(out, force=force)
        with _replacing(out) as file:
            rows = with_core(home, lambda core: _export(core, after, file))
        say(f"{rows} rows in {out}")
    else:
        with_core(home, lambda core: _export(core, after, sys.stdout))


async def _export(core: Core, after: int, file: TextIO) -> int:
    """Write page after page; how many rows."""
    rows = 0
    while entries := await core.services.database.read(_page_after(after)):
        file.writelines(f"{json.dumps(entry_json(entry))}\n" for entry in entries)
        rows, after = rows + len(entries), entries[-1].sequence
    return rows


def _page_after(sequence: int) -> Callable[[Reader], list[Entry]]:
    return lambda reader: history.page(reader, sequence)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    """A file only its owner can read; under its name only when it is whole."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            yield file
        draft.replace(path)
    except BaseException:
        draft.unlink()
        raise


def entry_json(entry: Entry) -> dict[str, Any]:
    """A row as JSON; with `previous` and `hash` anybody can verify an export."""
    return {
        "sequence": entry.sequence,
        "at": moment(entry.at),
        "actor": entry.actor,
        "action": entry.action,
        "object": entry.object,
        "outcome": entry.outcome,
        "detail": entry.detail,
        "previous": entry.previous.hex(),
        "hash": entry.hash.hex(),
    }


def _anchor(text: str) -> Head:
    match = re.fullmatch(r"(\d{1,18}):([0-9a-f]{64})", text.strip())
    if match is None:
        raise configuration_error("--anchor: write the line an earlier 'audit verify' printed")
    return Head(int(match[1]), bytes.fromhex(match[2]))
