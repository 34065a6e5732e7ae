"""`why ID`: the story of one order, certificate, account or client address, from the audit log."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from pkiserver import registry
from pkiserver.ca import approval_store, history
from pkiserver.ca.history import Entry
from pkiserver.cli.audit import entry_json
from pkiserver.cli.context import DEFAULT_HOME, HomeOption, JSONOption, LimitOption, with_core
from pkiserver.cli.output import moment, print_json, say
from pkiserver.clock import from_epoch
from pkiserver.core import Core
from pkiserver.errors import ErrorCode, PKIError, configuration_error
from pkiserver.plugin import Plugin
from pkiserver.storage import Reader

REMEDIES: Mapping[ErrorCode, str] = {
    ErrorCode.MALFORMED: "the client sent what the protocol does not allow: update or fix it",
    ErrorCode.BAD_CSR: "make the request anew, with exactly the authorised names and no wishes "
    "the profile does not have",
    ErrorCode.BAD_PUBLIC_KEY: "make a new key, of a kind the profile accepts",
    ErrorCode.BAD_SIGNATURE: (
        "let the client sign with the key of its own certificate and encrypt for ours; an old "
        "certificate of this server on the device is a common cause"
    ),
    ErrorCode.BAD_ALGORITHM: "let the client use SHA-256 and AES, or allow legacy in the profile",
    ErrorCode.REFUSED_NAME: "ask for other names, or allow these by the rule's key in "
    "pkiserver.toml",
    ErrorCode.REFUSED_BY_PROFILE: "ask for what the profile allows, or change the rule's key in "
    "pkiserver.toml",
    ErrorCode.UNAUTHORIZED: "use the account or key it was issued to, or ask the operator",
    ErrorCode.NOT_FOUND: "check the name; what it names does not exist here",
    ErrorCode.CONFLICT: "look at the present state and try again",
    ErrorCode.ALREADY_REVOKED: "nothing to do: it is revoked for good",
    ErrorCode.BAD_REVOCATION_REASON: "give another reason; RFC 5280 section 5.3.1 lists them",
    ErrorCode.RATE_LIMITED: "wait, or raise the limit in pkiserver.toml",
    ErrorCode.PENDING_APPROVAL: "have somebody else decide: 'pkiserver approvals list'",
    ErrorCode.UNAVAILABLE: "bring back what is away (often the authority's key) and try again",
    ErrorCode.CONFIGURATION: "run 'pkiserver check' and mend what it says",
    ErrorCode.INTERNAL: "the server's log has the details",
}
_TIMES = frozenset({"not_after", "expires"})
"""Members of the detail that are seconds since 1970."""


def add_to(app: typer.Typer) -> None:
    app.command()(why)


def why(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="Id of an order, account, transaction, approval or certificate, a serial number, "
            "or a client address",
        ),
    ],
    limit: LimitOption = 200,
    home: HomeOption = DEFAULT_HOME,
    as_json: JSONOption = False,
) -> None:
    """Tell the story of one thing: each step, who asked, what was decided and, for a refusal, the
    cause and the remedy."""
    if not subject.strip():
        raise configuration_error("say an id, a serial number or an address")
    plugins = list(registry.available().values())

    def read(reader: Reader) -> list[Entry]:
        return history.story(reader, _known(reader, subject, plugins), limit)

    async def work(core: Core) -> list[Entry]:
        return await core.services.database.read(read)

    entries = with_core(home, work)
    if not entries:
        raise PKIError(
            ErrorCode.NOT_FOUND,
            f"the audit log knows nothing of {subject!r}; give an id in full, as it was shown",
        )
    steps = [(entry, remedy(entry, plugins)) for entry in entries]
    if as_json:
        print_json([{**entry_json(entry), "remedy": what} for entry, what in steps])
    else:
        for entry, what in steps:
            _tell(entry, what)


def _known(reader: Reader, subject: str, plugins: Sequence[Plugin]) -> set[str]:
    """The names under which the audit log has the subject and what belongs to its story."""
    known = history.identities(reader, subject)
    sources = [plugin.related for plugin in plugins if plugin.related is not None]
    # Twice the approvals: an order leads to one as well as one to its order.
    for related in (approval_store.related, *sources, approval_store.related):
        for name in tuple(known):
            for other in related(reader, name):
                known |= history.identities(reader, other)
    return known


def remedy(entry: Entry, plugins: Sequence[Plugin]) -> str | None:
    """What to do about a refusal; None for what was not refused."""
    if entry.outcome == "done":
        return None
    for plugin in plugins:
        found = plugin.remedy(entry.action, entry.detail) if plugin.remedy is not None else None
        if found is not None:
            return found
    code = entry.detail.get("code")
    return REMEDIES[ErrorCode(code)] if code in tuple(ErrorCode) else None


def _tell(entry: Entry, what: str | None) -> None:
    say(f"{moment(entry.at)}  {entry.actor}  {entry.action}: {entry.outcome}")
    say(f"    on {entry.object}")
    for name, value in entry.detail.items():
        if value not in (None, "", [], {}):
            shown = moment(from_epoch(value)) if name in _TIMES else _short(value)
            say(f"    {name.replace('_', ' ')}: {shown}")
    if what is not None:
        say(f"    remedy: {what}")


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_short(each) for each in value)
    if isinstance(value, dict):
        return "; ".join(f"{name} {_short(each)}" for name, each in value.items())
    return str(value)
