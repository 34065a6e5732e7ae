"""The newest lists, in memory as long as they are not too large together."""

import asyncio
import hashlib
from collections import OrderedDict

from pkiserver.ca import crl_store as store
from pkiserver.ca.crl import CRL
from pkiserver.ca.crl_store import Published
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.storage import Database, Reader

HELD_OCTETS = 128 << 20


class CRLShelf:
    """Lists by what is known of them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._held: OrderedDict[tuple[str, str, bool], CRL] = OrderedDict()
        self._loading = asyncio.Lock()

    async def read(self, published: Published) -> CRL | None:
        """A list with its octets, as they were when they were checked; the newest ones asked for
        stay in memory. None if it is gone."""
        key = (published.issuer, published.scope, published.delta)
        held = self._held.get(key)
        if held is not None and held.number == published.number:
            self._held.move_to_end(key)
            return held
        async with self._loading:
            held = self._held.get(key)
            if held is not None and held.number >= published.number:
                return held
            found = await self._database.read(lambda reader: _load(reader, published))
            if found is not None:
                self._hold(key, found)
            return found

    def _hold(self, key: tuple[str, str, bool], found: CRL) -> None:
        self._held[key] = found
        self._held.move_to_end(key)
        size = sum(len(each.der) for each in self._held.values())
        while size > HELD_OCTETS and len(self._held) > 1:
            size -= len(self._held.popitem(last=False)[1].der)


def _load(reader: Reader, published: Published) -> CRL | None:
    data = store.load(reader, published.body)
    if not data:
        return None
    digest = hashlib.sha256(data).digest()
    if published.sha256 not in (None, digest):
        raise PKIError(ErrorCode.INTERNAL, "a stored CRL is not what was published")
    return store.crl(published, digest, data)
