"""Structured logs: one event per line, JSON or text, the same for our loggers and the libraries'.

`structlog.get_logger("pkiserver.area")` everywhere. Values under a name that sounds like a secret
are replaced, bytes and unknown objects are shown by type only, and tracebacks carry no local
variables, so that a careless call does not put a key into the log.
"""

import asyncio
import functools
import json
import logging
import re
import sys
import warnings
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal, TextIO

import structlog
from cryptography.utils import CryptographyDeprecationWarning
from structlog.typing import EventDict, Processor

from pkiserver.clock import from_epoch, unix_time

HIDDEN = "[hidden]"

_SECRET_NAME = re.compile(
    r"(^|_)(password|passphrase|passwd|secret|token|challenge_password|authorization|cookie"
    r"|hmac|private_key|key_pem|pin)$",
    re.IGNORECASE,
)
_quote = json.encoder.encode_basestring_ascii
_PLAIN = re.compile(r"[A-Za-z0-9_./:@+*,-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CONTROL_BUT_LINES = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def configure(
    *,
    style: Literal["json", "console"] = "json",
    level: str = "info",
    stream: TextIO | None = None,
    cache: bool = True,
) -> None:
    """Sets up structlog and the standard library's logging, once per process.

    `cache` fixes each logger at its first use; tests that configure twice turn it off.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    output = stream or sys.stderr
    processors = _processors(style)
    _request_lines.stream = output if style == "json" and number <= logging.INFO else None
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=_LineFactory(output),
        cache_logger_on_first_use=cache,
    )
    root = logging.getLogger()
    root.handlers = [_Forward(processors, output)]
    root.setLevel(max(number, logging.WARNING))
    # Of certificates that strangers send; anybody could fill the log with it.
    warnings.filterwarnings("ignore", "Parsed a serial number", CryptographyDeprecationWarning)


def configure_if_nobody_did() -> None:
    """In an application that we are embedded in and that leaves structlog as it is: without this,
    tracebacks would show local variables."""
    if not structlog.is_configured():
        structlog.configure(processors=_processors("console"))


_access: structlog.typing.FilteringBoundLogger = structlog.get_logger("pkiserver.access")


class _RequestLines:
    """Lines about requests, those of one turn of the event loop written together: a system call for
    each would cost more than many an answer. `stream` None: they go the long way, by structlog."""

    def __init__(self) -> None:
        self.stream: TextIO | None = None
        self._lines: list[str] = []
        self._writer: asyncio.AbstractEventLoop | None = None

    def add(self, line: str) -> None:
        self._lines.append(line)
        loop = asyncio.get_running_loop()
        if self._writer is not loop:
            self._writer = loop
            loop.call_soon(self._write)

    def _write(self) -> None:
        self._writer = None
        text = "".join(self._lines)
        self._lines.clear()
        if self.stream is not None:
            self.stream.write(text)
            self.stream.flush()


_request_lines = _RequestLines()


def log_request(
    *, method: str, path: str, status: int, ms: float, client: str | None, request_id: str
) -> None:
    """One line about a request, at level info, the same that a logger of ours would write. In JSON
    it takes a shorter way. To be called in the event loop."""
    if _request_lines.stream is None:
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            _access.info("request", method=method, path=path, status=status, ms=ms, client=client)
        return
    _request_lines.add(
        f'{{"method": {_quote(method)}, "path": {_quote(path)}, "status": {status}, "ms": {ms}, '
        f'"client": {"null" if client is None else _quote(client)}, "event": "request", '
        f'"request_id": {_quote(request_id)}, "logger": "pkiserver.access", "level": "info", '
        f'"timestamp": "{_timestamp()}"}}\n'
    )


def _timestamp() -> str:
    """As structlog's TimeStamper has it."""
    second, rest = divmod(int(unix_time() * 1_000_000), 1_000_000)
    return f"{_second(second)}.{rest:06}Z"


@functools.lru_cache(maxsize=2)
def _second(second: int) -> str:
    return from_epoch(second).isoformat()[:-6]


def _processors(style: str) -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        _add_logger_name,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        hide_secrets,
        _render_json if style == "json" else _render_console,
    ]


class _Line:
    """Writes one rendered event; the filtering logger calls the method of the level."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self.name = name
        self._stream = stream

    def msg(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()

    debug = info = warning = error = critical = exception = fatal = log = msg


class _LineFactory:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, *args: Any) -> _Line:
        return _Line(str(args[0]) if args else "pkiserver", self._stream)


class _Forward(logging.Handler):
    """Sends what libraries log through the same processors."""

    def __init__(self, processors: list[Processor], stream: TextIO) -> None:
        super().__init__()
        self._processors = processors
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event: Any = {"event": record.getMessage(), "exc_info": record.exc_info}
            target = _Line(record.name, self._stream)
            for processor in self._processors:
                event = processor(target, record.levelname.lower(), event)
            target.msg(event)
        except Exception:
            self.handleError(record)


def _add_logger_name(logger: Any, method: str, event: EventDict) -> EventDict:
    event["logger"] = getattr(logger, "name", "pkiserver")
    return event


def hide_secrets(logger: Any, method: str, event: EventDict) -> EventDict:
    """Replaces the values of secret-sounding names, also inside mappings and lists."""
    for name, value in event.items():
        # Most values are plain, and their names the same few: a line per request is a hot path.
        if type(value) is not str or _is_secret(name):
            event[name] = _shown(name, value)
    return event


@functools.lru_cache(maxsize=1024)
def _is_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def _shown(name: str, value: Any) -> Any:
    if value is None or isinstance(value, (int, float)):
        return value
    if _is_secret(name):
        return HIDDEN
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _shown(str(key), inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_shown(name, inner) for inner in value]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value)} bytes>"
    return f"<{type(value).__name__}>"


def _render_json(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
    return json.dumps(event)


def _render_console(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
    time, level = event.pop("timestamp"), event.pop("level")
    text, logger_name = event.pop("event"), event.pop("logger")
    exception = event.pop("exception", "")
    pairs = "".join(f" {name}={_quoted(value)}" for name, value in event.items())
    # No control characters: a client must not steer the terminal of whoever reads this.
    line = f"{time} {level:<8} {logger_name}: {_CONTROL.sub('?', str(text))}{pairs}"
    return f"{line}\n{_CONTROL_BUT_LINES.sub('?', str(exception))}" if exception else line


def _quoted(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
