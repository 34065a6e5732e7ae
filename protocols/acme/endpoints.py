"""The resources of an ACME directory and what each does with a verified request: parse (messages),
act (service), render (messages). `http.py` brings requests here and answers back."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from pkiserver.clock import from_epoch
from protocols.acme import ari, jwk, jws, messages
from protocols.acme.problems import Problem, ProblemType
from protocols.acme.records import Account, Authorization, Challenge
from protocols.acme.service.accounts import Accounts
from protocols.acme.service.authorizations import Authorizations
from protocols.acme.service.certificates import Certificates
from protocols.acme.service.directory import Directory
from protocols.acme.service.finalize import Finalizer
from protocols.acme.service.names import named
from protocols.acme.service.orders import Orders, OrderState
from protocols.acme.service.renewal import Renewal
from protocols.acme.service.validation import Validation
from protocols.acme.states import AuthorizationStatus, ChallengeStatus, OrderStatus

JSON = "application/json"
PEM_CHAIN = "application/pem-certificate-chain"
POLL_AFTER = 1
"""Seconds of Retry-After while something is processing."""
POLL_APPROVAL_AFTER = 10
"""Likewise while a second person has to approve: before the connection is closed for being idle,
which clients (certbot) that wait on it take for a failure."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: `links` are (URL, relation); a dict body becomes JSON."""

    status: int = 200
    body: Mapping[str, Any] | bytes = b""
    media_type: str = JSON
    location: str | None = None
    links: tuple[tuple[str, str], ...] = ()
    retry_after: int | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """A request whose signature, URL and nonce have been checked. `account` is None where the
    request is signed by a key (`key`, with its JWK) and not in an account's name."""

    payload: bytes = field(repr=False)
    url: str
    address: str
    ids: tuple[str, ...]
    query: str
    account: Account | None
    key: PublicKeyTypes
    jwk: dict[str, Any] | None

    @property
    def owner(self) -> Account:
        """The account of a resource that takes no other form of request."""
        if self.account is None:
            raise Problem(ProblemType.MALFORMED, "sign with the account's kid here")
        return self.account


Endpoint = Callable[[Call], Awaitable[Reply]]


