"""Microsoft's side of Intune's SCEP validation, as an ASGI application: Entra's token endpoint,
Graph's service discovery, ScepRequestValidationFEService and PkiConnectorFEService.

It is strict where the real ones are (audiences, api-versions, content types) and where they are
not (exact JSON members, header forms), so that a client that drifts is found out. Whether a request
passes is decided as Intune decides: by what its profile expects of the device's CSR.
"""

import base64
import datetime as dt
import re
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import AttributeOID
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

TENANT = "contoso.onmicrosoft.com"
CLIENT_ID = "11111111-2222-3333-4444-555555555555"
CLIENT_SECRET = "a~client.secret"
PROVIDER = "pkiserver/0.1"
LOGIN, GRAPH = "login.microsoftonline.com", "graph.microsoft.com"
INTUNE = "fef.msuc01.manage.microsoft.com"
RESOURCE = "https://api.manage.microsoft.com/"
VALIDATION = f"https://{INTUNE}/RACerts/StatelessScepRequestValidationService"
CONNECTOR = f"https://{INTUNE}/RACerts/StatelessPkiConnectorService"
COMMON = {"transactionId", "certificateRequest", "callerInfo"}
SUCCESS_MEMBERS = COMMON | {
    "certificateThumbprint", "certificateSerialNumber", "certificateExpirationDateUtc",
    "issuingCertificateAuthority", "caConfiguration", "certificateAuthority",
}  # fmt: skip
FAILURE_MEMBERS = COMMON | {"hResult", "errorDescription"}

Outcome = str | int | type[BaseException] | bytes
"""What an action is made to answer: a code, an HTTP status, a broken connection, a body."""


class Wrong(Exception):
    """The client did something the real service would not have, or might not have, accepted."""


@dataclass(frozen=True)
class Expected:
    """What a SCEP profile of Intune lays down for a device; None: anything."""

    subject: str | None = None
    alt_names: frozenset[str] | None = None
    key_size: int | None = None
    key_usage: frozenset[str] | None = None
    extended_key_usage: frozenset[str] | None = None
    expires: dt.datetime | None = None
    targeted: bool = True


