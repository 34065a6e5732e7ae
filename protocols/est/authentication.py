"""Proving who one is, per label: a password (RFC 7030 section 3.2.3), a client certificate (section
3.3.2), or both.

A password that is sent is always checked: a wrong one is never made up for by a certificate.
"""

import base64
import binascii
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from pkiserver.addresses import site
from pkiserver.clock import epoch
from pkiserver.config_types import Rate
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.plugin import Services
from pkiserver.storage import Reader, Transaction
from pkiserver.web.failures import Failures
from pkiserver.web.peer import Peer
from protocols.est import store
from protocols.est.certificates import ClientCertificate, ClientCertificates
from protocols.est.errors import NotAuthenticated
from protocols.est.identity import Identity
from protocols.est.passwords import PasswordChecker
from protocols.est.settings import ESTSettings
from protocols.est.store import User

MAX_HEADER = 2048
_SHOWN = 100


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the client has sent: the Authorization field, as it is, and its side of TLS."""

    authorization: bytes | None = field(repr=False)
    peer: Peer
    address: str


def parse_basic(value: bytes) -> tuple[str, str] | None:
    """User name and password (RFC 7617 section 2); None for what is not that."""
    scheme, _, token = value.strip().partition(b" ")
    if scheme.lower() != b"basic" or len(value) > MAX_HEADER:
        return None
    try:
        text = base64.b64decode(token.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    if not text.isprintable():
        return None  # "MUST NOT contain any control characters"
    name, colon, password = text.partition(":")
    return (name, password) if colon and name else None


class Authentication:
    """Of one label. Refusals of credentials are in the audit log, and bounded."""

    def __init__(
        self,
        label: str,
        settings: ESTSettings,
        services: Services,
        certificates: ClientCertificates,
        passwords: PasswordChecker,
    ) -> None:
        self._label = label
        self._settings = settings
        self._services = services
        self._certificates = certificates
        self._passwords = passwords
        self._refusals = Failures(
            settings.refusals_per_client, services.clock, "est.refusals_per_client"
        )

    async def identify(self, credentials: Credentials) -> Identity:
        """Who it is. `NotAuthenticated` where a password is wanted; `PKIError` UNAUTHORIZED where
        a certificate is; RATE_LIMITED after too many failures."""
        user = await self._user(credentials)
        certificate, problem = await self._certificate(credentials)
        identity = Identity(user, certificate, credentials.address, problem)
        missing = self._missing(identity)
        if missing is None:
            return identity
        if problem is not None:
            await self._record(credentials, identity.requester.party, problem)
        raise missing

    def _missing(self, identity: Identity) -> PKIError | None:
        """What keeps it from being enough; None: it is."""
        held = {"basic": identity.user is not None, "mtls": identity.certificate is not None}
        lacking = [method for method in self._settings.auth if not held[method]]
        if not lacking:
            return None
        if self._settings.auth_require == "any" and len(lacking) < len(self._settings.auth):
            return None
        problem = identity.problem
        if "basic" in lacking:
            return NotAuthenticated(problem.detail if problem else "a password is needed")
        return problem or PKIError(
            ErrorCode.UNAUTHORIZED, "a client certificate is needed", rule="est.authentication"
        )

    async def _certificate(
        self, credentials: Credentials
    ) -> tuple[ClientCertificate | None, PKIError | None]:
        if "mtls" not in self._settings.auth or credentials.peer.certificate_der is None:
            return None, None
        try:
            return await self._certificates.check(credentials.peer), None
        except PKIError as error:
            if error.code is not ErrorCode.UNAUTHORIZED:
                raise
            return None, error

    async def _user(self, credentials: Credentials) -> User | None:
        if "basic" not in self._settings.auth or credentials.authorization is None:
            return None
        pair = parse_basic(credentials.authorization)
        if pair is None:
            raise NotAuthenticated("the Authorization field is not HTTP Basic")
        name, password = pair
        user = await self._services.database.lookup(
            lambda reader: store.user(reader, self._label, name)
        )
        stored = None if user is None else user.password
        if self._passwords.is_known(stored, password):
            return user
        # What guesses under way lead to is counted before the next are looked at.
        async with self._passwords.slots:
            if self._passwords.is_known(stored, password):
                return user
            await self._refuse_crowd(credentials.address, name)
            if await self._passwords.check(stored, password):
                return user
            await self._fail(credentials.address, name)
        raise NotAuthenticated("user name or password are wrong")

    async def _refuse_crowd(self, address: str, name: str) -> None:
        limits = self._limits(address, name)
        now = epoch(self._services.clock.now())

        def work(reader: Reader) -> int:
            return max(_seconds_to_wait(reader, source, rate, now) for source, rate in limits)

        wait = await self._services.database.lookup(work) if limits else 0
        if wait > 0:
            raise PKIError(
                ErrorCode.RATE_LIMITED,
                "too many failed logins; wait",
                rule="est.failures",
                retry_after=wait,
            )

    def _limits(self, address: str, name: str) -> list[tuple[str, Rate]]:
        settings = self._settings
        known = [
            (f"address:{site(address)}", settings.failures_per_address),
            (f"user:{self._label}:{name[:_SHOWN]}", settings.failures_per_user),
        ]
        return [(source, rate) for source, rate in known if rate is not None]

    async def _fail(self, address: str, name: str) -> None:
        sources = [source for source, _ in self._limits(address, name)]
        now = epoch(self._services.clock.now())
        cause = PKIError(ErrorCode.UNAUTHORIZED, "user name or password are wrong")
        append = self._row(address, f"user:{name[:_SHOWN]}", cause)

        def work(tx: Transaction) -> None:
            store.insert_failures(tx, sources, now)
            if append is not None:
                append(tx)

        await self._services.database.write(work)

    async def _record(self, credentials: Credentials, party: str, cause: PKIError) -> None:
        """A certificate that does not count here. It may be good elsewhere, so TLS lets its holder
        in as often as he likes."""
        source = hashlib.sha256(credentials.peer.certificate_der or b"").hexdigest()
        self._refusals.check(source)
        self._refusals.count(source)
        append = self._row(credentials.address, party, cause)
        if append is not None:
            await self._services.database.write(append)

    def _row(
        self, address: str, party: str, cause: PKIError
    ) -> Callable[[Transaction], None] | None:
        """Puts it into the audit log; None: there are too many already."""
        return self._services.audit.refusal(
            actor=f"est:{party}",
            action="est.authenticate",
            object=f"est:{self._label}",
            detail={"code": cause.code.value, "cause": cause.detail, "address": address},
            sources=(site(address),),
        )


def _seconds_to_wait(reader: Reader, source: str, rate: Rate, now: int) -> int:
    period = int(rate.period.total_seconds())
    oldest = store.crowded_since(reader, "est_failures", source, now, period, rate.count)
    return 0 if oldest is None else max(1, oldest + period - now)
