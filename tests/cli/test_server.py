"""`init`, `up`, `serve`, `check`."""

import asyncio
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from interop.ports import free_ports
from pkiserver.app import load_settings
from pkiserver.cli.server import print_card
from pkiserver.initialise import NewHome, initialise
from pkiserver.run import prepare
from tests.cli.conftest import CLI

COMMAND = [sys.executable, "-c", "from pkiserver.cli.main import run; run()"]


def test_init_makes_a_home_only_its_owner_can_read(cli: CLI, tmp_path: Path) -> None:
    home = tmp_path / "new"
    organization = 'A "B", C=D; \\ é'
    assert cli("init", "--organization", organization, at=home).status == 0
    for path in (home, home / "keys"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for path in (*(home / "keys").iterdir(), home / "admin.token", home / "pki.db"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert cli("ca", "list", "--json", at=home).json[0]["key"] == "p384"
    assert cli("init", at=home).status == 2


@pytest.mark.parametrize(
    "words",
    [
        ["--https", "garbage"], ["--https", "127.0.0.1:65536"], ["--http", "::1"],
        ["--hostname", 'a"b'], ["--hostname", ""], ["--root-key", "dsa"], ["--issuing-key", "p1"],
        ["--organization", "x" * 200],
    ],
)  # fmt: skip
def test_init_refuses_and_leaves_nothing(cli: CLI, tmp_path: Path, words: list[str]) -> None:
    home = tmp_path / "new"
    result = cli("init", *words, at=home)
    assert result.status == 2 and result.err.count("\n") == 1
    assert not home.exists() or not any(home.iterdir())


def test_a_failure_on_the_way_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PKISERVER_KEYS__PASSPHRASE_ENV", "NOT_SET_ANYWHERE")
    with pytest.raises(Exception, match="NOT_SET_ANYWHERE"):
        initialise(tmp_path / "new", NewHome())
    assert not any((tmp_path / "new").iterdir())


@pytest.mark.parametrize("command", ["up", "serve"])
def test_a_port_in_use_is_said(cli: CLI, home: Path, command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        text = (home / "pkiserver.toml").read_text().replace("127.0.0.1:8443", address)
        (home / "pkiserver.toml").write_text(text)
        result = cli(command)
    assert result.status == 2 and "in use" in result.err and result.err.count("\n") == 1


def test_up_refuses_options_that_make_no_sense(cli: CLI) -> None:
    for words in (["--https", "x"], ["--hostname", "x y"], ["--workers", "0"]):
        result = cli("up", *words)
        assert result.status == 2 and result.err.count("\n") == 1


def test_check_says_every_mistake_with_its_place(cli: CLI, home: Path) -> None:
    path = home / "pkiserver.toml"
    path.write_text('[server]\nhtps = "x"\nworkers = "many"\n[acme.default]\nchallenges = []\n')
    result = cli("check")
    assert result.status == 2
    for key in ("server.htps", "server.workers", "acme.default.challenges"):
        assert f"{path}: {key}: " in result.err


def test_check_goes_on_after_a_mistake(cli: CLI, home: Path) -> None:
    path = home / "pkiserver.toml"
    mistakes = 'certificate = "none.pem"\n[profiles.x]\nissuer = "nobody"\n'
    mistakes += '[acme.a]\nprofile = "y"\n[scep.b]\nprofile = "y"\n'
    path.write_text(f"[server]\n{mistakes}", encoding="utf-8")
    result = cli("check")
    assert result.status == 2
    lines = result.err.splitlines()
    assert [line.removeprefix(f"pkiserver: {path}: ").split(": ")[0] for line in lines] == [
        "profiles.x", "server.certificate", "acme.a", "scep.b",
    ]  # fmt: skip


def test_check_of_a_sound_configuration(cli: CLI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PKISERVER_SERVER__HOSTNAME", "pki.example.com")
    result = cli("check")
    assert (result.status, result.err) == (0, "")


def test_up_makes_a_home_serves_and_stops_at_a_signal(tmp_path: Path) -> None:
    home = tmp_path / "pki"
    https, http = free_ports(2)
    words = ["--home", home, "--https", f"127.0.0.1:{https}", "--http", f"127.0.0.1:{http}"]
    environment = {key: value for key, value in os.environ.items() if "PKISERVER" not in key}
    with subprocess.Popen(
        [*COMMAND, "up", *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=environment,
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        card = []
        while "pkiserver is up." not in card and process.poll() is None:
            card.append(process.stdout.readline().rstrip())
        assert process.poll() is None, process.stderr.read()
        context = ssl.create_default_context(cafile=str(home / "root.pem"))
        url = f"https://localhost:{https}/acme/default/directory"
        with urllib.request.urlopen(url, context=context) as answer:
            assert b"newOrder" in answer.read()
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()
        assert process.wait(20) == 0
    assert url in rest and "certbot" in rest
    for part in ("/.well-known/est", "/scep/default", "/ocsp/issuing", "/crl/issuing.crl"):
        assert part in rest
    assert f"est user add device-1 --home {home}" in rest
    assert f"scep challenge --home {home}" in rest
    assert load_settings(home).server.https == f"127.0.0.1:{https}"


def test_the_card_shows_the_authority_that_issues_now(
    cli: CLI, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("ca", "rotate", "issuing").status == 0
    settings = load_settings(home)
    issuing = asyncio.run(prepare(settings, [], development=True))
    capsys.readouterr()
    print_card(settings, issuing)
    card = capsys.readouterr().out
    assert "/ocsp/issuing-2\n" in card and "/crl/issuing-2.crl\n" in card
