"""What GetCACaps says (RFC 8894 section 3.5.2), computed from what this section does."""

from collections.abc import Sequence

MEDIA_TYPE = "text/plain"


def capabilities(*, legacy: bool, next_certificate: bool) -> Sequence[str]:
    """One keyword per line of the answer. SHA-384 is not in the RFC; strongSwan up to 5.9.10 uses
    AES only where it finds it, and SHA-256 only where it finds DES3."""
    known = [
        "AES",
        "DES3",
        "POSTPKIOperation",
        "Renewal",
        "SCEPStandard",
        "SHA-256",
        "SHA-384",
        "SHA-512",
    ]
    if next_certificate:
        known.append("GetNextCACert")
    if legacy:
        known.append("SHA-1")
    return known


def render(keywords: Sequence[str]) -> bytes:
    """The body: each keyword ended by a line feed."""
    return "".join(f"{keyword}\n" for keyword in keywords).encode("ascii")
