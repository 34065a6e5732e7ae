"""`[acme.NAME]`: one ACME directory."""

import datetime as dt
from typing import Literal

from pydantic import Field

from pkiserver.config import NameRules, Section
from pkiserver.config_types import Duration, DurationOrZero, Limit, Rate

ChallengeName = Literal["http-01", "dns-01", "tls-alpn-01", "dns-account-01", "dns-persist-01"]


_ANY = NameRules(allow=("*",))


def _days(count: int) -> dt.timedelta:
    return dt.timedelta(days=count)


class ACMESettings(Section):
    """An ACME directory at `/acme/NAME/directory`."""

    profile: str = Field("tls-server", description="Profile of an order that names none")
    profiles: tuple[str, ...] = Field(
        (), description="Further profiles that an order may name (meta.profiles)"
    )
    authorization: Literal["challenge", "trusted"] = Field(
        "challenge", description="trusted: the authenticated account is enough"
    )
    challenges: tuple[ChallengeName, ...] = Field(
        ("http-01", "dns-01", "tls-alpn-01"), min_length=1, description="Challenges on offer"
    )
    http01_port: int = Field(80, ge=1, le=65535, description="Port http-01 connects to")
    tls_alpn01_port: int = Field(443, ge=1, le=65535, description="Port tls-alpn-01 connects to")
    dns_resolvers: tuple[str, ...] = Field(
        (), description="Resolvers as HOST or HOST:PORT; empty: the system's"
    )
    dns_authoritative: bool = Field(
        False, description="Ask the zone's own name servers instead of a resolver"
    )
    deny_networks: tuple[str, ...] = Field(
        (), description="Networks that validation must not reach, beyond those always denied"
    )
    allow_loopback: bool = Field(
        False, description="Validation may reach loopback addresses; `up` sets it"
    )
    validation_timeout: Duration = Field(
        dt.timedelta(seconds=10), description="Longest time one validation attempt may take"
    )
    external_account_required: bool = Field(
        False, description="New accounts need an external account binding"
    )
    terms_of_service: str = Field("", description="URL of the terms; clients must agree to them")
    website: str = Field("", description="URL for people")
    caa_identities: tuple[str, ...] = Field(
        (), description="Domain names by which CAA and dns-persist-01 records name us"
    )
    dns: NameRules = Field(_ANY, description="DNS names this directory serves")
    ip: NameRules = Field(_ANY, description="IP addresses this directory serves")
    max_identifiers: int = Field(100, ge=1, le=1000, description="Most identifiers in an order")
    order_lifetime: Duration = Field(_days(7), description="Time an order may stay unfinished")
    authorization_lifetime: DurationOrZero = Field(
        _days(30), description="Time a valid authorization is reused; 0s: never"
    )
    retention: DurationOrZero = Field(
        _days(30), description="Orders and authorizations are deleted this long after expiry"
    )
    accounts_per_address: Limit = Field(
        Rate(count=100, period=dt.timedelta(hours=1)),
        description="New accounts per address; of IPv6 per /64",
    )
    orders_per_account: Limit = Field(
        Rate(count=1000, period=dt.timedelta(hours=1)), description="New orders per account"
    )
    failures_per_name: Limit = Field(
        Rate(count=30, period=dt.timedelta(hours=1)),
        description="Failed validations per account and name",
    )
