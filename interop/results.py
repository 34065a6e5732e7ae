"""One row per client test, and the table of them in docs/interop.md."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

PROPERTY = "interop"
BEGIN = "<!-- results: begin -->"
END = "<!-- results: end -->"
STEPS = ("obtain", "renew", "revoke")
COLUMNS = ("client", "version", "what", *STEPS, "result")


@dataclass
class Row:
    """What one test saw; `steps` are those that passed, the others do not apply or failed."""

    client: str
    version: str
    what: str
    steps: list[str] = field(default_factory=list)

    def passed(self, step: str) -> None:
        """Note that `obtain`, `renew` or `revoke` worked and was checked."""
        if step not in STEPS:
            raise ValueError(step)
        self.steps.append(step)

    def to_property(self) -> dict[str, object]:
        """The form that a test report carries."""
        return asdict(self)


NewRow = Callable[[str, str, str], Row]


@dataclass(frozen=True, order=True)
class Line:
    """A row with its outcome."""

    client: str
    version: str
    what: str
    steps: tuple[str, ...]
    result: str

    def cells(self) -> tuple[str, ...]:
        """In the order of COLUMNS."""
        steps = ("yes" if step in self.steps else "" for step in STEPS)
        return (self.client, self.version, self.what, *steps, self.result)


def line(row: Mapping[str, Any], outcome: str) -> Line:
    """The line of a reported row; `outcome` is pytest's: passed, failed or skipped."""
    return Line(row["client"], row["version"], row["what"], tuple(row["steps"]), outcome)


def table(lines: list[Line]) -> str:
    """A Markdown table in an order that does not depend on the run."""
    ordered = sorted(lines, key=lambda line: (line.client.casefold(), line))
    rows = [COLUMNS, tuple("---" for _ in COLUMNS), *(line.cells() for line in ordered)]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def write(path: Path, server: str, lines: list[Line]) -> None:
    """Put the table between the markers of the file at `path`; ValueError without markers."""
    text = path.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{path} has no {BEGIN} ... {END}")
    path.write_text(f"{before}{BEGIN}\nServer: {server}.\n\n{table(lines)}{END}{after}")
