"""Documents that are written from the sources are up to date, and examples load."""

import configparser
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pkiserver.app import load_settings
from pkiserver.cli.main import whole_command
from pkiserver.cli.reference import cli_text, configuration_text
from pkiserver.config import CoreSettings
from pkiserver.registry import available, sections

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("name", "write"), [("configuration.md", configuration_text), ("cli.md", cli_text)]
)
def test_reference_is_what_the_program_does(name: str, write: Callable[[], str]) -> None:
    """If not: `python -m pkiserver.cli.reference docs`."""
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == write()


def test_every_key_has_a_description() -> None:
    models = [
        *(field.annotation for field in CoreSettings.model_fields.values()),
        *sections(available()).values(),
    ]
    for model in models:
        for key, field in getattr(model, "model_fields", {}).items():
            assert field.description, f"{model}: {key}"


def test_defaults_in_the_reference_are_values_that_load(tmp_path: Path) -> None:
    text = configuration_text()
    label = text.partition("## [est.NAME]")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| `(\w+)` \| [^|]* \| `(.+?)` \|", label, re.MULTILINE)
    assert len(lines) > 10
    values = "\n".join(f"{key} = {value}" for key, value in lines)
    (tmp_path / "pkiserver.toml").write_text(f"[est.default]\n{values}\n", encoding="utf-8")
    written = load_settings(tmp_path).section("est")["default"]
    assert written == type(written)()


def test_the_example_configuration_loads(tmp_path: Path) -> None:
    example = (ROOT / "config" / "pkiserver.toml").read_text(encoding="utf-8")
    (tmp_path / "pkiserver.toml").write_text(example, encoding="utf-8")
    settings = load_settings(tmp_path)
    assert settings.server.http_base == "http://pki.example.com"
    assert set(settings.section("acme")) == {"default", "internal"}


def test_what_the_example_has_commented_out_loads_too(tmp_path: Path) -> None:
    example = (ROOT / "config" / "pkiserver.toml").read_text(encoding="utf-8")
    text = re.sub(r"^# ((\[[\w.]+\]|\w+ = .*))$", r"\1", example, flags=re.MULTILINE)
    assert text != example
    (tmp_path / "pkiserver.toml").write_text(text, encoding="utf-8")
    settings = load_settings(tmp_path)
    assert settings.keys.passphrase_credential == "pkiserver-passphrase"


def test_the_unit_runs_commands_that_exist() -> None:
    unit = configparser.ConfigParser(
        strict=False, interpolation=None, comment_prefixes=("#",), delimiters=("=",)
    )
    unit.read(ROOT / "config" / "systemd" / "pkiserver.service")
    documented = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for key in ("ExecStartPre", "ExecStart"):
        command = unit["Service"][key].split()[1]
        assert f"## pkiserver {command}\n" in documented


@pytest.mark.parametrize("name", ["nginx.conf", "Caddyfile"])
def test_proxy_samples_say_keys_that_exist(name: str) -> None:
    sample = (ROOT / "config" / "proxy" / name).read_text(encoding="utf-8")
    keys = re.findall(r"^#   (\w+) = ", sample, flags=re.MULTILINE)
    assert set(keys) == {"https", "http", "external_url", "external_http_url", "trusted_proxies"}
    assert set(keys) <= set(type(CoreSettings().server).model_fields)


def written_commands() -> list[list[str]]:
    """What people are told to type: lines of fenced blocks that begin with `pkiserver`."""
    found = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for block in re.findall(r"```\w*\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("pkiserver "):
                    found.append(shlex.split(line, comments=True)[1:])
    return found


@pytest.mark.parametrize("words", written_commands(), ids=" ".join)
def test_commands_in_documents_exist_with_their_options(words: list[str]) -> None:
    here: Any = whole_command()
    rest = list(words)
    while hasattr(here, "commands"):
        assert rest and rest[0] in here.commands, words
        here = here.commands[rest.pop(0)]
    known = {name for param in here.params for name in (*param.opts, *param.secondary_opts)}
    assert {word.split("=")[0] for word in rest if word.startswith("-")} <= known


_LINK = re.compile(r"\]\(([^)#:]*)(?:#([^)]*))?\)")


def headings(page: Path) -> set[str]:
    """The fragments that lead into a page, in the form GitHub gives them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_in_documents_lead_somewhere() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    broken = [
        f"{page.relative_to(ROOT)}: {target}#{fragment}"
        for page in pages
        for target, fragment in _LINK.findall(page.read_text(encoding="utf-8"))
        if not (there := (page.parent / target if target else page)).exists()
        or (fragment and fragment not in headings(there))
    ]
    assert not broken


def test_the_tree_in_architecture_is_the_one_there_is() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?<!\S)(\w+(?:/|\.py))(?=\s)", text.split("```")[1]))
    tops = [ROOT / "pkiserver", ROOT / "protocols"]
    there = {f"{each.parent.name}/" for top in tops for each in top.glob("*/__init__.py")}
    there |= {each.name for each in (ROOT / "pkiserver").glob("[a-z]*.py")}
    besides = {"pkiserver/", "protocols/", "config/", "tests/", "interop/", "docs/"}
    assert named - besides == there
    assert besides <= named


def test_every_promise_names_tests_that_exist() -> None:
    """The table in docs/architecture.md."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    places = re.findall(r"`((?:tests|interop)/[^`]+)`", text)
    assert places
    assert [place for place in places if not list(ROOT.glob(place))] == []
