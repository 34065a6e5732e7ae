"""Intune, against a faithful fake: checklist section 2, rule by rule."""

import asyncio
import datetime as dt
import json
import logging
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from pkiserver.ca.issuance import Issued
from pkiserver.errors import ErrorCode, PKIError
from protocols.scep.challenge import ChallengeRequest
from protocols.scep.intune import ABANDONED, IntuneValidator
from protocols.scep.intune_messages import Code
from tests.test_scep_challenges.intune_fake import CLIENT_SECRET, VALIDATION, Outcome
from tests.test_scep_challenges.intune_world import (
    CHALLENGE,
    IntuneSection,
    ask,
    device_csr,
    section,
)
from tests.test_scep_challenges.world import World, open_world


@pytest.fixture
def intune(world: World) -> IntuneSection:
    return section(world, subject="CN=device-1")


async def refused(intune: IntuneSection, csr: bytes, transaction_id: str = "T-1") -> PKIError:
    with pytest.raises(PKIError) as caught:
        await intune.enrol(csr, transaction_id)
    assert await intune.good_certificates() == 0
    return caught.value


# The flow (2.1, 2.3)


async def test_validate_issue_notify_deliver(intune: IntuneSection) -> None:
    csr = device_csr()
    certificate = await intune.enrol(csr)
    assert intune.fake.wrong == []
    assert dict(intune.fake.calls) == {
        "token": 2, "discovery": 1, "validateRequest": 1, "successNotification": 1,
    }  # fmt: skip
    told = intune.fake.issued["T-1"]
    assert int(told["certificateSerialNumber"], 16) == certificate.serial_number
    assert told["certificateThumbprint"] == _sha1(certificate)
    end = certificate.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    assert told["certificateExpirationDateUtc"] == end
    assert told["issuingCertificateAuthority"] == certificate.issuer.rfc4514_string()
    assert told["caConfiguration"] == "issuing"
    assert await intune.statuses() == [("issued", "confirmed", False)]


async def test_the_challenge_may_be_longer_than_pkcs9_says(intune: IntuneSection) -> None:
    assert len(CHALLENGE) > 1500
    await intune.enrol(device_csr())


async def test_the_same_transaction_gets_the_same_certificate(intune: IntuneSection) -> None:
    csr = device_csr()
    first = await intune.enrol(csr)
    assert await intune.enrol(csr) == first
    assert intune.fake.calls["validateRequest"] == 1


async def test_a_renewal_is_a_new_request_with_a_new_challenge(intune: IntuneSection) -> None:
    """TestMatrix "Renewal": nothing stands in the way of a second certificate."""
    await intune.enrol(device_csr())
    intune.fake.profiles["second"] = intune.fake.profiles[CHALLENGE]
    await intune.enrol(device_csr("second"), "T-2")
    assert set(intune.fake.issued) == {"T-1", "T-2"}


# Refusals by Intune


async def test_any_code_but_success_is_a_refusal(intune: IntuneSection) -> None:
    """2.3: also those that Microsoft's libraries do not list (issue 129)."""
    listed = [code.value for code in Code if code is not Code.SUCCESS]
    for code in [*listed, "BadTenantIdInChallenge", "", "success", "SUCCESS", " Success"]:
        intune.fake.outcomes["validateRequest"] = code
        error = await refused(intune, device_csr())
        assert error.code is ErrorCode.UNAUTHORIZED, code
    assert await intune.statuses() == []
    assert intune.fake.calls["failureNotification"] == 0


async def test_a_refusal_is_recorded_with_its_cause(intune: IntuneSection) -> None:
    error = await refused(intune, device_csr(subject="CN=somebody-else"))
    assert error.detail == "Intune refused: SubjectNameMismatch"
    assert str(error.rule).startswith("intune.SubjectNameMismatch")


@pytest.mark.parametrize("challenge", [None, ""])
async def test_without_a_challenge_intune_is_not_asked(
    intune: IntuneSection, challenge: str | None
) -> None:
    await refused(intune, device_csr(challenge))
    assert intune.fake.calls["validateRequest"] == 0


async def test_an_expired_challenge_and_an_untargeted_profile(world: World) -> None:
    expired = section(world, expires=world.clock.now())
    assert "ChallengeExpired" in (await refused(expired, device_csr())).detail
    gone = section(world, targeted=False)
    error = await refused(gone, device_csr())
    assert "ScepProfileNoLongerTargetedToTheClient" in error.detail


# Failures around validation: nothing is issued

BROKEN: list[Outcome] = [
    500, 503, 502, 429, 403, 404, 302, ConnectionError,
    b"", b"{", b"[]", b"null", b'{"code": 0}', b'{"errorDescription": ""}',
    b'{"code": "Success", "errorDescription": 1}', b"x" * ((1 << 20) + 1),
]  # fmt: skip


