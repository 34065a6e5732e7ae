"""Whether a certificate may be renewed: only the inventory knows."""

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.ca import inventory
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.storage import Reader


def check(reader: Reader, old: x509.Certificate) -> None:
    """Raises `PKIError` UNAUTHORIZED unless it is ours, octet for octet, and not revoked. That it
    has not expired is for the protocol to say: some renew for a while after that."""
    der = old.public_bytes(Encoding.DER)
    found = [each for each in inventory.with_serial(reader, old.serial_number) if each.der == der]
    if not found or found[0].revoked_at is not None:
        raise PKIError(
            ErrorCode.UNAUTHORIZED,
            "the certificate to renew is revoked or not one of ours",
            rule="renewal",
        )
