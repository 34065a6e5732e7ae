"""The command line as a whole: every command says what is wrong in a line, never a traceback."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pkiserver.cli.main import main, whole_command
from pkiserver.cli.output import printable
from tests.cli.conftest import CLI

SERVES = {("up",), ("serve",)}
"""With a sound home these would serve."""


def commands(group: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, inner in getattr(group, "commands", {}).items():
        yield from commands(inner, *path, name)
    if not hasattr(group, "commands"):
        yield path, group


LEAVES = dict(commands(whole_command()))


def words_for(path: tuple[str, ...], text: str) -> list[str]:
    """The command with `text` for every argument and every option that takes one."""
    words = list(path)
    for param in LEAVES[path].params:
        if param.param_type_name == "argument":
            words.append(text)
        elif param.name != "home" and not param.is_flag:
            words += [param.opts[0], text]
    return words


SOUND = {
    "which": "1f", "name": "issuing", "subject": "CN=X", "out": "file2", "reason": "superseded",
    "role": "admin", "token_id": "x", "key_id": "x", "account": "x", "files": "file", "key": "file",
    "certificates": "file", "parent": "root", "why": "no",
}  # fmt: skip


def words_with(path: tuple[str, ...], target: Any, text: str) -> list[str]:
    """The command with `text` in one place and sound values where a value has to be."""
    words = list(path)
    for param in LEAVES[path].params:
        if param is target or param.required:
            value = text if param is target else SOUND[param.name]
            words += [value] if param.param_type_name == "argument" else [param.opts[0], value]
    return words


def assert_one_line_each(status: int, err: str) -> None:
    assert status in (0, 1, 2)
    assert "Traceback" not in err and "internal error" not in err, err
    assert (status == 0) == (err == ""), err
    assert all(line.startswith("pkiserver: ") for line in err.splitlines()), err


def test_every_command_of_the_contract_is_there() -> None:
    expected = """up init serve check ca:list,show,create,csr,install,import,export
    cert:list,show,issue,renew,revoke,export,expiring approvals:list,show,approve,reject
    crl:show,refresh ocsp:show
    acme:accounts,orders audit:list,verify,export token:create,list,revoke why"""
    for words in expected.split():
        group, _, names = words.partition(":")
        for name in names.split(","):
            assert ((group, name) if name else (group,)) in LEAVES
    assert {path for path in LEAVES if path[:2] == ("acme", "eab")} == {
        ("acme", "eab", name) for name in ("create", "list", "revoke")
    }


@pytest.mark.parametrize("path", LEAVES)
def test_every_command_takes_a_home_and_has_help(path: tuple[str, ...]) -> None:
    leaf = LEAVES[path]
    assert "home" in {param.name for param in leaf.params}
    assert leaf.help and all(param.help for param in leaf.params if param.name != "help")


@pytest.mark.parametrize("path", LEAVES)
def test_a_home_that_is_none_is_a_users_mistake(
    path: tuple[str, ...], cli: CLI, tmp_path: Path
) -> None:
    if path in {("up",), ("init",)}:
        pytest.skip("makes it")
    result = cli(*words_for(path, "1"), at=tmp_path / "nothing")
    assert_one_line_each(result.status, result.err)
    assert result.status == 2


@pytest.mark.parametrize("path", LEAVES)
def test_a_configuration_that_does_not_read_is_a_users_mistake(
    path: tuple[str, ...], cli: CLI, home: Path
) -> None:
    (home / "pkiserver.toml").write_text("[server]\nhostnane = 'x'\n")
    result = cli(*path, *(["x"] * 3 if path not in SERVES else []))
    assert_one_line_each(result.status, result.err)
    assert result.status == 2


@pytest.mark.parametrize("path", sorted(set(LEAVES) - SERVES))
def test_garbage_everywhere_gets_a_line_and_never_a_traceback(
    path: tuple[str, ...], cli: CLI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for text in ("", "\x1b[31m'; DROP TABLE x;--\udcff"):
        result = cli(*words_for(path, text))
        assert_one_line_each(result.status, result.err)
        assert "\x1b" not in result.err + result.out


@pytest.mark.parametrize("path", sorted(set(LEAVES) - SERVES))
def test_garbage_in_one_place_gets_a_line_and_never_a_traceback(
    path: tuple[str, ...], cli: CLI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With sound values for what else has to be said."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"\x30\x82\xff\x00garbage")
    for target in LEAVES[path].params:
        if target.name not in ("home", "help") and not getattr(target, "is_flag", False):
            result = cli(*words_with(path, target, "0x\u202e/..%s\x00=,"))
            assert_one_line_each(result.status, result.err)
            assert "\u202e" not in result.err + result.out


@given(st.text(max_size=60))
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_text_for_an_id(cli: CLI, text: str) -> None:
    for words in (["why"], ["cert", "show"]):
        result = cli(*words, "--", text)
        assert result.status in (0, 2), result.err


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("pkiserver ")
    assert main(["--help"]) == 0
    assert "Commands:" in capsys.readouterr().out
    assert main([]) == 2
    assert "Usage:" in capsys.readouterr().err


def test_a_reader_that_has_had_enough_is_no_error(home: Path) -> None:
    """As in `pkiserver audit export | head -1`."""
    script = "import sys; from pkiserver.cli.main import main; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", script, "audit", "export", "--home", str(home)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 1


@pytest.mark.parametrize(
    ("words", "absent"),
    [
        ("--version", "pydantic cryptography structlog asyncio sqlite3 protocols"),
        ("cert list", "hypercorn h2 httpx dns starlette protocols.acme.build protocols.scep.cli"),
        ("est user list", "hypercorn h2 httpx dns protocols.est.build protocols.scep.cli"),
    ],
)
def test_a_command_imports_what_it_uses(words: str, absent: str, home: Path) -> None:
    script = (
        "import sys; from pkiserver.cli.main import main\n"
        "status = main(sys.argv[1:]); print('', *sys.modules, sep='\\n', file=sys.stderr)\n"
        "sys.exit(status)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, *words.split()],
        env={**os.environ, "PKISERVER_HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not set(ran.stderr.split()) & set(absent.split())


@given(st.text())
def test_what_is_shown_has_no_control_characters(text: str) -> None:
    assert printable(text).isprintable()
