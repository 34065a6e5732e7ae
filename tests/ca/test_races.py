"""What several processes, retirements and broken-off tasks do to issuance and to responders."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.ca import inventory
from pkiserver.ca.authorities import Authorities, Wish
from pkiserver.ca.issuance import Issued
from pkiserver.ca.model import AuthorityStatus, CertificateStatus, Reason
from pkiserver.ca.responders import Responders
from pkiserver.ca.status import StatusService
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.keys import FileKeyProvider
from pkiserver.pkix.names import dns_name
from pkiserver.storage import Reader, Transaction
from tests.ca.status_support import ask
from tests.ca.world import ALICE, World, open_world, request, subject

T = TypeVar("T")
WWW = dns_name("www.example.com")
NO_TIME = dt.timedelta(0)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        yield world


async def another_tree(world: World) -> Authorities:
    """The authorities as another process has them, such as the command line."""
    tree = Authorities(world.database, world.clock, world.keys, world.audit, world.settings)
    await tree.load()
    return tree


async def leave_unfinished(world: World) -> str:
    """The id of a row in `signing`, as a crash between the two transactions leaves it."""
    prepared = await world.issuance.prepare(request(WWW))

    def crash(tx: Transaction) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await world.issuance.issue(prepared, on_issued=crash)
    return prepared.id


async def status_of(world: World, certificate_id: str) -> CertificateStatus:
    record = await world.database.read(lambda reader: inventory.by_id(reader, certificate_id))
    assert record is not None
    return record.status


async def test_an_authority_another_process_retired_issues_nothing(world: World) -> None:
    """This process still believes it active: the transaction asks the database."""
    prepared = await world.issuance.prepare(request(WWW))
    await (await another_tree(world)).retire("issuing", actor="test:other")
    assert world.authorities.get("issuing").status is AuthorityStatus.ACTIVE
    with pytest.raises(PKIError) as caught:
        await world.issuance.issue(prepared)
    assert caught.value.code is ErrorCode.REFUSED_BY_PROFILE
    assert caught.value.rule == "profiles.tls-server.issuer"
    assert await world.rows("SELECT id FROM certificates WHERE profile = 'tls-server'") == []


@pytest.mark.parametrize("how", ["retired", "revoked"])
async def test_a_leftover_of_an_authority_that_may_not_sign_is_abandoned(
    world: World, how: str
) -> None:
    certificate_id = await leave_unfinished(world)
    if how == "retired":
        await (await another_tree(world)).retire("issuing", actor="test:other")
    else:
        own = world.authorities.certificate("issuing")
        await world.revocation.revoke("root", own.serial_number, Reason.CA_COMPROMISE, actor=ALICE)
    assert await world.issuance.recover(NO_TIME) == 1
    assert await status_of(world, certificate_id) is CertificateStatus.ABANDONED


async def test_a_token_is_worth_nothing_after_its_certificate_would_have_expired(
    tmp_path: Path,
) -> None:
    """As when the authority, which the certificate does not outlive, ends in a minute."""
    profiles = {"brief": {"validity": "6m", "dns": {"allow": ["*"]}}}
    async with open_world(tmp_path, profiles=profiles) as world:
        prepared = await world.issuance.prepare(request(WWW, profile="brief"))
        world.clock.advance(dt.timedelta(minutes=2))
        with pytest.raises(PKIError) as caught:
            await world.issuance.issue(prepared)
        assert caught.value.code is ErrorCode.CONFLICT


def recovering_signer(world: World) -> Any:
    """As if another process started, and recovered, while this one signs."""
    sign = world.issuance._signer.sign

    async def sign_slowly(*arguments: Any) -> Any:
        signed = await sign(*arguments)
        assert await world.another_issuance().recover(NO_TIME) == 1
        return signed

    return sign_slowly


async def test_of_two_signatures_one_is_the_certificate(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ECDSA signatures differ each time: what is handed out is what is stored."""
    prepared = await world.issuance.prepare(request(WWW))
    monkeypatch.setattr(world.issuance._signer, "sign", recovering_signer(world))
    hooks: list[str] = []
    issued: Issued = await world.issuance.issue(
        prepared,
        on_reserved=lambda tx: hooks.append("reserved"),
        on_issued=lambda tx: hooks.append("issued"),
    )
    stored = await world.rows(f"SELECT der FROM certificates WHERE id = '{prepared.id}'")
    assert stored == [(issued.der,)]
    assert issued.record.der == issued.der == issued.certificate.public_bytes(Encoding.DER)
    assert hooks == ["reserved", "issued"]
    rows = await world.rows("SELECT 1 FROM audit WHERE action = 'certificate.issue'")
    assert len(rows) == 1


