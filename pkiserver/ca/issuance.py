"""Issuing end-entity certificates: prepare, record, sign, record, hand out.

`prepare` decides, builds and lints, and changes nothing; what it returns can be redeemed once.
`issue` makes exactly two durable transactions: serial, to-be-signed bytes and intent before the CA
key signs; the certificate before anybody gets it. What a crash leaves between the two is finished
by `recover`. Should both have signed, the certificate that was stored first is the certificate: the
other signature is thrown away.
"""

import asyncio
import datetime as dt
import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog
from cryptography import x509

from pkiserver.ca import approval_store, blocklist, ledger, lint, renewal, template
from pkiserver.ca.audit import JSON, Audit
from pkiserver.ca.authorities import Authorities
from pkiserver.ca.issuer import Issuer
from pkiserver.ca.model import (
    CertificateRecord,
    CertificateRequest,
    CertificateStatus,
    Prepared,
    Requester,
    TxHook,
)
from pkiserver.ca.policy import Decision, decide
from pkiserver.ca.profiles import Profile, compile_profile, compile_profiles
from pkiserver.ca.recovery import Recovery, finish
from pkiserver.ca.signer import Signer
from pkiserver.clock import Clock, epoch
from pkiserver.config import CoreSettings, ProfileSettings
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix import cert, csr
from pkiserver.storage import Database, IntegrityError, Reader, Transaction

_TOKEN_LIFETIME = dt.timedelta(minutes=15)
_MOST_TOKENS = 4096
_MOST_SHOWN = 100

