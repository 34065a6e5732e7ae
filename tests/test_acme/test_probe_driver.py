"""The driver: limits, failures, and one exception for everything."""

import asyncio
from dataclasses import replace

import pytest

from protocols.acme.challenges import start_validation
from protocols.acme.challenges.model import (
    ALPNAnswer,
    CAAAnswer,
    ChallengeType,
    Dialogue,
    FailureKind,
    FetchHTTP,
    HTTPAnswer,
    ProbeALPN,
    ResolveCAA,
    ResolveTXT,
    TXTAnswer,
    ValidationFailed,
    ask,
)
from protocols.acme.probe import Prober, run
from tests.test_acme.challenge_support import CONTEXT, REACHED, page, txt


class Canned:
    """A prober that knows its answers; None means silence."""

    def __init__(
        self, http: HTTPAnswer | None = None, txt: TXTAnswer | Exception | None = None
    ) -> None:
        self.http, self.txt = http, txt

    async def fetch_http(self, request: FetchHTTP) -> HTTPAnswer:
        return self.http or await asyncio.Future[HTTPAnswer]()

    async def resolve_txt(self, request: ResolveTXT) -> TXTAnswer:
        if isinstance(self.txt, Exception):
            raise self.txt
        return self.txt or await asyncio.Future[TXTAnswer]()

    async def resolve_caa(self, request: ResolveCAA) -> CAAAnswer:
        return CAAAnswer((), "192.0.2.53:53")

    async def probe_alpn(self, request: ProbeALPN) -> ALPNAnswer:
        return ALPNAnswer(REACHED, None, None)


async def test_answers_reach_the_dialogue() -> None:
    prober: Prober = Canned(http=page())
    proof = await run(start_validation(ChallengeType.HTTP_01, CONTEXT), prober)
    assert proof.challenge_type is ChallengeType.HTTP_01


@pytest.mark.parametrize(
    ("challenge_type", "kind"),
    [
        (ChallengeType.HTTP_01, FailureKind.CONNECTION),
        (ChallengeType.DNS_01, FailureKind.DNS),
    ],
)
async def test_the_whole_validation_is_limited(
    challenge_type: ChallengeType, kind: FailureKind
) -> None:
    with pytest.raises(ValidationFailed, match=r"not done after 0.01 seconds") as caught:
        await run(start_validation(challenge_type, CONTEXT), Canned(), timeout=0.01)
    assert caught.value.kind is kind
    assert "www.example.test" in caught.value.detail


async def test_a_failure_passes_through_the_dialogue() -> None:
    failure = ValidationFailed(FailureKind.DNS, "SERVFAIL")
    with pytest.raises(ValidationFailed) as caught:
        await run(start_validation(ChallengeType.DNS_01, CONTEXT), Canned(txt=failure))
    assert caught.value is failure


async def test_a_dialogue_may_carry_on_after_a_failure() -> None:
    def stubborn() -> Dialogue[str]:
        try:
            yield from ask(ResolveTXT("a.test"), TXTAnswer)
        except ValidationFailed:
            answer = yield from ask(FetchHTTP("http", "a.test", 80, "/"), HTTPAnswer)
        return answer.body.decode()

    prober = Canned(http=page(b"second"), txt=ValidationFailed(FailureKind.DNS, "SERVFAIL"))
    assert await run(stubborn(), prober) == "second"


async def test_what_we_did_not_expect_is_our_fault_and_stays_unnamed() -> None:
    prober = Canned(txt=RuntimeError("secret"))
    with pytest.raises(ValidationFailed) as caught:
        await run(start_validation(ChallengeType.DNS_01, CONTEXT), prober)
    assert caught.value.kind is FailureKind.SERVER_INTERNAL
    assert "secret" not in caught.value.detail
    assert isinstance(caught.value.__cause__, RuntimeError)


async def test_cancellation_is_not_swallowed() -> None:
    task = asyncio.create_task(run(start_validation(ChallengeType.DNS_01, CONTEXT), Canned()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_every_request_has_its_method() -> None:
    def all_of_them() -> Dialogue[int]:
        answers = [
            (yield FetchHTTP("http", "a.test", 80, "/")),
            (yield ResolveTXT("a.test")),
            (yield ResolveCAA("a.test")),
            (yield ProbeALPN("a.test", 443, "a.test", "acme-tls/1")),
        ]
        assert [type(answer) for answer in answers] == [
            HTTPAnswer,
            TXTAnswer,
            CAAAnswer,
            ALPNAnswer,
        ]
        return len(answers)

    assert await run(all_of_them(), Canned(http=page(), txt=txt())) == 4


async def test_an_empty_token_never_reaches_the_network() -> None:
    with pytest.raises(ValidationFailed) as caught:
        await run(start_validation(ChallengeType.HTTP_01, replace(CONTEXT, token="")), Canned())
    assert caught.value.kind is FailureKind.SERVER_INTERNAL
