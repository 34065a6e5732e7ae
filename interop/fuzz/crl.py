"""CRLs and CA certificates: names that are none, conditions, ranges, and headers without sense."""

from interop.fuzz.cases import Case, Cases, Rng, Subject, mutated

_PATHS = (
    b"/crl/issuing.crl", b"/crl/root.crl", b"/crl/issuing-delta.crl", b"/crl/issuing/0.crl",
    b"/ca/issuing.cer", b"/ca/root.pem", b"/ca/issuing.p7c", b"/roots.pem",
)  # fmt: skip
_VALUES = (
    b"*", b'"abc"', b'W/"abc", "def"', b"bytes=0-", b"bytes=5-2", b"bytes=-1", b"bytes=0-0,5-9",
    b"bytes=99999999999999999999-", b"gzip", b"identity;q=0, *;q=0", b"br;q=x", b"\x80\xff",
    b"Sun, 01 Mar 2026 12:00:00 GMT", b"Sun, 99 Foo 0000", b"0", b"-1", b"", b",,,",
)  # fmt: skip
_FIELDS = (
    b"if-none-match", b"if-modified-since", b"if-range", b"range", b"accept-encoding", b"accept",
    b"if-match", b"if-unmodified-since", b"x-forwarded-for", b"x-request-id", b"cookie",
)  # fmt: skip


def cases(subject: Subject) -> Cases:
    def make(rng: Rng) -> Case:
        path = rng.choice(_PATHS)
        if rng.random() < 0.5:
            path = _in_a_request_line(mutated(path, rng, 2))
        headers = tuple(
            (rng.choice(_FIELDS), rng.choice(_VALUES)) for _ in range(rng.choice((0, 1, 2, 5)))
        )
        method = rng.choice((b"GET",) * 10 + (b"HEAD", b"POST", b"PUT", b"OPTIONS", b"DELETE"))
        body = rng.randbytes(20) if method in (b"POST", b"PUT") else b""
        return Case(method, path, headers, body)

    return make


def _in_a_request_line(path: bytes) -> bytes:
    """With everything percent-encoded that would end the line or the path."""
    safe = frozenset(b"/.-_~%abcdefghijklmnopqrstuvwxyz0123456789")
    return b"/" + b"".join(
        bytes((octet,)) if octet in safe else b"%%%02x" % octet for octet in path.lstrip(b"/")
    )
