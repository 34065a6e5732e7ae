"""Carrying out challenges: RFC 8555 section 7.5.1 and 8.

A response starts a task of this process. The request waits a moment for the result, so that a fast
answer needs no poll. A result that is there at once is recorded in one transaction with the move to
`processing` it passes through; otherwise that move is durable before the request is answered, and
what a crash leaves in `processing` is taken over by the sweep."""

import asyncio
import datetime as dt
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from pkiserver.ca.audit import JSON
from pkiserver.clock import epoch
from pkiserver.storage import Reader, Transaction
from protocols.acme.challenges import (
    ChallengeContext,
    ChallengeType,
    FailureKind,
    Proof,
    ValidationFailed,
    start_validation,
)
from protocols.acme.probe import Prober, run
from protocols.acme.problems import Problem, ProblemType
from protocols.acme.records import Account, Authorization, Challenge
from protocols.acme.service.directory import Directory
from protocols.acme.service.limits import refuse_crowd
from protocols.acme.states import AuthorizationStatus, ChallengeStatus
from protocols.acme.store import accounts as account_store
from protocols.acme.store import authorizations as store
from protocols.acme.store import upkeep

log = structlog.get_logger("protocols.acme.validation")

PATIENCE = 0.8
"""Seconds a challenge response waits for its result."""
AT_ONCE, WAITING, BUSY = 200, 20, 10
"""Attempts at one time in a process, how many times as many validations may be under way, and the
seconds a client is told to wait when they are: clients choose whom we connect to."""
GRACE = 15
"""Seconds beyond the longest validation after which nobody is at work on it any more."""
RETRY_AFTER_FAILURE = (1.0, 2.0, 4.0)
"""Seconds before each further attempt, where trying again may help (section 8.2)."""
_ENDED = Problem(ProblemType.MALFORMED, "the authorization ended before the challenge did")
_PASSING = frozenset({FailureKind.CONNECTION, FailureKind.DNS, FailureKind.TLS})


QUICK = 0.05
"""Seconds an attempt gets before the challenge is recorded as processing."""


@dataclass(frozen=True, slots=True)
class _Running:
    """A validation under way. `recorded` is set once the database knows of it, or of its end."""

    task: asyncio.Task[None]
    recorded: asyncio.Event


