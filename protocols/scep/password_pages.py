"""One-time challenges over HTTPS, for management systems with a login.

- `/certsrv/mscep_admin/`, for the section `default`, and `/certsrv/mscep_admin/NAME`: the page of
  Microsoft's Network Device Enrollment Service. Fleet, Jamf, Zentral and scripts cut the password
  out of its sentences, so these stay to the letter, in UTF-16LE.
- `POST /scep-challenge/NAME`: the challenge alone, as text. Jamf Pro's webhook SCEPChallenge calls
  it, and so may anything else, with a JSON object that says for whom.
"""

import datetime as dt
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pkiserver.config_types import parse_duration
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.plugin import Services
from pkiserver.web.edge import CLIENT_ADDRESS
from pkiserver.web.limits import read_body
from pkiserver.web.problems import HTTPProblem, as_problem
from protocols.scep.challenge_store import Login
from protocols.scep.logins import Logins
from protocols.scep.one_time import NewChallenge, OneTimeChallenges

DEFAULT = "default"
_MOST_BYTES = 64 * 1024
_JAMF_EVENT = "SCEPChallenge"
_JAMF_XML = b"<webhookEvent>SCEPChallenge</webhookEvent>"
_REALM = {"WWW-Authenticate": 'Basic realm="SCEP challenges", charset="UTF-8"'}
_FULL = "The password cache is full."
_NO_PERMISSION = "You do not have sufficient permission to enroll with SCEP."


@dataclass(frozen=True, slots=True)
class Counter:
    """Where challenges of one label are handed out. `issuer` names the authority."""

    challenges: OneTimeChallenges
    lifetime: dt.timedelta
    most_unused: int
    issuer: str


@dataclass(frozen=True, slots=True)
class Wish:
    """What a caller asks of a challenge: less than the section gives, never more."""

    subjects: tuple[str, ...] = ()
    lifetime: dt.timedelta | None = None


