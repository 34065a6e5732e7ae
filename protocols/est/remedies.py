"""What to do about refusals in the audit log, for `pkiserver why`."""

from collections.abc import Mapping
from typing import Any

_BY_RULE: Mapping[str, str] = {
    "est.client-certificate": "let the client present a certificate that is valid, not revoked, "
    "for clientAuth, and of the label's profile, its client_profiles or its client_ca",
    "est.certificate_names": "ask for names that are in the client certificate, or set "
    'certificate_names = "any" for the label',
    "est.user-names": "ask for names the user may have, or add the user anew with others: "
    "'pkiserver est user add'",
    "est.proof_of_possession": "let the client use TLS 1.2 directly and put tls-unique into "
    "challengePassword, or leave challengePassword out, or relax proof_of_possession",
    "est.reenroll": "use the certificate to renew as client certificate, with its own subject and "
    "subjectAltName in the request; for other names use simpleenroll",
    "est.change_subject": "leave ChangeSubjectName out, or set change_subject = true for the label",
    "est.serverkeygen": "name the user (DecryptKeyIdentifier, key by 'pkiserver est user key') or "
    "the client certificate's subjectKeyIdentifier, and AES in CBC mode in SMIMECapabilities",
    "est.server_keys": "make the key on the client, or set server_keys for the label",
    "est.enrolments_per_client": "find out why this client wants so many; raise "
    "enrolments_per_client for the label if it is meant to",
    "approvals": "see 'pkiserver approvals list'; a request that was rejected is made anew",
}


def remedy(action: str, detail: Mapping[str, Any]) -> str | None:
    """For a login that failed, and for the rules of this protocol."""
    if action == "est.authenticate" and "password" in str(detail.get("cause")):
        return "check user name and password; 'pkiserver est user add' makes a new one"
    if action == "est.authenticate":
        return _BY_RULE["est.client-certificate"]
    return _BY_RULE.get(str(detail.get("rule")))
