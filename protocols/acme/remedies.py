"""What to do about refusals in the audit log, for `pkiserver why`."""

from collections.abc import Mapping
from typing import Any

_CHALLENGES: Mapping[str, str] = {
    "http-01": "let the name's address answer plain HTTP on the directory's http01_port at "
    "/.well-known/acme-challenge/, without a firewall or another server in between",
    "tls-alpn-01": "let the name's address answer TLS on the directory's tls_alpn01_port with the "
    "protocol acme-tls/1, without a TLS proxy in between",
    "dns-01": "publish the TXT record at _acme-challenge below the name, in the zone the "
    "directory's dns_resolvers see, and wait until every name server has it",
    "dns-account-01": "publish the TXT record at the account's label below the name, in the zone "
    "the directory's dns_resolvers see",
    "dns-persist-01": "publish the TXT record at _validation-persist below the name, with one of "
    "the directory's caa_identities and the account's URL",
}


def remedy(action: str, detail: Mapping[str, Any]) -> str | None:
    """For a challenge that failed, by its type."""
    if action != "acme.challenge.invalid":
        return None
    return _CHALLENGES.get(str(detail.get("type")))
