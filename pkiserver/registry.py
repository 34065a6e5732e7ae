"""Which protocols there are: ours from an explicit table, others by the entry-point group
`pkiserver.protocols`. Only what the configuration enables is imported; one that cannot be loaded
stops the start. This is the only module that writes the name `protocols`."""

import functools
import importlib
import importlib.metadata
from collections.abc import Iterable, Mapping
from pathlib import Path

from pkiserver.config import CoreSettings, Section
from pkiserver.errors import configuration_error
from pkiserver.plugin import Plugin

GROUP = "pkiserver.protocols"
BUILT_IN: Mapping[str, str] = {
    "acme": "protocols.acme.plugin",
    "scep": "protocols.scep.plugin",
    "est": "protocols.est.plugin",
    "ocsp": "protocols.ocsp.plugin",
    "crl": "protocols.crl.plugin",
}


def available() -> dict[str, Plugin]:
    """Every plug-in by name. Raises `PKIError` CONFIGURATION if one cannot be loaded."""
    _refuse_shadow()
    plugins = {name: _load(name, module) for name, module in BUILT_IN.items()}
    for point in _entry_points():
        if point.name in plugins:
            raise configuration_error(f"plug-in {point.name!r} ({point.value}) is there twice")
        plugins[point.name] = _checked(point.name, _imported(point))
    return plugins


@functools.cache
def _entry_points() -> tuple[importlib.metadata.EntryPoint, ...]:
    """Looked for once: every installed distribution is opened for it."""
    return tuple(importlib.metadata.entry_points(group=GROUP))


def sections(plugins: Mapping[str, Plugin]) -> dict[str, type[Section]]:
    """The configuration sections plug-ins bring."""
    return {name: p.settings for name, p in plugins.items() if p.settings is not None}


def enabled(plugins: Mapping[str, Plugin], settings: CoreSettings) -> list[Plugin]:
    """Those without a section of their own, and those whose section is configured."""
    return [
        plugin
        for name, plugin in plugins.items()
        if plugin.settings is None or settings.section(name)
    ]


def migrations(plugins: Iterable[Plugin]) -> dict[str, Path]:
    """The folders with plug-ins' migrations."""
    return {p.name: p.migrations for p in plugins if p.migrations is not None}


def _load(name: str, module: str) -> Plugin:
    return _checked(name, importlib.import_module(module).PLUGIN)


def _imported(point: importlib.metadata.EntryPoint) -> object:
    try:
        return point.load()
    except Exception as error:  # anything may go wrong in what we did not write
        raise configuration_error(
            f"plug-in {point.name!r} ({point.value}) cannot be loaded; mend or uninstall it: "
            f"{error!r}"
        ) from error


def _checked(name: str, plugin: object) -> Plugin:
    if not isinstance(plugin, Plugin) or plugin.name != name:
        raise configuration_error(f"plug-in {name!r} is not a pkiserver.plugin.Plugin of that name")
    return plugin


def _refuse_shadow() -> None:
    """`protocols` is a plain name: another package of that name on the path must not be ours."""
    found = importlib.import_module("protocols").__file__
    ours = Path(__file__).parent.parent / "protocols" / "__init__.py"
    if found is None or not ours.exists() or not Path(found).samefile(ours):
        raise configuration_error(
            f"another package named 'protocols' hides ours: {found}; remove it from the Python path"
        )