async def test_a_validation_without_an_answer_issues_nothing(intune: IntuneSection) -> None:
    """TestMatrix "Challenge Authentication Failure - 2"."""
    for outcome in BROKEN:
        intune.fake.outcomes["validateRequest"] = outcome
        error = await refused(intune, device_csr())
        assert error.code is ErrorCode.UNAVAILABLE, outcome
    assert await intune.statuses() == []


@pytest.mark.parametrize("place", ["token", "discovery"])
async def test_without_entra_or_graph_nothing_is_issued(intune: IntuneSection, place: str) -> None:
    """TestMatrix "Communication Failure"."""
    for outcome in (401, 500, ConnectionError, b"{}", b'{"value": 1}'):
        intune.fake.outcomes[place] = outcome
        assert (await refused(intune, device_csr())).code is ErrorCode.UNAVAILABLE, outcome
    del intune.fake.outcomes[place]
    await intune.enrol(device_csr())


async def test_a_wrong_client_secret(intune: IntuneSection) -> None:
    (intune.world.services.settings.home / "client-secret").write_text("another")
    assert (await refused(intune, device_csr())).code is ErrorCode.UNAVAILABLE
    (intune.world.services.settings.home / "client-secret").unlink()
    with pytest.raises(PKIError):
        intune.client.check()
    assert (await refused(intune, device_csr())).code is ErrorCode.UNAVAILABLE


async def test_a_tenant_without_intune(intune: IntuneSection) -> None:
    """Issue 85."""
    intune.fake.services = []
    error = await refused(intune, device_csr())
    assert "ScepRequestValidationFEService" in error.detail
    intune.fake.services = [{"providerName": "ScepRequestValidationFEService", "uri": VALIDATION}]
    await intune.enrol(device_csr())


async def test_no_token_is_sent_in_the_clear(intune: IntuneSection) -> None:
    intune.fake.services[0]["uri"] = VALIDATION.replace("https:", "http:")
    assert "not https" in (await refused(intune, device_csr())).detail


# Tokens and addresses


async def test_tokens_and_addresses_are_kept(intune: IntuneSection) -> None:
    for number in range(3):
        await intune.enrol(device_csr(), f"T-{number}")
    assert (intune.fake.calls["token"], intune.fake.calls["discovery"]) == (2, 1)
    intune.world.clock.advance(dt.timedelta(minutes=56))
    await intune.enrol(device_csr(), "T-9")
    assert (intune.fake.calls["token"], intune.fake.calls["discovery"]) == (3, 1)


async def test_concurrent_enrolments_share_them(intune: IntuneSection) -> None:
    await asyncio.gather(*(intune.enrol(device_csr(), f"T-{number}") for number in range(6)))
    assert (intune.fake.calls["token"], intune.fake.calls["discovery"]) == (2, 1)


@pytest.mark.parametrize("place", ["token", "discovery"])
async def test_who_waits_for_entra_or_graph_does_not_wait_in_turn(
    intune: IntuneSection, place: str
) -> None:
    """Each would spend the timeout of its own call while the others stand behind it."""
    intune.fake.outcomes[place] = ConnectionError
    errors = await asyncio.gather(
        *(intune.client.validate(f"T-{number}", device_csr()) for number in range(6)),
        return_exceptions=True,
    )
    assert all(isinstance(error, PKIError) for error in errors)
    assert intune.fake.calls[place] == 1
    del intune.fake.outcomes[place]
    await intune.enrol(device_csr())


async def test_who_leaves_does_not_take_the_token_along(intune: IntuneSection) -> None:
    """A device that hangs up while Entra is asked, with others waiting for the same token."""
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        reached.set()
        await go_on.wait()

    intune.fake.before["token"] = slow
    leaving = asyncio.create_task(intune.client.validate("T-1", device_csr()))
    await reached.wait()
    staying = asyncio.create_task(intune.client.validate("T-2", device_csr()))
    await asyncio.sleep(0)
    leaving.cancel()
    del intune.fake.before["token"]
    go_on.set()
    await staying
    assert intune.fake.calls["token"] == 2


async def test_a_token_that_is_refused_is_replaced_once(intune: IntuneSection) -> None:
    await intune.enrol(device_csr())
    intune.fake.tokens.clear()
    await intune.enrol(device_csr(), "T-2")
    assert intune.fake.calls["token"] == 3
    intune.fake.outcomes["validateRequest"] = 401
    before = intune.fake.calls["validateRequest"]
    await intune_refuses_third(intune)
    assert intune.fake.calls["validateRequest"] == before + 2


