"""`/crl/{ca}.crl`, `/ca/{ca}.cer|.pem|.p7c` and `/roots.pem` as bare ASGI callables.

- `.cer`: the authority's certificate, DER (RFC 2585 section 4).
- `.pem`: the same with the certificates above it, without the root unless it is one.
- `.p7c`: the same as `.pem` and the certificates that link the root with those before and after
  it, as a certs-only CMS message (RFC 5280 section 4.2.2.1).
- `roots.pem`: the self-signed roots of all authorities.
"""

import datetime as dt
from collections.abc import Awaitable, Callable, Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.hazmat.primitives.serialization.pkcs7 import serialize_certificates
from starlette.types import Receive, Scope, Send

from pkiserver.ca.authorities import Authorities
from pkiserver.ca.status import StatusService
from pkiserver.clock import Clock
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix.pem import pem_chain
from pkiserver.web.caching import CacheableBytes, send_cacheable
from pkiserver.web.problems import HTTPProblem, as_problem

CRL_PREFIX = "/crl/"
CA_PREFIX = "/ca/"
ROOTS_PATH = "/roots.pem"
CRL_MAX_AGE = 300
"""Seconds a list may be taken from an HTTP cache: so long may a revocation stay unseen."""
CERTIFICATE_MAX_AGE = 3600

_CRL_TYPE = "application/pkix-crl"
_CERTIFICATE_TYPE = "application/pkix-cert"
_CHAIN_TYPE = "application/pem-certificate-chain"
_CERTS_ONLY_TYPE = "application/pkcs7-mime; smime-type=certs-only"
_ROOTS_TYPE = "application/x-pem-file"

Find = Callable[[str], Awaitable[CacheableBytes]]


class Downloads:
    """One prefix: whatever `find` has for the path after it. GET and HEAD only."""

    def __init__(self, prefix: str, find: Find) -> None:
        self._prefix = prefix
        self._find = find

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            raise HTTPProblem(405, "this can only be read", headers={"Allow": "GET, HEAD"})
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        try:
            found = await self._find(path.removeprefix(self._prefix))
        except PKIError as error:
            raise as_problem(error) from error
        await send_cacheable(scope, send, found)


class Library:
    """What there is to download."""

    def __init__(self, status: StatusService, authorities: Authorities, clock: Clock) -> None:
        self._status = status
        self._authorities = authorities
        self._clock = clock

    async def crl(self, file_name: str) -> CacheableBytes:
        """The newest list of an authority; one that is out of date is not cached any longer."""
        name, extension = _split(file_name)
        if extension != "crl":
            raise _nothing(file_name)
        newest = await self._status.crl(name)
        left = int((newest.next_update - self._clock.now()).total_seconds())
        return CacheableBytes(
            newest.der,
            _CRL_TYPE,
            last_modified=newest.this_update,
            max_age=max(0, min(CRL_MAX_AGE, left)),
            expires=newest.next_update,
        )

    async def certificate(self, file_name: str) -> CacheableBytes:
        """An authority's certificate or chain, by the file name's extension."""
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

    async def roots(self, rest: str) -> CacheableBytes:
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
