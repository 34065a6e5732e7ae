"""Making a new home: what `init` does, and `up` the first time."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from pkiserver.admin.tokens import create_token
from pkiserver.app import load_settings, open_runtime
from pkiserver.ca.authorities import bootstrap
from pkiserver.config import KeyKind
from pkiserver.errors import configuration_error
from pkiserver.home import Home, write_private, write_public
from pkiserver.keys import create_passphrase
from pkiserver.pkix.pem import pem_chain
from pkiserver.server_certificate import ServerCertificate

_CONFIGURATION = """\
# Every key: docs/configuration.md. Any of them from the environment: PKISERVER_SERVER__WORKERS=4

[server]
hostname = "{hostname}"
https = "{https}"
http = "{http}"
workers = {workers}

# What may be issued. Shipped besides: tls-client, device, smime, code-signing.
[profiles.tls-server]
validity = "90d"

# https://{hostname}/acme/default/directory; [acme.NAME] adds /acme/NAME/directory.
[acme.default]
profile = "tls-server"
challenges = ["http-01", "dns-01", "tls-alpn-01"]
"""


@dataclass(frozen=True, slots=True)
class NewHome:
    """What may be chosen about a new home."""

    hostname: str = "localhost"
    https: str = "127.0.0.1:8443"
    http: str = "127.0.0.1:8080"
    organization: str = ""
    root_key: str = "p384"
    issuing_key: str = "p256"
    workers: int = 1


def initialise(path: Path, choices: NewHome) -> None:
    """Make a home. Raises `PKIError` CONFIGURATION if the folder is not empty; a failure on the
    way leaves nothing that would pass for a home."""
    home = Home(path)
    home.require_empty()
    for kind in (choices.root_key, choices.issuing_key):
        if kind not in get_args(KeyKind):
            raise configuration_error(
                f"there is no key kind {kind!r}; choose one of {', '.join(get_args(KeyKind))}"
            )
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)
    home.keys.mkdir(mode=0o700)
    text = _CONFIGURATION.format(
        hostname=choices.hostname, https=choices.https, http=choices.http, workers=choices.workers
    )
    draft = path / ".pkiserver.toml.new"
    draft.write_text(text, encoding="utf-8")
    draft.rename(home.config)
    try:
        settings = load_settings(path)
        create_passphrase(settings)
        asyncio.run(_fill(home, choices))
    except BaseException:
        home.config.rename(draft)
        raise


async def _fill(home: Home, choices: NewHome) -> None:
    async with open_runtime(load_settings(home.path)) as runtime:
        services = runtime.services
        root, _ = await bootstrap(
            services.authorities,
            organization=choices.organization,
            root_key=choices.root_key,
            issuing_key=choices.issuing_key,
        )
        assert root.certificate is not None  # noqa: S101  a root that was made has one
        write_public(home.root_pem, pem_chain([root.certificate]))
        await services.status.maintain()
        await ServerCertificate(services, runtime.keys).ensure()
        token = await create_token(services, role="admin", lifetime=None, actor="cli:init")
        write_private(home.admin_token, f"{token}\n".encode())