class PasswordPages:
    """`counters` are the sections with one-time challenges."""

    def __init__(self, services: Services, logins: Logins, counters: Mapping[str, Counter]) -> None:
        self._services = services
        self._logins = logins
        self._counters = counters

    def routes(self) -> list[BaseRoute]:
        """For the HTTPS listener only: they carry passwords."""
        return [
            _AnyCase("/certsrv/mscep_admin", self._default_page, ["GET", "POST"]),
            _AnyCase("/certsrv/mscep_admin/", self._default_page, ["GET", "POST"]),
            _AnyCase("/certsrv/mscep_admin/{label}", self._page, ["GET", "POST"]),
            _AnyCase("/scep-challenge/{label}", self._challenge, ["POST"]),
        ]

    async def _default_page(self, request: Request) -> Response:
        return await self._ndes(request, DEFAULT)

    async def _page(self, request: Request) -> Response:
        return await self._ndes(request, request.path_params["label"].lower())

    async def _ndes(self, request: Request, label: str) -> Response:
        if request.method == "HEAD":  # would make a password that nobody sees
            raise HTTPProblem(405, "GET or POST", headers={"Allow": "GET, POST"})
        login = await self._login(request)
        counter = self._counters.get(label)
        if counter is None or login.label != label:
            await self._record_refusal(login, label, request)
            return _html(f"<P> {_NO_PERMISSION} </P>")
        try:
            new = await self._make(counter, login, Wish())
        except PKIError as error:
            if error.code is ErrorCode.RATE_LIMITED:
                return _html(f"<P> {_FULL} </P>")
            raise
        return _html(self._sentences(counter, new))

    def _sentences(self, counter: Counter, new: NewChallenge) -> str:
        authorities = self._services.authorities
        certificate = authorities.certificate(authorities.current(counter.issuer))
        thumbprint = hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest().upper()
        groups = " ".join(re.findall(".{8}", thumbprint))
        minutes = max(1, int(counter.lifetime.total_seconds()) // 60)
        return (
            "<P> The thumbprint (hash value) for the CA certificate is: "
            f"<B> {groups} </B>\n"
            f"<P> The enrollment challenge password is: <B> {new.secret} </B>\n"
            f"<P> This password can be used only once and will expire within {minutes} minutes.\n"
            "<P> Each enrollment requires a new challenge password. </P>"
        )

    async def _challenge(self, request: Request) -> Response:
        label = request.path_params["label"].lower()
        login = await self._login(request)
        counter = self._counters.get(label)
        if counter is None or login.label != label:
            await self._record_refusal(login, label, request)
            raise HTTPProblem(403, "this login is for another section")
        wish = parse_wish(await read_body(request, _MOST_BYTES))
        new = await self._make(counter, login, wish)
        return Response(new.secret, media_type="text/plain", headers={"Cache-Control": "no-store"})

    async def _login(self, request: Request) -> Login:
        values = request.headers.getlist("authorization")
        address = request.scope["state"][CLIENT_ADDRESS]
        try:
            return await self._logins.authenticate(values[0] if len(values) == 1 else None, address)
        except PKIError as error:
            if error.code is ErrorCode.UNAUTHORIZED:
                raise HTTPProblem(401, error.detail, headers=_REALM) from error
            raise as_problem(error) from error

    async def _make(self, counter: Counter, login: Login, wish: Wish) -> NewChallenge:
        if wish.lifetime is not None and wish.lifetime > counter.lifetime:
            raise _malformed("a challenge of this section does not last as long")
        try:
            return await counter.challenges.create(
                actor=f"scep:{login.name}",
                subjects=wish.subjects,
                lifetime=wish.lifetime,
                most_unused=counter.most_unused,
            )
        except PKIError as error:
            if error.code is ErrorCode.CONFIGURATION:  # said by the caller, not by the operator
                raise PKIError(ErrorCode.MALFORMED, error.detail) from error
            raise

    async def _record_refusal(self, login: Login, label: str, request: Request) -> None:
        address = request.scope["state"][CLIENT_ADDRESS]
        await self._logins.refuse(login.name, address, f"not for {label[:64]}")


def parse_wish(body: bytes) -> Wish:
    """What a request's body asks for: nothing if it is empty or Jamf's event; else a JSON object
    with any of `subjects` and `lifetime` ("30m"). Raises `PKIError` MALFORMED."""
    if not body.strip() or _JAMF_XML in body:
        return Wish()
    try:
        members = json.loads(body)
    except (ValueError, RecursionError):
        raise _malformed("the body is not JSON") from None
    if not isinstance(members, dict):
        raise _malformed("the body is not a JSON object")
    if "webhook" in members:
        return _jamf(members["webhook"])
    wish = Wish()
    for name, value in members.items():
        if name not in _MEMBERS:
            raise _malformed(f"unknown member {name[:50]!r}")
        wish = _MEMBERS[name](wish, value)
    return wish


def _jamf(webhook: object) -> Wish:
    """Jamf Pro asks before it knows what the device will want, so there is nothing to bind to."""
    if not isinstance(webhook, dict) or webhook.get("webhookEvent") != _JAMF_EVENT:
        raise _malformed(f"the webhook's event is not {_JAMF_EVENT}")
    return Wish()


def _subjects(wish: Wish, value: Any) -> Wish:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise _malformed("subjects is a list of texts")
    return replace(wish, subjects=tuple(value))


def _lifetime(wish: Wish, value: Any) -> Wish:
    try:
        lifetime = parse_duration(value)
    except ValueError as error:
        raise _malformed(f"lifetime: {error}") from error
    if not isinstance(lifetime, dt.timedelta):
        raise _malformed("lifetime is a duration such as 30m")
    return replace(wish, lifetime=lifetime)


_MEMBERS: Mapping[str, Callable[[Wish, Any], Wish]] = {
    "subjects": _subjects,
    "lifetime": _lifetime,
}


def _malformed(detail: str) -> PKIError:
    return PKIError(ErrorCode.MALFORMED, detail)


def _html(content: str) -> Response:
    page = (
        "<HTML><Head><Title>Network Device Enrollment Service</Title></Head>"
        f"<Body>\n{content}\n</Body></HTML>"
    )
    return Response(
        b"\xff\xfe" + page.encode("utf-16-le"),
        media_type="text/html; charset=utf-16",
        headers={"Cache-Control": "no-store"},
    )


class _AnyCase(Route):
    """A route that matches in any case, as Microsoft's does."""

    def __init__(
        self, path: str, endpoint: Callable[[Request], Awaitable[Response]], methods: list[str]
    ) -> None:
        super().__init__(path, endpoint, methods=methods)
        self.path_regex = re.compile(self.path_regex.pattern, re.IGNORECASE)
