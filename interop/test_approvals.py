"""ACME clients that wait while somebody else approves, from another process than the server's."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from interop import openssl, tools
from interop.results import NewRow
from interop.target import PkiserverOperator, Target
from interop.test_certbot import Certbot, version
from interop.test_lego import Lego


@pytest.fixture
def operator(target: Target) -> PkiserverOperator:
    if not isinstance(target.operator, PkiserverOperator):
        pytest.skip(f"{target.name} has no approvals")
    return target.operator


@pytest.fixture
def approving(operator: PkiserverOperator) -> Iterator[Callable[[str], None]]:
    """Begin to wait for the request for a name, in order to approve it; its trouble is the
    test's."""
    threads: list[threading.Thread] = []
    troubles: list[BaseException] = []

    def begin(name: str) -> None:
        thread = threading.Thread(target=approve, args=(name,))
        thread.start()
        threads.append(thread)

    def approve(name: str) -> None:
        try:
            operator.approve(name)
        except BaseException as error:
            troubles.append(error)

    yield begin
    for thread in threads:
        thread.join()
    assert not troubles, troubles


def test_certbot(
    target: Target, operator: PkiserverOperator, approving: Callable[[str], None],
    workdir: Path, row: NewRow,
) -> None:  # fmt: skip
    """RFC 8555 section 7.4: the order is `processing` until then."""
    certbot = Certbot(tools.need(tools.pypi(tools.CERTBOT, "certbot")), target, workdir)
    seen = row("certbot", version(certbot), "http-01, waits for an approval")
    name = "approved.certbot.example.test"
    approving(name)
    words = (*certbot.standalone(), "-d", name)
    chain = certbot.obtain(*words, name=name, directory=operator.approved_directory_url)
    openssl.verify(chain, target.roots, certbot.key(name), hostname=name)
    seen.passed("obtain")


def test_lego(
    target: Target, operator: PkiserverOperator, approving: Callable[[str], None],
    workdir: Path, row: NewRow,
) -> None:  # fmt: skip
    lego = Lego(tools.need(tools.debian("lego")), target, workdir)
    seen = row("lego", tools.debian_version("lego"), "http-01, waits for an approval")
    name = "approved.lego.example.test"
    approving(name)
    how = [*lego.answers("http-01"), "--domains", name]
    lego(how, "run", directory=operator.approved_directory_url)
    chain, key = lego.files(name)
    openssl.verify(chain, target.roots, key, hostname=name)
    seen.passed("obtain")
