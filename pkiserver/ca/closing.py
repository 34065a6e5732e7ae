"""The second phase of retiring an authority: a last list, then its key is destroyed.

The list comes first and lasts as long as the authority's certificate, and the row that says closed
before the key goes: interrupted anywhere, the authority is either still retired, or it is closed
and the key goes when any process reads the tree.
"""

import datetime as dt

from pkiserver.ca import ca_path
from pkiserver.ca.authorities import Authorities
from pkiserver.ca.authority_rollover import still_needed
from pkiserver.ca.model import Authority, AuthorityStatus
from pkiserver.ca.status import StatusService
from pkiserver.clock import Clock
from pkiserver.errors import ErrorCode, PKIError

_AS_LONG_AS_IT_LASTS = dt.timedelta(days=101 * 366)


async def close(
    authorities: Authorities,
    status: StatusService,
    clock: Clock,
    name: str,
    *,
    actor: str,
    force: bool = False,
) -> Authority:
    """Close a retired authority of which no certificate is good any more. It gets a responder that
    goes on answering until those that are revoked have expired. With `force` even if some are good:
    what is revoked from now on is told by OCSP, but on no list.

    Raises `PKIError`: CONFLICT while certificates are valid, or if it is not retired; UNAVAILABLE
    if its key is not at hand for the last list."""
    async with authorities.recording_refusals(actor, "close", name):
        await authorities.refresh_if_changed()
        authority = authorities.get(name)
        if authority.status is not AuthorityStatus.RETIRED:
            raise PKIError(
                ErrorCode.CONFLICT,
                f"{name} is {authority.status}; only a retired authority closes",
            )
        left = await authorities.outstanding(name)
        if left.count and not force:
            raise still_needed(name, left)
        shown = await authorities.status_generation(name)
        certificate, now = authority.certificate, clock.now()
        if certificate is not None and certificate.not_valid_after_utc > now:
            # Revoked ones, too: who is told nothing by OCSP often takes that for good.
            ends = [end for end in (left.last, left.revoked_until) if end is not None]
            if ends:
                await status.prepare_offline(name, max(ends) - now)
            if ca_path.may_sign_crls(certificate):
                await status.publish_crl(name, _AS_LONG_AS_IT_LASTS)
        return await authorities.close(name, shown, actor=actor, force=force)
