"""`approvals list`, `show`, `approve`, `reject`: two-person issuance."""

import datetime as dt
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from pkiserver.ca.approvals import Approval, Approvals, ApprovalStatus
from pkiserver.cli.context import (
    DEFAULT_HOME,
    HomeOption,
    JSONOption,
    LimitOption,
    operator,
    with_core,
)
from pkiserver.cli.output import moment, print_json, print_members, print_table, say
from pkiserver.core import Core

Which = Annotated[str, typer.Argument(metavar="ID", help="As 'approvals list' shows it")]


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(help="Requests that wait for a second person", no_args_is_help=True)
    for name, command in (
        ("list", list_), ("show", show), ("approve", approve), ("reject", reject),
    ):  # fmt: skip
        group.command(name)(command)
    app.add_typer(group, name="approvals")


def list_(
    status: Annotated[ApprovalStatus, typer.Option(help="Only these")] = ApprovalStatus.PENDING,
    everything: Annotated[bool, typer.Option("--all", help="Of every status")] = False,
    limit: LimitOption = 100,
    home: HomeOption = DEFAULT_HOME,
    as_json: JSONOption = False,
) -> None:
    """Requests that wait for a decision, the newest first."""

    async def work(core: Core) -> list[dict[str, Any]]:
        services = core.services
        found = await services.approvals.newest(None if everything else status, limit)
        now = services.clock.now()
        return [approval_json(approval, now) for approval in found]

    rows = with_core(home, work)
    if as_json:
        print_json(rows)
        return
    print_table(
        ["ID", "STATUS", "AGE", "REQUESTER", "PROFILE", "KEY", "NAMES OR SUBJECT"],
        [
            [r["id"], r["status"], r["age"], r["requester"], r["profile"], r["key_kind"],
             ", ".join(r["names"]) or r["subject"]]
            for r in rows
        ],
    )  # fmt: skip


def show(which: Which, home: HomeOption = DEFAULT_HOME, as_json: JSONOption = False) -> None:
    """One request: what the certificate would say, and what was decided."""
    _print(_with(home, lambda approvals: approvals.get(which)), as_json)


def approve(which: Which, home: HomeOption = DEFAULT_HOME, as_json: JSONOption = False) -> None:
    """Let the requester have the certificate. Nobody approves what he asked for himself."""
    _print(_with(home, lambda approvals: approvals.approve(which, operator())), as_json)


def reject(
    which: Which,
    why: Annotated[str, typer.Option(help="The reason; the requester is told")],
    home: HomeOption = DEFAULT_HOME,
    as_json: JSONOption = False,
) -> None:
    """Refuse the request for good."""
    _print(_with(home, lambda approvals: approvals.reject(which, operator(), why)), as_json)


def _with(home: Path, act: Callable[[Approvals], Awaitable[Approval]]) -> dict[str, Any]:
    async def work(core: Core) -> dict[str, Any]:
        approval = await act(core.services.approvals)
        return approval_json(approval, core.services.clock.now())

    return with_core(home, work)


def approval_json(approval: Approval, now: dt.datetime) -> dict[str, Any]:
    """What is printed of an approval."""
    return {
        "id": approval.id,
        "status": approval.status,
        "profile": approval.profile,
        "requester": approval.requester,
        "address": approval.address,
        "reference": approval.reference,
        "subject": approval.subject,
        "names": list(approval.names),
        "key_kind": approval.key_kind,
        "created": moment(approval.created),
        "age": _age(now - approval.created),
        "expires": moment(approval.expires),
        "decided": moment(approval.decided),
        "decided_by": approval.decided_by,
        "why": approval.why,
        "certificate": approval.certificate,
    }


def _age(age: dt.timedelta) -> str:
    """In the largest unit that fits: 3d, 5h, 12m, 40s."""
    seconds = max(0, int(age.total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def _print(details: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(details)
        return
    print_members(details)
    if details["status"] == ApprovalStatus.PENDING:
        say(f"Decide: pkiserver approvals approve {details['id']}")