async def test_a_token_that_was_replaced_meanwhile_is_kept(intune: IntuneSection) -> None:
    """Of two calls with the old one, the second is refused when the first has a new one already."""
    await intune.enrol(device_csr())
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        del intune.fake.before["validateRequest"]
        reached.set()
        await go_on.wait()

    intune.fake.before["validateRequest"] = slow
    late = asyncio.create_task(intune.client.validate("T-2", device_csr()))
    await reached.wait()
    intune.fake.tokens.clear()
    await intune.client.validate("T-3", device_csr())
    go_on.set()
    await late
    assert intune.fake.calls["token"] == 3


async def intune_refuses_third(intune: IntuneSection) -> None:
    with pytest.raises(PKIError) as caught:
        await intune.enrol(device_csr(), "T-3")
    assert caught.value.code is ErrorCode.UNAVAILABLE


@pytest.mark.parametrize("outcome", [ConnectionError, 500])
async def test_addresses_are_asked_for_anew_after_a_failure(
    intune: IntuneSection, outcome: Outcome
) -> None:
    await intune.enrol(device_csr())
    intune.fake.outcomes["validateRequest"] = outcome
    with pytest.raises(PKIError):
        await intune.enrol(device_csr(), "T-2")
    del intune.fake.outcomes["validateRequest"]
    await intune.enrol(device_csr(), "T-3")
    assert intune.fake.calls["discovery"] == 2


# Failures after validation: failureNotification, no certificate that counts


async def test_no_success_no_certificate(intune: IntuneSection) -> None:
    """TestMatrix "Success Notification Failure"; issue 110. Issued, not delivered, revoked."""
    outcomes = [*BROKEN, "Unknown", "ChallengeExpired", "SomethingNew"]
    for number, outcome in enumerate(outcomes):
        intune.fake.outcomes["successNotification"] = outcome
        await refused(intune, device_csr(), f"T-{number}")
        assert intune.fake.failures[f"T-{number}"]["errorDescription"]
    statuses = [(status, revoked) for status, _, revoked in await intune.statuses()]
    assert statuses == [("issued", True)] * len(outcomes)
    del intune.fake.outcomes["successNotification"]
    await intune.enrol(device_csr())
    assert await intune.good_certificates() == 1


async def test_what_intune_refused_is_not_reported_back(intune: IntuneSection) -> None:
    await refused(intune, device_csr(subject="CN=device-2"))
    assert intune.fake.failures == {}


async def test_what_policy_refuses_is_reported_to_intune(world: World) -> None:
    intune = section(world)
    csr = device_csr(subject="CN=device-1", alt_names=[x509.DNSName("www.example.org")])
    narrow = IntuneSection(world, intune.fake, "short")
    with pytest.raises(PKIError) as caught:
        await narrow.enrol(csr)
    assert caught.value.code is ErrorCode.REFUSED_NAME
    told = intune.fake.failures["T-1"]
    assert told["hResult"] == 0x80094001 - (1 << 32)
    assert "www.example.org" in told["errorDescription"]
    assert intune.fake.wrong == []


async def test_a_failure_that_cannot_be_reported_changes_nothing(intune: IntuneSection) -> None:
    intune.fake.outcomes |= {"successNotification": 500, "failureNotification": ConnectionError}
    await refused(intune, device_csr())


# Crashes: awaiting is settled at the start and by the sweep


class Crash(BaseException):
    """The process ends here."""


class Dying(IntuneValidator):
    """The process ends just after Intune's confirmation is recorded."""

    async def _deliver(self, request: ChallengeRequest, issued: Issued) -> None:
        await super()._deliver(request, issued)
        raise Crash


async def crash_before_notification(intune: IntuneSection) -> None:
    """Issued, and the process dies before Intune hears of it."""

    intune.fake.outcomes["successNotification"] = Crash
    with pytest.raises(Crash):
        await intune.enrol(device_csr())
    del intune.fake.outcomes["successNotification"]
    assert await intune.statuses() == [("issued", "awaiting", False)]


async def test_a_crash_before_the_notification_ends_in_a_revocation(
    world: World, intune: IntuneSection
) -> None:
    await crash_before_notification(intune)
    after = IntuneSection(world, intune.fake)
    await after.validator.sweep(dt.timedelta(0))
    assert await after.statuses() == [("issued", "withdrawn", True)]
    assert intune.fake.failures["T-1"]["hResult"] < 0
    await after.enrol(device_csr())
    assert await after.good_certificates() == 1


