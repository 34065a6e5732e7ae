"""`approvals` and `cert issue` where a second person has to approve."""

import asyncio
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from pkiserver.app import load_settings, open_runtime
from pkiserver.ca.approvals import Approval, Approvals
from pkiserver.ca.model import CertificateRequest, Requester
from pkiserver.cli import issuing
from pkiserver.cli.context import operator
from pkiserver.keys.generate import generate_key
from tests.cli.conftest import CLI, Result

BOB = Requester("cli", "bob")
WAITS = 3
TABLE = "[profiles.tls-server]\n"


@pytest.fixture
def home(home: Path) -> Path:
    path = home / "pkiserver.toml"
    text = path.read_text()
    assert TABLE in text
    path.write_text(text.replace(TABLE, f"{TABLE}requires_approval = true\n"))
    return home


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "web"


def with_approvals(home: Path, work: Callable[[Approvals], Any]) -> Any:
    """As somebody else would do it."""

    async def run() -> Any:
        async with open_runtime(load_settings(home)) as runtime:
            return await work(runtime.services.approvals)

    return asyncio.run(run())


def filed_by_bob(home: Path) -> Approval:
    order = issuing.Order("tls-server", issuing.alt_names(dns=["b.example"]), None, None, None)

    async def work(approvals: Approvals) -> Approval:
        csr = issuing.request_for(generate_key("p256"), order.names, None)
        wanted = CertificateRequest("tls-server", BOB, csr, order.names)
        return await approvals.require(wanted, "transaction-7")

    approval: Approval = with_approvals(home, work)
    return approval


def issue(cli: CLI, base: Path, *more: object) -> Result:
    return cli("cert", "issue", "--dns", "a.example", "--out", base, *more)


def the_id(cli: CLI) -> str:
    (row,) = cli("approvals", "list", "--json").json
    return str(row["id"])


def approve(cli: CLI, home: Path) -> None:
    approval = the_id(cli)
    with_approvals(home, lambda approvals: approvals.approve(approval, BOB))


def test_issue_waits_and_then_issues(cli: CLI, home: Path, base: Path) -> None:
    first = issue(cli, base)
    assert first.status == WAITS and not base.with_name("web.key").exists()
    approval = the_id(cli)
    assert f"pkiserver approvals approve {approval}" in first.out
    assert base.with_name("web.pending.key").stat().st_mode & 0o777 == 0o600
    assert issue(cli, base).status == WAITS, "asked again, it still waits"
    assert the_id(cli) == approval

    with_approvals(home, lambda approvals: approvals.approve(approval, BOB))
    done = issue(cli, base)
    assert done.status == 0, done.err
    leaf = x509.load_pem_x509_certificates(base.with_name("web.crt").read_bytes())[0]
    key = load_pem_private_key(base.with_name("web.key").read_bytes(), None)
    assert leaf.public_key() == key.public_key()
    assert sorted(p.name for p in base.parent.glob("web.*")) == ["web.crt", "web.key"]


def test_renewal_leaves_the_old_key_until_then(cli: CLI, home: Path, base: Path) -> None:
    issue(cli, base)
    approve(cli, home)
    issue(cli, base)
    old = base.with_name("web.key").read_bytes()
    serial = cli("cert", "list", "--profile", "tls-server", "--json").json[0]["serial"]
    assert cli("cert", "renew", serial, "--out", base).status == WAITS
    assert base.with_name("web.key").read_bytes() == old
    approve(cli, home)
    assert cli("cert", "renew", serial, "--out", base).status == 0
    assert base.with_name("web.key").read_bytes() != old


def test_a_request_of_ones_own(cli: CLI, home: Path, base: Path, tmp_path: Path) -> None:
    known = issuing.alt_names(dns=["a.example"])
    csr = tmp_path / "mine.der"
    csr.write_bytes(issuing.request_for(generate_key("p256"), known, None))
    waiting = cli("cert", "issue", "--csr", csr, "--out", base, "--json")
    assert waiting.status == WAITS and '"status": "pending"' in waiting.out
    approve(cli, home)
    assert cli("cert", "issue", "--csr", csr, "--out", base).status == 0
    assert [p.name for p in base.parent.glob("web.*")] == ["web.crt"]
    first = base.with_name("web.crt").read_bytes()
    again = cli("cert", "issue", "--csr", csr, "--out", base, "--force")
    assert again.status == 0 and base.with_name("web.crt").read_bytes() == first


