"""What commands print: lines for people, tables and JSON."""

import datetime as dt
import json
from collections.abc import Sequence
from typing import Any

import typer


def moment(when: dt.datetime | None) -> str | None:
    """RFC 3339, for JSON and for people."""
    return None if when is None else when.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def printable(text: object) -> str:
    """On one line and without control characters: what clients sent must not steer a terminal."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in str(text))


def say(text: object) -> None:
    """A line for people."""
    typer.echo(printable(text))


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=True))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as they need to be; None is shown as a dash."""
    texts = [["-" if cell is None else printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *texts, strict=True)]
    for row in [list(headings), *texts]:
        typer.echo("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())


def print_members(members: dict[str, Any]) -> None:
    """A name and its value per line; None is left out, lists are joined."""
    shown = {name: value for name, value in members.items() if value not in (None, [], ())}
    width = max((len(name) for name in shown), default=0)
    for name, value in shown.items():
        text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
        say(f"{name.replace('_', ' '):<{width}}  {text}")
