"""docs/configuration.md and docs/cli.md, written from the settings' models and the commands, so
that they say what the program does: `python -m pkiserver.cli.reference docs`."""

import datetime as dt
import enum
import inspect
import sys
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pkiserver import registry
from pkiserver.cli.main import whole_command
from pkiserver.config import SHIPPED_PROFILES, CoreSettings, NameRules, ProfileSettings

_GENERATED = (
    "<!-- Written by `python -m pkiserver.cli.reference docs`; edit the sources instead. -->"
)
_CONFIGURATION = """\
# Configuration

One file, `pkiserver.toml` in the home directory. Unknown keys are refused; `pkiserver check` says
every mistake with its place. [config/pkiserver.toml](../config/pkiserver.toml) is an example.

Any key can be set from the environment instead, which wins over the file: `PKISERVER_` and the path
in upper case with `__` between levels. Lists and tables are written as JSON there.

```
PKISERVER_SERVER__WORKERS=4
PKISERVER_ACME__DEFAULT__DNS_RESOLVERS='["192.0.2.53"]'
```

A *duration* is a number and one of s, m, h, d, w, y (365 days): `"90d"`. A *rate* is a number and a
duration, `"300/1h"`; `false` is no limit. Paths are relative to the home directory. Secrets are
never in the file: keys name the file or the variable that holds them.
"""
_CLI = """\
# Command line

`pkiserver COMMAND`. Every command takes `--help` and `--home DIR` (default: `$PKISERVER_HOME`, else
`./pki`). With `--json`, standard output is JSON and nothing else.

Errors are one line on standard error that says what is wrong and what to do. Exit status: 0 done,
2 a refusal or a mistake in the command or the configuration, 1 a failure, 3 a request that waits
for approval, 130 interrupted.

Commands may be used while a server runs on the same home: it sees what they did within seconds.
"""
_UNITS = (("y", 31_536_000), ("w", 604_800), ("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))


# Configuration


def configuration_text() -> str:
    """docs/configuration.md."""
    parts = [_GENERATED, _CONFIGURATION]
    for name, field in CoreSettings.model_fields.items():
        model = _section_of(field.annotation)
        if model is not None and name != "profiles":
            parts.append(_table(f"[{name}]", model))
    parts.append(_profiles())
    plugins = registry.available()
    nested: dict[type[BaseModel], str] = {}
    for name, model in registry.sections(plugins).items():
        parts.append(_table(f"[{name}.NAME]", model))
        for key, inner in _nested(model):
            nested.setdefault(inner, f"[{name}.NAME.{key}]" if _is_table(inner) else inner.__name__)
    parts.append(_table("Name rules", NameRules))
    for inner, title in nested.items():
        if inner is not NameRules:
            parts.append(_table(title, inner))
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _profiles() -> str:
    lines = [
        _table("[profiles.NAME]", ProfileSettings),
        "Shipped; a table of the same name changes",
    ]
    lines += ["the keys it sets and leaves the others as they are here:", ""]
    for name, profile in SHIPPED_PROFILES.items():
        given = profile.model_dump(exclude_unset=True, exclude={"description"})
        keys = ", ".join(f"`{key} = {_value(getattr(profile, key))}`" for key in given)
        lines.append(f"- `{name}` ({profile.description}): {keys}")
    return "\n".join(lines)


def _table(title: str, model: type[BaseModel]) -> str:
    description = " ".join(inspect.cleandoc(model.__doc__ or "").split())
    lines = [f"## {title}", "", description, "", "| key | type | default | |", "|---|---|---|---|"]
    for key, field in model.model_fields.items():
        kind = _kind(field.annotation) + _bounds(field)
        default = "required" if field.is_required() else _written_default(field)
        lines.append(f"| `{key}` | {kind} | {default} | {_cell(field.description or '')} |")
    return "\n".join(lines) + "\n"


def _written_default(field: FieldInfo) -> str:
    """Empty where it cannot be written as a value."""
    section, value = _section_of(field.annotation), _default(field)
    if _is_table(section) or (value is None and section is None):
        return ""
    return f"`{_value(value)}`"


def _default(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True, validated_data={})


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The model of `X`, `X | None` or `dict[str, X]`."""
    for candidate in (annotation, *typing.get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _nested(model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    for key, field in model.model_fields.items():
        inner = _section_of(field.annotation)
        if inner is not None:
            yield key, inner


def _is_table(model: type[BaseModel] | None) -> bool:
    """Whether it is written as a table of its own, not as a value."""
    return model is not None and model.__name__.endswith("Settings")


def _kind(annotation: Any) -> str:
    """A type for people."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _kind(arguments[0])
    if origin is typing.Literal:
        return "one of " + ", ".join(f"`{_value(each)}`" for each in arguments)
    if origin is tuple:
        return f"list of {_kind(arguments[0])}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_kind(each) for each in arguments if each is not type(None))
    model = _section_of(annotation)
    if model is not None:
        if _is_table(model):
            return "table"
        return "name rules" if model is NameRules else model.__name__.lower()
    return {str: "text", int: "number", bool: "true or false", dt.timedelta: "duration"}[annotation]


def _bounds(field: FieldInfo) -> str:
    known = {type(each).__name__: each for each in field.metadata}
    least, most = getattr(known.get("Ge"), "ge", None), getattr(known.get("Le"), "le", None)
    if least is not None and most is not None:
        return f", {least} to {most}"
    return "" if least is None else f", {least} or more"


def _value(value: Any) -> str:
    """As TOML, on one line."""
    match value:
        case bool():
            return str(value).lower()
        case enum.Enum() | str():
            return f'"{value}"'
        case dt.timedelta():
            return f'"{_duration(value)}"'
        case tuple() | list():
            return f"[{', '.join(_value(each) for each in value)}]"
        case BaseModel():
            return _section_value(value)
        case None:
            return "false"
    return str(value)


def _section_value(value: BaseModel) -> str:
    members = value.model_dump(exclude_defaults=True)
    if set(members) == {"count", "period"}:
        return f'"{members["count"]}/{_duration(members["period"])}"'
    inner = ", ".join(f"{key} = {_value(each)}" for key, each in members.items())
    return f"{{ {inner} }}" if inner else "{}"


def _duration(value: dt.timedelta) -> str:
    seconds = int(value.total_seconds())
    for unit, length in _UNITS:
        if seconds and seconds % length == 0 and unit != "w":
            return f"{seconds // length}{unit}"
    return "0s"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


# Commands


def cli_text() -> str:
    """docs/cli.md."""
    parts = [_GENERATED, _CLI]
    for path, each in _commands("pkiserver", whole_command()):
        parts.append(_command(path, each))
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _commands(path: str, group: Any) -> Iterator[tuple[str, Any]]:
    """Every command with its words, in the order of the help."""
    inner = getattr(group, "commands", None)
    if inner is None:
        yield path, group
        return
    for name, each in inner.items():
        yield from _commands(f"{path} {name}", each)


def _command(path: str, leaf: Any) -> str:
    hints = typing.get_type_hints(inspect.unwrap(leaf.callback))
    arguments = [p for p in leaf.params if p.param_type_name == "argument"]
    options = [p for p in leaf.params if p.param_type_name == "option"]
    words = " ".join([path, "[OPTIONS]", *(_argument(p) for p in arguments)])
    text = " ".join((leaf.help or "").split())
    lines = [f"## {path}", "", f"`{words}`", "", text, ""]
    lines += [f"- `{_argument(p)}`: {p.help}" for p in arguments if p.help]
    lines += [_option(p, hints[p.name]) for p in options if p.name not in ("help", "home")]
    return "\n".join(lines)


def _argument(param: Any) -> str:
    name = param.metavar or param.name.upper()
    name += "..." if param.nargs == -1 else ""
    return name if param.required else f"[{name}]"


def _option(param: Any, annotation: Any) -> str:
    names = " / ".join([*param.opts, *param.secondary_opts])
    value = "" if param.is_flag else f" {param.metavar or _placeholder(annotation)}"
    notes = [*_choices(annotation), *_default_note(param)]
    if param.multiple:
        notes.append("may be repeated")
    extra = f" ({'; '.join(notes)})" if notes else ""
    return f"- `{names}{value}`: {param.help}{extra}"


def _default_note(param: Any) -> list[str]:
    if param.required:
        return ["required"]
    if param.is_flag or param.default in (None, "", ()) or callable(param.default):
        return []
    shown = param.show_default if isinstance(param.show_default, str) else param.default
    return [f"default: `{shown}`"]


def _inner(annotation: Any) -> Any:
    """`X` of `X`, `X | None`, `list[X]` and `list[X] | None`."""
    while typing.get_origin(annotation) in (typing.Union, types.UnionType, list):
        annotation = next(a for a in typing.get_args(annotation) if a is not type(None))
    return annotation


def _placeholder(annotation: Any) -> str:
    known = {int: "N", Path: "FILE", dt.datetime: "TIME"}
    return known.get(_inner(annotation), "WORD" if _choices(annotation) else "TEXT")


def _choices(annotation: Any) -> list[str]:
    inner = _inner(annotation)
    values: Sequence[object] = ()
    if typing.get_origin(inner) is typing.Literal:
        values = typing.get_args(inner)
    elif isinstance(inner, type) and issubclass(inner, enum.Enum):
        values = [each.value for each in inner]
    return [", ".join(f"`{value}`" for value in values)] if values else []


def main(folder: Path) -> None:
    """Write both files."""
    (folder / "configuration.md").write_text(configuration_text(), encoding="utf-8")
    (folder / "cli.md").write_text(cli_text(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
