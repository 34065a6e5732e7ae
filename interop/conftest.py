"""Options and fixtures: one running server per worker process, one directory per test."""

import contextlib
import functools
import http.server
import importlib.metadata
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from interop import results
from interop.dns import challenge_dns
from interop.est_pki import Client, EstPKI, est_pki
from interop.scep_server import SCEPServer, scep_server
from interop.target import STARTERS, Target
from interop.tools import INSTALL_SECONDS, TOP, debian, need

_SERVER = "server"
TEST_SECONDS = 240


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("interop")
    group.addoption("--target", choices=sorted(STARTERS), default="pkiserver")
    group.addoption(
        "--write-results", action="store_true", help="write the table in docs/interop.md"
    )


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Collector(config.getoption("--write-results")))


class _Collector:
    """Takes the rows from the reports, also those of worker processes."""

    def __init__(self, write: bool) -> None:
        self._write = write
        self._lines: list[results.Line] = []
        self._servers: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call":
            return
        for name, value in report.user_properties:
            if name == results.PROPERTY and isinstance(value, dict):
                self._lines.append(results.line(value, report.outcome))
            elif name == _SERVER:
                self._servers.add(str(value))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("interop results")
        terminalreporter.write(results.table(self._lines))
        if self._write and self._lines:
            path = TOP / "docs" / "interop.md"
            results.write(path, ", ".join(sorted(self._servers)), self._lines)
            terminalreporter.write_line(f"written: {path}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test may have to install its client first."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(INSTALL_SECONDS + TEST_SECONDS))


@pytest.fixture(scope="session")
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    """The server under test with its mock resolver; both end with the session."""
    need(debian("pebble-challtestsrv", "pebble"))
    home = Path(tempfile.mkdtemp(prefix="interop-server-"))
    try:
        with challenge_dns(home) as dns:
            start = STARTERS[request.config.getoption("--target")]
            if start is STARTERS["pebble"]:
                need(debian("pebble"))
            with start(home, dns) as running:
                yield running
    finally:
        if not os.environ.get("PKISERVER_INTEROP_KEEP"):
            shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def scep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, SCEPServer]]:
    """SCEP servers by the kind of their CA's key."""
    with contextlib.ExitStack() as stack:
        yield {
            kind: stack.enter_context(scep_server(tmp_path_factory.mktemp(kind), kind))
            for kind in ("rsa-2048", "p256")
        }


@pytest.fixture(scope="session")
def est(request: pytest.FixtureRequest) -> Iterator[EstPKI]:
    """EST with a label of each kind."""
    with _est(request) as running:
        yield running


@pytest.fixture(scope="session")
def est_by_address(request: pytest.FixtureRequest) -> Iterator[EstPKI]:
    """For clients that give up where localhost is ::1 first and nobody listens there."""
    with _est(request, "127.0.0.1") as running:
        yield running


@pytest.fixture(scope="session")
def reviewed(request: pytest.FixtureRequest) -> Iterator[EstPKI]:
    """By address; a person has to approve what clients without a label ask for."""
    with _est(request, "127.0.0.1", profile="reviewed", retry_after="1s") as running:
        yield running


@contextlib.contextmanager
def _est(
    request: pytest.FixtureRequest, hostname: str = "localhost", **default: str
) -> Iterator[EstPKI]:
    if request.config.getoption("--target") != "pkiserver":
        pytest.skip("EST is ours alone")
    folder = Path(tempfile.mkdtemp(prefix="interop-est-"))
    try:
        with est_pki(folder, hostname=hostname, server=None, **default) as running:
            yield running
    finally:
        if not os.environ.get("PKISERVER_INTEROP_KEEP"):
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def est_client(est: EstPKI, workdir: Path) -> Client:
    """With an empty folder."""
    return Client(workdir, est)


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """An empty directory of this test alone."""
    return tmp_path


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Callable[[str, str, str], results.Row]:
    """Start this test's row of the results table: row(client, version, what). Tests without
    `target` have a pkiserver of their own."""
    server = f"pkiserver {importlib.metadata.version('pkiserver')}"
    if "target" in request.fixturenames:
        target: Target = request.getfixturevalue("target")
        server = f"{target.name} {target.version}"

    def start(client: str, version: str, what: str) -> results.Row:
        made = results.Row(client, version, what)
        request.node.user_properties.append((results.PROPERTY, made))
        request.node.user_properties.append((_SERVER, server))
        return made

    return start


@pytest.fixture
def webroot(target: Target, workdir: Path) -> Iterator[Path]:
    """A directory served at the http-01 port, for clients that bring no server of their own."""
    root = workdir / "webroot"
    challenges = root / ".well-known" / "acme-challenge"
    challenges.mkdir(parents=True)
    handler = functools.partial(_QuietHandler, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", target.http01_port), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield root
        finally:
            server.shutdown()
            thread.join()


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the test prints what matters."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Rows become plain data, so that a worker process can send them."""
    report = yield
    report.user_properties = [
        (name, value.to_property() if isinstance(value, results.Row) else value)
        for name, value in report.user_properties
    ]
    return report
