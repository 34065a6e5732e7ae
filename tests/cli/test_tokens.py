"""Tokens of the management interface."""

import datetime as dt
import hashlib
from pathlib import Path

import pytest

from pkiserver.admin.tokens import Role, create_token, list_tokens, revoke_token
from pkiserver.app import load_settings, open_runtime
from pkiserver.clock import FixedClock
from pkiserver.errors import ErrorCode, PKIError
from tests.cli.conftest import CLI

NOW = dt.datetime(2027, 1, 1, tzinfo=dt.UTC)


def test_a_token_is_shown_once_as_the_last_line(cli: CLI, home: Path) -> None:
    made = cli("token", "create", "--role", "operator", "--expires", "90d")
    secret = made.out.splitlines()[-1]
    assert made.status == 0 and len(secret) > 40
    rows = cli("token", "list", "--json").json
    assert [row["role"] for row in rows] == ["admin", "operator"]
    assert rows[1]["expires"] is not None and rows[0]["expires"] is None
    database = b"".join(path.read_bytes() for path in home.glob("pki.db*"))
    assert secret.encode() not in database
    assert hashlib.sha256(secret.encode()).digest() in database


def test_a_revoked_token_stays_revoked(cli: CLI) -> None:
    token_id = cli("token", "list", "--json").json[0]["id"]
    assert cli("token", "revoke", token_id).status == 0
    again = cli("token", "revoke", token_id)
    assert again.status == 2 and "revoked already" in again.err
    assert cli("token", "list", "--json").json[0]["state"] == "revoked"
    actions = [row["action"] for row in cli("audit", "list", "--object", token_id, "--json").json]
    assert actions == ["token.create", "token.revoke"]


def test_json_holds_the_secret_and_nothing_else_is_printed(cli: CLI) -> None:
    made = cli("token", "create", "--role", "auditor", "--json").json
    assert set(made) == {"token", "role"}


async def test_roles_and_lifetimes(home: Path) -> None:
    clock = FixedClock(NOW)
    async with open_runtime(load_settings(home), clock=clock) as runtime:
        services = runtime.services
        day = dt.timedelta(days=1)
        await create_token(services, role="auditor", lifetime=day, actor="cli:test")
        token = (await list_tokens(services))[-1]
        assert token.role is Role.AUDITOR
        assert token.usable(NOW) and not token.usable(NOW + day)
        for role, lifetime in (("root", day), ("admin", dt.timedelta(0))):
            with pytest.raises(PKIError) as caught:
                await create_token(services, role=role, lifetime=lifetime, actor="cli:test")
            assert caught.value.code is ErrorCode.CONFIGURATION
        with pytest.raises(PKIError) as caught:
            await revoke_token(services, "no-such", actor="cli:test")
        assert caught.value.code is ErrorCode.NOT_FOUND
        assert len(await list_tokens(services)) == 2


async def test_a_token_comes_with_its_audit_row_or_not_at_all(home: Path) -> None:
    """Invariant 7: the audit row is in the transaction of what it records."""
    async with open_runtime(load_settings(home)) as runtime:
        services = runtime.services

        def fixed(count: int) -> bytes:
            return bytes(count)

        await create_token(
            services, role="admin", lifetime=None, actor="cli:test", random_bytes=fixed
        )
        rows = "SELECT COUNT(*) FROM audit"
        before = await services.database.read(lambda reader: reader.one(rows))
        with pytest.raises(Exception, match="UNIQUE"):
            await create_token(
                services, role="admin", lifetime=None, actor="cli:test", random_bytes=fixed
            )
        assert await services.database.read(lambda reader: reader.one(rows)) == before
