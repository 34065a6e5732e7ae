"""OCSP against `openssl ocsp` and against nginx with a file, in one run:
`python -m interop.bench.ocsp [--write]`.

The client is `ab`, over plain HTTP, keeping connections alive where the server does (`openssl ocsp`
does not). Every server has two processes and P-256 signatures; nginx serves a file of the size of
our answer and writes its log, as we do. `nonce` asks for a signature each time. CPU is that of the
server's processes, from /proc. `--write` puts the table into docs/performance.md."""

import argparse
import base64
import contextlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote
from urllib.request import Request, urlopen

from interop import openssl
from interop.bench import page
from interop.bench.acme import descendants
from interop.ports import free_ports
from interop.processes import InteropError, listening, run, service

TYPE = "application/ocsp-request"
CONCURRENCY = 16
WORKERS = 2
ROUNDS = 10
GOALS = {"openssl": 3.0, "nginx": 0.5}
"""Our requests per second, POST and GET, over theirs."""


@dataclass(frozen=True)
class Result:
    """One server under one kind of request."""

    server: str
    asked: str
    rate: float
    microseconds: float


@dataclass(frozen=True)
class Server:
    """A running server, the process it was started as, and what takes a client to its network."""

    name: str
    url: str
    pid: int
    enter: tuple[object, ...] = ()


