"""Settings: read once into frozen, typed values; unknown keys are refused with their place.

The core's sections are here. A protocol brings the model of its own section (`[acme.NAME]`);
`registry.py` puts them together. Any key can come from the environment: `PKISERVER_` and the path,
`__` between levels. Durations are written `90d`, `12h`, `15m`, `30s` or `1y` (365 days).
"""

import datetime as dt
import functools
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    Field,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from pkiserver.config_status import CRLSettings as CRLSettings
from pkiserver.config_status import OCSPSettings as OCSPSettings
from pkiserver.config_types import (
    HTTPSURL,
    HTTPURL,
    Address,
    Duration,
    DurationOrZero,
    Hostname,
    KeyKind,
    Network,
    OptionalAddress,
    split_address,
)
from pkiserver.config_types import Section as Section
from pkiserver.errors import configuration_error

FILE_NAME = "pkiserver.toml"
_PREFIX = "PKISERVER_"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
RESERVED_PROFILES = frozenset({"ca", "ocsp-responder"})
"""What the inventory calls the certificates of authorities and of OCSP responders."""


class ServerSettings(Section):
    """Listeners and URLs."""

    hostname: Hostname = Field(
        "localhost", description="Name in URLs and in the server's certificate"
    )
    https: Address = Field("127.0.0.1:8443", description="ACME and everything else, over TLS")
    http: Address = Field(
        "127.0.0.1:8080", description="OCSP, CRL, CA certificates and SCEP: plain HTTP by design"
    )
    mtls: OptionalAddress = Field(
        "",
        description="A second HTTPS listener, the only one then that asks for client certificates; "
        "empty: `https` does where a protocol takes them",
    )
    external_url: HTTPSURL = Field(
        "", description="What clients see of the HTTPS listener; a proxy's"
    )
    external_http_url: HTTPURL = Field(
        "", description="What clients see of the HTTP listener: goes into every certificate"
    )
    workers: int = Field(1, ge=1, le=64, description="Processes that serve")
    http2: bool = Field(True, description="Offer HTTP/2 by ALPN on the HTTPS listener")
    certificate: str = Field("", description="PEM chain to use instead of one issued to itself")
    certificate_key: str = Field("", description="PEM key that belongs to `certificate`")
    trusted_proxies: tuple[Network, ...] = Field(
        (), description="Networks whose X-Forwarded-For is believed"
    )
    max_body: int = Field(1 << 20, ge=1024, description="Largest request body, in bytes")
    request_timeout: Duration = Field(
        dt.timedelta(seconds=30), description="Longest time a request may take to arrive"
    )
    shutdown_timeout: DurationOrZero = Field(
        dt.timedelta(seconds=10), description="Longest time running requests get at a stop"
    )

    @property
    def https_base(self) -> str:
        """The public base of every HTTPS URL, without a slash at the end."""
        return self.external_url or _base("https", self.hostname, self.https, 443)

    @property
    def mtls_base(self) -> str:
        """The base of URLs for clients with a certificate, without a slash at the end."""
        if not self.mtls:
            return self.https_base
        return _base("https", self.hostname, self.mtls, 443)

    @property
    def http_base(self) -> str:
        """The public base of OCSP, CRL and CA certificate URLs, without a slash at the end."""
        return self.external_http_url or _base("http", self.hostname, self.http, 80)


def _base(scheme: str, hostname: str, address: str, default_port: int) -> str:
    port = split_address(address)[1]
    host = f"[{hostname}]" if ":" in hostname else hostname
    return f"{scheme}://{host}" + ("" if port == default_port else f":{port}")


class StorageSettings(Section):
    """The database."""

    url: str = Field("sqlite:///pki.db", description="sqlite:///FILE, relative to the home")


class KeySettings(Section):
    """Custody of private keys."""

    passphrase_file: str = Field(
        "", description="File with the passphrase of the key files; default keys/passphrase"
    )
    passphrase_env: str = Field("", description="Name of an environment variable that holds it")
    passphrase_credential: str = Field("", description="Name of a systemd credential with it")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (
            sum(map(bool, (self.passphrase_file, self.passphrase_env, self.passphrase_credential)))
            > 1
        ):
            raise ValueError(
                "the passphrase comes from one place: keep one of the passphrase_ keys"
            )
        return self


class LogSettings(Section):
    """Logs, on standard error."""

    format: Literal["json", "console"] = Field("json", description="Form of a log line")
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level")
    requests: bool = Field(True, description="One line per request")


class NameRules(Section):
    """What names of one type may be certified. A deny always wins. Patterns: for DNS
    `host.example.com`, `*.example.com` (one or more labels below), `*` (anything); for e-mail
    and UPN `user@example.com`, `@example.com`, `*`; for URIs a prefix ending in `*`, or the exact
    URI; for IP a network in CIDR form, or `*`."""

    allow: tuple[str, ...] = Field((), description="Patterns that are allowed; empty: none")
    deny: tuple[str, ...] = Field((), description="Patterns that are refused all the same")


