"""`scep requests`, and what `challenge_cli` adds."""

from typing import Annotated, Any

import typer

from pkiserver.cli.context import DEFAULT_HOME, HomeOption, JSONOption, LimitOption, with_core
from pkiserver.cli.output import moment, print_json, print_table
from pkiserver.clock import epoch, from_epoch
from pkiserver.core import Core
from protocols.scep import challenge_cli, mobileconfig_cli, store
from protocols.scep.store import Known


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(help="SCEP operations", no_args_is_help=True)
    group.command("requests")(requests)
    mobileconfig_cli.add_to(group)
    challenge_cli.add_to(group)
    app.add_typer(group, name="scep")


def requests(
    label: Annotated[str | None, typer.Option("--label", help="Of this section only")] = None,
    limit: LimitOption = 100,
    home: HomeOption = DEFAULT_HOME,
    as_json: JSONOption = False,
) -> None:
    """Enrolments, the newest first. 'pkiserver why ID' tells what became of a transaction."""

    async def work(core: Core) -> list[Known]:
        now = epoch(core.services.clock.now())
        return await core.services.database.read(
            lambda reader: store.recent(reader, label, now, limit)
        )

    rows = [_request(known) for known in with_core(home, work)]
    if as_json:
        print_json(rows)
        return
    columns = ["transaction", "label", "status", "party", "certificate", "created"]
    print_table(
        [name.upper() for name in columns], [[row[name] for name in columns] for row in rows]
    )


def _request(known: Known) -> dict[str, Any]:
    enrolment = known.enrolment
    return {
        "transaction": enrolment.key.transaction_id,
        "label": enrolment.key.label,
        "status": known.standing.value,
        "party": enrolment.party,
        "profile": enrolment.profile,
        "address": enrolment.address,
        "approval": enrolment.approval,
        "certificate": enrolment.certificate,
        "renewal_of": enrolment.key.renewal_of or None,
        "created": moment(from_epoch(enrolment.created)),
    }
