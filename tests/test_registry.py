"""Plug-ins that others install, found by their entry point."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pkiserver import registry
from pkiserver.errors import ErrorCode, PKIError

Install = Callable[[str], None]
SOUND = """
from pkiserver.config_types import Section
from pkiserver.plugin import Plugin

class Settings(Section):
    greeting: str = "hello"

PLUGIN = Plugin(name="theirs", settings=Settings, migrations=None, create=None)
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a distribution with a plug-in of this source on the path."""

    def work(source: str) -> None:
        (tmp_path / "their_plugin.py").write_text(source, encoding="utf-8")
        about = tmp_path / "theirs-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Name: theirs\nVersion: 1.0\n", encoding="utf-8")
        points = f"[{registry.GROUP}]\ntheirs = their_plugin:PLUGIN\n"
        (about / "entry_points.txt").write_text(points, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        registry._entry_points.cache_clear()

    yield work
    sys.modules.pop("their_plugin", None)
    registry._entry_points.cache_clear()


def test_a_plugin_is_found_with_its_sections(install: Install) -> None:
    install(SOUND)
    found = registry.available()
    assert [*found] == [*registry.BUILT_IN, "theirs"]
    assert registry.sections(found)["theirs"].__name__ == "Settings"


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("import nothing_of_that_name", "No module named 'nothing_of_that_name'"),
        ("", "has no attribute 'PLUGIN'"),
        ("raise RuntimeError('too old')", "too old"),
        ("PLUGIN = 1", "is not a pkiserver.plugin.Plugin"),
    ],
)
def test_one_that_cannot_be_loaded_stops_the_start_and_is_named(
    install: Install, source: str, why: str
) -> None:
    install(source)
    with pytest.raises(PKIError, match="theirs") as refused:
        registry.available()
    assert refused.value.code is ErrorCode.CONFIGURATION and why in refused.value.detail
