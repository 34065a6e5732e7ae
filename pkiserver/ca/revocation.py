"""Revocation (RFC 5280 section 5.3): what may become of a certificate's status, and the one
transaction that changes it.

    good --> revoked for good
    good <-> certificateHold --> revoked for good
    revoked for another reason --> keyCompromise   (the date stays)

Nothing else: revoked never turns good again. The date of a hold that becomes final stays as well,
as it is since then that the certificate could not be relied on.
"""

from collections.abc import Awaitable, Callable

import structlog

OnChange = Callable[[str], Awaitable[None]]

_log = structlog.get_logger("pkiserver.revocation")
