"""The part of `[scep.NAME]` that says what authorises an enrolment."""

import datetime as dt
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from pkiserver.config import Section
from pkiserver.config_types import Duration, DurationOrZero

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def is_confidential(url: str) -> bool:
    """HTTPS, or a host that is this one: no secret leaves the machine in the clear."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    return (parts.scheme == "https" and bool(host)) or (
        parts.scheme == "http" and host in _LOOPBACK
    )


def _confidential(url: str) -> str:
    if url and not is_confidential(url):
        raise ValueError("write https://HOST/...; http is for this host only")
    return url


def _base(url: str) -> str:
    return _confidential(url.rstrip("/"))


ConfidentialURL = Annotated[str, AfterValidator(_confidential)]
BaseURL = Annotated[str, AfterValidator(_base)]


class WebhookSettings(Section):
    """A service of yours that decides about each enrolment."""

    url: ConfidentialURL = Field(min_length=1, description="Where requests are posted")
    secret_file: str = Field("", description="File with the base64 HMAC key that signs requests")
    secret_env: str = Field("", description="Environment variable with that key")
    ca_file: str = Field("", description="PEM anchors of the service; empty: the system's")
    timeout: Duration = Field(dt.timedelta(seconds=10), description="Longest time a decision takes")

    @model_validator(mode="after")
    def _signed(self) -> Self:
        if bool(self.secret_file) == bool(self.secret_env):
            raise ValueError("set one of webhook.secret_file and webhook.secret_env")
        return self


class IntuneSettings(Section):
    """Microsoft Intune; the defaults are those of the global cloud."""

    tenant: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]{0,254}$", description="Tenant id or domain name"
    )
    client_id: str = Field(
        pattern=r"^[0-9A-Fa-f-]{36}$", description="Application (client) id of the app registration"
    )
    client_secret_file: str = Field("", description="File with the client secret")
    client_secret_env: str = Field("", description="Environment variable with the client secret")
    login_url: BaseURL = Field(
        "https://login.microsoftonline.com", description="Microsoft Entra of your cloud"
    )
    graph_url: BaseURL = Field(
        "https://graph.microsoft.com", description="Microsoft Graph of your cloud"
    )
    resource: ConfidentialURL = Field(
        "https://api.manage.microsoft.com/", description="Intune's resource, slash at the end"
    )
    provider: str = Field(
        "pkiserver/0.1",
        pattern=r"^[!-~]+(?: [!-~]+)*$",
        max_length=100,
        description="Name and version Intune shows",
    )
    proxy: str = Field("", description="HTTP proxy for these calls, http://HOST:PORT")
    ca_file: str = Field("", description="PEM anchors for these calls; empty: the system's")
    timeout: Duration = Field(dt.timedelta(seconds=20), description="Longest time one call takes")
    revocation_interval: DurationOrZero = Field(
        dt.timedelta(minutes=5), description="How often Intune is asked what to revoke; 0s: never"
    )

    @model_validator(mode="after")
    def _secret(self) -> Self:
        if bool(self.client_secret_file) == bool(self.client_secret_env):
            raise ValueError("set one of intune.client_secret_file and intune.client_secret_env")
        return self


class ChallengeSettings(Section):
    """What an enrolment without an earlier certificate has to bring."""

    challenge: Literal["one-time", "static", "webhook", "intune", "none"] = Field(
        "one-time", description="What authorises an enrolment; none: a person's approval alone"
    )
    challenge_lifetime: Duration = Field(
        dt.timedelta(minutes=60), description="Time a one-time challenge can be used in"
    )
    challenge_limit: int = Field(
        1000, ge=1, le=100_000, description="Most unused one-time challenges handed out over HTTPS"
    )
    challenge_secret_file: str = Field("", description="File with the static challenge")
    challenge_secret_env: str = Field("", description="Variable with the static challenge")
    webhook: WebhookSettings | None = Field(None, description='For `challenge = "webhook"`')
    intune: IntuneSettings | None = Field(None, description='For `challenge = "intune"`')

    @model_validator(mode="after")
    def _complete(self) -> Self:
        static = bool(self.challenge_secret_file) + bool(self.challenge_secret_env)
        given = {"static": static, "webhook": self.webhook, "intune": self.intune}
        for kind, value in given.items():
            if bool(value) != (self.challenge == kind):
                raise ValueError(_HINTS[kind])
        if static > 1:
            raise ValueError(_HINTS["static"])
        return self


_HINTS = {
    "static": 'challenge = "static" needs one of challenge_secret_file and challenge_secret_env, '
    "and nothing else may have them",
    "webhook": 'challenge = "webhook" needs [scep.NAME.webhook], and nothing else may have it',
    "intune": 'challenge = "intune" needs [scep.NAME.intune], and nothing else may have it',
}
