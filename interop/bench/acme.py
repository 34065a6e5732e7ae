"""ACME against Debian's pebble, in one run: `python -m interop.bench.acme [--write]`.

Both servers get the same client, the same orders (one name, http-01 really fetched), P-256 keys and
TLS. Pebble keeps everything in memory; pkiserver commits every order durably. `--write` puts the
table into docs/performance.md."""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from interop.bench import page
from interop.bench.client import Load, drive
from interop.dns import challenge_dns
from interop.target import STARTERS, Target

LIMIT = 1.5
"""Above this ratio of server CPU per order the benchmark fails."""


def cpu_seconds(command: str) -> float:
    """User and system time of the processes we started whose command line has this text."""
    ticks = 0
    for pid in descendants(os.getpid()):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            if command in words:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return ticks / os.sysconf("SC_CLK_TCK")


def descendants(root: int) -> Iterator[int]:
    """The processes below one, each before those it started."""
    for children in Path(f"/proc/{root}/task").glob("*/children"):
        for child in children.read_text().split():
            yield int(child)
            yield from descendants(int(child))


@dataclass(frozen=True)
class Result:
    name: str
    load: Load
    cpu: float

    @property
    def milliseconds(self) -> float:
        """Server CPU per order."""
        return self.cpu * 1000 / len(self.load.latencies)

    def cells(self) -> list[str]:
        latencies = sorted(self.load.latencies)
        orders = len(latencies)
        return [
            self.name,
            f"{orders / self.load.seconds:.0f}",
            f"{statistics.median(latencies) * 1000:.0f} ms",
            f"{latencies[int(orders * 0.99)] * 1000:.0f} ms",
            f"{self.load.requests / orders:.1f}",
            f"{self.milliseconds:.2f} ms",
        ]


def measure(target: Target, orders: int, concurrency: int) -> Result:
    started = 0.0

    def begin() -> None:
        nonlocal started
        started = cpu_seconds(f"{target.name} ")

    load = asyncio.run(
        drive(
            target.directory_url, target.ca_bundle, target.http01_port,
            orders=orders, concurrency=concurrency, started=begin, label=target.name,
        )
    )  # fmt: skip
    return Result(target.name, load, cpu_seconds(f"{target.name} ") - started)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=400)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--only", choices=sorted(STARTERS), help="one server, for profiling")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    given = parser.parse_args(argv)
    names = [given.only] if given.only else sorted(STARTERS)
    results = []
    for name in names:
        with ExitStack() as stack:
            home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            target = stack.enter_context(
                STARTERS[name](home, stack.enter_context(challenge_dns(home)))
            )
            results.append(measure(target, given.orders, given.concurrency))
    table = _table(results, given.orders, given.concurrency)
    print(table)
    if len(results) < 2:
        return 0
    if given.write:
        page.write("acme", table)
    pebble, ours = results
    return 0 if ours.milliseconds / pebble.milliseconds <= LIMIT else 1


def _table(results: list[Result], orders: int, concurrency: int) -> str:
    headings = ["server", "orders/s", "p50", "p99", "requests per order", "server CPU per order"]
    lines = [headings, ["---"] * len(headings), *(result.cells() for result in results)]
    text = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    note = (
        f"{orders} orders, concurrency {concurrency}, {os.cpu_count()} CPUs shared with the client"
    )
    if len(results) == 2:
        ratio = results[1].milliseconds / results[0].milliseconds
        note += f"; CPU per order is **{ratio:.2f}** times pebble's"
    return f"{text}\n\n{note}."


if __name__ == "__main__":
    sys.exit(main())