@dataclass
class FakeMicrosoft:
    """The services and what they saw. `now` is their clock; `outcomes` overrules an action
    ("token", "discovery", "validateRequest", ...) until it is taken out; `before` happens first."""

    now: Callable[[], dt.datetime]
    profiles: dict[str, Expected] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    before: dict[str, Callable[[], Awaitable[None]]] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    validated: dict[str, str] = field(default_factory=dict)
    issued: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    failures: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    revocations: list[dict[str, Any]] = field(default_factory=list)
    results: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    services: list[dict[str, str]] = field(
        default_factory=lambda: [
            {"providerName": "scepRequestValidationFEService", "uri": VALIDATION},
            {"providerName": "PkiConnectorFEService", "uri": CONNECTOR + "/"},
            {"providerName": "SomethingElse", "uri": "https://else.example"},
        ]
    )
    tokens: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    token_seconds: int = 3599
    host: str | None = None
    """The one host everything is on, where the fake is served over real HTTP; None: Microsoft's."""
    scopes: dict[str, str] = field(
        default_factory=lambda: {
            f"https://{GRAPH}/.default": "graph",
            # The two slashes are right: the resource ends with one.
            f"{RESOURCE}/.default": "intune",
        }
    )

    def transport(self) -> httpx.AsyncBaseTransport:
        """The network, with these services on it and nothing else."""
        return _Network(self)

    def serve_at(self, base: str) -> None:
        """Everything below `base`, a URL of this host."""
        self.host = urlsplit(base).hostname
        self.scopes = {f"{base}/.default": "graph", f"{base}/resource//.default": "intune"}
        for service in self.services:
            service["uri"] = service["uri"].replace(f"https://{INTUNE}", base)

    def app(self) -> Starlette:
        token = f"/{TENANT}/oauth2/v2.0/token"
        graph = "/v1.0/servicePrincipals/appId=0000000a-0000-0000-c000-000000000000/endpoints"
        validation = VALIDATION.removeprefix(f"https://{INTUNE}")
        connector = CONNECTOR.removeprefix(f"https://{INTUNE}")
        actions = {
            "validateRequest": self._validate,
            "successNotification": self._success,
            "failureNotification": self._failure,
        }
        lists = {
            "downloadRevocationRequests": self._download,
            "uploadRevocationResults": self._upload,
        }
        return Starlette(
            routes=[
                Route(token, self._answer("token", self._token), methods=["POST"]),
                Route(graph, self._answer("discovery", self._discovery), methods=["GET"]),
                *(
                    Route(
                        f"{validation}/ScepActions/{name}",
                        self._answer(name, self._intune(work, "2018-02-20")),
                        methods=["POST"],
                    )
                    for name, work in actions.items()
                ),
                *(
                    Route(
                        f"{connector}/CertificateAuthorityRequests/{name}",
                        self._answer(name, self._intune(work, "5019-05-05")),
                        methods=["POST"],
                    )
                    for name, work in lists.items()
                ),
            ]
        )

    # What every action has in common

    def _answer(self, name: str, work: Any) -> Any:
        async def endpoint(request: Request) -> Response:
            self.calls[name] += 1
            if name in self.before:
                await self.before[name]()
            outcome = self.outcomes.get(name)
            if isinstance(outcome, type):
                raise outcome("as planned")
            if isinstance(outcome, int):
                return JSONResponse({"error": "as planned"}, outcome)
            if isinstance(outcome, bytes):
                return Response(outcome, media_type="application/json")
            try:
                answer: Response = await work(request)
            except Wrong as error:
                self.wrong.append(f"{name}: {error}")
                return JSONResponse({"error": str(error)}, 400)
            if isinstance(outcome, str) and answer.status_code == 200:
                return _result(outcome, "as planned")
            return answer

        return endpoint

    def _intune(self, work: Callable[[Any], Response], version: str) -> Any:
        async def endpoint(request: Request) -> Response:
            if not self._is_authorised(request, "intune"):
                return JSONResponse({"error": "unauthorized"}, 401)
            _check(request.url.hostname == (self.host or INTUNE), "host")
            _check(request.headers.get("content-type") == "application/json", "content-type")
            _check(request.headers.get("api-version") == version, "api-version")
            _check(request.headers.get("useragent") == PROVIDER, "UserAgent")
            _check_uuid(request)
            return work(await request.json())

        return endpoint

    def _is_authorised(self, request: Request, audience: str) -> bool:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        return scheme == "Bearer" and self.tokens.get(token) == audience

    # Entra and Graph

    async def _token(self, request: Request) -> Response:
        _check(request.url.hostname == (self.host or LOGIN), "host")
        form = parse_qs((await request.body()).decode(), strict_parsing=True)
        _check(
            request.headers["content-type"] == "application/x-www-form-urlencoded", "content-type"
        )
        _check(set(form) == {"grant_type", "client_id", "client_secret", "scope"}, "form")
        _check(form["grant_type"] == ["client_credentials"], "grant_type")
        if form["client_id"] != [CLIENT_ID] or form["client_secret"] != [CLIENT_SECRET]:
            error = {"error": "invalid_client", "error_description": "AADSTS7000215"}
            return JSONResponse(error, 401)
        _check(form["scope"][0] in self.scopes, f"scope {form['scope']}")
        token = f"token-{uuid.uuid4().hex}"
        self.tokens[token] = self.scopes[form["scope"][0]]
        return JSONResponse(
            {"token_type": "Bearer", "expires_in": self.token_seconds,
             "ext_expires_in": self.token_seconds, "access_token": token}
        )  # fmt: skip

    async def _discovery(self, request: Request) -> Response:
        _check(request.url.hostname == (self.host or GRAPH), "host")
        if not self._is_authorised(request, "graph"):
            return JSONResponse({"error": {"code": "InvalidAuthenticationToken"}}, 401)
        _check_uuid(request)
        value = [
            {"id": str(uuid.uuid4()), "capability": "x", "providerId": "y", **service}
            for service in self.services
        ]
        return JSONResponse({"@odata.context": "https://graph.microsoft.com/...", "value": value})

    # ScepRequestValidationFEService

    def _validate(self, body: Any) -> Response:
        _check(set(body) == {"request"} and set(body["request"]) == COMMON, "members")
        request = body["request"]
        self._check_common(request)
        code = self.judge(base64.b64decode(request["certificateRequest"], validate=True))
        if code == "Success":
            self.validated[request["transactionId"]] = request["certificateRequest"]
        return _result(code, "" if code == "Success" else "refused")

    def judge(self, csr_der: bytes) -> str:
        """Intune's verdict on a request."""
        try:
            csr = x509.load_der_x509_csr(csr_der)
        except ValueError:
            return "CertificateRequestDecodingFailed"
        try:
            attribute = csr.attributes.get_attribute_for_oid(AttributeOID.CHALLENGE_PASSWORD)
        except x509.AttributeNotFound:
            return "ChallengePasswordMissing"
        expected = self.profiles.get(attribute.value.decode())
        if expected is None:
            return "ChallengeDecryptionError"
        if expected.expires is not None and self.now() >= expected.expires:
            return "ChallengeExpired"
        if not expected.targeted:
            return "ScepProfileNoLongerTargetedToTheClient"
        return _compare(csr, expected)

    def _success(self, body: Any) -> Response:
        _check(set(body) == {"notification"}, "members")
        notification = body["notification"]
        _check(set(notification) == SUCCESS_MEMBERS, f"members {sorted(notification)}")
        self._check_common(notification)
        self._check_validated(notification)
        forms = {
            "certificateThumbprint": r"[0-9A-F]{40}",
            "certificateSerialNumber": r"([0-9A-F]{2})+",
            "certificateExpirationDateUtc": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z",
            "issuingCertificateAuthority": r".+",
            "caConfiguration": r".+",
            "certificateAuthority": r".+",
        }
        for name, form in forms.items():
            _check(bool(re.fullmatch(form, notification[name])), name)
        self.issued[notification["transactionId"]] = notification
        return _result("Success", "")

    def _failure(self, body: Any) -> Response:
        _check(set(body) == {"notification"}, "members")
        notification = body["notification"]
        _check(set(notification) == FAILURE_MEMBERS, "members")
        self._check_common(notification)
        self._check_validated(notification)
        _check(-(1 << 31) <= notification["hResult"] < 0, "hResult is a failure of 32 bits")
        _check(1 <= len(notification["errorDescription"]) <= 255, "errorDescription")
        self.failures[notification["transactionId"]] = notification
        return _result("Success", "")

    def _check_common(self, members: Mapping[str, Any]) -> None:
        _check(members["callerInfo"] == PROVIDER, "callerInfo")
        _check(bool(members["transactionId"]), "transactionId")
        _check("\n" not in members["certificateRequest"], "certificateRequest")

    def _check_validated(self, members: Mapping[str, Any]) -> None:
        known = self.validated.get(members["transactionId"])
        _check(known == members["certificateRequest"], "this was never validated")

    # PkiConnectorFEService

    def _download(self, body: Any) -> Response:
        _check(set(body) == {"downloadParameters"}, "members")
        parameters = body["downloadParameters"]
        _check(set(parameters) == {"maxRequests", "issuerName"}, "members")
        _check(1 <= parameters["maxRequests"] <= 500, "maxRequests")
        _check(parameters["issuerName"] is None, "issuerName")
        left = [each for each in self.revocations if each.get("requestContext") not in self.results]
        return JSONResponse({"@odata.context": "x", "value": left[: parameters["maxRequests"]]})

    def _upload(self, body: Any) -> Response:
        _check(set(body) == {"results"} and bool(body["results"]), "members")
        known = {each.get("requestContext") for each in self.revocations}
        for result in body["results"]:
            names = {"requestContext", "succeeded", "errorCode", "errorMessage"}
            _check(set(result) == names, "members of a result")
            _check(result["requestContext"] in known, "requestContext")
            _check(result["succeeded"] is (result["errorCode"] == 0), "succeeded")
            self.results[result["requestContext"]] = result
        return JSONResponse({"value": True})


