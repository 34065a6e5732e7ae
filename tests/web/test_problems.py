"""RFC 9457 documents, also for what the framework itself refuses (ACME checklist 27)."""

import httpx
import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from pkiserver.errors import ErrorCode, PKIError
from pkiserver.web.edge import Edge
from pkiserver.web.problems import (
    STATUS_OF_CODE,
    HTTPProblem,
    as_problem,
    exception_handlers,
    problem_response,
)


async def ok(request: Request) -> Response:
    return PlainTextResponse("ok")


async def fail(request: Request) -> Response:
    kinds: dict[str, Exception] = {
        "crash": ValueError("/etc/secret"),
        "pki": PKIError(ErrorCode.RATE_LIMITED, "slow down", retry_after=7),
        "internal": PKIError(ErrorCode.INTERNAL, "/etc/secret"),
        "problem": HTTPProblem(415, "wrong media type"),
        "framework": HTTPException(400, "bad"),
    }
    raise kinds[request.path_params["kind"]]


def render_like_acme(problem: HTTPProblem) -> Response:
    return problem_response(
        problem.status, problem.detail, type="urn:example:malformed", headers=problem.headers
    )


ROUTES = [Route("/ok", ok, methods=["GET"]), Route("/fail/{kind}", fail)]
MOUNTED = Starlette(routes=ROUTES, exception_handlers=exception_handlers(render_like_acme))
APP = Edge(
    Starlette(routes=[*ROUTES, Mount("/acme", MOUNTED)], exception_handlers=exception_handlers()),
    access_log=False,
)


def client(app: ASGIApp) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="https://h")


@pytest.mark.parametrize("prefix,form", [("", "about:blank"), ("/acme", "urn:example:malformed")])
@pytest.mark.parametrize(
    "method,path,status",
    [
        ("GET", "/nowhere", 404),
        ("POST", "/ok", 405),
        ("GET", "/fail/crash", 500),
        ("GET", "/fail/internal", 500),
        ("GET", "/fail/problem", 415),
        ("GET", "/fail/framework", 400),
        ("GET", "/fail/pki", 429),
    ],
)
async def test_every_error_is_a_document_in_the_form_of_its_mount(
    method: str, path: str, status: int, prefix: str, form: str
) -> None:
    async with client(APP) as http:
        answer = await http.request(method, prefix + path)
    assert answer.status_code == answer.json()["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json()["type"] == form
    assert "/etc/secret" not in answer.text


async def test_headers_of_a_refusal_are_kept() -> None:
    async with client(APP) as http:
        assert "GET" in (await http.post("/ok")).headers["allow"]
        assert (await http.get("/fail/pki")).headers["retry-after"] == "7"


def test_every_error_code_has_a_status() -> None:
    assert set(STATUS_OF_CODE) == set(ErrorCode)
    for code in ErrorCode:
        problem = as_problem(PKIError(code, "the detail"))
        assert 400 <= problem.status < 600
        assert (problem.detail == "the detail") == (problem.status != 500)


def test_an_unregistered_status_has_a_title() -> None:
    assert b'"title": "Error"' in bytes(problem_response(499, "x").body)
