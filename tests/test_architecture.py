"""What the tree promises: time comes from one module, modules stay small, imports have a direction,
exported names are few."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pkiserver
from pkiserver import server, storage

ROOT = Path(__file__).parent.parent
MOST_LINES = 450
MOST_FUNCTION_LINES = 60
SOURCES = sorted([*ROOT.glob("pkiserver/**/*.py"), *ROOT.glob("protocols/**/*.py")])
_TIME = re.compile(
    r"\b(datetime|dt)\.(now|utcnow|today)\(|\bdate\.today\(|\btime\.(time|monotonic|time_ns)\b"
)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def matches(pattern: re.Pattern[str], but: str = "") -> list[str]:
    return [
        f"{name(path)}:{number}: {line.strip()}"
        for path in SOURCES
        if name(path) != but
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]


def test_there_are_sources() -> None:
    assert len(SOURCES) > 100


def test_time_comes_from_the_clock_module() -> None:
    assert matches(_TIME, but="pkiserver/clock.py") == []


def test_nothing_is_left_for_later() -> None:
    later = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b|pragma: no cover")
    assert matches(later) == []


def test_nothing_dangerous_is_called() -> None:
    """Deserialisers and evaluators that run what they read, shells, weak randomness."""
    dangerous = re.compile(
        r"\bpickle\b|\bmarshal\b|\byaml\.load\b|\beval\(|\bexec\(|shell=True|"
        r"^\s*(import|from) random\b|_create_unverified"
    )
    assert matches(dangerous) == []


def test_certificates_are_verified() -> None:
    """But for tls-alpn-01, whose certificate is self-signed by definition (RFC 8737 section 3)."""
    unverified = re.compile(r"\bCERT_NONE\b|verify=False")
    assert matches(unverified, but="protocols/acme/probe/dial.py") == []


def test_modules_are_small() -> None:
    lengths = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {each: length for each, length in lengths.items() if length > MOST_LINES} == {}


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_functions_are_small() -> None:
    long = [
        f"{name(path)}: {function.name}"
        for path in SOURCES
        for function in functions(path)
        if (function.end_lineno or 0) - function.lineno >= MOST_FUNCTION_LINES
    ]
    assert long == []


def test_every_module_says_what_it_is_for() -> None:
    missing = [
        name(path)
        for path in SOURCES
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert missing == []


def test_only_the_registry_and_protocols_write_the_name_protocols() -> None:
    """The top-level name is a plain one: see the guard in the registry."""
    pattern = re.compile(r"^\s*(from|import) protocols\b")
    wrong = [line for line in matches(pattern) if not line.startswith("protocols/")]
    assert wrong == []


def test_exported_names() -> None:
    assert pkiserver.__all__ == ["create_app"]
    assert callable(pkiserver.create_app)
    assert storage.__all__ == [
        "Database", "IntegrityError", "Reader", "Row", "Transaction", "migrate", "open_database",
    ]  # fmt: skip
    assert server.__all__ == [
        "Listener", "MakeListeners", "Server", "TLSFiles", "Timeouts", "bind", "run",
    ]  # fmt: skip
    with pytest.raises(AttributeError):
        pkiserver.create_ap  # noqa: B018


def test_a_codec_is_imported_without_the_server() -> None:
    code = (
        "import sys, pkiserver, pkiserver.pkix.csr, pkiserver.ca.ocsp_codec\n"
        "print([name for name in ('starlette', 'hypercorn', 'httptools') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_import_contracts_hold() -> None:
    """import-linter, as in the gate: pyproject.toml has the contracts."""
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
