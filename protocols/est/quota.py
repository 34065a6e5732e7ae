"""How many certificates one client gets (`enrolments_per_client`), counted in the transaction that
reserves the next one.

What was got with a client certificate counts for that certificate's client, and so does what is got
with it: else each renewal would bring a client whose count begins anew. Users and registration
authorities enrol for many, each of which is a client of its own.
"""

from dataclasses import dataclass

from pkiserver.ca.model import Prepared
from pkiserver.clock import Clock, epoch
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.storage import Reader, Transaction
from protocols.est import identity, store
from protocols.est.identity import Identity
from protocols.est.settings import ESTSettings
from protocols.est.store import Issued


@dataclass(frozen=True, slots=True)
class _Client:
    """`line`: for whom the certificates that it gets count in their turn; None: themselves."""

    source: str
    line: str | None


class Quota:
    """Of one label."""

    def __init__(self, label: str, settings: ESTSettings, clock: Clock) -> None:
        self._label = label
        self._settings = settings
        self._clock = clock

    def claim(self, tx: Transaction, who: Identity, prepared: Prepared) -> None:
        """Count one. Raises `PKIError` RATE_LIMITED if there were too many."""
        rate = self._settings.enrolments_per_client
        if rate is None:
            return
        client = self._client(tx, who)
        now, period = epoch(self._clock.now()), int(rate.period.total_seconds())
        oldest = store.crowded_since(tx, "est_issued", client.source, now, period, rate.count)
        if oldest is not None:
            raise PKIError(
                ErrorCode.RATE_LIMITED,
                f"too many certificates for this client: at most {rate.count} in {period} seconds",
                rule="est.enrolments_per_client",
                retry_after=max(1, oldest + period - now),
            )
        until = (
            now + period if client.line is None else max(now + period, epoch(prepared.not_after))
        )
        store.insert_issued(tx, Issued(prepared.id, client.source, client.line, now, until))

    def _client(self, reader: Reader, who: Identity) -> _Client:
        held = who.certificate
        if who.user is not None or held is None:
            return _Client(f"{self._label}:{who.requester.party}", None)
        if held.record is None:
            return _Client(held.party, held.party)
        source = store.line_of(reader, held.record.id) or held.party
        # An authority's own renewals are of one line, too.
        for_others = (
            identity.is_registration_authority(who, self._settings)
            and held.record.profile != self._settings.profile
        )
        return _Client(source, None if for_others else source)
