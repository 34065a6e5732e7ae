"""The suite's own pure parts: acme.sh's rules on texts that must trip them, the results table."""

from pathlib import Path

import pytest

from interop import acme_sh, openssl, relying_party, results, status_tools, tools
from interop.processes import InteropError, meanwhile

PENDING = b"""{
  "status": "pending",
  "identifier": {"type": "dns", "value": "a.example.test"},
  "challenges": [
    {"type": "http-01", "url": "https://ca/c/1", "status": "pending", "token": "abc"},
    {"type": "dns-01", "url": "https://ca/c/2", "status": "pending", "token": "abc"}
  ]
}"""


def test_a_flat_challenge_is_found() -> None:
    assert acme_sh.challenge(PENDING, "http-01") == acme_sh.Entry("https://ca/c/1", "abc")
    assert acme_sh.challenge(PENDING, "tls-alpn-01") == acme_sh.Entry("", "")


def test_a_nested_object_before_the_url_hides_it() -> None:
    """Checklist 30."""
    nested = PENDING.replace(b'"http-01",', b'"http-01", "error": {"type": "urn:x"},')
    assert acme_sh.challenge(nested, "http-01") == acme_sh.Entry("", "")


def test_an_invalid_sibling_looks_like_failure() -> None:
    """Checklist 32."""
    sibling = PENDING.replace(b'c/2", "status": "pending"', b'c/2", "status": "invalid"')
    assert acme_sh.says_invalid(sibling)
    assert not acme_sh.says_invalid(PENDING)


def test_the_first_value_is_taken_for_the_name() -> None:
    """Checklist 33."""
    assert acme_sh.identifier(PENDING) == "a.example.test"
    assert acme_sh.identifier(b'{"x":{"value":"other"},' + PENDING[1:]) == "other"


def test_header_lines_in_any_case() -> None:
    """Checklist 4, 11 and 57: one nonce, one link per line."""
    headers = [
        ("replay-nonce", "one, two"),
        ("LINK", '<https://ca/1>;rel="alternate", <https://ca/2>;rel="alternate"'),
        ("Link", '<https://ca/dir>;rel="index"'),
    ]
    assert acme_sh.nonce(headers) == "one"
    assert acme_sh.alternates(headers) == ["https://ca/1"]


@pytest.mark.parametrize("value", ["Sat, 21 Nov 2026 05:00:00 GMT", "86400"])
def test_retry_after_is_few_integer_seconds(value: str) -> None:
    """Checklist 22 and 23."""
    assert acme_sh.retry_after([("retry-after", "3")]) == 3
    with pytest.raises(ValueError):
        acme_sh.retry_after([("Retry-After", value)])


def test_a_bad_nonce_is_known_by_its_sentence() -> None:
    """Checklist 6."""
    assert acme_sh.is_bad_nonce(b'{"detail":"JWS has an invalid anti-replay nonce: x"}')
    assert not acme_sh.is_bad_nonce(b'{"type":"urn:ietf:params:acme:error:badNonce"}')


def test_results_replace_only_what_is_between_the_markers(tmp_path: Path) -> None:
    path = tmp_path / "interop.md"
    path.write_text(f"before\n{results.BEGIN}\nold\n{results.END}\nafter\n")
    lines = [
        results.Line("b", "1", "x", ("obtain",), "passed"),
        results.Line("a", "2", "y", ("obtain", "revoke"), "failed"),
    ]
    results.write(path, "server 1", lines)
    once = path.read_text()
    results.write(path, "server 1", list(reversed(lines)))
    assert path.read_text() == once
    assert once.startswith("before\n") and once.endswith("after\n") and "old" not in once
    assert "| a | 2 | y | yes |  | yes | failed |\n| b | 1 | x | yes |  |  | passed |\n" in once


def test_a_linter_in_this_process_still_finds_mistakes(tmp_path: Path) -> None:
    bad = openssl.self_signed(tmp_path / "bad", "a.example.test")
    with pytest.raises(InteropError, match="bad.crt"):
        relying_party.lint("lint_crl", bad, "-t", "CRL", "-p", "PKIX")
    words = ["req", "-x509", "-key", "bad.key", "-subj", "/CN=x", "-out", "worse.crt"]
    openssl.openssl(tmp_path, *words, "-addext", "subjectAltName=critical,DNS:a b")
    with pytest.raises(InteropError, match="pkix"):
        relying_party.lint("lint_pkix_cert", tmp_path / "worse.crt")


@pytest.mark.parametrize(
    "output",
    [
        "a.pem: good\n",
        "Response verify OK\n",
        "Response verify OK\nWARNING: no nonce\na.pem: good\n",
    ],
    ids=["not verified", "no status", "no nonce"],
)
def test_openssl_has_to_accept_the_response(output: str) -> None:
    with pytest.raises(InteropError):
        status_tools.statuses(output, [Path("a.pem")])
    assert status_tools.statuses("Response verify OK\na.pem: good\n", [Path("a.pem")]) == ["good"]


def test_an_installer_is_run_again_when_it_failed(tmp_path: Path) -> None:
    fails_once = ["sh", "-c", "echo tried >> log; test $(wc -l < log) -gt 1"]
    with pytest.raises(InteropError):
        tools.fetch(fails_once, tmp_path, pauses=())
    (tmp_path / "log").unlink()
    tools.fetch(fails_once, tmp_path, pauses=(0, 0))
    assert (tmp_path / "log").read_text() == "tried\n" * 2


def test_what_happens_meanwhile_is_waited_for_and_its_trouble_raised() -> None:
    done: list[str] = []
    with meanwhile(lambda: done.append("work")):
        pass
    assert done == ["work"]

    def fails() -> None:
        raise InteropError("nobody asked")

    with pytest.raises(InteropError, match="nobody asked"), meanwhile(fails):
        pass
    with pytest.raises(KeyError), meanwhile(fails):
        raise KeyError
