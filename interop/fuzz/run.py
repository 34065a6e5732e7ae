"""Fuzz a running server:
`python -m interop.fuzz.run [--seconds 600] [--targets ocsp,crl] [--seed N]`.

A new home is served by two workers; clients send what the targets make, all targets mixed. Exit
status 1 for an answer of 500 or above, none at all, one that the target's own check refuses, an
error or a traceback in the log, a worker that died, or memory that grows. A new target is a module
with `cases(subject)` and a line in TARGETS."""

import argparse
import asyncio
import contextlib
import os
import random
import ssl
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from interop import openssl
from interop.bench.acme import descendants
from interop.fuzz import crl, est, ocsp, scep
from interop.fuzz.cases import Case, Cases, Subject, Target
from interop.fuzz.client import Client
from interop.ports import free_ports
from interop.processes import Service, listening, run, service

TARGETS: dict[str, Target] = {
    "ocsp": ocsp.cases,
    "crl": crl.cases,
    "scep": scep.cases,
    "est": est.cases,
}
CLIENTS = 8
WORKERS = 2
GROWTH = 16 << 20
"""Octets that a worker may have grown by from the second to the last third of the run; caches are
full before, or grow less."""
_KEPT = 20
_SHOWN = 4096


@dataclass
class Findings:
    """What went on. `bad` has the first few things that must not happen, with the request."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)

    def note(self, case: Case, what: str) -> None:
        if len(self.bad) < _KEPT:
            shown = case.body[:_SHOWN].hex() + ("..." if len(case.body) > _SHOWN else "")
            self.bad.append(f"{what}: {case.method!r} {case.target!r} {case.headers!r} {shown}")


@contextlib.contextmanager
def served(home: Path) -> Iterator[tuple[Subject, Service]]:
    """A server in a new home, with a certificate that is good and one that is revoked."""
    https, http = free_ports(2)
    command = Path(sys.executable).with_name("pkiserver")
    words = [command, "up", "--home", home / "pki", "--hostname", "localhost"]
    words += ["--https", f"127.0.0.1:{https}", "--http", f"127.0.0.1:{http}"]
    # A line per request would be gigabytes, in which an error is hard to see.
    quiet = {
        "PKISERVER_LOG__REQUESTS": "false",
        # Nearly everything is a failure here, and what comes after the limit would not be seen.
        "PKISERVER_SCEP__DEFAULT__FAILURES_PER_ADDRESS": "1000000/1s",
        "PKISERVER_EST__DEFAULT__REFUSALS_PER_CLIENT": "1000000/1s",
        "PKISERVER_EST__DEFAULT__ENROLMENTS_PER_CLIENT": "1000000/1s",
    }
    with service([*words, "--workers", WORKERS], cwd=home, env=quiet) as running:
        running.wait_until(lambda: listening(http), 60, "listener")
        chains = []
        for name in ("good", "revoked"):
            issue = [command, "cert", "issue", "--home", home / "pki", "--profile", "tls-server"]
            run([*issue, "--dns", f"{name}.example", "--out", home / name], cwd=home)
            chains.append((home / name).with_suffix(".crt"))
        revoke = [command, "cert", "revoke", openssl.serial(chains[1]), "--home", home / "pki"]
        run([*revoke, "--reason", "superseded"], cwd=home)
        good, revoked = chains
        subject = Subject(command, home / "pki", https, http, good, revoked, home / "device")
        device_certificate(subject)
        yield subject, running


def device_certificate(subject: Subject) -> None:
    """What clients show over HTTPS: a certificate for the name that EST's cases ask for."""
    words = ["cert", "issue", "--home", subject.home, "--profile", "device", "--cn", est.NAME]
    words += ["--dns", f"{est.NAME}.example", "--out", subject.client]
    run([subject.command, *words], cwd=subject.client.parent)


def tls(subject: Subject) -> ssl.SSLContext:
    """Of clients."""
    context = ssl.create_default_context(cafile=str(subject.home / "root.pem"))
    context.load_cert_chain(f"{subject.client}.crt", f"{subject.client}.key")
    return context


