"""What to do about a refused message, for `pkiserver why`."""

from collections.abc import Mapping
from typing import Any


def remedy(action: str, detail: Mapping[str, Any]) -> str | None:
    """What to do about a refused message, where the code alone does not say."""
    if action != "scep.refuse":
        return None
    rule = "scep.failures_per_address" if "address waits" in detail else detail.get("rule")
    return _REMEDIES.get(str(rule))


_REMEDIES: Mapping[str, str] = {
    "scep.recipient": "let the client fetch the CA certificates again (GetCACert): the one it "
    "encrypts for has ended or is of another server",
    "scep.messageData": "the cause is shown here only, the device learns no more than that the "
    "message is bad: compare what the client puts into its request",
    "scep.renewal": "let the client enrol anew with a challenge; see renewal, renewal_window and "
    "renewal_grace of the section",
    "allow_legacy": "let the client use SHA-256 and AES; for a device that has neither, set "
    "legacy = true in a section of its own",
    "csr.signature-hash": "let the client sign its request with SHA-256; for a device that has "
    "none, set legacy = true in a section of its own",
    "scep.challenge.missing": "let the client send a challenge password; make one with "
    "'scep challenge'",
    "scep.challenge.unknown": "make a challenge with 'scep challenge' for this section, and let "
    "the client send it as it is",
    "scep.challenge.used": "a challenge is good for one certificate: make another one",
    "scep.challenge.expired": "make another challenge, with --expires if an hour is too short",
    "scep.challenge.subject": "make a challenge whose --subject patterns match every name the "
    "client asks for",
    "scep.failures_per_address": "this address is not listened to for a while, as its requests "
    "keep being refused; see the rows before, or raise failures_per_address of the section",
}