async def test_the_sweep_leaves_what_may_still_be_going_on(
    world: World, intune: IntuneSection
) -> None:
    await crash_before_notification(intune)
    await intune.validator.sweep()
    assert await intune.statuses() == [("issued", "awaiting", False)]
    world.clock.advance(ABANDONED)
    await intune.validator.sweep()
    assert await intune.statuses() == [("issued", "withdrawn", True)]


async def test_of_two_sweeps_one_withdraws(world: World, intune: IntuneSection) -> None:
    await crash_before_notification(intune)
    await asyncio.gather(
        *(IntuneSection(world, intune.fake).validator.sweep(dt.timedelta(0)) for _ in range(3))
    )
    rows = await world.rows("SELECT action FROM audit WHERE action = 'scep.intune.withdraw'")
    assert len(rows) == 1


async def test_a_certificate_never_signed_is_withdrawn_after_recovery(
    world: World, intune: IntuneSection
) -> None:
    await crash_before_notification(intune)
    await world.services.database.write(
        lambda tx: tx.execute(
            "UPDATE certificates SET status = 'signing', der = NULL WHERE id IN "
            "(SELECT certificate FROM scep_intune)"
        )
    )
    await intune.validator.sweep(dt.timedelta(0))
    assert await intune.statuses() == [("signing", "awaiting", False)]
    await world.services.issuance.recover(dt.timedelta(0))
    await intune.validator.sweep(dt.timedelta(0))
    assert await intune.statuses() == [("issued", "withdrawn", True)]


async def test_a_sweep_that_overtakes_a_slow_notification_wins(
    world: World, intune: IntuneSection
) -> None:
    """Intune said Success, but we had given up: nobody gets a revoked certificate."""
    other = IntuneSection(world, intune.fake)
    intune.fake.before["successNotification"] = lambda: other.validator.sweep(dt.timedelta(0))
    with pytest.raises(PKIError) as caught:
        await intune.enrol(device_csr())
    assert caught.value.code is ErrorCode.CONFLICT
    assert await intune.statuses() == [("issued", "withdrawn", True)]


async def test_a_crash_after_the_confirmation_delivers_on_the_next_try(
    world: World, intune: IntuneSection
) -> None:
    csr = device_csr()
    with pytest.raises(Crash):
        await IntuneSection(world, intune.fake, make=Dying).enrol(csr)
    after = IntuneSection(world, intune.fake)
    await after.validator.sweep(dt.timedelta(0))
    assert (await after.enrol(csr)).serial_number
    assert await after.statuses() == [("issued", "confirmed", False)]
    assert intune.fake.calls["validateRequest"] == 1


async def test_concurrent_identical_requests_make_one_certificate_over_two_runtimes(
    challenge_template: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    async with (
        open_world(challenge_template, home) as one,
        open_world(challenge_template, home) as two,
    ):
        first = section(one)
        second = IntuneSection(two, first.fake)
        csr = device_csr()
        got = await asyncio.gather(
            *((first, second)[n % 2].enrolments.enrol(ask(csr)) for n in range(6)),
            return_exceptions=True,
        )
        assert len({der for der in got if isinstance(der, bytes)}) == 1
        others = [error for error in got if not isinstance(error, bytes)]
        # Never PENDING: that is no part of Intune's flow.
        assert all(
            isinstance(error, PKIError) and error.code is ErrorCode.UNAVAILABLE for error in others
        )
        assert await first.statuses() == [("issued", "confirmed", False)]


async def test_waiting_for_approval_is_refused(world: World) -> None:
    intune = section(world, profile="approved")
    csr = device_csr(subject="CN=device-1.example")
    error = await refused(intune, csr)
    assert error.rule == "requires_approval"
    assert "T-1" in intune.fake.failures


# Upkeep, secrets


async def test_rows_of_expired_certificates_are_deleted(
    world: World, intune: IntuneSection
) -> None:
    await intune.enrol(device_csr())
    await intune.validator.purge()
    assert len(await intune.statuses()) == 1
    world.clock.advance(dt.timedelta(days=366))
    await intune.validator.purge()
    assert await intune.statuses() == []


async def test_secrets_are_nowhere(
    intune: IntuneSection,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    await intune.enrol(device_csr())
    intune.fake.outcomes["successNotification"] = 500
    with pytest.raises(PKIError) as caught:
        await intune.enrol(device_csr(), "T-2")
    said = "".join(capsys.readouterr()) + caplog.text + repr(caught.value) + repr(intune.client)
    audit = json.dumps([row[0] for row in await intune.world.rows("SELECT detail FROM audit")])
    for secret in (CLIENT_SECRET, CHALLENGE, *intune.fake.tokens):
        assert secret not in said and secret not in audit
    assert CHALLENGE not in repr(ask(device_csr()).challenge)


def _sha1(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA1()).hex().upper()
