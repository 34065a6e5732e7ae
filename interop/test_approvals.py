"""ACME clients that wait while somebody else approves, from another process than the server's."""

from pathlib import Path

import pytest

from interop import openssl, tools
from interop.processes import meanwhile
from interop.results import NewRow
from interop.target import PkiserverOperator, Target
from interop.test_certbot import Certbot, version
from interop.test_lego import Lego


@pytest.fixture
def operator(target: Target) -> PkiserverOperator:
    if not isinstance(target.operator, PkiserverOperator):
        pytest.skip(f"{target.name} has no approvals")
    return target.operator


def test_certbot(
    target: Target, operator: PkiserverOperator, workdir: Path, row: NewRow,
) -> None:  # fmt: skip
    """RFC 8555 section 7.4: the order is `processing` until then."""
    certbot = Certbot(tools.need(tools.pypi(tools.CERTBOT, "certbot")), target, workdir)
    seen = row("certbot", version(certbot), "http-01, waits for an approval")
    name = "approved.certbot.example.test"
    words = (*certbot.standalone(), "-d", name)
    with meanwhile(lambda: operator.approve(name)):
        chain = certbot.obtain(*words, name=name, directory=operator.approved_directory_url)
    openssl.verify(chain, target.roots, certbot.key(name), hostname=name)
    seen.passed("obtain")


def test_lego(
    target: Target, operator: PkiserverOperator, workdir: Path, row: NewRow,
) -> None:  # fmt: skip
    lego = Lego(tools.need(tools.debian("lego")), target, workdir)
    seen = row("lego", tools.debian_version("lego"), "http-01, waits for an approval")
    name = "approved.lego.example.test"
    how = [*lego.answers("http-01"), "--domains", name]
    with meanwhile(lambda: operator.approve(name)):
        lego(how, "run", directory=operator.approved_directory_url)
    chain, key = lego.files(name)
    openssl.verify(chain, target.roots, key, hostname=name)
    seen.passed("obtain")
