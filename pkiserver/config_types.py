"""The types of single values in the configuration: durations, addresses, URLs, names, networks.

Each is checked when the configuration is read, and its message says how to write it."""

import contextlib
import datetime as dt
import ipaddress
import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from pkiserver.errors import PKIError
from pkiserver.pkix import names


class Section(BaseModel):
    """A part of the configuration: frozen, and no key it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31_536_000}
_LONGEST = dt.timedelta(days=36_500)


def parse_duration(value: object) -> object:
    """`90d` and the like to a timedelta; ValueError for any other text or number. A number alone
    says nothing about its unit."""
    if isinstance(value, dt.timedelta):
        return value
    match = (
        re.fullmatch(r"(\d{1,9})\s*([smhdwy])", value.strip()) if isinstance(value, str) else None
    )
    if not match:
        raise ValueError("write a duration as a number and one of s, m, h, d, w, y: '90d'")
    seconds = int(match[1]) * _UNITS[match[2]]
    if seconds > _LONGEST.total_seconds():
        raise ValueError("a duration is at most 100 years: '100y'")
    return dt.timedelta(seconds=seconds)


def _positive(value: dt.timedelta) -> dt.timedelta:
    if value <= dt.timedelta(0):
        raise ValueError("a duration longer than nothing is needed here")
    return value


DurationOrZero = Annotated[dt.timedelta, BeforeValidator(parse_duration)]
Duration = Annotated[dt.timedelta, BeforeValidator(parse_duration), AfterValidator(_positive)]
KeyKind = Literal[
    "rsa-2048", "rsa-3072", "rsa-4096", "p256", "p384", "p521", "ed25519", "ed448",
    "ml-dsa-44", "ml-dsa-65", "ml-dsa-87",
]  # fmt: skip


def _check_address(value: str) -> str:
    if not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):\d{1,5}", value):
        raise ValueError("write HOST:PORT or [IPV6]:PORT")
    if split_address(value)[1] > 65535:
        raise ValueError("a port is at most 65535")
    return value


def split_address(address: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port` to host (without brackets) and port."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


Address = Annotated[str, AfterValidator(_check_address)]
OptionalAddress = Annotated[str, AfterValidator(lambda value: value and _check_address(value))]


def _check_hostname(value: str) -> str:
    for parse_name in (names.dns_name, names.ip_address):
        with contextlib.suppress(PKIError):
            known = parse_name(value).value
            if not known.startswith("*"):
                return known
    raise ValueError("write a DNS name or an IP address")


Hostname = Annotated[str, AfterValidator(_check_hostname)]


def _check_url(value: str, schemes: tuple[str, ...]) -> str:
    """Printable ASCII only: the URL goes into certificates as an IA5String."""
    url = value.rstrip("/")
    try:
        parts = urlsplit(url)
        sound = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if url and (not sound or not re.fullmatch(r"[!-~]+", url) or re.search(r"[?#@\\]", url)):
        raise ValueError(f"write {schemes[0]}://HOST, with a port and a path if need be")
    return url


HTTPSURL = Annotated[str, AfterValidator(lambda value: _check_url(value, ("https", "http")))]
HTTPURL = Annotated[str, AfterValidator(lambda value: _check_url(value, ("http",)))]


def _check_network(value: str) -> str:
    try:
        ipaddress.ip_network(value)
    except ValueError as error:
        raise ValueError(f"write an IP address or a network as 192.0.2.0/24: {error}") from error
    return value


Network = Annotated[str, AfterValidator(_check_network)]


class Rate(BaseModel):
    """At most `count` in any `period`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int = Field(ge=1)
    period: Duration


def _parse_rate(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\S+)\s*", value)
    if not match:
        raise ValueError("write a rate as a number, '/', and a duration: '300/1h'")
    return {"count": int(match[1]), "period": parse_duration(match[2])}


Limit = Annotated[Rate | None, BeforeValidator(lambda value: _parse_rate(value) or None)]
