"""`scep challenge`, `scep challenges` and `scep login`."""

from pathlib import Path

import pytest

from pkiserver.cli.main import main
from tests.cli.conftest import CLI

SECTIONS = """
[scep.default]
[scep.other]
challenge_lifetime = "10m"
[scep.fixed]
challenge = "static"
challenge_secret_env = "SCEP_CHALLENGE"
"""


@pytest.fixture(autouse=True)
def configured(home: Path) -> None:
    config = home / "pkiserver.toml"
    text = config.read_text(encoding="utf-8")
    sections = SECTIONS.replace("[scep.default]\n", "") if "[scep.default]" in text else SECTIONS
    config.write_text(text + sections, encoding="utf-8")


def test_a_challenge_is_the_last_line(cli: CLI) -> None:
    made = cli("scep", "challenge", "--profile", "device", "--subject", "*.lab.example")
    assert made.status == 0, made.err
    secret = made.out.splitlines()[-1]
    assert len(secret) == 32
    (row,) = cli("scep", "challenges", "list", "--json").json
    assert (row["status"], row["subjects"], row["label"]) == (
        "unused", ["*.lab.example"], "default",
    )  # fmt: skip
    for shown in (cli("scep", "challenges", "list").out, cli("audit", "export").out):
        assert secret not in shown
    assert cli("scep", "challenges", "revoke", row["id"]).status == 0
    assert cli("scep", "challenges", "list", "--json").json[0]["status"] == "revoked"
    assert cli("scep", "challenges", "revoke", row["id"]).status == 2


def test_a_challenge_of_another_section(cli: CLI) -> None:
    new = cli("scep", "challenge", "--label", "other", "--expires", "2h", "--json").json
    assert new["label"] == "other" and len(new["challenge"]) == 32
    assert cli("scep", "challenges", "list", "--label", "default", "--json").json == []


@pytest.mark.parametrize(
    "words",
    [("--label", "nothing"), ("--label", "fixed"), ("--profile", "nothing"), ("--subject", "*"),
     ("--expires", "0s"), ("--expires", "2y")],
)  # fmt: skip
def test_mistakes(cli: CLI, words: tuple[str, ...]) -> None:
    result = cli("scep", "challenge", *words)
    assert result.status == 2 and result.err.count("\n") <= 6 and "Traceback" not in result.err


def test_logins(cli: CLI) -> None:
    made = cli("scep", "login", "add", "fleet")
    password = made.out.splitlines()[-1]
    assert made.status == 0 and len(password) == 32
    assert cli("scep", "login", "add", "fleet").status == 2
    listed = cli("scep", "login", "list", "--json")
    assert [(row["name"], row["label"]) for row in listed.json] == [("fleet", "default")]
    assert password not in listed.out and "fleet" in cli("scep", "login", "list").out
    assert cli("scep", "login", "remove", "fleet").status == 0
    assert cli("scep", "login", "remove", "fleet").status == 2
    assert cli("scep", "login", "add", "jamf", "--label", "fixed").status == 2
    assert set(cli("scep", "login", "add", "jamf", "--json").json) == {"name", "label", "password"}


def test_a_secret_that_is_not_there_stops_the_server_and_nothing_else(
    cli: CLI, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SCEP_CHALLENGE", raising=False)
    assert cli("cert", "list").status == 0
    assert main(["scep", "challenges", "list", "--home", str(home)]) == 0
