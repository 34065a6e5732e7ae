"""Drives a validation dialogue: carries its requests to a prober and the answers back."""

import asyncio
from typing import Protocol, TypeVar, assert_never

from protocols.acme.challenges.model import (
    ALPNAnswer,
    Answer,
    CAAAnswer,
    Dialogue,
    FailureKind,
    FetchHTTP,
    HTTPAnswer,
    ProbeALPN,
    Request,
    ResolveCAA,
    ResolveTXT,
    TXTAnswer,
    ValidationFailed,
)

DEFAULT_TIMEOUT = 10.0
"""Seconds for a whole validation."""

R = TypeVar("R")


class Prober(Protocol):
    """What carries requests to the outside.

    Every method either answers or raises ValidationFailed, ends in bounded time, may be called
    concurrently, and frees its sockets when it is cancelled. Nothing is kept between calls.
    """

    async def fetch_http(self, request: FetchHTTP) -> HTTPAnswer:
        """One GET, without following redirects. Certificates are not verified for https."""
        ...

    async def resolve_txt(self, request: ResolveTXT) -> TXTAnswer:
        """TXT records; that there are none is an answer, that nobody knows is a failure."""
        ...

    async def resolve_caa(self, request: ResolveCAA) -> CAAAnswer:
        """CAA records; that there are none is an answer, that nobody knows is a failure."""
        ...

    async def probe_alpn(self, request: ProbeALPN) -> ALPNAnswer:
        """One TLS handshake. The certificate is not verified."""
        ...


async def run(dialogue: Dialogue[R], prober: Prober, *, timeout: float = DEFAULT_TIMEOUT) -> R:
    """The dialogue's result. Raises ValidationFailed and nothing else; what we did not expect
    comes as `serverInternal` with its cause attached, which is for the log and not the client."""
    steps: list[Request] = []
    try:
        async with asyncio.timeout(timeout):
            return await _converse(dialogue, prober, steps)
    except TimeoutError as late:
        raise _too_late(timeout, steps) from late
    except ValidationFailed:
        raise
    except Exception as unexpected:
        raise ValidationFailed(
            FailureKind.SERVER_INTERNAL, "The validation could not be carried out"
        ) from unexpected
    finally:
        dialogue.close()


async def _converse(dialogue: Dialogue[R], prober: Prober, steps: list[Request]) -> R:
    try:
        request = next(dialogue)
        while True:
            steps.append(request)
            try:
                answer = await _perform(request, prober)
            except ValidationFailed as failure:
                request = dialogue.throw(failure)
            else:
                request = dialogue.send(answer)
    except StopIteration as end:
        result: R = end.value
        return result


async def _perform(request: Request, prober: Prober) -> Answer:
    match request:
        case FetchHTTP():
            return await prober.fetch_http(request)
        case ResolveTXT():
            return await prober.resolve_txt(request)
        case ResolveCAA():
            return await prober.resolve_caa(request)
        case ProbeALPN():
            return await prober.probe_alpn(request)
        case _:
            assert_never(request)


def _too_late(timeout: float, steps: list[Request]) -> ValidationFailed:
    last = steps[-1] if steps else None
    dns = isinstance(last, ResolveTXT | ResolveCAA)
    return ValidationFailed(
        FailureKind.DNS if dns else FailureKind.CONNECTION,
        f"{last}: not done after {timeout:g} seconds in {len(steps)} steps",
    )
