"""The registration authority's certificate: nobody else's, and no burden to the CA's life cycle."""

import datetime as dt
from dataclasses import replace

import pytest

from pkiserver.ca import closing
from pkiserver.ca.authority_rollover import Rotation
from pkiserver.ca.model import CertificateRequest, Reason, Requester
from pkiserver.config_types import KeyKind
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.keys import FileKeyProvider, PrivateKey
from pkiserver.storage import Row
from protocols.scep.registration import Registration, RegistrationAuthorities
from tests.test_scep.client import make_csr, new_transaction, rsa_key
from tests.test_scep.conftest import OpenWorld
from tests.test_scep.world import World

WHO = "test:operator"
RA_PROFILE = "scep-ra.issuing.rsa-2048"


async def test_its_profile_is_for_nobody_else(world: World) -> None:
    """A webhook or an operator could name it; the device would get what signs our answers."""
    services = world.runtime.services
    request = CertificateRequest(RA_PROFILE, Requester("scep", "x"), make_csr(rsa_key()))
    with pytest.raises(PKIError, match="there is no profile") as refused:
        await services.issuance.prepare(request)
    assert refused.value.code is ErrorCode.NOT_FOUND
    with pytest.raises(PKIError, match="there is no profile"):
        await world.challenge(profile=RA_PROFILE)
    with pytest.raises(ValueError, match="dot"):
        services.issuance.add_profile("plain", services.settings.profiles["device"])


async def test_it_does_not_keep_its_ca_from_closing(world: World) -> None:
    """What holds a retired CA open is what others rely on; its RA goes with it."""
    services = world.runtime.services
    await world.ca()
    assert (await services.authorities.outstanding("issuing")).count == 0
    before = await world.device()
    old = (await world.enrol(before)).certificate
    assert (await services.authorities.outstanding("issuing")).count == 1
    await services.authorities.rotate("issuing", Rotation(), actor=WHO)
    assert (await world.ca())[0] != before.ra
    await services.authorities.retire("issuing", actor=WHO)
    message = before.pkcs_req(await world.challenge(), transaction_id=new_transaction())
    assert before.read((await world.post(message)).content).status == "0", "it still decrypts"
    await services.revocation.revoke(
        "issuing", old.serial_number, Reason.SUPERSEDED, actor=Requester("test", "x")
    )
    await closing.close(services.authorities, services.status, world.clock, "issuing", actor=WHO)
    answer = await world.post(before.pkcs_req("x", transaction_id=new_transaction()))
    now = await world.device()
    rep = now.with_certificate(before.certificate).read(answer.content)
    assert "get the CA certificates again" in (rep.text or ""), "closed: nothing could revoke it"
    await _maintain(world)
    rows = await world.rows("SELECT key_id FROM scep_registrations")
    keys = {path.stem for path in (services.settings.home / "keys").glob("scep-*")}
    assert {row[0] for row in rows} == keys and len(rows) == 1


async def test_answers_are_from_the_one_the_client_knows(world: World) -> None:
    """A client that polls for weeks verifies with the certificate it got at the beginning."""
    old = await world.device()
    world.clock.advance(dt.timedelta(days=250))
    new = await world.device()
    assert new.ra != old.ra
    assert (await world.send(old, old.pkcs_req(await world.challenge()))).status == "0"
    assert (await world.send(old, old.cert_poll(transaction_id="?"))).status == "2"
    assert (await world.send(new, new.cert_poll(transaction_id="?"))).status == "2"


async def test_a_ca_that_cannot_sign_is_not_asked_at_every_request(world: World) -> None:
    """Each attempt costs an RSA key and a row of the audit log, and GetCACert needs no login."""
    await world.runtime.services.database.write(
        lambda tx: tx.execute("DELETE FROM scep_registrations")
    )
    await world.runtime.services.authorities.retire("issuing", actor=WHO)
    url = "/scep/default?operation=GetCACert"
    for _ in range(5):
        assert (await world.http.get(url)).status_code == 503
    assert len(await world.rows("SELECT 1 FROM audit WHERE action = 'certificate.refuse'")) == 1
    world.clock.advance(dt.timedelta(minutes=1))
    assert (await world.http.get(url)).status_code == 503
    assert len(await world.rows("SELECT 1 FROM audit WHERE action = 'certificate.refuse'")) == 2


class Watching(FileKeyProvider):
    """Says what is noted of a key while it is being made."""

    seen: tuple[object, list[Row]] | None = None
    world: World

    async def generate(self, key_id: str, kind: KeyKind) -> PrivateKey:
        self.seen = key_id, await self.world.rows("SELECT key_id FROM key_drafts")
        return await super().generate(key_id, kind)


async def test_a_crash_leaves_no_key_that_nobody_knows_of(world: World) -> None:
    """It is noted before it is there, until its certificate's row says whose it is."""
    services = world.runtime.services
    await services.database.write(lambda tx: tx.execute("DELETE FROM scep_registrations"))
    keys = Watching(services.settings.home / "keys", services.keys.passphrase())
    keys.world = world
    registration = Registration("issuing", "rsa-2048", dt.timedelta(days=1))
    authorities = RegistrationAuthorities(replace(services, keys=keys), [registration])
    assert await authorities.ensure(registration)
    assert keys.seen is not None
    key_id, noted = keys.seen
    assert noted == [(key_id,)] == await world.rows("SELECT key_id FROM scep_registrations")
    assert await world.rows("SELECT key_id FROM key_drafts") == []


async def test_workers_fail_alike(open_world: OpenWorld) -> None:
    """S4: the substitute for a bad key block is the same in each process of a home."""
    worlds = [await open_world(), await open_world()]
    first, second = (each.runtime.services.derive_secret("scep: substitute key") for each in worlds)
    assert first == second and len(first) >= 32


async def _maintain(world: World) -> None:
    jobs = {job.name: job for job in world.runtime.protocols["scep"].jobs}
    await jobs["scep-registration"].run()