@dataclass(frozen=True)
class Endpoints:
    """Every signed resource of one directory."""

    directory: Directory
    accounts: Accounts
    authorizations: Authorizations
    certificates: Certificates
    finalizer: Finalizer
    orders: Orders
    renewal: Renewal
    validation: Validation

    def table(self) -> Mapping[tuple[str, int], Endpoint]:
        """By resource name and how many path segments follow it."""
        return {
            ("new-nonce", 0): self.new_nonce,
            ("new-account", 0): self.new_account,
            ("acct", 1): self.account,
            ("acct", 2): self.account_orders,
            ("key-change", 0): self.key_change,
            ("new-order", 0): self.new_order,
            ("order", 1): self.order,
            ("order", 2): self.finalize,
            ("new-authz", 0): self.new_authorization,
            ("authz", 1): self.authorization,
            ("chall", 1): self.challenge,
            ("cert", 1): self.certificate,
            ("cert", 2): self.certificate,
            ("revoke-cert", 0): self.revoke,
        }

    def describe(self) -> Mapping[str, Any]:
        """The directory object (section 7.1.1)."""
        settings = self.directory.settings
        return messages.directory_json(
            {
                "newNonce": self.directory.url("new-nonce"),
                "newAccount": self.directory.url("new-account"),
                "newOrder": self.directory.url("new-order"),
                "newAuthz": self.directory.url("new-authz"),
                "revokeCert": self.directory.url("revoke-cert"),
                "keyChange": self.directory.url("key-change"),
                "renewalInfo": self.directory.url("renewal-info"),
            },
            terms_of_service=settings.terms_of_service or None,
            website=settings.website or None,
            caa_identities=settings.caa_identities,
            external_account_required=settings.external_account_required,
            profiles=self.directory.profiles,
        )

    async def new_nonce(self, call: Call) -> Reply:
        messages.require_post_as_get(call.payload)
        return Reply(204)

    async def new_account(self, call: Call) -> Reply:
        if call.jwk is None:
            raise Problem(ProblemType.MALFORMED, "sign with the account's jwk here, not a kid")
        message = messages.parse_new_account(call.payload)
        account, created = await self.accounts.register(
            call.jwk, jwk.canonical(call.key), jwk.thumbprint(call.key), message, call.address
        )
        return self._account_reply(account, 201 if created else 200)

    async def account(self, call: Call) -> Reply:
        account = _same_account(call)
        if call.payload:
            account = await self.accounts.update(
                account, messages.parse_update_account(call.payload)
            )
        return self._account_reply(account, 200)

    async def account_orders(self, call: Call) -> Reply:
        account = _same_account(call)
        if call.ids[1] != "orders":
            raise no_resource()
        messages.require_post_as_get(call.payload)
        ids, after = await self.orders.page(account, _cursor(call.query))
        here = self.directory.url("acct", account.id, "orders")
        links = () if after is None else ((f"{here}?cursor={after[0]}.{after[1]}", "next"),)
        return Reply(body={"orders": [self.directory.url("order", i) for i in ids]}, links=links)

    async def key_change(self, call: Call) -> Reply:
        account = call.owner
        change = jws.parse_key_change(call.payload, url=call.url)
        message = messages.parse_key_change(change.payload)
        if message.account != self.directory.url("acct", account.id):
            raise Problem(ProblemType.MALFORMED, "account: not the URL of the signing account")
        if jwk.thumbprint(jwk.parse(message.old_key)) != account.thumbprint:
            raise Problem(ProblemType.MALFORMED, "oldKey: not the account's key")
        changed = await self.accounts.change_key(
            account, jwk.thumbprint(change.key), jwk.canonical(change.key)
        )
        return self._account_reply(changed, 200)

    async def new_order(self, call: Call) -> Reply:
        message = messages.parse_new_order(
            call.payload, max_identifiers=self.directory.settings.max_identifiers
        )
        state = await self.orders.create(call.owner, message)
        return self._order_reply(state, 201)

    async def order(self, call: Call) -> Reply:
        messages.require_post_as_get(call.payload)
        state = await self.orders.get(call.owner, call.ids[0])
        return self._order_reply(await self.finalizer.resume(call.owner, state), 200)

    async def finalize(self, call: Call) -> Reply:
        if call.ids[1] != "finalize":
            raise no_resource()
        csr = messages.parse_finalize(call.payload).csr
        state = await self.finalizer.finalize(call.owner, call.ids[0], csr, call.address)
        return self._order_reply(state, 200)

    async def new_authorization(self, call: Call) -> Reply:
        identifier = messages.parse_new_authz(call.payload).identifier
        made, new = await self.authorizations.pre_authorize(call.owner, named(identifier))
        authorization, challenges = await self.authorizations.get(call.owner, made.id)
        reply = self._authorization_reply(authorization, challenges)
        location = self.directory.url("authz", made.id)
        return replace(reply, status=201 if new else 200, location=location)

    async def authorization(self, call: Call) -> Reply:
        if call.payload:
            messages.parse_update_authz(call.payload)
            await self.authorizations.deactivate(call.owner, call.ids[0])
        found, challenges = await self.authorizations.get(call.owner, call.ids[0])
        return self._authorization_reply(found, challenges)

    async def challenge(self, call: Call) -> Reply:
        challenge, authorization = await self.authorizations.challenge(call.owner, call.ids[0])
        if call.payload:
            messages.parse_challenge_response(call.payload)
            await self.validation.respond(call.owner, challenge, authorization)
            challenge, authorization = await self.authorizations.challenge(call.owner, call.ids[0])
        return Reply(
            body=messages.challenge_json(self._challenge_view(challenge, authorization)),
            links=((self.directory.url("authz", authorization.id), "up"),),
            retry_after=_poll(challenge.status is ChallengeStatus.PROCESSING),
        )

    async def certificate(self, call: Call) -> Reply:
        messages.require_post_as_get(call.payload)
        number = _chain_number(call.ids[1:])
        pem, chains = await self.certificates.chain(call.owner, call.ids[0], number)
        alternates = (n for n in range(chains) if n != number)
        here = self.directory.url("cert", call.ids[0])
        links = tuple((f"{here}/{n}" if n else here, "alternate") for n in alternates)
        return Reply(body=pem, media_type=PEM_CHAIN, links=links)

    async def revoke(self, call: Call) -> Reply:
        message = messages.parse_revoke(call.payload)
        if call.account is not None:
            await self.certificates.revoke_as_account(call.account, message, call.address)
        else:
            await self.certificates.revoke_as_key_holder(call.key, message, call.address)
        return Reply()

    async def renewal_info(self, cert_id: str) -> Reply:
        """Unsigned (RFC 9773 section 4)."""
        start, end = await self.renewal.window(cert_id)
        return Reply(body=ari.renewal_info_json(start, end), retry_after=ari.RETRY_AFTER)

    def _account_reply(self, account: Account, status: int) -> Reply:
        url = self.directory.url("acct", account.id)
        view = messages.AccountView(
            status=account.status,
            contact=account.contact,
            terms_of_service_agreed=account.terms_agreed,
            external_account_binding=account.external_binding,
            orders=f"{url}/orders",
        )
        return Reply(status, messages.account_json(view), location=url)

    def _order_reply(self, state: OrderState, status: int) -> Reply:
        order, url = state.order, self.directory.url("order", state.order.id)
        issued = state.status is OrderStatus.VALID and order.certificate is not None
        view = messages.OrderView(
            status=state.status,
            expires=from_epoch(order.expires),
            identifiers=tuple((i.type, i.sent) for i in order.identifiers),
            authorizations=tuple(self.directory.url("authz", i) for i in state.authorizations),
            finalize=f"{url}/finalize",
            not_before=None if order.not_before is None else from_epoch(order.not_before),
            not_after=None if order.not_after is None else from_epoch(order.not_after),
            error=_order_error(state),
            certificate=self.directory.url("cert", str(order.certificate)) if issued else None,
            profile=order.profile if order.profile_sent else None,
            replaces=order.replaces_sent,
        )
        return Reply(
            status,
            messages.order_json(view),
            location=url,
            retry_after=(
                POLL_APPROVAL_AFTER
                if order.waits
                else _poll(state.status is OrderStatus.PROCESSING)
            ),
        )

    def _authorization_reply(
        self, authorization: Authorization, challenges: list[Challenge]
    ) -> Reply:
        status = self.authorizations.status(authorization)
        shown = challenges
        if status is not AuthorizationStatus.PENDING:
            # What decided it, alone: clients search the whole body for "valid" and "invalid".
            failed = status is AuthorizationStatus.INVALID
            deciding = ChallengeStatus.INVALID if failed else ChallengeStatus.VALID
            shown = [c for c in challenges if c.status is deciding] or challenges
        view = messages.AuthorizationView(
            status=status,
            identifier=(authorization.type, authorization.sent),
            expires=from_epoch(authorization.expires),
            wildcard=authorization.wildcard,
            challenges=tuple(self._challenge_view(challenge, authorization) for challenge in shown),
        )
        processing = any(c.status is ChallengeStatus.PROCESSING for c in challenges)
        return Reply(
            body=messages.authorization_json(view),
            retry_after=_poll(processing and status is AuthorizationStatus.PENDING),
        )

    def _challenge_view(
        self, challenge: Challenge, authorization: Authorization
    ) -> messages.ChallengeView:
        persistent = challenge.type == "dns-persist-01"
        return messages.ChallengeView(
            type=challenge.type,
            url=self.directory.url("chall", challenge.id),
            status=challenge.status,
            token=None if persistent else challenge.token,
            validated=None if challenge.validated is None else from_epoch(challenge.validated),
            error=challenge.error,
            issuer_domain_names=self.directory.settings.caa_identities if persistent else (),
            account_uri=self.directory.url("acct", authorization.account) if persistent else None,
        )