async def test_what_recovery_gave_up_is_not_handed_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = await world.issuance.prepare(request(WWW))
    sign = world.issuance._signer.sign

    async def sign_slowly(*arguments: Any) -> Any:
        signed = await sign(*arguments)
        await (await another_tree(world)).retire("issuing", actor="test:other")
        assert await world.another_issuance().recover(NO_TIME) == 1
        return signed

    monkeypatch.setattr(world.issuance._signer, "sign", sign_slowly)
    with pytest.raises(PKIError) as caught:
        await world.issuance.issue(prepared)
    assert caught.value.code is ErrorCode.CONFLICT
    assert await status_of(world, prepared.id) is CertificateStatus.ABANDONED


async def test_many_recoveries_and_issuances_at_once_agree(world: World) -> None:
    async def issue() -> bytes:
        prepared = await world.issuance.prepare(request(WWW))
        return (await world.issuance.issue(prepared)).der

    async def recover() -> None:
        for _ in range(5):
            await world.another_issuance().recover(NO_TIME)

    issued = await asyncio.gather(*(issue() for _ in range(20)), *(recover() for _ in range(4)))
    stored = await world.rows("SELECT der FROM certificates WHERE profile = 'tls-server'")
    assert sorted(each for each in issued if each) == sorted(der for (der,) in stored)


# Tasks that are cancelled while they wait for a commit cannot tell whether it happened.


class BreakingOff:
    """A database whose nth write is committed, and then raises `error`."""

    def __init__(self, world: World, after: int, error: BaseException) -> None:
        self._database = world.database
        self._left = after
        self._error = error
        self.read = world.database.read
        self.lookup = world.database.lookup
        self.change_mark = world.database.change_mark
        self.change_mark_now = world.database.change_mark_now
        self.close = world.database.close

    async def write(self, work: Callable[[Transaction], T]) -> T:
        outcome = await self._database.write(work)
        self._left -= 1
        if self._left == 0:
            raise self._error
        return outcome


@pytest.mark.parametrize("after", [1, 2, 3, 4, 5])
async def test_a_responder_that_was_stored_keeps_its_key(world: World, after: int) -> None:
    """Or OCSP would have nobody to sign with until that responder's certificate is over."""
    database = BreakingOff(world, after, asyncio.CancelledError())
    responders = Responders(
        database, world.clock, world.authorities, world.keys, world.audit, world.settings
    )
    issuing = world.authorities.get("issuing")
    outcome = asyncio.ensure_future(responders.ensure(issuing))
    await asyncio.wait({outcome})
    keys = {path.stem for path in (world.settings.home / "keys").glob("ocsp-*.key")}
    assert keys == {key_id for (key_id,) in await world.rows("SELECT key_id FROM responders")}
    world.clock.advance(dt.timedelta(minutes=2))  # the lease, if it was not given back
    issued = await world.issue(WWW)
    keys_of_another = FileKeyProvider(world.settings.home / "keys", world.keys.passphrase())
    status = StatusService(
        world.database, world.clock, world.authorities, keys_of_another, world.audit,
        world.settings,
    )  # fmt: skip
    question = ask(issued.certificate, world.authorities.certificate("issuing"))
    assert (await status.ocsp("issuing", question)).der
    await status.stop()


async def test_an_authority_that_was_stored_keeps_its_key(world: World) -> None:
    """An imported key would otherwise be deleted under an active authority."""
    gone = PKIError(ErrorCode.UNAVAILABLE, "the disk went away")
    database = BreakingOff(world, 2, gone)
    tree = Authorities(database, world.clock, world.keys, world.audit, world.settings)
    await tree.load()
    with pytest.raises(PKIError) as caught:
        await tree.request("outside", subject("Outside"), "p256", actor="test:setup")
    assert caught.value.code is ErrorCode.UNAVAILABLE
    after = await another_tree(world)
    assert after.get("outside").status is AuthorityStatus.PENDING
    fresh = FileKeyProvider(world.settings.home / "keys", world.keys.passphrase())
    assert fresh.load(after.get("outside").key_id)


async def test_making_an_authority_and_recovery_at_once(world: World) -> None:
    """Either the authority is there with its certificate, or its maker is told and the name is
    free: never half."""

    async def make(name: str) -> x509.Certificate | None:
        try:
            wish = Wish(subject(name), dt.timedelta(days=365))
            authority = await world.authorities.create(name, "root", wish, "p256", actor="t:t")
            return authority.certificate
        except PKIError as error:
            assert error.code is ErrorCode.CONFLICT
            return None

    async def recover() -> None:
        for _ in range(20):
            await world.issuance.recover(NO_TIME)

    made, *_ = await asyncio.gather(
        asyncio.gather(*(make(f"ca-{n}") for n in range(5))), recover(), recover()
    )

    def active(reader: Reader) -> set[str]:
        rows = reader.all("SELECT name FROM authorities WHERE status = 'active'")
        return {name for (name,) in rows} - {"root", "issuing"}

    assert await world.database.read(active) == {
        f"ca-{n}" for n, certificate in enumerate(made) if certificate is not None
    }
    for number in range(5):
        if made[number] is None:
            assert await make(f"ca-{number}") is not None
