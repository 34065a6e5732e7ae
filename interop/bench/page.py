"""Putting results into docs/performance.md, between the marks of a benchmark."""

from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"


def write(name: str, text: str, page: Path = PAGE) -> None:
    """Replace what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    head, _, rest = page.read_text(encoding="utf-8").partition(begin)
    _, found, tail = rest.partition(end)
    if not found:
        raise ValueError(f"{page} has no place for {name}")
    page.write_text(f"{head}{begin}\n{text}\n{end}{tail}", encoding="utf-8")
