"""What authorises enrolments, put together for all sections: the validators, and what they need to
run (routes over HTTPS, jobs, what happens at a start and a stop)."""

import datetime as dt
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Protocol

import structlog
from starlette.routing import BaseRoute

from pkiserver.errors import PKIError, configuration_error
from pkiserver.plugin import Job, Services
from pkiserver.web.failures import Failures
from protocols.scep.challenge import Validator
from protocols.scep.challenge_settings import ChallengeSettings, IntuneSettings, WebhookSettings
from protocols.scep.intune import IntuneValidator
from protocols.scep.intune_client import IntuneClient
from protocols.scep.intune_revocation import Revocations
from protocols.scep.logins import Logins
from protocols.scep.one_time import OneTimeChallenges
from protocols.scep.outgoing import Outgoing
from protocols.scep.password_pages import Counter, PasswordPages
from protocols.scep.secret import Secret
from protocols.scep.settings import SCEPSettings
from protocols.scep.static_challenge import NoChallenge, StaticChallenge
from protocols.scep.webhook import MOST_BYTES, Webhook

_SWEEP = dt.timedelta(minutes=1)
_CLEAN = dt.timedelta(hours=1)

_log = structlog.get_logger("protocols.scep.challenges")


class _Checked(Protocol):
    def check(self) -> None: ...


class Challenges:
    """`validators` by section. Raises `PKIError` CONFIGURATION for combinations that cannot be."""

    def __init__(self, services: Services, sections: Mapping[str, SCEPSettings]) -> None:
        self.validators: dict[str, Validator] = {}
        self.jobs: list[Job] = []
        self._services = services
        self._sections = sections
        self._counters: dict[str, Counter] = {}
        self._intune: list[IntuneValidator] = []
        self._checked: list[_Checked] = []
        self._closing: list[Callable[[], Awaitable[None]]] = []
        for label, settings in sections.items():
            self.validators[label] = self._validator(label, settings)
        if self._counters:
            first = next(iter(self._counters.values())).challenges
            self.jobs.append(Job("scep-challenges", _CLEAN, first.purge))

    def routes(self) -> list[BaseRoute]:
        """For the HTTPS listener; none where no section has one-time challenges."""
        if not self._counters:
            return []
        return PasswordPages(self._services, Logins(self._services), self._counters).routes()

    async def recover(self) -> None:
        """At the start of the server, when no process serves yet."""
        for validator in self._intune:
            await validator.sweep(dt.timedelta(0))

    async def start(self) -> None:
        """Raises `PKIError` CONFIGURATION if a secret cannot be read."""
        for checked in self._checked:
            checked.check()

    async def stop(self) -> None:
        for close in self._closing:
            await close()

    def _validator(self, label: str, settings: SCEPSettings) -> Validator:
        profile = self._services.issuance.profiles.get(settings.profile)
        if profile is None:
            raise configuration_error(f"scep.{label}: there is no profile {settings.profile!r}")
        approval = profile.requires_approval
        match settings.challenge:
            case "static":
                return self._static(label, settings)
            case "webhook":
                assert settings.webhook is not None  # noqa: S101  the settings see to it
                return self._webhook(label, settings.webhook)
            case "intune":
                assert settings.intune is not None  # noqa: S101
                if approval:
                    raise configuration_error(
                        f"scep.{label}: Intune does not wait, so profile {settings.profile!r} "
                        "cannot require approval"
                    )
                return self._with_intune(label, settings.intune)
            case "none":
                if not approval:
                    raise configuration_error(
                        f'scep.{label}: challenge = "none" needs a profile that requires_approval'
                    )
                rule = f"scep.{label}.failures_per_address"
                limit = Failures(settings.failures_per_address, self._services.clock, rule)
                return NoChallenge(label, limit)
        return self._one_time(label, settings)

    def _one_time(self, label: str, settings: SCEPSettings) -> Validator:
        challenges = OneTimeChallenges(
            self._services, label, settings.challenge_lifetime, profile=settings.profile
        )
        self._counters[label] = Counter(
            challenges,
            settings.challenge_lifetime,
            settings.challenge_limit,
            self._services.settings.profiles[settings.profile].issuer,
        )
        return challenges

    def _static(self, label: str, settings: ChallengeSettings) -> Validator:
        secret = self._secret(
            f"scep.{label}.challenge_secret",
            settings.challenge_secret_file,
            settings.challenge_secret_env,
        )
        static = StaticChallenge(label, secret)
        self._checked.append(static)
        return static

    def _webhook(self, label: str, settings: WebhookSettings) -> Validator:
        secret = self._secret(
            f"scep.{label}.webhook.secret", settings.secret_file, settings.secret_env
        )
        outgoing = self._outgoing(settings, most_bytes=MOST_BYTES)
        webhook = Webhook(label, settings.url, secret, outgoing, self._services.clock)
        self._checked.append(webhook)
        return webhook

    def _with_intune(self, label: str, settings: IntuneSettings) -> Validator:
        secret = self._secret(
            f"scep.{label}.intune.client_secret",
            settings.client_secret_file,
            settings.client_secret_env,
        )
        outgoing = self._outgoing(settings, proxy=settings.proxy)
        client = IntuneClient(settings, secret, outgoing, self._services.clock)
        validator = IntuneValidator(self._services, label, client)
        self._checked.append(client)
        self._intune.append(validator)
        self.jobs += [
            Job(f"scep-intune-sweep-{label}", _SWEEP, validator.sweep),
            Job(f"scep-intune-clean-{label}", _CLEAN, validator.purge),
        ]
        if settings.revocation_interval:
            poll = Revocations(self._services, label, client, self._foreign(settings)).poll
            self.jobs.append(
                Job(f"scep-intune-revocation-{label}", settings.revocation_interval, _quiet(poll))
            )
        return validator

    def _foreign(self, settings: IntuneSettings) -> Collection[str]:
        """The sections of other tenants."""
        return {
            label
            for label, each in self._sections.items()
            if each.intune is not None and each.intune.tenant.lower() != settings.tenant.lower()
        }

    def _secret(self, place: str, file: str, env: str) -> Secret:
        return Secret(place, self._services.settings.home, file, env)

    def _outgoing(
        self,
        settings: WebhookSettings | IntuneSettings,
        *,
        proxy: str = "",
        most_bytes: int = 1 << 20,
    ) -> Outgoing:
        anchors = self._services.settings.home / settings.ca_file if settings.ca_file else None
        outgoing = Outgoing(
            timeout=settings.timeout, anchors=anchors, proxy=proxy, most_bytes=most_bytes
        )
        self._closing.append(outgoing.close)
        return outgoing


def _quiet(poll: Callable[[], Awaitable[int]]) -> Callable[[], Awaitable[None]]:
    """A service that is away for a while is worth a line, not a trace."""

    async def run() -> None:
        try:
            await poll()
        except PKIError as error:
            _log.warning("intune.revocations", cause=error.detail)

    return run
