"""http-01 (RFC 8555 section 8.3; for IP addresses RFC 8738 section 4).

Fetches `http://DOMAIN:PORT/.well-known/acme-challenge/TOKEN` and compares the body with the key
authorization. Redirects are followed as far as `MAX_REDIRECTS`, to http and https on their own or
the configured ports only, so that a validation cannot be used to scan a network's ports.
"""

import hmac
import ipaddress
import re
from urllib.parse import SplitResult, urljoin, urlsplit

from protocols.acme.challenges.model import (
    DEFAULT_PORTS,
    ChallengeContext,
    ChallengeType,
    FailureKind,
    FetchHTTP,
    HTTPAnswer,
    Proof,
    Validation,
    ValidationFailed,
    ValidationRecord,
    ask,
    reached_record,
)

MAX_REDIRECTS = 10
MAX_TARGET = 2000
"""Characters of path and query in a redirect."""
REDIRECTS = frozenset({301, 302, 303, 307, 308})

_PRINTABLE = re.compile(r"[\x21-\x5b\x5d-\x7e]{1,4096}")
"""What a Location may be made of: visible ASCII without the backslash, which some read as `/`."""
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")


def http01(context: ChallengeContext) -> Validation:
    """The body, less trailing white space, has to be the key authorization."""
    expected = context.expected_key_authorization()
    request = FetchHTTP(
        "http",
        context.identifier_value,
        context.http01_port,
        f"/.well-known/acme-challenge/{context.token}",
    )
    records: list[ValidationRecord] = []
    visited = {request}
    while True:
        answer = yield from ask(request, HTTPAnswer)
        records.append(reached_record(request.host, answer.reached, request.url))
        if answer.status not in REDIRECTS:
            break
        request = _redirected(request, answer, context)
        if request in visited:
            raise _failed(request, "the redirects form a loop")
        if len(visited) > MAX_REDIRECTS:
            raise _failed(request, f"more than {MAX_REDIRECTS} redirects")
        visited.add(request)
    _check_answer(request, answer, expected)
    return Proof(
        ChallengeType.HTTP_01, f"{request.url} serves the key authorization", tuple(records)
    )


def _check_answer(request: FetchHTTP, answer: HTTPAnswer, expected: str) -> None:
    """The body is never repeated in an error: it may come from a server the client cannot read."""
    if answer.status != 200:
        raise ValidationFailed(
            FailureKind.UNAUTHORIZED,
            f"{request}: {answer.reached} answered with status {answer.status}, not 200",
        )
    if (answer.content_encoding or "identity").lower() != "identity":
        raise _incorrect(request, answer, "a Content-Encoding that was not asked for")
    if answer.truncated:
        raise _incorrect(request, answer, "a body too long for a key authorization")
    # RFC 8555 section 8.3: white space at the end of the body SHOULD be ignored.
    body = answer.body.rstrip(b" \t\r\n")
    if not hmac.compare_digest(body, expected.encode("ascii")):
        html = ", an HTML page by its looks" if body[:1] == b"<" else ""
        raise _incorrect(
            request, answer, f"{len(body)} bytes that are not the key authorization{html}"
        )


def _incorrect(request: FetchHTTP, answer: HTTPAnswer, what: str) -> ValidationFailed:
    return ValidationFailed(
        FailureKind.INCORRECT_RESPONSE, f"{request}: {answer.reached} answered with {what}"
    )


def _failed(request: FetchHTTP, reason: str) -> ValidationFailed:
    return ValidationFailed(FailureKind.CONNECTION, f"{request}: {reason}")


def _redirected(request: FetchHTTP, answer: HTTPAnswer, context: ChallengeContext) -> FetchHTTP:
    """The request a redirect leads to, if we go there."""
    try:
        return parse_redirect(request, answer.location, _ports(context))
    except ValueError as refusal:
        raise _failed(
            request, f"{answer.reached} redirects where validation does not follow: {refusal}"
        ) from refusal


def _ports(context: ChallengeContext) -> dict[str, frozenset[int]]:
    return {
        "http": frozenset({80, context.http01_port}),
        "https": frozenset({443, context.tls_alpn01_port}),
    }


def parse_redirect(
    request: FetchHTTP, location: str | None, ports: dict[str, frozenset[int]]
) -> FetchHTTP:
    """The target of a Location header (RFC 9110 section 10.2.2), a fragment left out.

    `ports` are those allowed by scheme. Raises ValueError with the reason for any other target.
    """
    if location is None:
        raise ValueError("there is no Location header")
    if not _PRINTABLE.fullmatch(location):
        raise ValueError("the Location holds forbidden characters or is too long")
    parts = urlsplit(urljoin(request.url, location))
    if parts.scheme not in DEFAULT_PORTS:
        raise ValueError("only http and https are followed")
    if "@" in parts.netloc:
        raise ValueError("the URL holds user information")
    port = _port(parts, ports[parts.scheme])
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if len(target) > MAX_TARGET:
        raise ValueError(f"the path is longer than {MAX_TARGET} characters")
    return FetchHTTP("https" if parts.scheme == "https" else "http", _host(parts), port, target)


def _port(parts: SplitResult, allowed: frozenset[int]) -> int:
    port = DEFAULT_PORTS[parts.scheme] if parts.port is None else parts.port
    if port not in allowed:
        shown = " and ".join(str(number) for number in sorted(allowed))
        raise ValueError(f"port {port} is not one of {shown}")
    return port


def _host(parts: SplitResult) -> str:
    """A DNS name in lower case or an IP address in its canonical text."""
    host = (parts.hostname or "").removesuffix(".")
    if "%" in host:
        raise ValueError("the host carries a zone or an escape")
    if parts.netloc.startswith("["):
        return str(ipaddress.IPv6Address(host))
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise ValueError("the host is no domain name and no IP address")
    return host
