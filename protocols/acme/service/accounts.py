"""Accounts: RFC 8555 sections 7.3 to 7.3.6."""

from collections.abc import Callable, Sequence
from typing import Any

from pkiserver.addresses import site
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix.names import NameType
from pkiserver.storage import IntegrityError, Reader, Transaction
from protocols.acme import eab, messages
from protocols.acme.problems import Problem, ProblemType
from protocols.acme.records import Account
from protocols.acme.service.directory import Directory
from protocols.acme.service.external import ExternalAccounts
from protocols.acme.service.limits import refuse_crowd
from protocols.acme.service.patterns import own_rules
from protocols.acme.states import AccountStatus
from protocols.acme.store import accounts as store
from protocols.acme.store import upkeep

_DEACTIVATED = "the account is deactivated"
_REVOKED = "the account is frozen: its external account binding was revoked"


def require_valid(account: Account, status: int) -> Account:
    """Section 7.3.6: a deactivated account is refused with `unauthorized`."""
    if account.status is not AccountStatus.VALID:
        revoked = account.status is AccountStatus.REVOKED
        raise Problem(
            ProblemType.UNAUTHORIZED, _REVOKED if revoked else _DEACTIVATED, status=status
        )
    return account


def require_still_valid(reader: Reader, account: Account) -> Account:
    """Section 7.3.6, in the transaction that makes something of a request: the account as it is
    now. It may have ended since the request was checked."""
    return require_valid(store.account(reader, account.directory, account.id) or account, 401)