_ANY = NameRules(allow=("*",))
_NONE = NameRules()


class ProfileSettings(Section):
    """`[profiles.NAME]`: what may be issued under this name."""

    description: str = Field("", description="One line for people and for ACME's meta.profiles")
    issuer: str = Field("issuing", description="Authority that signs")
    validity: Duration = Field(dt.timedelta(days=90), description="Lifetime, and the longest")
    backdate: DurationOrZero = Field(
        dt.timedelta(minutes=5), description="notBefore lies this far back, for slow clocks"
    )
    key_kinds: tuple[KeyKind, ...] = Field(
        ("rsa-2048", "rsa-3072", "rsa-4096", "p256", "p384", "p521", "ed25519"),
        description="Subject keys that are accepted",
    )
    key_usage: tuple[
        Literal["digitalSignature", "nonRepudiation", "keyEncipherment", "keyAgreement"], ...
    ] = Field(("digitalSignature",), description="keyEncipherment is left out for other than RSA")
    extended_key_usage: tuple[str, ...] = Field(
        (), description="Names (serverAuth, clientAuth, ...) or dotted OIDs"
    )
    subject: str = Field(
        "",
        description="Template such as 'CN={cn},O=Example'; empty: no subject. Fields: cn; of the "
        "names the first dns, ip, email, upn, uri; of the request's subject o, ou, l, st, c, "
        "serialnumber, emailaddress, uid",
    )
    dns: NameRules = Field(_NONE, description="DNS names")
    wildcards: bool = Field(False, description="Wildcard DNS names may be certified")
    ip: NameRules = Field(_NONE, description="IP addresses")
    email: NameRules = Field(_NONE, description="E-mail addresses")
    uri: NameRules = Field(_NONE, description="URIs")
    upn: NameRules = Field(_NONE, description="User principal names (otherName)")
    max_names: int = Field(100, ge=0, le=1000, description="Most names in one certificate")
    require_name: bool = Field(True, description="At least one subjectAltName is needed")
    must_staple: Literal["never", "allowed", "always"] = Field(
        "allowed", description="TLS feature status_request (RFC 7633)"
    )
    policies: tuple[str, ...] = Field((), description="certificatePolicies OIDs")
    crl_url: bool = Field(True, description="Carry a CRL distribution point")
    ocsp_url: bool = Field(True, description="Carry the OCSP URL")
    caa: bool = Field(False, description="Check CAA records (RFC 8659) before issuing")
    lint: Literal["fast", "full"] = Field(
        "fast", description="full: every certificate passes pkilint before it is signed"
    )
    requires_approval: bool = Field(
        False, description="A second person has to approve each certificate first"
    )


class ApprovalSettings(Section):
    """Requests under profiles with `requires_approval`."""

    lifetime: Duration = Field(
        dt.timedelta(days=14),
        description="A request waits this long for a decision, and an approved one for its use",
    )
    pending_per_requester: int = Field(
        100, ge=1, description="Most undecided requests of one requester"
    )
    pending: int = Field(10_000, ge=1, description="Most undecided requests of all")


class CoreSettings(BaseSettings):
    """Everything but the protocols' sections."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        validate_default=True,
    )

    home: Path = Field(Path("pki"), exclude=True, description="Set by --home")
    server: ServerSettings = ServerSettings()
    storage: StorageSettings = StorageSettings()
    keys: KeySettings = KeySettings()
    log: LogSettings = LogSettings()
    profiles: dict[str, ProfileSettings] = Field(default_factory=lambda: dict(SHIPPED_PROFILES))
    ocsp: OCSPSettings = OCSPSettings()
    crl: CRLSettings = CRLSettings()
    approvals: ApprovalSettings = ApprovalSettings()

    @field_validator("profiles", mode="before")
    @classmethod
    def _with_shipped(cls, value: Any) -> Any:
        """Shipped profiles are there unless configured; one of the same name starts from ours."""
        if not isinstance(value, dict):
            return value
        merged: dict[str, Any] = dict(SHIPPED_PROFILES)
        for name, profile in value.items():
            base = SHIPPED_PROFILES.get(name)
            if base is not None and isinstance(profile, dict):
                profile = {**base.model_dump(exclude_unset=True), **profile}
            merged[name] = profile
        return merged

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment overrides the file. Which home it is was decided before: the file of one
        with the keys of another would be a third."""
        given = init_settings()
        home = {"home": given["home"]} if "home" in given else {}
        return InitSettingsSource(settings_cls, home), env_settings, init_settings

    def section(self, protocol: str) -> Mapping[str, Section]:
        """What is configured below `[PROTOCOL.NAME]`, by name."""
        value: Mapping[str, Section] = getattr(self, protocol, {})
        return value


