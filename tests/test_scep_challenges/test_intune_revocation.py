"""Intune's revocation requests (checklist 2.4)."""

import datetime as dt
import re
from typing import Any

import pytest

from pkiserver.ca.model import Reason, Requester
from pkiserver.errors import PKIError
from pkiserver.pkix.names import dns_name
from protocols.scep.fail_info import Refusal
from protocols.scep.intune_messages import MOST_REQUESTS
from protocols.scep.intune_revocation import Revocations
from protocols.scep.renewal import Renewals
from protocols.scep.settings import SCEPSettings
from tests.ca.world import request as certificate_request
from tests.test_scep_challenges.intune_fake import FakeMicrosoft, Outcome
from tests.test_scep_challenges.intune_world import IntuneSection, device_csr, section
from tests.test_scep_challenges.world import World


@pytest.fixture
def intune(world: World) -> IntuneSection:
    return section(world)


async def enrolled(intune: IntuneSection, transaction_id: str = "T-1") -> dict[str, Any]:
    """A device with a certificate; the revocation request Intune would make for it."""
    await intune.enrol(device_csr(), transaction_id)
    told = intune.fake.issued[transaction_id]
    return {
        "requestContext": f"context-{transaction_id}",
        "serialNumber": told["certificateSerialNumber"],
        "issuerName": told["issuingCertificateAuthority"],
        "caConfiguration": told["caConfiguration"],
    }


def result(fake: FakeMicrosoft, transaction_id: str = "T-1") -> tuple[bool, int]:
    found = fake.results[f"context-{transaction_id}"]
    return found["succeeded"], found["errorCode"]


async def test_what_intune_wants_revoked_is_revoked_and_answered(intune: IntuneSection) -> None:
    first, second = await enrolled(intune), await enrolled(intune, "T-2")
    intune.fake.revocations = [first]
    assert await intune.revocations.poll() == 1
    assert result(intune.fake) == (True, 0)
    assert [revoked for _, _, revoked in await intune.statuses()] == [True, False]
    assert intune.fake.wrong == []
    rows = await intune.world.rows("SELECT actor FROM audit WHERE action = 'certificate.revoke'")
    assert rows == [("scep:default/intune",)]
    assert second


async def test_it_does_not_block_the_new_enrolment(intune: IntuneSection) -> None:
    """PacketFence issue 7356: a profile edit revokes and enrols anew within seconds."""
    intune.fake.revocations = [await enrolled(intune)]
    await intune.enrol(device_csr(), "T-2")
    await intune.revocations.poll()
    assert [revoked for _, _, revoked in await intune.statuses()] == [True, False]


@pytest.mark.parametrize(
    "outcome", [500, ConnectionError, b'{"value": false}', b'{"value": "true"}']
)
async def test_results_that_were_not_taken_are_sent_again(
    intune: IntuneSection, outcome: Outcome
) -> None:
    intune.fake.revocations = [await enrolled(intune)]
    intune.fake.outcomes["uploadRevocationResults"] = outcome
    with pytest.raises(PKIError):
        await intune.revocations.poll()
    assert await intune.good_certificates() == 0
    del intune.fake.outcomes["uploadRevocationResults"]
    assert await intune.revocations.poll() == 1
    assert result(intune.fake) == (True, 0)
    assert await intune.revocations.poll() == 0


@pytest.mark.parametrize("outcome", [500, ConnectionError, b"{}", b'{"value": [1]}', b"[]"])
async def test_a_download_without_an_answer(intune: IntuneSection, outcome: Outcome) -> None:
    intune.fake.outcomes["downloadRevocationRequests"] = outcome
    with pytest.raises(PKIError):
        await intune.revocations.poll()


REQUESTS: list[tuple[dict[str, Any], tuple[bool, int]]] = [
    ({"serialNumber": "00"}, (False, 4004)),
    ({"serialNumber": "AB" * 16}, (False, 4004)),
    ({"serialNumber": "not hexadecimal"}, (False, 4002)),
    ({"serialNumber": ""}, (False, 4002)),
    ({"serialNumber": 7}, (False, 4002)),
    ({"serialNumber": "A" * 100}, (False, 4002)),
    ({"caConfiguration": "root"}, (False, 4004)),
    ({"caConfiguration": "another CA"}, (False, 4004)),
    ({"caConfiguration": None, "issuerName": "CN=Somebody"}, (False, 4004)),
    ({"caConfiguration": None, "issuerName": None}, (False, 4004)),
    ({"caConfiguration": None}, (True, 0)),
    ({"issuerName": None}, (True, 0)),
]