_log = structlog.get_logger("pkiserver.issuance")


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that is stored and may be handed out."""

    record: CertificateRecord
    der: bytes = field(repr=False)
    certificate: x509.Certificate


class Issuance:
    """Safe to use from many tasks at once. Every refusal is a `PKIError` with a `rule`, is in the
    audit log as `certificate.refuse`, and changed nothing else."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        authorities: Authorities,
        audit: Audit,
        settings: CoreSettings,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._database = database
        self._clock = clock
        self._audit = audit
        self._random_bytes = random_bytes
        self._configured = compile_profiles(settings)
        self._profiles = dict(self._configured)
        self._signer = Signer(authorities, settings.server.http_base, settings.crl)
        self._recovery = Recovery(database, clock, audit, self._signer, self._profiles)
        self._tokens: OrderedDict[str, tuple[Prepared, dt.datetime]] = OrderedDict()

    @property
    def profiles(self) -> Mapping[str, Profile]:
        """The configured profiles by name."""
        return self._configured

    def add_profile(self, name: str, settings: ProfileSettings) -> None:
        """A profile for certificates of the server's own, such as a protocol's registration
        authority; only `unattended` requests get them. Its name has a dot in it, as none has that
        can be configured. To be added by every process before it recovers or issues."""
        if "." not in name:
            raise ValueError("the name of a profile of the server's own has a dot in it")
        self._profiles[name] = compile_profile(name, settings)

    async def prepare(
        self, request: CertificateRequest, *, approval: str | None = None, unattended: bool = False
    ) -> Prepared:
        """Everything short of using the CA key. The token is good for 15 minutes.

        Under a profile with `requires_approval` the id of an approval is needed, that was given to
        exactly this requester, CSR, subject and names; `issue` uses it up. `unattended` is for the
        server's own certificate, which waits for nobody.
        """
        try:
            profile, issuer, decision = await self._decide(request, own=unattended)
            if approval is not None or (profile.requires_approval and not unattended):
                await self._check_approval(approval, request, decision)
            serial = self._new_serial()
            built = await _template(profile, issuer, decision, serial)
            return self._token(issuer, request, decision, serial, built, approval)
        except PKIError as error:
            await self.record_refusal(request, error)
            raise

    async def examine(self, request: CertificateRequest) -> Decision:
        """What would be certified, for a person to look at. Refuses what `prepare` would refuse,
        the approval aside."""
        try:
            profile, issuer, decision = await self._decide(request)
            await _template(profile, issuer, decision, self._new_serial())
            return decision
        except PKIError as error:
            await self.record_refusal(request, error)
            raise

    async def issue(
        self,
        prepared: Prepared,
        *,
        on_reserved: TxHook | None = None,
        on_issued: TxHook | None = None,
    ) -> Issued:
        """Sign and store. The hooks run in the two transactions, after our own statements; if
        `on_reserved` raises, nothing happened; if `on_issued` raises, or the caller is cancelled
        after the first transaction, the row stays for `recover`, which runs no hook.

        `PKIError` CONFLICT for a token that was redeemed, is too old, or is not from this instance,
        and if recovery gave the certificate up meanwhile.
        """
        self._redeem(prepared)
        issuer = self._signer.issuer(prepared.issuer, _issuer_rule(prepared.profile))
        self._signer.check_key(prepared.issuer)
        try:
            await self._database.write(lambda tx: self._reserve(tx, prepared, on_reserved))
        except PKIError as error:
            await self._refuse(prepared.requester, prepared.id, _refusal(error))
            raise
        certificate, der = await self._signer.sign(
            issuer, prepared.tbs, prepared.signature_algorithm
        )
        stored = await self._database.write(lambda tx: self._complete(tx, prepared, der, on_issued))
        if stored != der:
            certificate = x509.load_der_x509_certificate(stored)
        return Issued(self._record(prepared, stored), stored, certificate)

    async def recover(self, older_than: dt.timedelta) -> int:
        """Settle what crashes left, as `Recovery` says; how many rows were. `older_than` has to be
        longer than an issuance in progress may take."""
        return await self._recovery.run(older_than)

    async def record_refusal(self, request: CertificateRequest, error: PKIError) -> None:
        """Put a refusal into the audit log, in a transaction of its own, if there are not too many
        of this requester already."""
        csr_sha256 = hashlib.sha256(request.csr).hexdigest()
        detail = _refusal(error) | {"csr_sha256": csr_sha256}
        await self._refuse(request.requester, f"profile:{request.profile[:100]}", detail)

    async def _refuse(self, by: Requester, about: str, detail: Mapping[str, JSON]) -> None:
        await self._audit.refuse(
            self._database,
            actor=str(by),
            action="certificate.refuse",
            object=about,
            detail={**detail, "address": by.address},
            sources=by.sources,
        )

    # Preparing

    async def _decide(
        self, request: CertificateRequest, *, own: bool = False
    ) -> tuple[Profile, Issuer, Decision]:
        profile = self._profile(request.profile, own=own)
        current = await self._signer.current(profile.issuer)
        issuer = self._signer.issuer(current, _issuer_rule(profile.name))
        decision = decide(
            profile,
            issuer,
            request,
            csr.parse(request.csr, allow_legacy_hash=request.allow_legacy_hash),
            own_keys=self._signer.own_keys(),
            now=self._clock.now(),
        )
        await self._database.lookup(lambda reader: self._check_records(reader, request, decision))
        return profile, issuer, decision

    def _check_records(
        self, reader: Reader, request: CertificateRequest, decision: Decision
    ) -> None:
        """What only the database knows."""
        blocklist.check(reader, decision.spki_sha256)
        if request.renewal_of is not None:
            renewal.check(reader, request.renewal_of)

    async def _check_approval(
        self, approval: str | None, request: CertificateRequest, decision: Decision
    ) -> None:
        now = epoch(self._clock.now())
        await self._database.lookup(
            lambda reader: approval_store.check(
                reader, approval, request, decision.subject.rfc4514_string(), decision.names, now
            )
        )

    def _profile(self, name: str, *, own: bool) -> Profile:
        """`own`: also one of the server's own. Names may come from outside, as from a webhook."""
        profile = (self._profiles if own else self._configured).get(name)
        if profile is None:
            raise PKIError(
                ErrorCode.NOT_FOUND, f"there is no profile {ascii(name)}", rule="profiles"
            )
        return profile

    def _new_serial(self) -> int:
        """17 octets, positive, 134 of 136 bits random (RFC 5280 section 4.1.2.2)."""
        return int.from_bytes(self._random_bytes(17)) & ~(3 << 134) | 1 << 134

    def _new_id(self) -> str:
        """32 hexadecimal digits that sort by the time they were made; 80 bits are random."""
        milliseconds = int(self._clock.now().timestamp() * 1000)
        return f"{milliseconds:012x}{self._random_bytes(10).hex()}"

    def _token(
        self,
        issuer: Issuer,
        request: CertificateRequest,
        decision: Decision,
        serial: int,
        built: template.Template,
        approval: str | None,
    ) -> Prepared:
        prepared = Prepared(
            id=self._new_id(),
            issuer=issuer.name,
            profile=request.profile,
            serial=serial,
            tbs=built.tbs,
            signature_algorithm=built.signature_algorithm,
            names=decision.names,
            subject=decision.subject.rfc4514_string(),
            spki_sha256=decision.spki_sha256,
            not_before=decision.not_before,
            not_after=decision.not_after,
            requester=request.requester,
            approval=approval,
            renewal_of=request.renewal_of,
        )
        until = min(self._clock.now() + _TOKEN_LIFETIME, prepared.not_after)
        self._tokens[prepared.id] = (prepared, until)
        if len(self._tokens) > _MOST_TOKENS:
            self._tokens.popitem(last=False)
        return prepared

    # Issuing

    def _redeem(self, prepared: Prepared) -> None:
        token, until = self._tokens.pop(prepared.id, (None, self._clock.now()))
        if token is not prepared or self._clock.now() >= until:
            raise PKIError(
                ErrorCode.CONFLICT,
                "the prepared certificate was issued already, is too old or is not from here",
                rule="issuance.token",
            )

    def _reserve(self, tx: Transaction, prepared: Prepared, hook: TxHook | None) -> None:
        # Again, in the transaction: a key reported meanwhile is not certified, and what was revoked
        # meanwhile not renewed.
        blocklist.check(tx, prepared.spki_sha256)
        if prepared.renewal_of is not None:
            renewal.check(tx, prepared.renewal_of)
        rule = _issuer_rule(prepared.profile)
        self._signer.check_usable(tx, prepared.issuer, rule)
        try:
            ledger.reserve(tx, prepared, epoch(self._clock.now()))
            self._signer.remember_lists(tx, prepared)
        except IntegrityError as error:
            raise PKIError(
                ErrorCode.CONFLICT, "the serial number is taken; try again", rule="serial"
            ) from error
        self._audit.append(
            tx,
            actor=str(prepared.requester),
            action="certificate.reserve",
            object=prepared.id,
            detail=_intent(prepared),
        )
        if prepared.approval is not None:
            self._use_approval(tx, prepared, prepared.approval)
        if hook is not None:
            hook(tx)

    def _use_approval(self, tx: Transaction, prepared: Prepared, approval: str) -> None:
        """Of all who prepared with one approval, one issues."""
        if not approval_store.use(tx, approval, prepared.id, epoch(self._clock.now())):
            raise PKIError(
                ErrorCode.CONFLICT,
                "the approval was used or has expired meanwhile",
                rule=approval_store.RULE,
            )
        self._audit.append(
            tx,
            actor=str(prepared.requester),
            action="approval.use",
            object=approval,
            detail={"certificate": prepared.id},
        )

    def _complete(
        self, tx: Transaction, prepared: Prepared, der: bytes, hook: TxHook | None
    ) -> bytes:
        """The certificate as it is stored: recovery in another process may have been faster."""
        stored = ledger.issued(tx, prepared.id)
        if stored is None:
            finish(tx, self._audit, str(prepared.requester), prepared.id, prepared.serial, der)
        if hook is not None:
            hook(tx)
        return stored or der

    def _record(self, prepared: Prepared, der: bytes) -> CertificateRecord:
        return CertificateRecord(
            id=prepared.id,
            issuer=prepared.issuer,
            serial=prepared.serial,
            status=CertificateStatus.ISSUED,
            profile=prepared.profile,
            requester=str(prepared.requester),
            subject=prepared.subject,
            spki_sha256=prepared.spki_sha256,
            not_before=prepared.not_before,
            not_after=prepared.not_after,
            created=self._clock.now().replace(microsecond=0),
            der=der,
            revoked_at=None,
            reason=None,
        )


