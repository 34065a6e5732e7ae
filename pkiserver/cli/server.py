"""`up`, `init`, `serve`, `check`."""

import asyncio
import os
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from pydantic import ValidationError

from pkiserver import run as server_run
from pkiserver.cli.context import DEFAULT_HOME, HomeOption, settings_of
from pkiserver.config import CoreSettings, ServerSettings
from pkiserver.core import load_settings
from pkiserver.errors import configuration_error
from pkiserver.home import Home
from pkiserver.initialise import NewHome, initialise

Hostname = Annotated[str, typer.Option(help="Name in URLs and in the server's certificate")]
HTTPS = Annotated[str, typer.Option(help="HTTPS listener, HOST:PORT")]
HTTP = Annotated[str, typer.Option(help="Plain HTTP listener, HOST:PORT")]
RootKey = Annotated[str, typer.Option(help="Kind of the root's key: p384, rsa-4096, ed25519, ...")]
IssuingKey = Annotated[str, typer.Option(help="Kind of the issuing CA's key: p256, rsa-3072, ...")]
Workers = Annotated[int | None, typer.Option(min=1, max=64, help="Processes that serve")]
_NEW = NewHome()


def add_to(app: typer.Typer) -> None:
    for command in (up, init, serve, check):
        app.command()(command)


def up(
    home: HomeOption = DEFAULT_HOME,
    hostname: Hostname = "",
    https: HTTPS = "",
    http: HTTP = "",
    workers: Workers = None,
) -> int:
    """Development start: make the home if it is new, then serve on loopback addresses."""
    if not Home(home).config.exists():
        initialise(
            home,
            NewHome(
                hostname=hostname or _NEW.hostname,
                https=https or _NEW.https,
                http=http or _NEW.http,
            ),
        )
    settings = _override(load_settings(home), hostname, https, http, workers)
    return server_run.serve(
        settings, development=True, on_ready=lambda issuing: print_card(settings, issuing)
    )


def init(
    home: HomeOption = DEFAULT_HOME,
    hostname: Hostname = _NEW.hostname,
    https: HTTPS = _NEW.https,
    http: HTTP = _NEW.http,
    organization: Annotated[str, typer.Option(help="O of the authorities' names")] = "",
    root_key: RootKey = _NEW.root_key,
    issuing_key: IssuingKey = _NEW.issuing_key,
) -> None:
    """Make a home: configuration, root and issuing CA, server certificate, admin token."""
    initialise(
        home,
        NewHome(hostname, https, http, organization, root_key, issuing_key),
    )
    typer.echo(f"Made {home}. Next: 'pkiserver serve --home {home}'.")
    typer.echo(
        f"The root's key, {home}/keys/root.key, can be taken offline after "
        "'pkiserver crl refresh root --validity 180d'."
    )


def serve(home: HomeOption = DEFAULT_HOME, workers: Workers = None) -> int:
    """Production start from pkiserver.toml."""
    settings = _override(settings_of(home), "", "", "", workers)
    return server_run.serve(settings, development=False)


def check(home: HomeOption = DEFAULT_HOME) -> None:
    """Read and validate the configuration; say every mistake with file, key and remedy."""
    problems = asyncio.run(server_run.check(settings_of(home)))
    if problems:
        raise configuration_error("\n".join(problems))
    typer.echo(f"{Home(home).config}: no mistakes found")


def _override(
    settings: CoreSettings, hostname: str, https: str, http: str, workers: int | None
) -> CoreSettings:
    given: dict[str, Any] = {"hostname": hostname, "https": https, "http": http, "workers": workers}
    changes = {key: value for key, value in given.items() if value}
    try:
        server = ServerSettings.model_validate({**settings.server.model_dump(), **changes})
    except ValidationError as error:
        problem = error.errors()[0]
        reason = problem["msg"].removeprefix("Value error, ")
        raise configuration_error(f"--{problem['loc'][0]}: {reason}") from error
    return settings.model_copy(update={"server": server})


def print_card(settings: CoreSettings, issuing: str) -> None:
    """Where everything is; `issuing` is the authority that issues now."""
    server, root = settings.server, Home(settings.home).root_pem
    directory = f"{server.https_base}/acme/default/directory"
    port = _http01_port(settings)
    lines = [
        "",
        "pkiserver is up.",
        f"  ACME directory    {directory}",
        f"  EST               {server.mtls_base}/.well-known/est",
        f"  SCEP              {server.http_base}/scep/default",
        f"  OCSP              {server.http_base}/ocsp/{issuing}",
        f"  CRL               {server.http_base}/crl/{issuing}.crl",
        f"  Root certificate  {root}",
        f"  Its SHA-256       {_fingerprint(root)}",
        "",
        "Get a certificate for this machine (certbot listens on the http-01 port):",
        f"  REQUESTS_CA_BUNDLE={root} certbot certonly --standalone --server {directory} \\",
        "    --agree-tos --register-unsafely-without-email -d localhost \\",
        "    --config-dir certbot --work-dir certbot --logs-dir certbot \\",
        f"    --http-01-port {port}",
        *_privileged_port(port),
        "",
        "A password for EST, a challenge for SCEP (the last line of each):",
        f"  {_program()} est user add device-1 --home {settings.home}",
        f"  {_program()} scep challenge --home {settings.home}",
        "",
    ]
    typer.echo("\n".join(lines))


def _program() -> str:
    """What to type for this program: its path where the shell would not find it by name."""
    return "pkiserver" if shutil.which("pkiserver") else sys.argv[0]


def _privileged_port(port: int) -> list[str]:
    if port >= 1024 or os.geteuid() == 0:
        return []
    return [
        f"Port {port} is for root: put sudo in front, or start pkiserver with",
        "  PKISERVER_ACME__DEFAULT__HTTP01_PORT=5002",
    ]


def _http01_port(settings: CoreSettings) -> int:
    directory = settings.section("acme").get("default")
    return int(getattr(directory, "http01_port", 80))


def _fingerprint(root: Path) -> str:
    certificate = x509.load_pem_x509_certificates(root.read_bytes())[0]
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()