SHIPPED_PROFILES: Mapping[str, ProfileSettings] = {
    "tls-server": ProfileSettings(
        description="TLS servers",
        key_usage=("digitalSignature", "keyEncipherment"),
        extended_key_usage=("serverAuth",),
        dns=_ANY,
        ip=_ANY,
        wildcards=True,
    ),
    "tls-client": ProfileSettings(
        description="TLS clients",
        extended_key_usage=("clientAuth",),
        subject="CN={cn}",
        dns=_ANY,
        email=_ANY,
        upn=_ANY,
        uri=_ANY,
        require_name=False,
    ),
    "device": ProfileSettings(
        description="Devices: 802.1X, routers, mutual TLS",
        validity=dt.timedelta(days=365),
        key_usage=("digitalSignature", "keyEncipherment"),
        extended_key_usage=("clientAuth", "serverAuth"),
        subject="CN={cn}",
        dns=_ANY,
        ip=_ANY,
        email=_ANY,
        upn=_ANY,
        uri=_ANY,
        require_name=False,
    ),
    "smime": ProfileSettings(
        description="E-mail signing and encryption",
        validity=dt.timedelta(days=365),
        key_usage=("digitalSignature", "keyEncipherment"),
        extended_key_usage=("emailProtection",),
        subject="CN={email}",
        email=_ANY,
    ),
    "code-signing": ProfileSettings(
        description="Code signing",
        validity=dt.timedelta(days=365),
        extended_key_usage=("codeSigning",),
        subject="CN={cn}",
        require_name=False,
        ocsp_url=True,
        must_staple="never",
    ),
}


@functools.cache
def settings_class(sections: tuple[tuple[str, type[Section]], ...]) -> type[CoreSettings]:
    """`CoreSettings` with one `dict[name, section]` field per protocol."""
    fields: dict[str, Any] = {
        protocol: (dict[str, model], Field(default_factory=dict))  # type: ignore[valid-type]
        for protocol, model in sections
    }
    return create_model("Settings", __base__=CoreSettings, **fields)


def load(home: Path, sections: Mapping[str, type[Section]]) -> CoreSettings:
    """The settings of a home: its file, then the environment. Raises `PKIError` CONFIGURATION with
    every mistake, one per line, each naming the file, the key and what is wrong."""
    path = home / FILE_NAME
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise configuration_error(f"{path}: {error}") from error
    if "home" in table:
        raise configuration_error(f"{path}: home: set by --home or PKISERVER_HOME, not here")
    return build(home, table, sections)


def build(
    home: Path, table: Mapping[str, Any], sections: Mapping[str, type[Section]]
) -> CoreSettings:
    """Settings from an already parsed table. Raises like `load`."""
    _refuse_unknown_environment(sections)
    try:
        settings = settings_class(tuple(sections.items()))(**{**table, "home": home.absolute()})
    except ValidationError as error:
        lines = [
            f"{_place(home, e['loc'])}: {_key(e['loc'])}: {_message(e)}" for e in error.errors()
        ]
        raise configuration_error("\n".join(lines)) from error
    except SettingsError as error:
        raise configuration_error(_not_json()) from error
    _check_names(settings, sections)
    return settings


def _place(home: Path, location: tuple[int | str, ...]) -> str:
    """Where a key was set: in the file, unless a variable for it or what it is in is set."""
    variables = {variable.upper(): variable for variable in os.environ}
    for length in range(len(location), 0, -1):
        name = _PREFIX + "__".join(str(part) for part in location[:length]).upper()
        if name in variables:
            return f"environment variable {variables[name]}"
    return str(home / FILE_NAME)


def _not_json() -> str:
    ours = sorted(name for name in os.environ if name.upper().startswith(_PREFIX))
    return (
        f"one of the environment variables {', '.join(ours)}: lists and tables are written as JSON "
        """there: '["a", "b"]'"""
    )


def _key(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location)


def _message(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "unknown key; see docs/configuration.md"
    return str(error["msg"]).removeprefix("Value error, ")


def _refuse_unknown_environment(sections: Mapping[str, type[Section]]) -> None:
    """A misspelt `PKISERVER_...` variable is an error like a misspelt key."""
    known = {"HOME", *(name.upper() for name in (*CoreSettings.model_fields, *sections))}
    for variable in os.environ:
        rest = variable.upper().removeprefix(_PREFIX)
        if rest == variable.upper() or rest.startswith("INTEROP"):
            continue
        if rest.split("__")[0] not in known:
            raise configuration_error(f"environment variable {variable}: no such key")


def _check_names(settings: CoreSettings, sections: Mapping[str, type[Section]]) -> None:
    tables = {"profiles": settings.profiles, **{s: settings.section(s) for s in sections}}
    problems = [
        f"{_place(settings.home, (section, name))}: {section}.{name}: {problem}"
        for section, entries in tables.items()
        for name in entries
        if (problem := _name_problem(section, name))
    ]
    if problems:
        raise configuration_error("\n".join(problems))


def _name_problem(section: str, name: str) -> str | None:
    if not _NAME.fullmatch(name):
        return "a name has lower-case letters, digits and hyphens only"
    if section == "profiles" and name in RESERVED_PROFILES:
        return "this name is taken by the server's own certificates; choose another one"
    return None