async def fuzz(subject: Subject, makers: dict[str, Cases], seconds: float, seed: int) -> Findings:
    """Send cases from several clients until the time is over."""
    findings = Findings()
    deadline = time.monotonic() + seconds
    context = tls(subject)

    async def client(number: int) -> None:
        rng = random.Random(f"{seed}/{number}")
        async with (
            Client(subject.http_port, None) as plain,
            Client(subject.https_port, context) as secure,
        ):
            while time.monotonic() < deadline:
                name, make = rng.choice(list(makers.items()))
                case = make(rng)
                await _send(secure if case.secure else plain, name, case, findings)

    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    return findings


async def _send(client: Client, name: str, case: Case, findings: Findings) -> None:
    try:
        reply = await client.send(case)
    except (OSError, EOFError, TimeoutError, ValueError, asyncio.LimitOverrunError) as error:
        findings.note(case, f"no answer ({type(error).__name__}: {error})")
        return
    findings.answers[name, reply.status] += 1
    if reply.status >= 500 and reply.status != 501:
        findings.note(case, f"status {reply.status}")
    elif (wrong := case.check(reply)) is not None:
        findings.note(case, wrong)


@dataclass
class Memory:
    """Resident memory of the processes of the server, in octets, by process."""

    samples: dict[int, list[int]] = field(default_factory=dict)

    def look(self, root: int) -> None:
        for pid in descendants(root):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                self.samples.setdefault(pid, []).append(pages * os.sysconf("SC_PAGE_SIZE"))

    async def watch(self, root: int, every: float) -> None:
        while True:
            self.look(root)
            await asyncio.sleep(every)

    def report(self) -> tuple[list[str], list[str]]:
        """Lines for people, and what is wrong."""
        lines, wrong = [], []
        longest = max(map(len, self.samples.values()), default=0)
        for pid, seen in self.samples.items():
            third = max(1, len(seen) // 3)
            middle = statistics.median(seen[third : 2 * third] or seen)
            end = statistics.median(seen[-third:])
            lines.append(
                f"process {pid}: {seen[0] >> 20} MiB at first, {int(middle) >> 20} in the middle, "
                f"{int(end) >> 20} at the end"
            )
            if end - middle > GROWTH:
                wrong.append(f"process {pid} grows")
            if len(seen) < longest - 2:
                wrong.append(f"process {pid} was not there all the time")
        return lines, wrong


def log_troubles(log: str) -> list[str]:
    """Lines of the server's log that should not be there."""
    signs = ("Traceback", '"level": "error"', '"level": "critical"', "exception")
    return [line[:2000] for line in log.splitlines() if any(sign in line for sign in signs)]


async def _run(subject: Subject, pid: int, given: argparse.Namespace) -> tuple[Findings, Memory]:
    makers = {name: TARGETS[name](subject) for name in given.targets.split(",")}
    memory = Memory()
    watcher = asyncio.create_task(memory.watch(pid, max(0.5, given.seconds / 120)))
    findings = await fuzz(subject, makers, given.seconds, given.seed)
    watcher.cancel()
    return findings, memory


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    given = parser.parse_args(argv)
    if unknown := set(given.targets.split(",")) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as (subject, running):
        findings, memory = asyncio.run(_run(subject, running.process.pid, given))
        troubles = log_troubles(running.output())
    lines, wrong = memory.report()
    for (name, status), count in sorted(findings.answers.items()):
        print(f"{name}: {count} answers with status {status}")
    total = sum(findings.answers.values())
    print(*lines, f"{total} requests in {given.seconds:g} s, seed {given.seed}", sep="\n")
    for each in (*findings.bad, *troubles[:_KEPT], *wrong):
        print(f"FINDING {each}", file=sys.stderr)
    return 1 if findings.bad or troubles or wrong or not total else 0


if __name__ == "__main__":
    sys.exit(main())
