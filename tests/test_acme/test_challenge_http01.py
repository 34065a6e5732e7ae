"""http-01, RFC 8555 section 8.3: the dialogue, played without a network."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.acme.challenges.http01 import MAX_REDIRECTS, http01, parse_redirect
from protocols.acme.challenges.model import (
    ChallengeType,
    FailureKind,
    FetchHTTP,
    ValidationFailed,
)
from tests.test_acme.challenge_support import (
    CONTEXT,
    IP_CONTEXT,
    KEY_AUTHORIZATION,
    TOKEN,
    page,
    play,
    redirect,
)

PATH = f"/.well-known/acme-challenge/{TOKEN}"
PORTS = {"http": frozenset({80, 5002}), "https": frozenset({443, 5001})}
START = FetchHTTP("http", "www.example.test", 80, PATH)


def test_section_8_3_url_and_proof() -> None:
    proof, requests = play(http01(CONTEXT), page())
    assert requests == [START]
    assert proof.challenge_type is ChallengeType.HTTP_01
    assert proof.records[0].members() == {
        "url": f"http://www.example.test{PATH}",
        "hostname": "www.example.test",
        "port": "80",
        "addressesResolved": ["192.0.2.1"],
        "addressUsed": "192.0.2.1",
    }


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("192.0.2.7", f"http://192.0.2.7{PATH}"),
        ("2001:db8::7", f"http://[2001:db8::7]{PATH}"),
    ],
)
def test_rfc_8738_addresses_stand_in_the_url(address: str, url: str) -> None:
    _, requests = play(http01(replace(IP_CONTEXT, identifier_value=address)), page())
    assert isinstance(requests[0], FetchHTTP)
    assert requests[0].url == url


def test_configured_port_is_in_url_and_host_header() -> None:
    _, requests = play(http01(replace(CONTEXT, http01_port=5002)), page())
    assert isinstance(requests[0], FetchHTTP)
    assert requests[0].authority == "www.example.test:5002"


@pytest.mark.parametrize("tail", [b"\n", b"\r\n", b" \t\r\n\n"])
def test_section_8_3_trailing_white_space_is_ignored(tail: bytes) -> None:
    play(http01(CONTEXT), page(KEY_AUTHORIZATION.encode() + tail))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n",
        TOKEN.encode(),
        KEY_AUTHORIZATION.encode() + b"x",
        b" " + KEY_AUTHORIZATION.encode(),
        KEY_AUTHORIZATION.encode() + b"\x00",
        KEY_AUTHORIZATION.encode() + b"\x0b",
        KEY_AUTHORIZATION.swapcase().encode(),
        b"<html>secret of an internal page</html>",
    ],
)
def test_another_body_is_an_incorrect_response_and_not_repeated(body: bytes) -> None:
    with pytest.raises(ValidationFailed) as caught:
        play(http01(CONTEXT), page(body))
    assert caught.value.kind is FailureKind.INCORRECT_RESPONSE
    assert "secret" not in caught.value.detail
    assert "192.0.2.1:80" in caught.value.detail


@pytest.mark.parametrize("status", [201, 204, 300, 304, 305, 404, 500])
def test_only_status_200_counts(status: int) -> None:
    with pytest.raises(ValidationFailed, match=f"status {status}") as caught:
        play(http01(CONTEXT), page(status=status))
    assert caught.value.kind is FailureKind.UNAUTHORIZED


def test_content_encoding_and_long_bodies_are_refused() -> None:
    for answer in (
        replace(page(), content_encoding="gzip"),
        replace(page(), truncated=True),
    ):
        with pytest.raises(ValidationFailed) as caught:
            play(http01(CONTEXT), answer)
        assert caught.value.kind is FailureKind.INCORRECT_RESPONSE
    play(http01(CONTEXT), replace(page(), content_encoding="identity"))


def test_an_empty_key_authorization_proves_nothing() -> None:
    for context in (replace(CONTEXT, key_authorization=""), replace(CONTEXT, token="")):
        with pytest.raises(ValidationFailed) as caught:
            play(http01(context), page(b""))
        assert caught.value.kind is FailureKind.SERVER_INTERNAL


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_section_8_3_redirects_are_followed(status: int) -> None:
    proof, requests = play(
        http01(CONTEXT), redirect("https://other.example.test/proof?x=1#part", status), page()
    )
    assert requests[1] == FetchHTTP("https", "other.example.test", 443, "/proof?x=1")
    assert [record.hostname for record in proof.records] == [
        "www.example.test",
        "other.example.test",
    ]


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/elsewhere", FetchHTTP("http", "www.example.test", 80, "/elsewhere")),
        ("//b.test", FetchHTTP("http", "b.test", 80, "/")),
        ("#part", START),
        ("?y", FetchHTTP("http", "www.example.test", 80, f"{PATH}?y")),
        ("http://B.Test.:80/x", FetchHTTP("http", "b.test", 80, "/x")),
        ("http://b.test:5002/", FetchHTTP("http", "b.test", 5002, "/")),
        ("https://b.test:5001/", FetchHTTP("https", "b.test", 5001, "/")),
        ("http://[2001:DB8:0::1]/", FetchHTTP("http", "2001:db8::1", 80, "/")),
        ("http://10.0.0.1/", FetchHTTP("http", "10.0.0.1", 80, "/")),
    ],
)
def test_redirect_targets(location: str, expected: FetchHTTP) -> None:
    assert parse_redirect(START, location, PORTS) == expected


@pytest.mark.parametrize(
    "location",
    [
        None,
        "",
        "ftp://b.test/",
        "file:///etc/passwd",
        "gopher://b.test:80/",
        "http://b.test:22/",
        "https://b.test:80/",
        "http://b.test:99999/",
        "http://b.test:x/",
        "http://user@b.test/",
        "http://user:secret@b.test/",
        "http://a\\@b.test/",
        "http://b.test/\r\nX: y",
        "http://b.test/ x",
        "http://b\u00fcro.test/",
        "http://b..test/",
        "http://-b.test/",
        "http://[fe80::1%25eth0]/",
        "http://[::1/",
        "http://[v1.x]/",
        "http://b%2etest/",
        "http://" + "a" * 64 + ".test/",
        "http://b.test/" + "x" * 2000,
    ],
)
def test_decision_5_redirects_not_followed(location: str | None) -> None:
    with pytest.raises(ValidationFailed) as caught:
        play(http01(CONTEXT), redirect(location))
    assert caught.value.kind is FailureKind.CONNECTION


def test_loops_and_long_chains_end() -> None:
    with pytest.raises(ValidationFailed, match="loop"):
        play(http01(CONTEXT), redirect("/a"), redirect(f"http://WWW.example.test:80{PATH}"))
    hops = [redirect(f"/{number}") for number in range(MAX_REDIRECTS)]
    _, requests = play(http01(CONTEXT), *hops, page())
    assert len(requests) == MAX_REDIRECTS + 1
    with pytest.raises(ValidationFailed, match="more than 10 redirects"):
        play(http01(CONTEXT), *hops, redirect("/last"))


@settings(max_examples=100)
@given(st.text(max_size=60) | st.text("htps:/[]@.%:?#\\0123ab\t", max_size=30))
def test_property_parse_redirect_answers_or_raises_value_error(location: str) -> None:
    try:
        target = parse_redirect(START, location, PORTS)
    except ValueError:
        return
    assert target.port in PORTS[target.scheme]
    assert target.target.startswith(("/", "?"))
    assert target.url.isascii()
