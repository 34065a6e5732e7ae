"""Microsoft Intune's SCEP services: a token from Microsoft Entra (client credentials), the address
of a service from Graph, then the call.

Tokens and addresses are kept; addresses until a call fails, as Microsoft's own libraries do.
Every error is a `PKIError`: UNAUTHORIZED when Intune says no, UNAVAILABLE for anything else.
"""

import asyncio
import secrets
import uuid
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlencode

import structlog
from cryptography import x509

from pkiserver.clock import Clock, epoch
from pkiserver.errors import ErrorCode, MalformedMessage, PKIError
from protocols.scep import intune_messages as messages
from protocols.scep.challenge_settings import IntuneSettings, is_confidential
from protocols.scep.intune_messages import RevocationRequest, RevocationResult, Token
from protocols.scep.outgoing import Answer, Outgoing, Unreachable
from protocols.scep.secret import Secret

GRAPH_APPLICATION = "0000000a-0000-0000-c000-000000000000"
"""Intune's own application id, the same in every tenant."""
_MARGIN = 300
"""Seconds before its end that a token is not used any more."""
_LONGEST = 86_400

T = TypeVar("T")
_log = structlog.get_logger("protocols.scep.intune")


@dataclass(frozen=True, slots=True)
class _Known:
    token: Token
    until: int


