"""Logins of the management systems that fetch one-time challenges over HTTPS.

A login belongs to one `[scep.NAME]`. Its password is made by us, 160 random bits, so a plain
SHA-256 of it is enough, and checking one costs an attacker's flood nothing much.
"""

import base64
import binascii
import datetime as dt
import hmac
import re
import secrets
from collections.abc import Callable

from pkiserver.addresses import site
from pkiserver.clock import epoch
from pkiserver.config_types import Rate
from pkiserver.errors import ErrorCode, PKIError, configuration_error
from pkiserver.plugin import Services
from pkiserver.storage import IntegrityError, Transaction
from pkiserver.web.failures import Failures
from protocols.scep import challenge_store as store
from protocols.scep.challenge_store import Login
from protocols.scep.one_time import digest

FAILURES = Rate(count=10, period=dt.timedelta(minutes=1))
"""Of an address; beyond that nothing is checked, let alone recorded."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_LONGEST_HEADER = 1024


class Logins:
    """Every login; `authenticate` may be called concurrently."""

    def __init__(
        self, services: Services, random_bytes: Callable[[int], bytes] = secrets.token_bytes
    ) -> None:
        self._services = services
        self._random_bytes = random_bytes
        self._failures = Failures(FAILURES, services.clock, "scep.login")

    async def add(self, name: str, label: str, *, actor: str) -> str:
        """Make a login; its password, which cannot be had again. Raises `PKIError` CONFIGURATION
        for a name that cannot be, CONFLICT for one that is taken."""
        if not _NAME.fullmatch(name):
            raise configuration_error(f"{name[:100]!r} is no name: letters, digits and ._@- only")
        password = base64.b32encode(self._random_bytes(20)).decode().lower()
        login = Login(name, label, epoch(self._services.clock.now()), actor)

        def work(tx: Transaction) -> None:
            store.insert_login(tx, login, digest(password))
            self._audit(tx, actor, "scep.login.add", name, label)

        try:
            await self._services.database.write(work)
        except IntegrityError:
            raise PKIError(ErrorCode.CONFLICT, f"there is a login {name!r} already") from None
        return password

    async def remove(self, name: str, *, actor: str) -> None:
        """Raises `PKIError` NOT_FOUND if there is none."""

        def work(tx: Transaction) -> None:
            if not store.delete_login(tx, name):
                raise PKIError(ErrorCode.NOT_FOUND, f"there is no login {name!r}")
            self._audit(tx, actor, "scep.login.remove", name, None)

        await self._services.database.write(work)

    async def list(self) -> list[Login]:
        return await self._services.database.read(store.logins)

    async def authenticate(self, header: str | None, address: str) -> Login:
        """Whose credentials (RFC 7617) these are. Raises `PKIError` UNAUTHORIZED, or RATE_LIMITED
        after too many failures from `address`."""
        self._failures.check(site(address))
        if header is None:  # a client that waits to be asked
            raise PKIError(ErrorCode.UNAUTHORIZED, "a name and a password are needed")
        name, password = credentials(header)
        known = await self._find(name)
        expected = bytes(32) if known is None else known[1]
        if hmac.compare_digest(digest(password), expected) and known is not None:
            return known[0]
        self._failures.count(site(address))
        await self.refuse(name, address, "no such login" if known is None else "wrong password")
        raise PKIError(ErrorCode.UNAUTHORIZED, "the name or the password is wrong")

    async def refuse(self, name: str, address: str, cause: str) -> None:
        """Put a refusal into the audit log."""
        shown = name if _NAME.fullmatch(name) else ascii(name[:64])
        await self._services.audit.refuse(
            self._services.database,
            actor=f"scep:{shown}",
            action="scep.login.refuse",
            object=f"login:{shown}",
            detail={"cause": cause, "address": address},
            sources=(site(address),),
        )

    async def _find(self, name: str) -> tuple[Login, bytes] | None:
        if not _NAME.fullmatch(name):  # databases do not store every character
            return None
        return await self._services.database.lookup(lambda reader: store.login(reader, name))

    def _audit(
        self, tx: Transaction, actor: str, action: str, name: str, label: str | None
    ) -> None:
        detail = {} if label is None else {"label": label}
        self._services.audit.append(
            tx, actor=actor, action=action, object=f"login:{name}", detail=detail
        )


def credentials(header: str) -> tuple[str, str]:
    """RFC 7617 section 2: scheme in any case, base64 of `name:password`."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() == "basic" and len(header) <= _LONGEST_HEADER:
        try:
            text = base64.b64decode(encoded.strip(), validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError, ValueError):
            text = ""
        name, colon, password = text.partition(":")
        if colon and name:
            # NDES is asked as DOMAIN\name.
            return name.rpartition("\\")[2], password
    raise PKIError(ErrorCode.UNAUTHORIZED, "Authorization is not of the form of RFC 7617")