class Accounts:
    """The accounts of one directory."""

    def __init__(self, directory: Directory, external: ExternalAccounts) -> None:
        self._directory = directory
        self._services = directory.services
        self._external = external

    async def by_id(self, account_id: str) -> Account:
        """The account a `kid` names. Raises `accountDoesNotExist`, or `unauthorized` (401)."""
        account = await self._services.database.lookup(
            lambda reader: store.account(reader, self._directory.name, account_id)
        )
        if account is None:
            raise Problem(ProblemType.ACCOUNT_DOES_NOT_EXIST, "no account has this URL")
        return require_valid(account, 401)

    async def by_key(self, thumbprint: str) -> Account | None:
        return await self._services.database.lookup(
            lambda reader: store.account_by_key(reader, self._directory.name, thumbprint)
        )

    async def register(
        self, jwk: dict[str, Any], jwk_json: str, thumbprint: str,
        message: messages.NewAccount, address: str,
    ) -> tuple[Account, bool]:  # fmt: skip
        """The account of a key, and whether it is new. An existing one is found before anything
        else is checked: clients ask for theirs without a binding or consent (section 7.3.1)."""
        existing = await self.by_key(thumbprint)
        if existing is not None:
            return require_valid(existing, 403), False
        if message.only_return_existing:
            raise Problem(ProblemType.ACCOUNT_DOES_NOT_EXIST, "no account has this key")
        self._require_terms(message)
        binding = await self._binding(jwk, message)
        account = Account(
            id=self._directory.new_id(),
            directory=self._directory.name,
            status=AccountStatus.VALID,
            jwk=jwk_json,
            thumbprint=thumbprint,
            contact=tuple(message.contact),
            terms_agreed=message.terms_of_service_agreed,
            external_account=None if binding is None else binding.key_id,
            external_binding=message.external_account_binding,
            names=(),
            address=address,
            created=self._directory.now(),
        )
        return await self._insert(account)

    def _require_terms(self, message: messages.NewAccount) -> None:
        terms = self._directory.settings.terms_of_service
        if terms and not message.terms_of_service_agreed:
            raise Problem(
                ProblemType.USER_ACTION_REQUIRED, f"the terms of service must be agreed to: {terms}"
            )

    async def _binding(
        self, jwk: dict[str, Any], message: messages.NewAccount
    ) -> eab.Binding | None:
        if message.external_account_binding is not None:
            return await self._external.verify(message.external_account_binding, jwk)
        if self._directory.settings.external_account_required:
            raise Problem(
                ProblemType.EXTERNAL_ACCOUNT_REQUIRED,
                "new accounts need an external account binding; ask the operator for a key",
            )
        return None

    async def _insert(self, account: Account) -> tuple[Account, bool]:
        try:
            await self._services.database.write(lambda tx: self._insert_in(tx, account))
        except IntegrityError:
            existing = await self.by_key(account.thumbprint)
            if existing is None:
                raise
            return require_valid(existing, 403), False
        return account, True

    def _insert_in(self, tx: Transaction, account: Account) -> None:
        if store.account_by_key(tx, account.directory, account.thumbprint) is not None:
            raise IntegrityError("the key has an account")
        refuse_crowd(
            tx, self._directory.settings.accounts_per_address, upkeep.ACCOUNTS_OF_SITE,
            (site(account.address),), account.created, "new accounts from this address",
        )  # fmt: skip
        if account.external_account is not None:
            self._external.use(tx, account.external_account, account.created)
        store.insert_account(tx, account)
        self._audit(tx, account, "acme.account.create", {"address": account.address})

    async def update(self, account: Account, message: messages.UpdateAccount) -> Account:
        """Section 7.3.2 and 7.3.6: new contacts, or deactivation."""

        def work(tx: Transaction) -> None:
            if message.contact is not None and store.update_contact(
                tx, account.id, message.contact
            ):
                self._audit(tx, account, "acme.account.update", {"contact": list(message.contact)})
            if message.terms_of_service_agreed:
                store.agree_to_terms(tx, account.id)
            if message.deactivate and store.deactivate_account(
                tx, account.id, Problem(ProblemType.UNAUTHORIZED, _DEACTIVATED).to_json()
            ):
                self._audit(tx, account, "acme.account.deactivate", {})

        if message.contact is not None or message.deactivate or message.terms_of_service_agreed:
            await self._services.database.write(work)
        return await self._reload(account)

    async def restrict(self, account_id: str, names: Sequence[str], *, actor: str) -> Account:
        """Bind an account to name patterns, for its orders from now on; none: unbind it. Raises
        `PKIError` NOT_FOUND, or CONFIGURATION for what is no pattern."""
        for kind in (NameType.DNS, NameType.IP):
            own_rules(kind, tuple(names))
        account = await self._services.database.lookup(
            lambda reader: store.account(reader, self._directory.name, account_id)
        )

        def work(tx: Transaction) -> bool:
            done = account is not None and store.restrict_account(tx, account_id, names)
            if account is not None and done:
                self._services.audit.append(
                    tx, actor=actor, action="acme.account.restrict", object=account_id,
                    detail={"names": list(names)},
                )  # fmt: skip
            return done

        if account is None or not await self._services.database.write(work):
            raise PKIError(ErrorCode.NOT_FOUND, f"there is no valid account {account_id!r}")
        return await self._reload(account)

    async def change_key(self, account: Account, thumbprint: str, jwk_json: str) -> Account:
        """Section 7.3.5: the new key signs from now on. Raises 409 with the URL of the account
        that has it already, be it this one."""
        if thumbprint == account.thumbprint:
            raise await self._taken(thumbprint)

        def work(tx: Transaction) -> bool:
            won = store.change_key(tx, account.id, account.thumbprint, thumbprint, jwk_json)
            if won:
                self._audit(tx, account, "acme.account.key-change", {"thumbprint": thumbprint})
            return won

        try:
            won = await self._services.database.write(work)
        except IntegrityError:
            raise await self._taken(thumbprint) from None
        if not won:
            raise Problem(ProblemType.MALFORMED, "the account's key was changed meanwhile")
        return await self._reload(account)

    async def _taken(self, thumbprint: str) -> Problem:
        other = await self.by_key(thumbprint)
        location = None if other is None else self._directory.url("acct", other.id)
        return Problem(
            ProblemType.MALFORMED, "the new key is an account's already", status=409,
            location=location,
        )  # fmt: skip

    async def _reload(self, account: Account) -> Account:
        find: Callable[[Reader], Account | None] = lambda reader: store.account(  # noqa: E731
            reader, self._directory.name, account.id
        )
        return await self._services.database.lookup(find) or account

    def _audit(
        self, tx: Transaction, account: Account, action: str, detail: dict[str, Any]
    ) -> None:
        self._services.audit.append(
            tx, actor=f"acme:{account.id}", action=action, object=account.id,
            detail={"directory": account.directory, **detail},
        )  # fmt: skip
