"""certmonger: its daemon on a socket of its own, with `getcert`; it sends messages by GET (S12)
through its helper `scep-submit`, which is also run alone."""

from collections.abc import Callable
from pathlib import Path

import pytest

from interop import openssl, tools
from interop.processes import meanwhile, run
from interop.results import NewRow
from interop.scep_server import SCEPServer

_HELPER = Path("/usr/lib/certmonger/scep-submit")
_FOLDERS = ("REQUESTS", "CAS", "LOCAL_CA", "CONFIG", "TMP")


def _helper() -> Path:
    if not _HELPER.exists():
        raise tools.ToolMissing("scep-submit: apt-get install certmonger")
    return _HELPER


@pytest.fixture
def version() -> str:
    tools.need(_helper)
    return tools.debian_version("certmonger")


@pytest.fixture
def getcert(workdir: Path, version: str) -> Callable[..., str]:
    """Runs a shell script of `getcert` commands beside a daemon whose state stays from one script
    to the next; the output."""
    env = {"CERTMONGER_SYSTEM_LOCK_FILE": str(workdir / "lock")}
    for name in _FOLDERS:
        (workdir / name).mkdir()
        env[f"CERTMONGER_{'TMPDIR' if name == 'TMP' else f'{name}_DIR'}"] = str(workdir / name)

    def script(body: str) -> str:
        file = workdir / "script.sh"
        file.write_text(f"set -eu\ncd {workdir}\n{body}")
        words = ["certmonger", "-n", "-L", "-P", workdir / "socket", "-p", workdir / "pid"]
        return run([*words, "-c", f"sh {file}"], cwd=workdir, env=env)

    return script


def _known(server: SCEPServer, label: str) -> str:
    """The daemon has read capabilities and certificates once it lists them."""
    return f"""
getcert add-scep-ca -c pki -u {server.url(label)}
until getcert list-cas -c pki -v | grep -q 'SCEP CA certificate thumbprint'; do sleep 0.1; done
"""


@pytest.mark.parametrize("kind", ("rsa-2048", "p256"))
def test_enrol_and_renew(
    kind: str, scep: dict[str, SCEPServer], getcert: Callable[..., str], workdir: Path,
    version: str, row: NewRow,
) -> None:  # fmt: skip
    """`resubmit` renews with the key there is, `rekey` with another."""
    server, name = scep[kind], "monger.example.test"
    seen = row("certmonger", version, f"SCEP, {kind} CA: GET; resubmit and rekey")
    key, certificate, old = (workdir / file for file in ("dev.key", "dev.crt", "old.crt"))
    request = f"-c pki -k {key} -f {certificate} -N CN={name} -D {name} -I device -w"
    output = getcert(
        _known(server, "default")
        + f"getcert request {request} -L {server.challenge()}\ncp {certificate} {old}\n"
        "getcert resubmit -i device -w -v\n"
    )
    first = server.verify(old, key, hostname=name)
    seen.passed("obtain")
    second = server.verify(certificate, key, hostname=name)
    assert second != first, output
    output = getcert("getcert rekey -i device -w -v\n")
    third = server.verify(certificate, key, hostname=name)
    assert third not in (first, second), output
    seen.passed("renew")


def test_it_polls(
    scep: dict[str, SCEPServer], getcert: Callable[..., str], workdir: Path, version: str,
    row: NewRow,
) -> None:  # fmt: skip
    server, name = scep["rsa-2048"], "waits.example.test"
    seen = row("certmonger", version, "SCEP, rsa-2048 CA: polls for an approval")
    key, certificate = workdir / "dev.key", workdir / "dev.crt"
    script = (
        _known(server, "approved")
        + f"getcert request -c pki -k {key} -f {certificate} -N CN={name} -D {name} -I device "
        f"-L {server.challenge('approved')}\n"
        f"until test -e {certificate}; do sleep 0.5; getcert refresh -i device || true; done\n"
    )
    with meanwhile(lambda: server.approve(name)):
        getcert(script)
    server.verify(certificate, key, hostname=name)
    seen.passed("obtain")


@pytest.mark.parametrize("kind", ("rsa-2048", "p256"))
def test_the_helper_alone(
    kind: str, scep: dict[str, SCEPServer], workdir: Path, version: str
) -> None:
    """S18, S19: `message=0` and `message=CA-IDENT`, and a media type it checks to the letter."""
    server = scep[kind]
    for identifier in ("0", "CAIdentifier"):
        ask = [_HELPER, "-u", server.url(), "-i", identifier]
        assert "SCEPStandard" in run([*ask, "-c"], cwd=workdir).split()
        chain = workdir / "chain.pem"
        chain.write_text("".join(openssl.PEM.findall(run([*ask, "-C"], cwd=workdir))))
        found = [part.read_text() for part in openssl.split(chain)]
        assert server.root.read_text() in found and server.issuing.read_text() in found
