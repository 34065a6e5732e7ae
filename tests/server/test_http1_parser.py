"""RFC 9112 framing: what is accepted, what is refused, and nothing else ever escapes."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.serving.connection import ConnectionInfo, Timeouts
from pkiserver.serving.http1_parser import BadRequest, RequestParser

INFO = ConnectionInfo("https", ("192.0.2.1", 1234), ("192.0.2.2", 443))


def parser(limit: int = 1000) -> RequestParser:
    return RequestParser(INFO, Timeouts(head_bytes=limit))


def test_post_with_body() -> None:
    p = parser()
    p.feed(b"POST /a%20b?x=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nX-Y:  v \t\r\n\r\nabc")
    (request,) = p.requests
    assert request.complete and request.keep_alive and request.http11
    assert b"".join(request.body) == b"abc"
    assert request.scope["path"] == "/a b"
    assert request.scope["raw_path"] == b"/a%20b"
    assert request.scope["query_string"] == b"x=1"
    assert request.scope["headers"][-1] == (b"x-y", b"v")


def test_chunked_with_trailers_which_are_dropped() -> None:
    p = parser()
    p.feed(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;e=1\r\nabc\r\n")
    assert not p.requests[0].complete
    p.feed(b"2\r\nde\r\n0\r\nHost: evil\r\n\r\n")
    assert p.requests[0].complete
    assert b"".join(p.requests[0].body) == b"abcde"
    assert p.requests[0].scope["headers"].count((b"host", b"evil")) == 0


def test_pipelined_requests_are_separate() -> None:
    p = parser()
    p.feed(b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n")
    assert [request.scope["path"] for request in p.requests] == ["/1", "/2"]


@pytest.mark.parametrize(
    "target,path,query",
    [
        (b"http://h/x?y", "/x", b"y"),
        (b"https://h", "/", b""),
        (b"//double", "//double", b""),
        (b"/a?b?c", "/a", b"b?c"),
    ],
)
def test_request_targets(target: bytes, path: str, query: bytes) -> None:
    """RFC 9112 section 3.2: origin and absolute form."""
    p = parser()
    p.feed(b"GET %s HTTP/1.1\r\nHost: h\r\n\r\n" % target)
    assert (p.requests[0].scope["path"], p.requests[0].scope["query_string"]) == (path, query)


def test_options_asterisk() -> None:
    p = parser()
    p.feed(b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n")
    assert p.requests[0].scope["path"] == "*"


@pytest.mark.parametrize("body", [b"", b"abc"])
def test_an_upgrade_is_ignored_and_the_body_kept(body: bytes) -> None:
    """RFC 9110 section 7.8: Java's HTTP client offers h2c with its first request."""
    p = parser()
    head = (
        b"POST /ocsp HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABk\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    p.feed(b"GET /first HTTP/1.1\r\nHost: h\r\n\r\n" + head + body + b"GET /last HTTP/1.1\r\n")
    p.feed(b"Host: h\r\n\r\n")
    assert [request.scope["path"] for request in p.requests] == ["/first", "/ocsp", "/last"]
    assert b"".join(p.requests[1].body) == body
    assert all(request.complete and request.keep_alive for request in p.requests)


def test_any_number_of_upgrades_is_ignored() -> None:
    asks = b"GET /%d HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    p = parser()
    p.feed(b"".join(asks % number for number in range(900)))
    assert [request.path for request in p.requests] == [f"/{number}" for number in range(900)]


def test_http10_without_host_closes() -> None:
    p = parser()
    p.feed(b"GET / HTTP/1.0\r\n\r\n")
    assert p.requests[0].complete and not p.requests[0].keep_alive


@pytest.mark.parametrize(
    "status,data",
    [
        (400, b"GET / HTTP/1.1\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
        (400, b"GET / HTTP/1.1\nHost: a\n\n"),
        (400, b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: a\x00\r\n\r\n"),
        (400, b"GET /#x HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, b"OPTIONS ftp://x/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, b"GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc"),
        (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
        (
            400,
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (400, b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        (501, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
        (501, b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (501, b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n"),
        (501, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
        (505, b"GET /\r\n\r\n"),
        (505, b"GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
        (431, b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 400),
        (431, b"GET /" + b"x" * 2000),
    ],
)
def test_refused(status: int, data: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        parser().feed(data)
    assert caught.value.status == status


def test_a_head_dribbled_in_small_pieces_is_limited_and_not_counted_twice() -> None:
    head = b"GET / HTTP/1.1\r\nHost: h\r\n" + b"Header: value\r\n" * 40
    p = parser(1000)
    for byte in head + b"\r\n":
        p.feed(bytes([byte]))
    assert len(p.requests) == 1
    with pytest.raises(BadRequest):
        for byte in head * 2:
            p.feed(bytes([byte]))
    p = parser(1000)
    with pytest.raises(BadRequest):
        for _ in range(5):
            p.feed(b"GET / HTTP/1.1\r\nX: " + b"x" * 500 if not p.in_head else b"x" * 500)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=6))
def test_any_bytes_are_parsed_or_refused(pieces: list[bytes]) -> None:
    p = parser()
    with contextlib.suppress(BadRequest):
        for piece in pieces:
            p.feed(piece)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.lists(st.integers(0, 400), max_size=8))
def test_a_body_survives_any_fragmentation(body: bytes, cuts: list[int]) -> None:
    data = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    p = parser()
    points = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    for start, end in zip(points, points[1:], strict=False):
        p.feed(data[start:end])
    assert b"".join(p.requests[0].body) == body
    assert p.requests[0].complete


LENIENT = Timeouts(head_bytes=1000, lenient=("/scep/",), lenient_head_bytes=100_000)


@pytest.mark.parametrize("path", [b"/scep/default", b"/SCEP/x"])
def test_devices_may_send_long_urls_in_pieces_and_no_host(path: bytes) -> None:
    """S13, S14, S17: SCEP messages in the URL, HTTP/1.1 without Host, HTTP/1.0."""
    head = b"GET %s?message=%s HTTP/1.1\r\n\r\n" % (path, b"A" * 90_000)
    p = RequestParser(INFO, LENIENT)
    for start in range(0, len(head), 1460):
        p.feed(head[start : start + 1460])
    assert len(p.requests[0].scope["query_string"]) == 90_008
    assert p.requests[0].scope["headers"] == []


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /other?m=%s HTTP/1.1\r\nHost: a\r\n\r\n" % (b"A" * 2000), 431),
        (b"GET /scep/x?m=%s HTTP/1.1\r\n\r\n" % (b"A" * 110_000), 431),
        (b"GET /other HTTP/1.1\r\n\r\n", 400),
        (b"GET /scep/x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    ],
)
def test_leniency_ends_somewhere(head: bytes, status: int) -> None:
    p = RequestParser(INFO, LENIENT)
    with pytest.raises(BadRequest) as refusal:
        for start in range(0, len(head), 1000):
            p.feed(head[start : start + 1000])
    assert refusal.value.status == status


@pytest.mark.parametrize("begin", [b"0\r\nX: ", b"0\r\n", b"3;", b"3\r\nabc\r\n0\r\nX: "])
@pytest.mark.parametrize("part", [b"a" * 1000, b"a: b\r\n" * 100])
def test_what_follows_a_body_in_chunks_is_bounded(begin: bytes, part: bytes) -> None:
    """Fields of the trailer section and extensions of chunks: llhttp would take them for ever, the
    former at a cost that grows with their square."""
    parser = RequestParser(INFO, Timeouts(head_bytes=4096))
    parser.feed(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + begin)
    with pytest.raises(BadRequest):
        for _ in range(10):
            parser.feed(part)