class Validation:
    """Validates challenges of one directory."""

    def __init__(
        self,
        directory: Directory,
        prober: Prober,
        *,
        patience: float = PATIENCE,
        delays: Sequence[float] = RETRY_AFTER_FAILURE,
        at_once: int = AT_ONCE,
    ) -> None:
        self._patience = patience
        self._slots = asyncio.Semaphore(at_once)
        self._most_waiting = at_once * WAITING
        self._delays = tuple(delays)
        self._directory = directory
        self._services = directory.services
        self._prober = prober
        self._running: dict[str, _Running] = {}

    async def respond(
        self, account: Account, challenge: Challenge, authorization: Authorization
    ) -> None:
        """The client says it is ready. One that is under way or over is left as it is."""
        if challenge.status is ChallengeStatus.PENDING and challenge.id not in self._running:
            await self._refuse(account, authorization)
            self._start(challenge, authorization, account)
        running = self._running.get(challenge.id)
        if running is not None:
            await running.recorded.wait()
            await asyncio.wait({running.task}, timeout=self._patience)

    async def _refuse(self, account: Account, authorization: Authorization) -> None:
        now = self._directory.now()
        if authorization.status is not AuthorizationStatus.PENDING or authorization.expires <= now:
            raise Problem(ProblemType.MALFORMED, "the authorization is no longer pending")
        if len(self._running) >= self._most_waiting:
            raise Problem(
                ProblemType.RATE_LIMITED, "too many validations are waiting", retry_after=BUSY
            )
        await self._services.database.lookup(
            lambda reader: refuse_crowd(
                reader, self._directory.settings.failures_per_name, upkeep.FAILURES_OF_NAME,
                (account.id, authorization.value), now, "failed validations of this name",
            )
        )  # fmt: skip

    def _start(self, challenge: Challenge, authorization: Authorization, account: Account) -> None:
        if challenge.id in self._running:
            return
        recorded = asyncio.Event()
        task = asyncio.create_task(self._validate(challenge, authorization, account, recorded))
        self._running[challenge.id] = _Running(task, recorded)
        task.add_done_callback(functools.partial(self._done, challenge.id))

    def _done(self, challenge_id: str, task: asyncio.Task[None]) -> None:
        self._running.pop(challenge_id).recorded.set()
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("a result could not be recorded; the sweep tries again", exc_info=error)

    async def _validate(
        self,
        challenge: Challenge,
        authorization: Authorization,
        account: Account,
        recorded: asyncio.Event,
    ) -> None:
        attempt = self._begin_attempt(challenge, authorization, account)
        try:
            quick, _ = await asyncio.wait({attempt}, timeout=QUICK)
            if not quick:
                await self._record_start(challenge)
                recorded.set()
            for delay in self._delays:
                failure = await _passing_failure(attempt)
                if failure is None:
                    break
                await self._note(challenge, failure)
                recorded.set()
                await asyncio.sleep(delay)
                attempt = self._begin_attempt(challenge, authorization, account)
            await self._conclude(challenge, authorization, attempt)
        finally:
            attempt.cancel()

    def _begin_attempt(
        self, challenge: Challenge, authorization: Authorization, account: Account
    ) -> asyncio.Task[Proof]:
        return asyncio.create_task(self._attempt(challenge, authorization, account))

    async def _conclude(
        self, challenge: Challenge, authorization: Authorization, attempt: asyncio.Task[Proof]
    ) -> None:
        try:
            proof = await attempt
        except ValidationFailed as failure:
            await self._failed(challenge, authorization, failure)
        except Exception:
            log.exception("validation broke off", challenge=challenge.id)
            broken = ValidationFailed(FailureKind.SERVER_INTERNAL, "internal error")
            await self._failed(challenge, authorization, broken)
        else:
            await self._succeeded(challenge, authorization, proof)

    async def _record_start(self, challenge: Challenge) -> None:
        now = self._directory.now()
        await self._services.database.write(lambda tx: store.begin_challenge(tx, challenge.id, now))

    async def _attempt(
        self, challenge: Challenge, authorization: Authorization, account: Account
    ) -> Proof:
        settings = self._directory.settings
        context = ChallengeContext(
            identifier_type="ip" if authorization.type == "ip" else "dns",
            identifier_value=authorization.value,
            wildcard=authorization.wildcard,
            token=challenge.token,
            key_authorization=f"{challenge.token}.{account.thumbprint}",
            account_url=self._directory.url("acct", account.id),
            now=self._services.clock.now(),
            http01_port=settings.http01_port,
            tls_alpn01_port=settings.tls_alpn01_port,
            issuer_domains=settings.caa_identities,
        )
        async with self._slots:
            return await run(
                start_validation(ChallengeType(challenge.type), context),
                self._prober,
                timeout=settings.validation_timeout.total_seconds(),
            )

    async def _succeeded(
        self, challenge: Challenge, authorization: Authorization, proof: Proof
    ) -> None:
        now = self._services.clock.now()
        lifetime = max(self._directory.settings.authorization_lifetime, dt.timedelta(hours=1))

        def work(tx: Transaction) -> None:
            store.begin_challenge(tx, challenge.id, epoch(now))
            if store.challenge_succeeded(tx, challenge, epoch(now), epoch(now + lifetime)):
                records = [record.members() for record in proof.records]
                self._audit(tx, challenge, authorization, "acme.challenge.valid", records=records)
            else:
                store.challenge_failed(tx, challenge, _ENDED.to_json())

        await self._services.database.write(work)

    async def _failed(
        self, challenge: Challenge, authorization: Authorization, failure: ValidationFailed
    ) -> None:
        now = self._directory.now()
        actor = f"acme:{authorization.account}"
        append = self._services.audit.refusal(
            actor=actor, action="acme.challenge.invalid", object=authorization.id,
            detail={**_named(challenge, authorization), "cause": failure.detail}, sources=(actor,),
        )  # fmt: skip

        def work(tx: Transaction) -> None:
            store.begin_challenge(tx, challenge.id, now)
            if store.challenge_failed(tx, challenge, _problem(failure).to_json()):
                upkeep.record_failure(tx, authorization.account, authorization.value, now)
                if append is not None:
                    append(tx)

        await self._services.database.write(work)

    async def _note(self, challenge: Challenge, failure: ValidationFailed) -> None:
        error = _problem(failure).to_json()
        now = self._directory.now()

        def work(tx: Transaction) -> None:
            store.begin_challenge(tx, challenge.id, now)
            store.note_challenge_error(tx, challenge.id, error)

        await self._services.database.write(work)

    async def release(self) -> None:
        """At the start of the server no process validates: the next sweep takes up everything."""
        await self._services.database.write(store.release_challenges)

    async def sweep(self) -> None:
        """Take over challenges whose process is gone: those that have been processing for longer
        than all attempts can take."""
        now = self._directory.now()
        attempt = self._directory.settings.validation_timeout.total_seconds()
        limit = now - int(attempt * (len(self._delays) + 1) + sum(self._delays) + GRACE)
        stuck = await self._services.database.read(
            lambda reader: store.challenges_processing(reader, limit)
        )
        for challenge in stuck:
            if challenge.id not in self._running:
                await self._take_over(challenge, now)

    async def _take_over(self, challenge: Challenge, now: int) -> None:
        def find(reader: Reader) -> tuple[Authorization, Account] | None:
            authorization = store.authorization(reader, challenge.authorization)
            account = authorization and account_store.account(
                reader, self._directory.name, authorization.account
            )
            return (authorization, account) if authorization and account else None

        found = await self._services.database.lookup(find)
        if found is None:
            return
        if await self._services.database.write(
            lambda tx: store.take_over_challenge(tx, challenge, now)
        ):
            self._start(challenge, *found)

    async def stop(self) -> None:
        """End what is under way; the sweep of the next start takes it up again."""
        tasks = [running.task for running in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _audit(
        self, tx: Transaction, challenge: Challenge, authorization: Authorization, action: str,
        **detail: Any,
    ) -> None:  # fmt: skip
        self._services.audit.append(
            tx, actor=f"acme:{authorization.account}", action=action, object=authorization.id,
            detail={**_named(challenge, authorization), **detail},
        )  # fmt: skip


def _named(challenge: Challenge, authorization: Authorization) -> dict[str, JSON]:
    return {"type": challenge.type, "identifier": authorization.value}


async def _passing_failure(attempt: asyncio.Task[Proof]) -> ValidationFailed | None:
    """How an attempt failed, if another may fare better; None for every other end."""
    await asyncio.wait({attempt})
    error = attempt.exception()
    return error if isinstance(error, ValidationFailed) and error.kind in _PASSING else None


def _problem(failure: ValidationFailed) -> Problem:
    return Problem(PROBLEM_OF_FAILURE[failure.kind], failure.detail)


PROBLEM_OF_FAILURE = {
    FailureKind.CAA: ProblemType.CAA,
    FailureKind.CONNECTION: ProblemType.CONNECTION,
    FailureKind.DNS: ProblemType.DNS,
    FailureKind.INCORRECT_RESPONSE: ProblemType.INCORRECT_RESPONSE,
    FailureKind.SERVER_INTERNAL: ProblemType.SERVER_INTERNAL,
    FailureKind.TLS: ProblemType.TLS,
    FailureKind.UNAUTHORIZED: ProblemType.UNAUTHORIZED,
}