class _Network(httpx.AsyncBaseTransport):
    """Routes to the fake's hosts; a planned exception is a broken connection."""

    def __init__(self, fake: FakeMicrosoft) -> None:
        self._inner = httpx.ASGITransport(fake.app())

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.host not in (LOGIN, GRAPH, INTUNE) or request.url.scheme != "https":
            raise httpx.ConnectError("no such host", request=request)
        try:
            return await self._inner.handle_async_request(request)
        except ConnectionError as error:
            raise httpx.ConnectError("refused", request=request) from error


def _compare(csr: x509.CertificateSigningRequest, expected: Expected) -> str:
    if expected.subject is not None and csr.subject.rfc4514_string() != expected.subject:
        return "SubjectNameMismatch" if csr.subject.rdns else "SubjectNameMissing"
    if expected.alt_names is not None and _alt_names(csr) != expected.alt_names:
        return "SubjectAltNameMismatch" if _alt_names(csr) else "SubjectAltNameMissing"
    key = csr.public_key()
    if expected.key_size is not None and not (
        isinstance(key, rsa.RSAPublicKey) and key.key_size == expected.key_size
    ):
        return "KeyLengthMismatch"
    if expected.key_usage is not None and _key_usage(csr) != expected.key_usage:
        return "KeyUsageMismatch"
    if expected.extended_key_usage is not None:
        usages = _extended_key_usage(csr)
        if usages != expected.extended_key_usage:
            return "EnhancedKeyUsageMismatch" if usages else "EnhancedKeyUsageMissing"
    return "Success"


def _alt_names(csr: x509.CertificateSigningRequest) -> frozenset[str]:
    try:
        names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    return frozenset(
        f"upn:{name.value[2:].decode()}" if isinstance(name, x509.OtherName) else str(name.value)
        for name in names
    )


def _key_usage(csr: x509.CertificateSigningRequest) -> frozenset[str]:
    try:
        usage = csr.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return frozenset()
    names = ("digital_signature", "key_encipherment", "content_commitment", "data_encipherment")
    return frozenset(name for name in names if getattr(usage, name))


def _extended_key_usage(csr: x509.CertificateSigningRequest) -> frozenset[str]:
    try:
        usages = csr.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return frozenset()
    return frozenset(oid.dotted_string for oid in usages)


def _result(code: str, description: str) -> Response:
    return JSONResponse({"code": code, "errorDescription": description})


def _check(sound: bool, what: str) -> None:
    if not sound:
        raise Wrong(what)


def _check_uuid(request: Request) -> None:
    try:
        _check(uuid.UUID(request.headers.get("client-request-id", "")).version == 4, "request id")
    except ValueError:
        raise Wrong("client-request-id") from None
