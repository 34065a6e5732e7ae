"""`/crl/{ca}.crl`, `/ca/{ca}.cer|.pem|.p7c` and `/roots.pem` as bare ASGI callables.

- `.crl`: the newest CRL; the names of partial lists and of deltas are in `ca.crl_scope`.
- `.cer`: the authority's certificate, DER (RFC 2585 section 4).
- `.pem`: the same with the certificates above it, without the root unless it is one.
- `.p7c`: the same as `.pem` and the certificates that link the root with those before and after
  it, as a certs-only CMS message (RFC 5280 section 4.2.2.1).
- `roots.pem`: the self-signed roots of all authorities.
- `/crl/search.cgi` and `/ca/search.cgi`: the same by hash (RFC 4387).
"""

import datetime as dt
from collections.abc import Awaitable, Callable, Mapping, Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.hazmat.primitives.serialization.pkcs7 import serialize_certificates
from starlette.types import Receive, Scope, Send

from pkiserver.ca.authorities import Authorities
from pkiserver.ca.crl import CRL
from pkiserver.ca.crl_scope import parse_file
from pkiserver.ca.status import StatusService
from pkiserver.clock import Clock, from_epoch
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix.pem import pem_chain
from pkiserver.web.caching import CacheableBytes, send_cacheable
from pkiserver.web.downloads import Download, send_download
from pkiserver.web.problems import HTTPProblem, as_problem
from protocols.crl import search

CRL_PREFIX = "/crl/"
CA_PREFIX = "/ca/"
ROOTS_PATH = "/roots.pem"
CRL_MAX_AGE = 300
"""Seconds a list may be taken from an HTTP cache: so long may a revocation stay unseen."""
CRL_MAX_AGE_BEHIND = 10
"""The same for one that does not show the latest change."""
CERTIFICATE_MAX_AGE = 3600

_LAST_YEARS = 1 << 37
"""Numbers of lists are times, where nothing strange was migrated: so far a date may go."""
_CRL_TYPE = "application/pkix-crl"
_CERTIFICATE_TYPE = "application/pkix-cert"
_CHAIN_TYPE = "application/pem-certificate-chain"
_CERTS_ONLY_TYPE = "application/pkcs7-mime; smime-type=certs-only"
_ROOTS_TYPE = "application/x-pem-file"

Found = CacheableBytes | Download
Find = Callable[[str, bytes], Awaitable[Found]]


class Downloads:
    """One prefix: whatever `find` has for the path after it and the query. GET and HEAD only."""

    def __init__(self, prefix: str, find: Find) -> None:
        self._prefix = prefix
        self._find = find

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            raise HTTPProblem(405, "this can only be read", headers={"Allow": "GET, HEAD"})
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        try:
            found = await self._find(
                path.removeprefix(self._prefix), scope.get("query_string", b"")
            )
        except PKIError as error:
            raise as_problem(error) from error
        if isinstance(found, Download):
            await send_download(scope, send, found)
        else:
            await send_cacheable(scope, send, found)


class Library:
    """What there is to download."""

    def __init__(self, status: StatusService, authorities: Authorities, clock: Clock) -> None:
        self._status = status
        self._authorities = authorities
        self._clock = clock

    async def crl(self, file_name: str, query: bytes) -> Found:
        """The newest list of that name; one that is out of date is not cached any longer."""
        if file_name == search.FILE:
            return await self._search_crl(query)
        wanted = parse_file(file_name)
        if wanted is None:
            raise _nothing(file_name)
        name, scope, delta = wanted
        return self._download(await self._status.crl(name, scope, delta=delta))

    def _download(self, newest: CRL) -> Download:
        now = self._clock.now()
        left = int((newest.next_update - now).total_seconds())
        longest = CRL_MAX_AGE_BEHIND if newest.behind else CRL_MAX_AGE
        # When it was made, not thisUpdate, which lies back: whoever asks with the time of an
        # earlier download would be kept from it. Of two lists of one second the later one has
        # the next second, which is no date to tell yet.
        published = max(from_epoch(min(newest.number, _LAST_YEARS)), newest.this_update)
        return Download(
            newest.der,
            newest.sha256,
            _CRL_TYPE,
            last_modified=published if published <= now else None,
            max_age=max(0, min(longest, left)),
            expires=newest.next_update,
        )

    async def _search_crl(self, query: bytes) -> Found:
        attribute, value = search.parse_query(query)
        key = search.CRL_KEYS.get(attribute)
        names = search.matching(await self._own_certificates(), key, value) if key else []
        if not names:
            raise _nothing(search.FILE)
        return self._download(await self._status.crl(names[-1]))

    async def certificate(self, file_name: str, query: bytes) -> Found:
        """An authority's certificate or chain, by the file name's extension."""
        if file_name == search.FILE:
            return await self._search_certificates(query)
        name, extension = _split(file_name)
        if extension not in ("cer", "pem", "p7c"):
            raise _nothing(file_name)
        own = await self._own(name)
        chain = self._authorities.chain(name) or (own,)
        match extension:
            case "cer":
                return _certificates(own.public_bytes(Encoding.DER), _CERTIFICATE_TYPE, [own])
            case "pem":
                return _certificates(pem_chain(chain), _CHAIN_TYPE, chain)
        linked = (*chain, *self._authorities.root_links(name))
        data = serialize_certificates(list(linked), Encoding.DER)
        return _certificates(data, _CERTS_ONLY_TYPE, linked)

    async def _search_certificates(self, query: bytes) -> Found:
        attribute, value = search.parse_query(query)
        own = await self._own_certificates()
        found = [own[name] for name in search.matching(own, attribute, value)]
        if not found:
            raise _nothing(search.FILE)
        if len(found) == 1:
            data = found[0].public_bytes(Encoding.DER)
            return _certificates(data, _CERTIFICATE_TYPE, found)
        return _certificates(serialize_certificates(found, Encoding.DER), _CERTS_ONLY_TYPE, found)

    async def _own_certificates(self) -> Mapping[str, x509.Certificate]:
        await self._authorities.refresh_if_changed()
        known = sorted(self._authorities.list(), key=lambda each: each.created)
        return {each.name: each.certificate for each in known if each.certificate is not None}

    async def roots(self, rest: str, query: bytes) -> Found:
        """The trust anchors."""
        roots = self._authorities.roots()
        if rest or not roots:
            raise _nothing("roots.pem" + rest)
        return _certificates(pem_chain(roots), _ROOTS_TYPE, roots)

    async def _own(self, name: str) -> x509.Certificate:
        """An authority that another process has just made is found as well."""
        try:
            return self._authorities.certificate(name)
        except PKIError:
            await self._authorities.refresh_if_changed()
            return self._authorities.certificate(name)


def _split(file_name: str) -> tuple[str, str]:
    name, _, extension = file_name.rpartition(".")
    return name, extension


def _nothing(what: str) -> PKIError:
    return PKIError(ErrorCode.NOT_FOUND, f"there is no {what[:100]!r} here")


def _certificates(
    content: bytes, media_type: str, certificates: Sequence[x509.Certificate]
) -> CacheableBytes:
    newest: dt.datetime = max(each.not_valid_before_utc for each in certificates)
    return CacheableBytes(content, media_type, last_modified=newest, max_age=CERTIFICATE_MAX_AGE)
