"""What somebody tries who has another's messages, or a single certificate."""

import asyncio
import datetime as dt
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from pkiserver.cms import signed_data
from pkiserver.pkix import der
from protocols.scep.build import delete_issued
from protocols.scep.messages import MessageType
from tests.test_scep.client import new_transaction
from tests.test_scep.conftest import OpenWorld


async def test_nobody_gets_an_answer_encrypted_with_anothers_challenge(
    open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever saw a request on the wire can send what is encrypted in it in a message of his own.
    With an EC key of his he would get an answer to try passwords on."""
    monkeypatch.setenv("CHALLENGE", "12345678")
    world = await open_world(static={"challenge": "static", "challenge_secret_env": "CHALLENGE"})
    victim = await world.device("static")
    attacker = await world.device("static", key=ec.generate_private_key(ec.SECP256R1()))
    message = attacker.message(MessageType.PKCS_REQ, victim.csr("12345678"))
    envelope = signed_data.parse((await world.post(message, "static")).content).content
    assert envelope is not None
    assert _recipient_of(envelope) == b"\xa1", "key agreement, for the attacker's own key"
    honest = attacker.pkcs_req("12345678", transaction_id=new_transaction())
    envelope = signed_data.parse((await world.post(honest, "static")).content).content
    assert envelope is not None and _recipient_of(envelope) == b"\xa3"


def _recipient_of(envelope: bytes) -> bytes:
    """The tag of its only RecipientInfo (RFC 5652 section 6.2)."""
    content = der.sequence_of(der.sequence_of(envelope)[1].contents)
    return content[1].contents[:1]


async def test_a_request_signed_by_whom_forwards_it(open_world: OpenWorld) -> None:
    """Google's connector signs with a key of its own (RSA) what Chromebooks request."""
    world = await open_world()
    connector = await world.device(number=1, common_name="connector")
    challenge = await world.challenge()
    csr = (await world.device()).csr(challenge)
    assert (await world.send(connector, connector.message("19", csr))).status == "0"


@pytest.mark.parametrize("transaction_id", ["the same", None])
async def test_one_certificate_is_not_renewed_without_end(
    open_world: OpenWorld, transaction_id: str | None
) -> None:
    """What a renewal asks for besides its key is not taken, and makes no other device of it; nor
    does another transaction, or the same one begun anew."""
    world = await open_world(few={"enrolments_per_device": "3/1h"})
    device = await world.device()
    holder = device.with_certificate((await world.enrol(device, "few")).certificate)
    purposes: list[list[x509.ObjectIdentifier]] = [[], [ExtendedKeyUsageOID.CLIENT_AUTH]]
    for n in range(6):
        await world.send(
            holder,
            holder.renewal_req(
                csr={"extra": _wanted(purposes[n % 2])},
                transaction_id=transaction_id or new_transaction(),
            ),
            "few",
        )
    assert await world.issued() == 3
    world.clock.advance(dt.timedelta(hours=1))
    assert (await world.send(holder, holder.renewal_req(), "few")).status == "0"
    world.clock.advance(dt.timedelta(hours=2))
    await delete_issued(world.runtime.services)
    assert await world.rows("SELECT count(*) FROM scep_issued") == [(0,)]


async def test_renewals_at_the_same_time_are_counted_all(open_world: OpenWorld) -> None:
    """By two processes on one database."""
    section = {"enrolments_per_device": "3/1h"}
    worlds = [await open_world(few=section), await open_world(few=section)]
    device = await worlds[0].device()
    holder = device.with_certificate((await worlds[0].enrol(device, "few")).certificate)
    answers = await asyncio.gather(
        *(
            worlds[n % 2].send(holder, holder.renewal_req(transaction_id=new_transaction()), "few")
            for n in range(8)
        )
    )
    assert sorted(rep.status for rep in answers) == ["0"] * 2 + ["2"] * 6
    assert await worlds[1].issued() == 3


async def test_a_repetition_is_not_counted(open_world: OpenWorld) -> None:
    """The same request several times at once, on two processes: the last one a device may have."""
    section = {"enrolments_per_device": "1/1h"}
    worlds = [await open_world(few=section), await open_world(few=section)]
    device = await worlds[0].device()
    message = device.pkcs_req(await worlds[0].challenge("few"))
    answers = await asyncio.gather(*(worlds[n % 2].send(device, message, "few") for n in range(6)))
    assert {rep.status for rep in answers} == {"0"}, [rep.text for rep in answers]
    assert await worlds[0].issued() == 1
    assert await worlds[0].refusals() == []


def _wanted(purposes: Sequence[x509.ObjectIdentifier]) -> list[tuple[str, bytes]]:
    """An extension request, unless it would ask for nothing."""
    if not purposes:
        return []
    value = der.encode(der.OCTET_STRING, x509.ExtendedKeyUsage(purposes).public_bytes())
    extension = der.encode(der.SEQUENCE, der.encode_oid("2.5.29.37"), value)
    return [("1.2.840.113549.1.9.14", der.encode(der.SEQUENCE, extension))]


@pytest.mark.parametrize("label", ["default", "static"])
async def test_challenges_are_in_no_log_and_no_database(
    open_world: OpenWorld,
    label: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of requests that pass and of those that do not; an approval needs the request itself."""
    caplog.set_level("DEBUG")
    monkeypatch.setenv("CHALLENGE", "correct horse battery")
    world = await open_world(static={"challenge": "static", "challenge_secret_env": "CHALLENGE"})
    one_time = await world.challenge()
    good = {"default": one_time, "static": "correct horse battery"}[label]
    device = await world.device(label)
    forbidden = {"extra": _wanted([ExtendedKeyUsageOID.CODE_SIGNING])}
    for message, status in (
        (device.pkcs_req("a wrong guess", transaction_id=new_transaction()), "2"),
        (device.pkcs_req(good, csr=forbidden), "2"),
        (device.pkcs_req(good), "0"),
    ):
        assert (await world.send(device, message, label)).status == status
    said = "".join(capsys.readouterr()) + caplog.text
    files = b"".join(path.read_bytes() for path in tmp_path.rglob("pki.db*"))
    assert files
    for secret in (good, "a wrong guess"):
        assert secret not in said and secret.encode() not in files