def test_a_rejected_request_is_forgotten(cli: CLI, home: Path, base: Path) -> None:
    issue(cli, base)
    approval = the_id(cli)
    with_approvals(home, lambda a: a.reject(approval, BOB, "no such host"))
    refused = issue(cli, base)
    assert refused.status == 2 and "no such host" in refused.err
    assert list(base.parent.glob("web.*")) == []
    assert issue(cli, base).status == WAITS, "and may be asked anew"


def test_files_that_do_not_belong_together(cli: CLI, base: Path) -> None:
    issue(cli, base)
    other = issuing.request_for(generate_key("p256"), [], None)
    base.with_name("web.pending.csr").write_bytes(other)
    refused = issue(cli, base)
    assert refused.status == 2 and "web.pending.csr" in refused.err


def test_nobody_approves_his_own(cli: CLI, base: Path) -> None:
    issue(cli, base)
    for words in (("approve",), ("reject", "--why", "x")):
        refused = cli("approvals", words[0], the_id(cli), *words[1:])
        assert refused.status == 2 and "somebody else" in refused.err


def test_deciding(cli: CLI, home: Path) -> None:
    approval = filed_by_bob(home)
    shown = cli("approvals", "show", approval.id)
    for text in ("cli:bob", "dns:b.example", "p256", "transaction-7", "tls-server"):
        assert text in shown.out
    listed = cli("approvals", "list")
    assert approval.id in listed.out and "pending" in listed.out
    approved = cli("approvals", "approve", approval.id, "--json").json
    assert approved["status"] == "approved" and approved["decided_by"].startswith("cli:")
    assert cli("approvals", "list", "--json").json == []
    assert len(cli("approvals", "list", "--all", "--json").json) == 1
    again = cli("approvals", "reject", approval.id, "--why", "too late")
    assert again.status == 2 and "approved, not pending" in again.err


def test_rejecting_needs_a_reason(cli: CLI, home: Path) -> None:
    approval = filed_by_bob(home)
    assert cli("approvals", "reject", approval.id).status == 2
    rejected = cli("approvals", "reject", approval.id, "--why", "unknown\x1b[2Jhost")
    assert rejected.status == 0 and "\x1b" not in rejected.out


@pytest.mark.parametrize("word", ["show", "approve"])
def test_no_such_approval(cli: CLI, word: str) -> None:
    missing = cli("approvals", word, "nothing")
    assert missing.status == 2 and "no approval" in missing.err


def test_why_tells_the_whole_story(cli: CLI, home: Path, base: Path) -> None:
    issue(cli, base)
    approval = the_id(cli)
    with_approvals(home, lambda a: a.approve(approval, BOB))
    issue(cli, base)
    serial = cli("cert", "list", "--profile", "tls-server", "--json").json[0]["serial"]
    for subject in (approval, serial):
        told = cli("why", subject)
        steps = ["approval.request", "approval.approve", "approval.use", "certificate.issue"]
        assert [told.out.find(step) for step in steps] == sorted(map(told.out.find, steps))
        assert all(step in told.out for step in steps)
    by_reference = filed_by_bob(home)
    assert by_reference.id in cli("why", "transaction-7").out


@pytest.mark.parametrize("text", ["", "x", str(2**32 - 1), "\xff"])
def test_without_a_login_it_is_who_it_runs_as(tmp_path: Path, text: str) -> None:
    login = tmp_path / "loginuid"
    login.write_bytes(text.encode("latin-1"))
    own = Requester("cli", pwd.getpwuid(os.geteuid()).pw_name)
    assert operator(login) == operator(tmp_path / "missing") == own


def test_sudo_does_not_change_who_it_is(tmp_path: Path) -> None:
    login = tmp_path / "loginuid"
    for uid, name in ((1, pwd.getpwuid(1).pw_name), (987654, "987654")):
        login.write_text(str(uid))
        assert operator(login) == Requester("cli", name)
