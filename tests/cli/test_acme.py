"""`acme` and what `why` tells of an order, on the home of a server that runs."""

import base64
import json
import ssl
from collections.abc import Callable

import httpx
import pytest

from pkiserver.cli.main import main
from pkiserver.testing import PKI
from tests.cli.conftest import CLI
from tests.test_acme.client import ACMEClient, external_account_binding, make_csr

TWO = """
[acme.default]
http01_port = {http01_port}
[acme.trusted]
authorization = "trusted"
[acme.bound]
external_account_required = true
authorization = "trusted"
"""


@pytest.fixture(scope="module")
def served(pki_factory: Callable[..., PKI]) -> PKI:
    return pki_factory(TWO)


def http(context: ssl.SSLContext) -> httpx.AsyncClient:
    return httpx.AsyncClient(verify=context)


def run(capsys: pytest.CaptureFixture[str], pki: PKI, *words: str) -> tuple[int, str]:
    """A command in a thread of its own, since this one has an event loop."""
    import threading

    done: list[int] = []
    thread = threading.Thread(target=lambda: done.append(main([*words, "--home", str(pki.home)])))
    thread.start()
    thread.join()
    captured = capsys.readouterr()
    return done[0], captured.out or captured.err


def test_a_key_for_external_accounts(cli: CLI) -> None:
    made = cli("acme", "eab", "create", "--uses", "unlimited", "--expires", "30d")
    mac = made.out.splitlines()[-1]
    assert len(base64.urlsafe_b64decode(mac + "=")) == 32
    row = cli("acme", "eab", "list", "--json").json[0]
    assert (row["uses_left"], row["trusted"]) == ("unlimited", False)
    assert mac not in cli("acme", "eab", "list").out
    assert mac not in cli("audit", "export").out
    new = cli("acme", "eab", "create", "--name", "*.a.test", "--trusted", "--json").json
    assert {"kid", "hmac_key"} <= set(new) and new["names"] == ["*.a.test"]


@pytest.mark.parametrize(
    "words",
    [
        ["--uses", "0"], ["--uses", "many"], ["--uses", "-1"], ["--uses", "9" * 40],
        ["--expires", "soon"], ["--profile", "none"], ["--directory", "none"], ["--trusted"],
    ],
)  # fmt: skip
def test_keys_that_make_no_sense(cli: CLI, words: list[str]) -> None:
    result = cli("acme", "eab", "create", *words)
    assert result.status == 2 and result.err.count("\n") == 1
    assert cli("acme", "eab", "list", "--json").json == []


def test_a_key_is_revoked_once(cli: CLI) -> None:
    kid = cli("acme", "eab", "create", "--json").json["kid"]
    assert cli("acme", "eab", "revoke", kid, "--json").json == {"revoked": kid, "accounts": []}
    assert cli("acme", "eab", "revoke", kid).status == 2


async def test_a_bound_account_from_its_key_to_its_end(
    served: PKI, capsys: pytest.CaptureFixture[str], logs_as_they_were: None
) -> None:
    """The key is for the only directory that requires one; revoking it freezes the account."""
    _, text = run(capsys, served, "acme", "eab", "create", "--json")
    key = json.loads(text)
    assert key["directory"] == "bound"
    url = f"{served.https_base}/acme/bound/directory"
    async with http(served.ssl_context_client()) as session:
        client = await ACMEClient(session, url).start()
        binding = external_account_binding(
            client.signer.jwk, client.directory["newAccount"], key["kid"],
            base64.urlsafe_b64decode(key["hmac_key"] + "="),
        )  # fmt: skip
        assert (await client.new_account()).status_code == 403
        created = await client.new_account(externalAccountBinding=binding)
        assert created.status_code == 201, created.text
        account = created.headers["location"].rsplit("/", 1)[1]
        _, text = run(capsys, served, "acme", "accounts", "--directory", "bound", "--json")
        assert [row["id"] for row in json.loads(text)] == [account]
        _, text = run(capsys, served, "acme", "eab", "revoke", key["kid"], "--json")
        assert json.loads(text)["accounts"] == [account]
        assert (await client.new_order(["a.test"])).status_code in (401, 403)


async def test_why_tells_the_story_of_an_order(
    served: PKI, capsys: pytest.CaptureFixture[str], logs_as_they_were: None
) -> None:
    async with http(served.ssl_context_client()) as session:
        client = await ACMEClient(session, served.trusted_directory_url).start()
        assert (await client.new_account()).status_code == 201
        order = await client.new_order(["story.test"])
        assert order.status_code == 201, order.text
        done = await client.finalize(order.json(), make_csr(["story.test"])[0])
        assert done.json()["status"] == "valid", done.text
    order_id = order.headers["location"].rsplit("/", 1)[1]
    _, text = run(capsys, served, "acme", "orders", "--json")
    row = next(row for row in json.loads(text) if row["id"] == order_id)
    assert (row["status"], row["identifiers"]) == ("valid", ["story.test"])
    stories = {}
    for name in (order_id, row["certificate"]):
        status, text = run(capsys, served, "why", name, "--json")
        assert status == 0, text
        stories[name] = [step["action"] for step in json.loads(text)]
    assert stories[order_id] == stories[row["certificate"]]
    assert stories[order_id][0] == "acme.order.create"
    assert stories[order_id][-1] == "certificate.issue"
    for name in (row["account"], "127.0.0.1"):
        _, text = run(capsys, served, "why", name, "--json")
        assert "acme.account.create" in [step["action"] for step in json.loads(text)]
