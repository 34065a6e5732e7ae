"""Refusals are recorded with their cause, and are so many that the audit log stays of use."""

import asyncio
import base64
import datetime as dt

import pytest
from structlog.testing import capture_logs

from pkiserver.ca.model import Reason, Requester
from pkiserver.config_types import Rate
from pkiserver.web.peer import Peer
from protocols.est.authentication import parse_basic
from tests.test_est.conftest import OpenWorld
from tests.test_est.support import PASSWORD, World, make_csr, peer_with

ALICE = ("alice", PASSWORD)
LIMITED = '[est.default]\nrefusals_per_client = "3/15m"\n'


async def test_a_user_who_is_refused_over_and_over(open_world: OpenWorld) -> None:
    """Others are not concerned, and the time passes."""
    world = await open_world(LIMITED)
    await world.add_user()
    await world.add_user("bob")
    for status in (400, 400, 400, 429, 429):
        answer = await world.post("simpleenroll", b"\x30\0", auth=ALICE)
        assert answer.status_code == status
    assert int(answer.headers["retry-after"]) > 0
    assert len(await world.refusals()) == 3
    for operation in ("simplereenroll", "serverkeygen"):
        answer = await world.post(operation, make_csr(), auth=ALICE)
        assert answer.status_code == 429
    answer = await world.post("simpleenroll", make_csr(), auth=("bob", PASSWORD))
    assert answer.status_code == 200
    world.clock.advance(dt.timedelta(minutes=16))
    assert (await world.post("simpleenroll", make_csr(), auth=ALICE)).status_code == 200


async def test_a_certificate_that_does_not_count(open_world: OpenWorld) -> None:
    """TLS lets a revoked certificate in; at once or one after the other, its rows are few."""
    world = await open_world(LIMITED)
    await world.add_user()
    held = await world.enroll("dev1")
    await world.runtime.services.revocation.revoke(
        "issuing",
        held.certificate.serial_number,
        Reason.SUPERSEDED,
        actor=Requester("test", "pytest"),
    )
    request = make_csr("dev1")
    answers = await asyncio.gather(
        *(world.post("simpleenroll", request, peer=peer_with(held)) for _ in range(10))
    )
    assert sorted(answer.status_code for answer in answers) == [401] * 3 + [429] * 7
    assert len(await world.refusals()) == 3
    with_password = await world.post("simpleenroll", request, peer=peer_with(held), auth=ALICE)
    assert with_password.status_code == 200


async def test_guesses_from_everywhere(
    open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many addresses somebody has, the audit log stays readable; nothing goes unsaid."""
    few = Rate(count=2, period=dt.timedelta(hours=1))
    monkeypatch.setattr("pkiserver.ca.refusals.ALTOGETHER", few)
    world = await open_world()

    async def guess(number: int) -> None:
        peer = Peer(f"198.51.100.{number}", tls_version="TLSv1.3")
        answer = await world.post("simpleenroll", make_csr(), auth=(f"u{number}", "x"), peer=peer)
        assert answer.status_code == 401

    with capture_logs() as logs:
        for number in range(5):
            await guess(number)
    assert len(await world.refusals()) == 2
    assert [each["actor"] for each in logs if each.get("action") == "est.authenticate"] == [
        "est:user:u2", "est:user:u3", "est:user:u4",
    ]  # fmt: skip
    world.clock.advance(dt.timedelta(hours=1))
    await guess(6)
    assert '"not recorded before":3' in (await world.refusals())[-1]
    assert len(await world.rows("SELECT * FROM est_failures")) == 12


async def test_what_was_rejected_is_recorded_each_time(open_world: OpenWorld) -> None:
    world = await open_world("[profiles.device]\nrequires_approval = true\n[est.default]\n")
    await world.add_user()
    request = make_csr()
    await world.post("simpleenroll", request, auth=ALICE)
    approvals = world.runtime.services.approvals
    (pending,) = await approvals.newest()
    await approvals.reject(pending.id, Requester("cli", "operator"), "who is this?")
    for count in (1, 2):
        assert (await world.post("simpleenroll", request, auth=ALICE)).status_code == 403
        assert sum("who is this?" in cause for cause in await world.refusals()) == count


async def test_an_ipv6_site_is_one_address(open_world: OpenWorld) -> None:
    """Else whoever has a /64 has as many guesses, and audit rows, as he likes."""
    world = await open_world('[est.default]\nfailures_per_address = "2/15m"\n')
    await world.add_user()
    for number, status in enumerate((401, 401, 429)):
        peer = Peer(f"2001:db8::{number + 1:x}", tls_version="TLSv1.3")
        answer = await world.post("simpleenroll", make_csr(), auth=(f"u{number}", "x"), peer=peer)
        assert answer.status_code == status
    peer = Peer("2001:db8:0:1::1", tls_version="TLSv1.3")
    assert (await world.post("simpleenroll", make_csr(), auth=ALICE, peer=peer)).status_code == 200


@pytest.mark.parametrize("field", ["Authorization", "Content-Type"])
async def test_a_field_that_is_there_twice(world: World, field: str) -> None:
    """Of which a proxy may have looked at the other one."""
    login = "Basic " + base64.b64encode(":".join(ALICE).encode()).decode()
    fields = [("Authorization", login), ("Content-Type", "application/pkcs10")]
    content = base64.b64encode(make_csr())
    answer = await world.request("POST", "simpleenroll", content=content, headers=fields)
    assert answer.status_code == 200
    for more in ([*fields, (field, "x")], [(field, "x"), *fields]):
        answer = await world.request("POST", "simpleenroll", content=content, headers=more)
        assert (answer.status_code, answer.text) == (400, f"{field} is there more than once\n")


@pytest.mark.parametrize("text", ["a\0b:x", "a\nb:x", "alice:x\x7f", "a\x85:x"])
def test_control_characters_in_credentials(text: str) -> None:
    """RFC 7617 section 2; PostgreSQL has no NUL in text."""
    assert parse_basic(b"Basic " + base64.b64encode(text.encode())) is None


def test_other_languages_are_no_control_characters() -> None:
    text = "Zoë Müller:pässwörd mit Leerzeichen"
    assert parse_basic(b"Basic " + base64.b64encode(text.encode())) == (*text.split(":"),)
