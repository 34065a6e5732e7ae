"""Limits on URL, head, body and time."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import Message

from pkiserver.web.limits import LimitedReceive, Limits, check_head, read_body
from pkiserver.web.problems import HTTPProblem

LIMITS = Limits(url_bytes=20, header_bytes=100, header_count=3, body_bytes=10)
SOON = replace(LIMITS, body_seconds=0.05)


def scope(path: bytes = b"/", headers: list[tuple[bytes, bytes]] | None = None) -> dict[str, Any]:
    return {"type": "http", "raw_path": path, "query_string": b"", "headers": headers or []}


@pytest.mark.parametrize(
    "status,path,headers",
    [
        (414, b"/" + b"x" * 20, []),
        (431, b"/", [(b"a", b"b")] * 4),
        (431, b"/", [(b"a", b"b" * 101)]),
        (413, b"/", [(b"content-length", b"11")]),
        (400, b"/", [(b"content-length", b"-1")]),
        (400, b"/", [(b"content-length", b"")]),
        (400, b"/", [(b"content-length", b"9" * 20)]),
    ],
)
def test_a_head_over_a_limit_is_refused(
    status: int, path: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    with pytest.raises(HTTPProblem) as caught:
        check_head(scope(path, headers), LIMITS)
    assert caught.value.status == status


def test_a_head_at_the_limits_passes() -> None:
    check_head(scope(b"/" + b"x" * 19, [(b"content-length", b"10")]), LIMITS)


def canned(*parts: bytes) -> Any:
    messages: list[Message] = [
        {"type": "http.request", "body": part, "more_body": index + 1 < len(parts)}
        for index, part in enumerate(parts)
    ]

    async def receive() -> Message:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    return receive


async def test_the_body_is_counted_while_it_arrives() -> None:
    receive = LimitedReceive(canned(b"12345", b"67890", b"!"), LIMITS)
    await receive()
    await receive()
    with pytest.raises(HTTPProblem) as caught:
        await receive()
    assert caught.value.status == 413


async def test_time_for_the_whole_body_is_limited() -> None:
    async def dribble() -> Message:
        await asyncio.sleep(0.03)
        return {"type": "http.request", "body": b"", "more_body": True}

    receive = LimitedReceive(dribble, SOON)
    with pytest.raises(HTTPProblem) as caught:
        for _ in range(5):
            await receive()
    assert caught.value.status == 408


async def test_waiting_for_the_disconnect_is_not_limited() -> None:
    receive = LimitedReceive(canned(b"all"), Limits(body_seconds=0))
    with pytest.raises(HTTPProblem):
        await LimitedReceive(_never, Limits(body_seconds=0))()
    receive = LimitedReceive(canned(b"all"), SOON)
    assert (await receive())["body"] == b"all"
    await asyncio.sleep(0.06)
    assert (await receive())["type"] == "http.disconnect"


async def test_a_cancelled_request_ends_the_wait_below() -> None:
    ended = []

    async def waits() -> Message:
        try:
            await asyncio.sleep(0)
            await asyncio.Event().wait()
        finally:
            ended.append(True)
        raise AssertionError

    task = asyncio.create_task(_receive(LimitedReceive(waits, LIMITS)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [True]


async def test_an_error_after_a_wait_comes_through() -> None:
    async def fails() -> Message:
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await LimitedReceive(fails, LIMITS)()


async def _receive(receive: LimitedReceive) -> Message:
    return await receive()


async def _never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=8), min_size=1, max_size=6), st.booleans())
def test_read_body_gives_all_or_413(parts: list[bytes], declared: bool) -> None:
    total = b"".join(parts)
    headers = [(b"content-length", b"%d" % len(total))] if declared else []
    request = Request(scope(headers=headers), canned(*parts))
    if len(total) <= 12:
        assert asyncio.run(read_body(request, 12)) == total
    else:
        with pytest.raises(HTTPProblem) as caught:
            asyncio.run(read_body(request, 12))
        assert caught.value.status == 413
