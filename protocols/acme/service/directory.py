"""One ACME directory: its name, its settings, its URLs, and the core it works on."""

import base64
import functools
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pkiserver.clock import epoch
from pkiserver.plugin import Services
from protocols.acme.settings import ACMESettings


def random_id() -> str:
    """About 128 random bits: URLs of orders and the like cannot be guessed. Never with a hyphen in
    front, which a command line would take for an option."""
    while True:
        text = base64.urlsafe_b64encode(secrets.token_bytes(16)).rstrip(b"=").decode()
        if not text.startswith("-"):
            return text


@dataclass(frozen=True)
class Directory:
    """What `[acme.NAME]` stands for. URLs come from the configured external base, never from a
    request (a proxy may stand in front)."""

    name: str
    settings: ACMESettings
    services: Services
    new_id: Callable[[], str] = field(default=random_id)

    @functools.cached_property
    def base(self) -> str:
        return f"{self.services.settings.server.https_base}/acme/{self.name}"

    def url(self, *parts: str) -> str:
        return "/".join((self.base, *parts))

    def now(self) -> int:
        """Seconds since 1970 UTC."""
        return epoch(self.services.clock.now())

    @property
    def profiles(self) -> Mapping[str, str]:
        """Profiles an order may name, with what people read of them."""
        names = dict.fromkeys((self.settings.profile, *self.settings.profiles))
        configured = self.services.settings.profiles
        return {name: configured[name].description or name for name in names}
