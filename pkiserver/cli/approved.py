"""`cert issue` and `cert renew` under a profile that needs a second person.

The first run files the request and keeps its key and CSR beside the files it is to make, as
BASE.pending.key and BASE.pending.csr. The same command again takes them up: while nobody has
decided it says so, once somebody approved it issues."""

from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.ca import approval_store, inventory
from pkiserver.ca.approvals import Approval, ApprovalStatus
from pkiserver.ca.authority_files import read_private_key
from pkiserver.ca.model import CertificateRecord, CertificateRequest, CertificateStatus
from pkiserver.ca.profiles import Profile
from pkiserver.cli.context import naming, read_input
from pkiserver.cli.files import Targets, key_pem
from pkiserver.cli.output import moment, print_json, say
from pkiserver.errors import ErrorCode, PKIError, configuration_error
from pkiserver.home import write_private, write_public
from pkiserver.keys import PrivateKey
from pkiserver.pkix.pem import csr_der
from pkiserver.plugin import Services

WAITS = 3
"""The exit status that says: filed, not decided yet."""
REFERENCE = "cert issue"


@dataclass(frozen=True, slots=True)
class Draft:
    """What is kept aside of a request. `wanted` False: the profile needs nobody's approval."""

    targets: Targets
    wanted: bool

    @classmethod
    def of(cls, targets: Targets, profile: Profile | None) -> "Draft":
        return cls(targets, profile is not None and profile.requires_approval)

    @property
    def key(self) -> Path:
        return self.targets.base.with_name(f"{self.targets.base.name}.pending.key")

    @property
    def csr(self) -> Path:
        return self.targets.base.with_name(f"{self.targets.base.name}.pending.csr")

    def key_and_csr(self, new: PrivateKey | None) -> tuple[PrivateKey | None, bytes | None]:
        """What an earlier run kept, else the new key. Raises `PKIError` CONFIGURATION for files
        that are not what they should be."""
        if not (self.wanted and self.targets.with_key and self.key.exists() and self.csr.exists()):
            return new, None
        with naming(self.key):
            key = read_private_key(read_input(self.key, what="key"))
        with naming(self.csr):
            request = csr_der(read_input(self.csr, what="request"))
            if x509.load_der_x509_csr(request).public_key() != key.public_key():
                raise configuration_error(
                    f"it is not of {self.key.name}; remove both to start over"
                )
        return key, request

    async def approval(
        self, services: Services, request: CertificateRequest, key: PrivateKey | None
    ) -> Approval | None:
        """File the request, or find what became of it; None if the profile needs no approval.
        Raises `PKIError` for a rejected one, which is then forgotten."""
        if not self.wanted:
            return None
        approval = await services.approvals.require(request, REFERENCE)
        if approval.status is ApprovalStatus.PENDING:
            self._keep(request, key)
        elif approval.status is ApprovalStatus.REJECTED:
            self.forget()
            approval_store.require_approved(approval)
        return approval

    def _keep(self, request: CertificateRequest, key: PrivateKey | None) -> None:
        if key is not None:
            write_private(self.key, key_pem(key))
            parsed = x509.load_der_x509_csr(request.csr)
            write_public(self.csr, parsed.public_bytes(Encoding.PEM))

    def forget(self) -> None:
        """What was kept has served."""
        if self.wanted and self.targets.with_key:
            self.key.unlink(missing_ok=True)
            self.csr.unlink(missing_ok=True)


async def obtain(
    services: Services, request: CertificateRequest, approval: Approval | None
) -> CertificateRecord:
    """Issue; or, where the approval was used already, the certificate it was used for."""
    if approval is None or approval.certificate is None:
        prepared = await services.issuance.prepare(
            request, approval=None if approval is None else approval.id
        )
        return (await services.issuance.issue(prepared)).record
    certificate = approval.certificate
    record = await services.database.lookup(lambda reader: inventory.by_id(reader, certificate))
    if record is None or record.status is not CertificateStatus.ISSUED:
        raise PKIError(ErrorCode.CONFLICT, f"certificate {certificate} was not finished; try again")
    return record


def report_waiting(approval: Approval, as_json: bool) -> None:
    """Who has to do what now."""
    until = moment(approval.expires)
    if as_json:
        print_json({"approval": approval.id, "status": approval.status, "expires": until})
        return
    say(f"The request waits for approval {approval.id} until {until}. Have somebody else run:")
    say(f"  pkiserver approvals approve {approval.id}")
    say("Then run this command again.")