class _Shared:
    """Calls whose outcome, also a failure, is for all who want it meanwhile: one after the other
    they would wait as many timeouts. A caller who leaves takes nothing from the others."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Task[Any]] = {}

    async def call(self, name: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        task = self._running.get(name)
        if task is None:
            task = self._running[name] = asyncio.create_task(work())
            task.add_done_callback(lambda done: self._end(name, done))
        result: T = await asyncio.shield(task)
        return result

    def _end(self, name: str, task: asyncio.Task[Any]) -> None:
        del self._running[name]
        if not task.cancelled():
            task.exception()  # seen, even if everybody has left


class IntuneClient:
    """One tenant. Safe to call concurrently."""

    def __init__(
        self,
        settings: IntuneSettings,
        secret: Secret,
        outgoing: Outgoing,
        clock: Clock,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._settings = settings
        self._secret = secret
        self._outgoing = outgoing
        self._clock = clock
        self._random_bytes = random_bytes
        self._tokens: dict[str, _Known] = {}
        self._services: dict[str, str] = {}
        self._shared = _Shared()

    def check(self) -> None:
        """Raises `PKIError` CONFIGURATION if a secret or a file is missing."""
        self._secret.read()
        self._outgoing.check()

    async def close(self) -> None:
        await self._outgoing.close()

    async def validate(self, transaction_id: str, csr: bytes) -> None:
        """validateRequest. Returning means Success."""
        body = messages.validation(transaction_id, csr, self._settings.provider)
        await self._act(messages.VALIDATE, body)

    async def notify_success(
        self, transaction_id: str, csr: bytes, certificate: x509.Certificate, authority: str
    ) -> None:
        """successNotification. Returning means Success: the certificate may be handed out."""
        provider = self._settings.provider
        body = messages.success(transaction_id, csr, provider, certificate, authority)
        await self._act(messages.NOTIFY_SUCCESS, body)

    async def notify_failure(self, transaction_id: str, csr: bytes, error: PKIError) -> None:
        """failureNotification, with what an administrator reads in Intune's console."""
        provider = self._settings.provider
        body = messages.failure(transaction_id, csr, provider, error.code, error.detail)
        await self._act(messages.NOTIFY_FAILURE, body)

    async def download_revocations(self) -> tuple[RevocationRequest, ...]:
        """downloadRevocationRequests, of all issuers."""
        answer = await self._post(
            messages.CONNECTOR_SERVICE,
            messages.DOWNLOAD,
            messages.CONNECTOR_VERSION,
            messages.download(),
        )
        try:
            return messages.parse_revocations(answer.body)
        except MalformedMessage as error:
            raise _strange(answer, error) from error

    async def upload_results(self, results: Sequence[RevocationResult]) -> None:
        """uploadRevocationResults."""
        answer = await self._post(
            messages.CONNECTOR_SERVICE,
            messages.UPLOAD,
            messages.CONNECTOR_VERSION,
            messages.upload(results),
        )
        try:
            messages.parse_uploaded(answer.body)
        except MalformedMessage as error:
            raise _strange(answer, error) from error

    async def _act(self, action: str, body: bytes) -> None:
        answer = await self._post(
            messages.VALIDATION_SERVICE, action, messages.VALIDATION_VERSION, body
        )
        try:
            result = messages.parse_result(answer.body)
        except MalformedMessage as error:
            raise _strange(answer, error) from error
        if not result.is_success:
            raise PKIError(
                ErrorCode.UNAUTHORIZED,
                f"Intune refused: {result.code}",
                rule=f"intune.{result.code}: {result.description}"[:255],
            )

    async def _post(self, service: str, path: str, version: str, body: bytes) -> Answer:
        """The answer of HTTP 2xx. A token that is refused is asked for anew, once: what was not
        authenticated was not carried out."""
        answer = await self._attempt(service, path, version, body)
        if answer.status == 401:
            answer = await self._attempt(service, path, version, body)
        if not 200 <= answer.status <= 299:
            self._services.clear()
            raise _status(answer)
        return answer

    async def _attempt(self, service: str, path: str, version: str, body: bytes) -> Answer:
        try:
            address = await self._address(service)
            token = await self._token(self._intune_scope)
            identifier = self._activity()
            _log.info("intune.call", action=path, client_request_id=identifier)
            answer = await self._outgoing.call(
                "POST",
                f"{address}/{path}",
                headers={
                    "Authorization": f"Bearer {token}",
                    "Content-Type": "application/json",
                    "client-request-id": identifier,
                    "api-version": version,
                    # The header's name really is without a hyphen.
                    "UserAgent": self._settings.provider,
                },
                content=body,
            )
        except Unreachable:
            self._services.clear()
            raise
        if answer.status == 401:
            self._forget(self._intune_scope, token)
        return answer

    async def _address(self, service: str) -> str:
        known = self._services or await self._shared.call("discovery", self._discover)
        address = known.get(service.lower())
        if address is None:
            self._services.clear()
            raise _unavailable(f"Graph names no {service}: is Intune part of the tenant?")
        if not is_confidential(address):
            raise _unavailable(f"Graph's address of {service} is not https")
        return address

    async def _discover(self) -> dict[str, str]:
        scope = f"{self._settings.graph_url}/.default"
        token = await self._token(scope)
        answer = await self._outgoing.call(
            "GET",
            f"{self._settings.graph_url}/v1.0/servicePrincipals/appId={GRAPH_APPLICATION}/endpoints",
            headers={
                "Authorization": f"Bearer {token}",
                "Accept": "application/json",
                "client-request-id": self._activity(),
            },
        )
        if answer.status == 401:
            self._forget(scope, token)
        if answer.status != 200:
            raise _status(answer)
        try:
            self._services = messages.parse_endpoints(answer.body)
        except MalformedMessage as error:
            raise _strange(answer, error) from error
        return self._services

    @property
    def _intune_scope(self) -> str:
        # The resource ends with a slash and `/.default` is added to it: the two slashes belong.
        return f"{self._settings.resource}/.default"

    async def _token(self, scope: str) -> str:
        known = self._tokens.get(scope)
        if known is None or known.until <= epoch(self._clock.now()):
            known = await self._shared.call(scope, lambda: self._renew(scope))
        return known.token.value

    def _forget(self, scope: str, token: str) -> None:
        """One that was refused; another may have taken its place already."""
        known = self._tokens.get(scope)
        if known is not None and known.token.value == token:
            del self._tokens[scope]

    async def _renew(self, scope: str) -> _Known:
        now = epoch(self._clock.now())
        token = await self._new_token(scope)
        lasts = min(token.seconds, _LONGEST)
        known = _Known(token, now + max(lasts - _MARGIN, lasts // 2))
        self._tokens[scope] = known
        return known

    async def _new_token(self, scope: str) -> Token:
        try:
            secret = self._secret.read()
        except PKIError as error:
            raise _unavailable("Intune's client secret cannot be read", error.detail) from error
        form = {
            "grant_type": "client_credentials",
            "client_id": self._settings.client_id,
            "client_secret": secret,
            "scope": scope,
        }
        answer = await self._outgoing.call(
            "POST",
            f"{self._settings.login_url}/{self._settings.tenant}/oauth2/v2.0/token",
            headers={"Content-Type": "application/x-www-form-urlencoded"},
            content=urlencode(form).encode("ascii"),
        )
        if answer.status != 200:
            raise _status(answer)
        try:
            return messages.parse_token(answer.body)
        except MalformedMessage as error:
            raise _strange(answer, error) from error

    def _activity(self) -> str:
        return str(uuid.UUID(bytes=self._random_bytes(16), version=4))


def _status(answer: Answer) -> PKIError:
    return _unavailable(f"{answer.host} answered HTTP {answer.status}")


def _strange(answer: Answer, error: MalformedMessage) -> PKIError:
    return _unavailable(f"{answer.host}: {error.detail}")


def _unavailable(detail: str, cause: str | None = None) -> PKIError:
    return PKIError(ErrorCode.UNAVAILABLE, detail, rule=cause or "intune")
