"""Tokens of the management interface: bearer secrets with a role.

A token is 32 random bytes, shown once. The database holds its SHA-256, which is enough for a
secret that nobody can guess (a slow hash protects what people choose)."""

import base64
import datetime as dt
import enum
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from pkiserver.clock import epoch, from_epoch
from pkiserver.errors import ErrorCode, PKIError, configuration_error
from pkiserver.plugin import Services
from pkiserver.storage import Reader, Row, Transaction

_PREFIX = "pkiserver_"
"""Lets secret scanners recognise a token that got into a repository."""


class Role(enum.StrEnum):
    """What a token may do: everything, the daily work, or look."""

    ADMIN = "admin"
    OPERATOR = "operator"
    AUDITOR = "auditor"


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of a token; not its secret."""

    id: str
    role: Role
    created: dt.datetime
    expires: dt.datetime | None
    revoked: dt.datetime | None

    def usable(self, now: dt.datetime) -> bool:
        return self.revoked is None and (self.expires is None or self.expires > now)


async def create_token(
    services: Services,
    *,
    role: str,
    lifetime: dt.timedelta | None,
    actor: str,
    random_bytes: Callable[[int], bytes] = secrets.token_bytes,
) -> str:
    """Make a token; its secret, which cannot be had again. `lifetime` None: until it is revoked.
    Raises `PKIError` CONFIGURATION for a role that does not exist."""
    known = _role(role)
    if lifetime is not None and lifetime <= dt.timedelta(0):
        raise configuration_error("a token's lifetime has to be longer than nothing")
    now = services.clock.now()
    expires = None if lifetime is None else epoch(now + lifetime)
    secret = _PREFIX + base64.urlsafe_b64encode(random_bytes(32)).rstrip(b"=").decode()
    token_id = random_bytes(8).hex()

    def work(tx: Transaction) -> None:
        tx.execute(
            "INSERT INTO tokens (id, role, secret_sha256, created, expires) VALUES (?,?,?,?,?)",
            (token_id, known, _digest(secret), epoch(now), expires),
        )
        services.audit.append(
            tx, actor=actor, action="token.create", object=token_id,
            detail={"role": known, "expires": expires},
        )  # fmt: skip

    await services.database.write(work)
    return secret


async def list_tokens(services: Services) -> list[Token]:
    """Every token there ever was, oldest first."""
    return await services.database.read(_tokens)


async def revoke_token(services: Services, token_id: str, *, actor: str) -> None:
    """Raises `PKIError` NOT_FOUND, or CONFLICT if it is revoked already."""
    now = epoch(services.clock.now())

    def work(tx: Transaction) -> None:
        won = tx.execute(
            "UPDATE tokens SET revoked = ? WHERE id = ? AND revoked IS NULL", (now, token_id)
        )
        if not won:
            raise _not_revocable(tx, token_id)
        services.audit.append(tx, actor=actor, action="token.revoke", object=token_id)

    await services.database.write(work)


def _role(text: str) -> Role:
    if text not in tuple(Role):
        raise configuration_error(f"there is no role {text!r}; choose one of {', '.join(Role)}")
    return Role(text)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _tokens(reader: Reader) -> list[Token]:
    rows = reader.all("SELECT id, role, created, expires, revoked FROM tokens ORDER BY created, id")
    return [_token(row) for row in rows]


def _token(row: Row) -> Token:
    token_id, role, created, expires, revoked = row
    return Token(token_id, Role(role), from_epoch(created), _time(expires), _time(revoked))


def _time(seconds: int | None) -> dt.datetime | None:
    return None if seconds is None else from_epoch(seconds)


def _not_revocable(reader: Reader, token_id: str) -> PKIError:
    if reader.one("SELECT id FROM tokens WHERE id = ?", (token_id,)) is None:
        return PKIError(ErrorCode.NOT_FOUND, f"there is no token {token_id!r}")
    return PKIError(ErrorCode.CONFLICT, f"token {token_id!r} is revoked already")