def _same_account(call: Call) -> Account:
    if call.owner.id != call.ids[0]:
        raise Problem(ProblemType.UNAUTHORIZED, "this is another account's URL")
    return call.owner


def no_resource() -> Problem:
    return Problem(ProblemType.MALFORMED, "no such resource", status=404)


def _order_error(state: OrderState) -> dict[str, Any] | None:
    """Why an order is invalid (section 7.1.3)."""
    if state.order.error is None and state.status is OrderStatus.INVALID:
        return Problem(ProblemType.MALFORMED, "the order expired before it was finished").to_json()
    return state.order.error


def _poll(wait: bool) -> int | None:
    return POLL_AFTER if wait else None


def _chain_number(ids: tuple[str, ...]) -> int:
    if not ids:
        return 0
    if not (ids[0].isascii() and ids[0].isdigit() and len(ids[0]) <= 2):
        raise no_resource()
    return int(ids[0])


def _cursor(query: str) -> tuple[int, str] | None:
    if not query:
        return None
    name, _, value = query.partition("=")
    seconds, _, order_id = value.partition(".")
    if name != "cursor" or not seconds.isdecimal() or len(seconds) > 15 or not order_id:
        raise Problem(ProblemType.MALFORMED, "unknown query")
    return int(seconds), order_id
