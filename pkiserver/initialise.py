"""Making a new home: what `init` does, and `up` the first time."""

import asyncio
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from pkiserver.admin.tokens import create_token
from pkiserver.ca.authorities import bootstrap, key_kind
from pkiserver.config import CoreSettings
from pkiserver.core import open_core, parse_settings
from pkiserver.home import Home, write_private, write_public
from pkiserver.keys import create_passphrase
from pkiserver.pkix.pem import pem_chain
from pkiserver.server_certificate import ServerCertificate

_CONFIGURATION = """\
# Every key: docs/configuration.md. Any of them from the environment: PKISERVER_SERVER__WORKERS=4

[server]
hostname = {hostname}
https = {https}
http = {http}
workers = {workers}

# What may be issued. Shipped besides: tls-client, device, smime, code-signing.
[profiles.tls-server]
validity = "90d"

# https://HOST/acme/default/directory; [acme.NAME] adds https://HOST/acme/NAME/directory.
[acme.default]
profile = "tls-server"
challenges = ["http-01", "dns-01", "tls-alpn-01"]

# https://HOST/.well-known/est/cacerts; [est.LABEL] adds https://HOST/.well-known/est/LABEL/cacerts.
# A user with a password: pkiserver est user add NAME
[est.default]
profile = "device"
auth = ["basic", "mtls"]

# http://HOST/scep/default, over HTTPS as well; [scep.NAME] adds /scep/NAME.
# A challenge password for one enrolment: pkiserver scep challenge
[scep.default]
profile = "device"
challenge = "one-time"
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
    """Make a home. Raises `PKIError` CONFIGURATION if the folder is not empty or a choice makes no
    sense. The configuration is written last, so that nothing half made passes for a home; what a
    failure leaves is removed, what a crash leaves is refused."""
    home = Home(path)
    home.require_empty()
    text = _configuration(choices)
    settings = parse_settings(path, text)
    for kind in (choices.root_key, choices.issuing_key):
        key_kind(kind)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)
    try:
        home.keys.mkdir(mode=0o700)
        create_passphrase(settings)
        asyncio.run(_fill(home, settings, choices))
        write_public(home.config, text.encode())
    except BaseException:
        _empty(path)
        raise


def _configuration(choices: NewHome) -> str:
    # JSON strings are TOML strings.
    texts = {key: json.dumps(getattr(choices, key)) for key in ("hostname", "https", "http")}
    return _CONFIGURATION.format(**texts, workers=choices.workers)


def _empty(folder: Path) -> None:
    """Remove what is in a folder that was empty when we came."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


async def _fill(home: Home, settings: CoreSettings, choices: NewHome) -> None:
    async with open_core(settings) as core:
        services = core.services
        root, _ = await bootstrap(
            services.authorities,
            organization=choices.organization,
            root_key=choices.root_key,
            issuing_key=choices.issuing_key,
        )
        assert root.certificate is not None  # noqa: S101  a root that was made has one
        write_public(home.root_pem, pem_chain([root.certificate]))
        await services.status.maintain()
        await ServerCertificate(services, core.keys).ensure()
        token = await create_token(services, role="admin", lifetime=None, actor="cli:init")
        write_private(home.admin_token, f"{token}\n".encode())
