"""External account binding: RFC 8555 section 7.3.4, and the keys an operator hands out for it.

The MAC key of a key identifier is derived from a secret of the key provider; the database holds
none."""

import base64
from dataclasses import dataclass, field, replace
from typing import Any

from pkiserver.errors import configuration_error
from pkiserver.pkix.names import NameType
from pkiserver.storage import Reader, Transaction
from protocols.acme import eab
from protocols.acme.problems import Problem, ProblemType
from protocols.acme.records import ExternalAccount
from protocols.acme.service.directory import Directory
from protocols.acme.service.patterns import own_rules
from protocols.acme.store import accounts as store

_UNUSABLE = "this external account key is unknown, used up, expired or revoked"
_FROZEN = Problem(ProblemType.UNAUTHORIZED, "the account's external account binding was revoked")


@dataclass(frozen=True, slots=True)
class NewExternalAccount:
    """What the operator hands to a client: the key identifier and the MAC key (base64url)."""

    record: ExternalAccount
    mac_key: str = field(repr=False)


class ExternalAccounts:
    """The external account keys of one directory."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._services = directory.services

    def _mac_key(self, key_id: str) -> bytes:
        return self._services.derive_secret(f"acme-eab/{self._directory.name}/{key_id}")

    async def verify(self, binding: dict[str, Any], jwk: dict[str, Any]) -> eab.Binding:
        """The binding, with its signature checked. Raises `unauthorized` or `malformed`."""
        parsed = eab.parse(binding, new_account_url=self._directory.url("new-account"), jwk=jwk)
        known = await self._services.database.lookup(
            lambda reader: store.external_account(reader, self._directory.name, parsed.key_id)
        )
        if known is None:
            raise Problem(ProblemType.UNAUTHORIZED, _UNUSABLE)
        eab.verify(parsed, self._mac_key(known.id))
        return parsed

    def use(self, tx: Transaction, key_id: str, now: int) -> None:
        """Spend one use, in the transaction that makes the account."""
        if not store.use_external_account(tx, key_id, now):
            raise Problem(ProblemType.UNAUTHORIZED, _UNUSABLE)

    async def of(self, key_id: str | None) -> ExternalAccount | None:
        """The record an account is bound to."""
        if key_id is None:
            return None
        return await self._services.database.lookup(lambda reader: self.read(reader, key_id))

    def read(self, reader: Reader, key_id: str | None) -> ExternalAccount | None:
        """The same, in a transaction."""
        if key_id is None:
            return None
        return store.external_account(reader, self._directory.name, key_id)

    async def create(
        self, *, uses: int | None, lifetime: int | None, profile: str | None,
        names: tuple[str, ...], trusted: bool, note: str, actor: str,
    ) -> NewExternalAccount:  # fmt: skip
        """Make a key for `uses` accounts (None: any number), usable for `lifetime` seconds. Raises
        `PKIError` CONFIGURATION for names that are no patterns and for an unknown profile."""
        for kind in (NameType.DNS, NameType.IP):
            own_rules(kind, names)
        if profile is not None and profile not in self._services.issuance.profiles:
            raise configuration_error(f"there is no profile {profile!r}")
        now = self._directory.now()
        record = ExternalAccount(
            id=self._new_key_id(),
            directory=self._directory.name,
            uses_left=uses,
            expires=None if lifetime is None else now + lifetime,
            profile=profile,
            names=names,
            trusted=trusted,
            note=note,
            created=now,
            revoked=None,
        )

        def work(tx: Transaction) -> None:
            store.insert_external_account(tx, record)
            self._audit(tx, actor, "acme.eab.create", record)

        await self._services.database.write(work)
        return NewExternalAccount(record, self._shown(record.id))

    def _shown(self, key_id: str) -> str:
        """The MAC key as clients take it."""
        return base64.urlsafe_b64encode(self._mac_key(key_id)).rstrip(b"=").decode()

    def _new_key_id(self) -> str:
        """One whose MAC key has no hyphen in front: certbot's command line would refuse it."""
        while True:
            key_id = self._directory.new_id()
            if not self._shown(key_id).startswith("-"):
                return key_id

    async def revoke(self, key_id: str, *, actor: str) -> list[str] | None:
        """Revoke a key and freeze its accounts; their ids, or None if there is no such live key."""
        now = self._directory.now()

        def work(tx: Transaction) -> list[str] | None:
            record = store.external_account(tx, self._directory.name, key_id)
            frozen = (
                None
                if record is None
                else store.revoke_external_account(tx, key_id, now, _FROZEN.to_json())
            )
            if record is not None and frozen is not None:
                self._audit(tx, actor, "acme.eab.revoke", replace(record, revoked=now), frozen)
            return frozen

        return await self._services.database.write(work)

    def _audit(
        self, tx: Transaction, actor: str, action: str, record: ExternalAccount,
        accounts: list[str] | None = None,
    ) -> None:  # fmt: skip
        detail: dict[str, Any] = {"directory": record.directory, "profile": record.profile}
        detail |= {"names": list(record.names), "trusted": record.trusted}
        if accounts is not None:
            detail["accounts"] = accounts
        self._services.audit.append(tx, actor=actor, action=action, object=record.id, detail=detail)
