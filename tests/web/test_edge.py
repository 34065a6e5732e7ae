"""The edge middleware: request ids, access log, refusals, last resort. And the hot paths."""

import asyncio
import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import structlog
from starlette.responses import PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send

from pkiserver import logs
from pkiserver.web.edge import Edge
from pkiserver.web.hot import HotPaths
from pkiserver.web.limits import Limits
from pkiserver.web.peer import TrustedProxies
from pkiserver.web.problems import HTTPProblem


@pytest.fixture
def log_lines() -> Iterator[Any]:
    """What the log has after a turn of the event loop."""
    stream = io.StringIO()
    logs.configure(stream=stream, cache=False)

    async def lines() -> list[Any]:
        await asyncio.sleep(0)
        return [json.loads(line) for line in stream.getvalue().splitlines()]

    yield lines
    structlog.reset_defaults()


def client(app: Edge, address: str = "192.0.2.7") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, client=(address, 1), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="https://h")


async def tell(scope: Scope, receive: Receive, send: Send) -> None:
    structlog.get_logger("app").info("inside")
    state = scope["state"]
    answer = PlainTextResponse(f"{state['request_id']} {state['client_address']}")
    await answer(scope, receive, send)


async def test_id_and_address_reach_application_log_and_client(log_lines: Any) -> None:
    async with client(Edge(tell, random_bytes=lambda count: b"\xab" * count)) as http:
        answer = await http.get("/p")
    assert answer.text == "ab" * 8 + " 192.0.2.7"
    assert answer.headers["x-request-id"] == "ab" * 8
    inside, request = await log_lines()
    assert inside["request_id"] == request["request_id"] == "ab" * 8
    assert request["logger"] == "pkiserver.access"
    assert {key: request[key] for key in ("method", "path", "status", "client")} == {
        "method": "GET",
        "path": "/p",
        "status": 200,
        "client": "192.0.2.7",
    }
    assert request["ms"] >= 0
    assert not structlog.contextvars.get_contextvars()


@pytest.mark.parametrize(
    "address,sent,taken",
    [
        ("10.0.0.1", "from-proxy-1", True),
        ("192.0.2.7", "from-client", False),
        ("10.0.0.1", "with space", False),
        ("10.0.0.1", "x" * 65, False),
        ("10.0.0.1", "short", False),
    ],
)
async def test_a_request_id_is_taken_from_trusted_proxies_only(
    address: str, sent: str, taken: bool
) -> None:
    app = Edge(tell, access_log=False, trusted_proxies=TrustedProxies(["10.0.0.0/8"]))
    async with client(app, address) as http:
        answer = await http.get("/", headers={"X-Request-Id": sent})
    assert (answer.headers["x-request-id"] == sent) is taken


async def test_refusals_before_routing_take_the_form_of_the_path() -> None:
    def plain(problem: HTTPProblem) -> Response:
        return PlainTextResponse(problem.detail, problem.status)

    app = Edge(tell, limits=Limits(body_bytes=3), access_log=False, forms={"/scep/": plain})
    async with client(app) as http:
        formed = await http.post("/scep/x", content=b"1234")
        other = await http.post("/other", content=b"1234")
    assert formed.status_code == other.status_code == other.json()["status"] == 413
    assert formed.headers["content-type"].startswith("text/plain")
    assert formed.headers["x-request-id"] and other.headers["x-request-id"]


async def test_an_unexpected_error_is_logged_with_its_cause_and_not_shown(log_lines: Any) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("/etc/private")

    async with client(Edge(broken)) as http:
        answer = await http.get("/x")
    assert answer.status_code == answer.json()["status"] == 500
    assert "/etc/private" not in answer.text
    error, request = await log_lines()
    assert "ValueError: /etc/private" in error["exception"]
    assert error["request_id"] == answer.headers["x-request-id"]
    assert request["status"] == 500


@pytest.mark.parametrize("complete", [False, True])
async def test_an_error_after_the_answer_began_breaks_it_off(complete: bool) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": not complete})
        raise ValueError("late")

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    scope: dict[str, Any] = {
        "type": "http", "method": "GET", "path": "/", "raw_path": b"/", "query_string": b"",
        "headers": [], "client": None,
    }  # fmt: skip
    edge = Edge(broken, access_log=False)
    if complete:
        await edge(scope, receive, send)
    else:
        with pytest.raises(ValueError, match="late"):
            await edge(scope, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]


async def test_websockets_are_declined() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    await Edge(tell)({"type": "websocket"}, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]


async def test_hot_paths_are_found_exact_first_then_by_longest_prefix() -> None:
    def named(name: str) -> Any:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await PlainTextResponse(name)(scope, receive, send)

        return app

    app = HotPaths(
        named("fallback"),
        exact={"/acme/default/new-nonce": named("nonce")},
        prefixes={"/ocsp/": named("ocsp"), "/ocsp/special/": named("special")},
    )
    expected = {
        "/acme/default/new-nonce": "nonce",
        "/acme/default/new-nonce/": "fallback",
        "/ocsp/issuing": "ocsp",
        "/ocsp/special/x": "special",
        "/ocsp": "fallback",
        "/": "fallback",
    }
    async with client(Edge(app, access_log=False)) as http:
        for path, name in expected.items():
            assert (await http.get(path)).text == name
    async with client(Edge(HotPaths(named("only")), access_log=False)) as http:
        assert (await http.get("/x")).text == "only"
