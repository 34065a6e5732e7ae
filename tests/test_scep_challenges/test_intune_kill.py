"""SIGKILL between a certificate and what Intune is told of it: what the next process on the same
home finds is settled, and nobody gets a certificate that Intune does not know of."""

import asyncio
import datetime as dt
import signal
from pathlib import Path

import pytest

from pkiserver.ca import audit
from pkiserver.ca.issuance import Issued
from protocols.scep.challenge import ChallengeRequest
from protocols.scep.intune import IntuneValidator
from tests.processes import die, run_elsewhere
from tests.test_scep_challenges.intune_fake import FakeMicrosoft
from tests.test_scep_challenges.intune_world import IntuneSection, device_csr, section
from tests.test_scep_challenges.world import open_world

BEFORE, AFTER = "before Intune hears of it", "after Intune has agreed"


async def killed() -> None:
    die()


class Dying(IntuneValidator):
    """Intune has agreed, which nothing has recorded yet."""

    async def _deliver(self, request: ChallengeRequest, issued: Issued) -> None:
        await self._client.notify_success(
            request.transaction_id, request.csr_der, issued.certificate, issued.record.issuer
        )
        die()


def enrol_and_die(template: Path, home: Path, moment: str) -> None:
    """In a process of its own."""

    async def run() -> None:
        async with open_world(template, home) as world:
            intune = section(world)
            if moment == BEFORE:
                intune.fake.before["successNotification"] = killed
            else:
                intune = IntuneSection(world, intune.fake, make=Dying)
            await intune.enrol(device_csr())

    asyncio.run(run())


@pytest.mark.parametrize("moment", [BEFORE, AFTER])
async def test_a_killed_process_leaves_no_certificate_that_is_good(
    challenge_template: Path, tmp_path: Path, moment: str
) -> None:
    home = tmp_path / "home"
    died = await run_elsewhere(enrol_and_die, challenge_template, home, moment)
    assert died == -signal.SIGKILL
    async with open_world(challenge_template, home) as world:
        await world.services.issuance.recover(dt.timedelta(0))
        intune = IntuneSection(world, FakeMicrosoft(world.clock.now))
        assert await intune.statuses() == [("issued", "awaiting", False)]
        await intune.validator.sweep(dt.timedelta(0))
        assert await intune.statuses() == [("issued", "withdrawn", True)]
        assert await intune.good_certificates() == 0
        assert intune.fake.calls["failureNotification"] == 1
        assert (await world.services.database.read(audit.verify)).problem is None