@dataclass(frozen=True)
class Work:
    """The same questions for everybody: files with the request, without and with a nonce."""

    home: Path
    plain: Path
    nonce: Path
    answer: bytes

    @property
    def path(self) -> str:
        return quote(base64.b64encode(self.plain.read_bytes()).decode(), safe="")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and all below it."""
    ticks = 0
    for each in (pid, *descendants(pid)):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def load(server: Server, asked: str, url: str, count: int, body: Path | None = None) -> Result:
    words = [*server.enter, "ab", "-q", "-l", "-c", CONCURRENCY, "-n", count]
    if server.name != "openssl":  # which closes each connection
        words.append("-k")
    if body is not None:
        words += ["-p", body, "-T", TYPE]
    before = cpu_seconds(server.pid)
    output = run([*words, url], cwd=Path("/"), seconds=300)
    used = cpu_seconds(server.pid) - before
    rate = re.search(r"Requests per second:\s+([\d.]+)", output)
    if rate is None or "Non-2xx" in output or not re.search(r"Failed requests:\s+0\b", output):
        raise InteropError(f"{server.name}, {asked}:\n{output}")
    return Result(server.name, asked, float(rate[1]), used / count * 1e6)


@contextlib.contextmanager
def pkiserver(home: Path) -> Iterator[tuple[Server, Work]]:
    """Ours, with what is asked of everybody."""
    https, http = free_ports(2)
    command = Path(sys.executable).with_name("pkiserver")
    pki, leaf = home / "pki", home / "leaf"
    words = [command, "up", "--home", pki, "--workers", WORKERS]
    words += ["--https", f"127.0.0.1:{https}", "--http", f"127.0.0.1:{http}"]
    with service(words, cwd=home) as running:
        running.wait_until(lambda: listening(http), 60, "listener")
        issue = ["cert", "issue", "--home", pki, "--profile", "tls-server", "--dns", "a.example"]
        run([command, *issue, "--out", leaf], cwd=home)
        url = f"http://127.0.0.1:{http}/ocsp/issuing"
        certificate, issuer = openssl.split(leaf.with_suffix(".crt"))[:2]
        plain, nonce = home / "plain.der", home / "nonce.der"
        for file, option in ((plain, "-no_nonce"), (nonce, "-nonce")):
            openssl.openssl(home, "ocsp", option, "-issuer", issuer, "-sha256",
                            "-cert", certificate, "-reqout", file)  # fmt: skip
        work = Work(home, plain, nonce, ask(url, plain))
        yield Server("pkiserver", url, running.process.pid), work


@contextlib.contextmanager
def openssl_responder(work: Work, home: Path) -> Iterator[Server]:
    """`openssl ocsp`, answering for a CA of its own about the same number of octets."""
    openssl.self_signed(home / "ca", "Bench CA")
    (home / "index.txt").write_text("V\t491231235959Z\t\t01\tunknown\t/CN=a.example\n")
    (port,) = free_ports(1)
    words = ["openssl", "ocsp", "-index", home / "index.txt", "-CA", home / "ca.crt"]
    words += ["-rsigner", home / "ca.crt", "-rkey", home / "ca.key"]
    words += ["-port", port, "-multi", WORKERS, "-ignore_err"]
    # It makes a process group of its own, which who leads a session cannot. Its processes, where a
    # connection broke, turn round and round and mind no signal but SIGKILL.
    keeper = """ip link set lo up; trap 'pkill -KILL -P $!; kill -KILL $!' TERM; "$@" & wait"""
    # OpenSSL 3.0 listens on every address there is: in a network of its own that is loopback only.
    alone = ["unshare", "--map-root-user", "--net", "sh", "-c", keeper, "sh"]
    with service([*alone, *words], cwd=home) as running:
        # Connecting, to see whether it listens, is such a connection.
        running.wait_until(lambda: "ACCEPT" in running.output(), 20, "listener")
        # Its processes are not there at once, and say nothing when they are.
        pid = running.process.pid
        running.wait_until(lambda: len(list(descendants(pid))) > WORKERS, 20, "processes")
        enter = ("nsenter", "--target", pid, "--user", "--preserve-credentials", "--net")
        yield Server("openssl", f"http://127.0.0.1:{port}/", pid, enter)


def ask(url: str, request: Path) -> bytes:
    post = Request(url, request.read_bytes(), {"Content-Type": TYPE})
    with urlopen(post, timeout=10) as answered:
        body: bytes = answered.read()
    return body


@contextlib.contextmanager
def nginx(work: Work) -> Iterator[Server]:
    """A file of the size of our answer."""
    home = work.home / "nginx"
    (home / "www").mkdir(parents=True)
    (home / "www" / "answer.der").write_bytes(work.answer)
    (port,) = free_ports(1)
    user = "user root;" if os.getuid() == 0 else ""
    temporary = "".join(
        f"{kind}_temp_path {home}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (home / "nginx.conf").write_text(
        f"{user} worker_processes {WORKERS}; daemon off; pid {home}/pid; error_log {home}/error;\n"
        f"events {{ worker_connections 512; }}\n"
        f"http {{ access_log {home}/access; keepalive_requests 10000000; {temporary}\n"
        f"server {{ listen 127.0.0.1:{port}; root {home}/www; }} }}\n"
    )
    with service(["nginx", "-c", home / "nginx.conf", "-p", home], cwd=home) as running:
        running.wait_until(lambda: listening(port), 20, "listener")
        yield Server("nginx", f"http://127.0.0.1:{port}/answer.der", running.process.pid)


def openssl_results(work: Work, name: str, count: int) -> list[Result]:
    """None, said loudly, where it does not last."""
    home = work.home / name
    home.mkdir()
    try:
        with openssl_responder(work, home) as server:
            return [load(server, "POST", server.url, count, work.plain)]
    except InteropError as error:
        print(f"SKIPPED: openssl ocsp did not last: {error}", file=sys.stderr)
        return []


def measure(count: int) -> list[Result]:
    """Everybody in turn, again and again, and of each the best: whoever else uses the machine can
    only slow things down. OpenSSL's processes do not outlive their first clients, so it is started
    for each round."""
    found: dict[tuple[str, str], Result] = {}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        ours, work = stack.enter_context(pkiserver(Path(folder)))
        file = None
        if shutil.which("nginx", path=os.defpath + ":/usr/sbin"):
            file = stack.enter_context(nginx(work))
        else:
            print("SKIPPED: nginx is not installed", file=sys.stderr)
        for number in range(ROUNDS):
            results = [] if file is None else [load(file, "GET, a file", file.url, count)]
            results += openssl_results(work, f"openssl-{number}", count // 4)
            results.append(load(ours, "POST", ours.url, count, work.plain))
            results.append(load(ours, "GET", f"{ours.url}/{work.path}", count))
            results.append(load(ours, "POST with a nonce", ours.url, count // 4, work.nonce))
            for each in results:
                key = each.server, each.asked
                found[key] = max(found.get(key, each), each, key=lambda result: result.rate)
    return list(found.values())


def compare(results: list[Result]) -> tuple[list[str], bool]:
    """Sentences, and whether the goals are met."""
    rates = {(each.server, each.asked): each.rate for each in results}
    ours = min(rates["pkiserver", "POST"], rates["pkiserver", "GET"])
    lines, met = [], True
    for (server, _), rate in rates.items():
        if server in GOALS:
            lines.append(f"**{ours / rate:.2f}** times {server}'s rate (goal {GOALS[server]:g})")
            met = met and ours / rate >= GOALS[server]
    return lines, met


def table(results: list[Result], lines: list[str]) -> str:
    rows = [["server", "asked", "requests/s", "server CPU per request"], ["---"] * 4]
    rows += [
        [each.server, each.asked, f"{each.rate:.0f}", f"{each.microseconds:.0f} µs"]
        for each in results
    ]
    text = "\n".join("| " + " | ".join(cells) + " |" for cells in rows)
    return (
        f"{text}\n\nConcurrency {CONCURRENCY}, {WORKERS} processes each, {os.cpu_count()} CPUs "
        f"shared with the client, the best of {ROUNDS} rounds: {', '.join(lines)}."
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=16_000)
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    given = parser.parse_args(argv)
    if shutil.which("ab") is None:
        print("SKIPPED: ab (apache2-utils) is not installed", file=sys.stderr)
        return 0
    results = measure(given.requests)
    lines, met = compare(results)
    text = table(results, lines)
    print(text)
    if given.write:
        page.write("ocsp", text)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