async def _template(
    profile: Profile, issuer: Issuer, decision: Decision, serial: int
) -> template.Template:
    """Built and linted."""
    built = template.build(profile, issuer, decision, serial)
    await _lint(profile, issuer, built)
    return built


async def _lint(profile: Profile, issuer: Issuer, built: template.Template) -> None:
    problems = lint.fast(built.lint_certificate, issuer)
    if profile.lint_full and not problems:
        findings = await asyncio.to_thread(lint.full, built.lint_certificate)
        problems = [str(each) for each in findings if each.is_error]
        for each in findings:
            if each.severity is lint.Severity.WARNING:
                _log.warning("certificate.lint", profile=profile.name, code=each.code)
    if problems:
        raise PKIError(
            ErrorCode.REFUSED_BY_PROFILE, f"the certificate fails lint: {problems[0]}", rule="lint"
        )


def _issuer_rule(profile: str) -> str:
    return f"profiles.{profile}.issuer"


def _intent(prepared: Prepared) -> dict[str, JSON]:
    return {
        "issuer": prepared.issuer,
        "serial": cert.serial_hex(prepared.serial),
        "profile": prepared.profile,
        "subject": prepared.subject,
        "names": [str(name) for name in prepared.names[:_MOST_SHOWN]],
        "not_after": epoch(prepared.not_after),
        "tbs_sha256": hashlib.sha256(prepared.tbs).hexdigest(),
        "address": prepared.requester.address,
    }


def _refusal(error: PKIError) -> dict[str, JSON]:
    """The cause, without letting a client flood the log."""
    return {
        "code": error.code.value,
        "rule": error.rule,
        "cause": error.detail[:1000],
        "names": [name[:255] for name in error.names[:_MOST_SHOWN]],
    }
