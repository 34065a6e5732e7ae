"""What strangers can cause is bounded: rows of the audit log, work, and nothing is used up for an
answer that cannot be sent."""

import datetime as dt
from typing import Any

import pytest
from cryptography import x509

from pkiserver.ca import refusals
from pkiserver.ca.model import Requester
from pkiserver.config_types import Rate
from pkiserver.pkix import der
from protocols.scep import queries
from protocols.scep.messages import MessageType
from protocols.scep.remedies import remedy
from tests.test_scep.client import new_transaction, rsa_key
from tests.test_scep.conftest import OpenWorld
from tests.test_scep.world import World


@pytest.mark.parametrize(
    "options",
    [
        {"csr": {"digest": "sha1"}},
        {"csr": {"names": [x509.DNSName("other.example")]}},
        {"csr": {"key": rsa_key(0, 1024)}},
    ],
    ids=["hash", "name", "key"],
)
async def test_every_refusal_counts(open_world: OpenWorld, options: dict[str, Any]) -> None:
    """Also those that no challenge was needed for, or that leave the challenge unused."""
    world = await open_world(
        few={"failures_per_address": "3/1h", "profile": "strict"},
        profiles={"strict": {"issuer": "issuing", "validity": "1d", "subject": "CN={cn}",
                             "dns": {"allow": ["*.corp.example"]}}},
    )  # fmt: skip
    device = await world.device()
    challenge = await world.challenge("few")
    for n in range(6):
        message = device.pkcs_req(challenge, transaction_id=new_transaction(), **dict(options))
        rep = await world.send(device, message, "few")
        assert rep.status == "2" and ("too many" in (rep.text or "")) == (n >= 3), rep.text
    rows = await world.refusals()
    assert [row.get("address waits") for row in rows] == [None, None, 3601]
    assert "not listened to" in (remedy("scep.refuse", rows[-1]) or "")
    assert await world.issued() == 0


async def test_from_many_addresses_no_more_than_so_many_rows(
    open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has a block of addresses is not bounded by address; the row says what is missing."""
    monkeypatch.setattr(refusals, "PER_SOURCE", Rate(count=2, period=dt.timedelta(hours=1)))
    world = await open_world(any={"failures_per_address": "1000/1h"})
    device = await world.device()
    for _ in range(5):
        message = device.pkcs_req("guess", transaction_id=new_transaction())
        assert (await world.send(device, message, "any")).status == "2"
    assert len(await world.refusals()) == 2
    world.clock.advance(dt.timedelta(hours=1))
    await world.send(device, device.pkcs_req("guess"), "any")
    last = (await world.refusals())[-1]
    assert last["not recorded before"] == 3


async def test_waiting_for_the_subject_counts_too(open_world: OpenWorld) -> None:
    """Issuance records each of these refusals, and the challenge stays unused."""
    world = await open_world(few={"enrolments_per_device": "1/1h", "failures_per_address": "2/1h"})
    device = await world.device()
    await world.enrol(device, "few")
    other = await world.device(number=1)
    challenge = await world.challenge("few")
    for _ in range(5):
        assert (await world.send(other, other.pkcs_req(challenge), "few")).status == "2"
    assert len(await world.rows("SELECT 1 FROM audit WHERE action = 'certificate.refuse'")) == 2


async def test_large_lists_are_not_encrypted_for_strangers(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = await world.device()
    assert (await world.send(device, device.get_crl(device.ra))).status == "0"
    monkeypatch.setattr(queries, "MOST_CRL", 100)
    rep = await world.send(device, device.get_crl(device.ra))
    assert rep.fail_info == "2" and "distribution point" in (rep.text or "")


async def test_a_key_too_short_for_the_answer(world: World) -> None:
    """The key of a message need not be the one to certify. Refused before anything is issued, and
    no 500: OAEP with SHA-512 does not fit into 1024 bits."""
    signer = await world.device(key=rsa_key(0, 1024))
    challenge = await world.challenge()
    wanted = {"key": rsa_key()}
    message = signer.pkcs_req(
        challenge, csr=dict(wanted), key_transport="oaep", oaep_digest="sha512"
    )
    rep = await world.send(signer, message)
    assert (rep.status, rep.fail_info) == ("2", "0"), rep.text
    assert await world.issued() == 0
    assert (await world.send(signer, signer.pkcs_req(challenge, csr=wanted))).status == "0"


async def test_the_same_octets_after_the_certificate_has_ended(open_world: OpenWorld) -> None:
    """An approval is for one enrolment. A device without challenge, with the same key and name,
    sends the very same request next year."""
    world = await open_world(open={"profile": "approved", "challenge": "none"})
    approvals = world.runtime.services.approvals
    device = await world.device()
    message = device.pkcs_req(None)
    for _ in range(2):
        assert (await world.send(device, message, "open")).status == "3"
        (pending,) = [each for each in await approvals.newest() if each.status == "pending"]
        await approvals.approve(pending.id, Requester("cli", "operator"))
        rep = await world.send(device, device.cert_poll(), "open")
        assert rep.status == "0", rep.text
        world.clock.advance(dt.timedelta(days=31))
    assert await world.issued() == 2


@pytest.mark.parametrize("serial", [-1, 0, 1 << 200, -(1 << 4000), 1 << 14000], ids=range(5))
async def test_serial_numbers_that_no_certificate_has(world: World, serial: int) -> None:
    """GetCert by somebody who may ask."""
    device = await world.device()
    holder = device.with_certificate((await world.enrol(device)).certificate)
    size = serial.bit_length() // 8 + 1
    number = der.encode(der.INTEGER, serial.to_bytes(size, signed=True))
    for name in (device.ca[1].subject.public_bytes(), der.encode(der.SEQUENCE)):
        rep = await world.send(
            holder, holder.message(MessageType.GET_CERT, der.encode(der.SEQUENCE, name, number))
        )
        assert rep.status == "2" and rep.fail_info in ("1", "4"), rep.text
        rep = await world.send(
            holder, holder.message(MessageType.GET_CRL, der.encode(der.SEQUENCE, name, number))
        )
        assert rep.status in ("0", "2")
