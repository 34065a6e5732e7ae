"""Linking a request to the TLS connection it came on (RFC 7030 section 3.5, RFC 7894 section 3.3):
the client puts the base64 of tls-unique into the request that it signs, so that nobody can pass on
the request of another. Pure.

tls-unique exists up to TLS 1.2. TLS 1.3 has an exporter instead (RFC 9266), which Python's ssl does
not offer (`ssl.CHANNEL_BINDING_TYPES`, up to 3.14); where linking is required, TLS 1.3 is therefore
refused, never taken for linked.
"""

import base64
import hmac
from typing import Literal

from pkiserver.errors import ErrorCode, PKIError
from pkiserver.web.peer import Peer

Policy = Literal["off", "if-present", "required"]
_RULE = "est.proof_of_possession"


def check(policy: Policy, text: str | None, peer: Peer) -> None:
    """`text` is what the request says, None: nothing. Raises `PKIError` UNAUTHORIZED unless it is
    as the policy wants it."""
    if policy == "off":
        return
    if peer.tls_unique is None:
        if policy == "required":
            raise _refused(
                "this label needs requests linked to TLS by tls-unique: connect with TLS 1.2, and "
                f"not through a proxy (this connection: {peer.tls_version or 'without TLS'})"
            )
        return
    if text is None:
        if policy == "required":
            raise _refused("the request is not linked to TLS: it has no challengePassword")
        return
    if not hmac.compare_digest(text.encode(), base64.b64encode(peer.tls_unique)):
        raise _refused("the challengePassword is not the tls-unique of this connection")


def is_wanted(policy: Policy, peer: Peer) -> bool:
    """Whether csrattrs tells the client to link (RFC 7030 section 4.5.2)."""
    return policy != "off" and peer.tls_unique is not None


def _refused(detail: str) -> PKIError:
    return PKIError(ErrorCode.UNAUTHORIZED, detail, rule=_RULE)