async def test_a_request_has_to_name_issuer_and_serial(intune: IntuneSection) -> None:
    asked = [await enrolled(intune, f"T-{number}") for number in range(len(REQUESTS))]
    intune.fake.revocations = [
        {**mine, **changes} for mine, (changes, _) in zip(asked, REQUESTS, strict=True)
    ]
    await intune.revocations.poll()
    results = [result(intune.fake, f"T-{number}") for number in range(len(REQUESTS))]
    assert results == [expected for _, expected in REQUESTS]
    assert await intune.good_certificates() == sum(not done for done, _ in results)


async def test_the_serial_number_may_be_written_in_other_ways(intune: IntuneSection) -> None:
    asked = await enrolled(intune)
    serial = asked["serialNumber"]
    forms = [serial.lower(), serial.lstrip("0"), f"00{serial}", ":".join(re.findall("..", serial))]
    intune.fake.revocations = [
        {**asked, "requestContext": f"context-{number}", "serialNumber": form}
        for number, form in enumerate(forms)
    ]
    await intune.revocations.poll()
    assert [result(intune.fake, str(number)) for number in range(4)] == [(True, 0)] * 4


async def test_one_without_a_context_does_not_stop_the_others(intune: IntuneSection) -> None:
    asked = await enrolled(intune)
    nameless = {key: value for key, value in asked.items() if key != "requestContext"}
    intune.fake.revocations = [nameless, asked]
    assert await intune.revocations.poll() == 1
    assert result(intune.fake) == (True, 0)


async def test_intune_revokes_its_own_certificates_only(intune: IntuneSection) -> None:
    """A tenant that is broken into must not take the servers down."""
    issuance = intune.world.services.issuance
    server = await issuance.issue(
        await issuance.prepare(certificate_request(dns_name("www.example")))
    )
    intune.fake.revocations = [
        {
            "requestContext": "context-T-1",
            "serialNumber": f"{server.record.serial:X}",
            "issuerName": server.certificate.issuer.rfc4514_string(),
            "caConfiguration": "issuing",
        }
    ]
    await intune.revocations.poll()
    assert result(intune.fake) == (False, 4004)


async def test_a_tenant_does_not_revoke_what_another_consented_to(intune: IntuneSection) -> None:
    asked = await enrolled(intune)
    services = intune.world.services
    intune.fake.revocations = [asked]
    await Revocations(services, "other", intune.client, {"default"}).poll()
    assert result(intune.fake) == (False, 4004)
    assert await intune.good_certificates() == 1
    intune.fake.revocations = [await enrolled(intune, "T-2")]
    await Revocations(services, "other", intune.client, {"third"}).poll()
    assert result(intune.fake, "T-2") == (True, 0), "another section of the same tenant"


async def test_no_other_section_renews_intunes_certificates(intune: IntuneSection) -> None:
    """Intune would not know of the new one, and so never have it revoked."""
    certificate = await intune.enrol(device_csr())
    other = SCEPSettings(profile=intune.profile)
    with pytest.raises(Refusal, match="renewed here"):
        await Renewals("other", other, intune.world.services).renewable(certificate)


async def test_what_is_revoked_on_hold_or_expired_already(intune: IntuneSection) -> None:
    asked = {name: await enrolled(intune, name) for name in ("T-1", "T-2", "T-3")}
    actor = Requester("test", "operator")
    for name, reason in (("T-1", Reason.KEY_COMPROMISE), ("T-2", Reason.CERTIFICATE_HOLD)):
        await intune.world.services.revocation.revoke(
            "issuing", int(asked[name]["serialNumber"], 16), reason, actor=actor
        )
    intune.fake.revocations = [asked["T-1"], asked["T-2"]]
    assert await intune.revocations.poll() == 2
    assert result(intune.fake, "T-1") == result(intune.fake, "T-2") == (True, 0)
    reasons = await intune.world.rows("SELECT reason FROM revocations ORDER BY reason")
    assert reasons == [("cessationOfOperation",), ("keyCompromise",)]
    intune.world.clock.advance(dt.timedelta(days=366))
    intune.fake.revocations = [asked["T-3"]]
    await intune.revocations.poll()
    assert result(intune.fake, "T-3") == (False, 4000)


async def test_long_queues_are_worked_off_in_pieces(intune: IntuneSection) -> None:
    asked = await enrolled(intune)
    unknown = [
        {**asked, "requestContext": f"c-{number}", "serialNumber": "AB" * 16}
        for number in range(MOST_REQUESTS + 5)
    ]
    intune.fake.revocations = [*unknown, asked]
    assert await intune.revocations.poll() == MOST_REQUESTS + 6
    assert intune.fake.calls["downloadRevocationRequests"] == 3
    assert result(intune.fake) == (True, 0)


async def test_a_queue_that_does_not_shrink_ends_the_round(intune: IntuneSection) -> None:
    intune.fake.revocations = [await enrolled(intune)]
    intune.fake.outcomes["uploadRevocationResults"] = b'{"value": true}'
    assert await intune.revocations.poll() == 1
    assert intune.fake.calls["downloadRevocationRequests"] == 2
