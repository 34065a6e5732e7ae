"""A whole flow in which every step goes on with what acme.sh's matching rules find."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from interop import acme_sh, openssl
from interop.results import NewRow
from interop.signed import Answer, Signer, b64
from interop.target import Target


class Flow:
    """acme.sh's way through the protocol; the nonce of each answer is spent on the next."""

    def __init__(self, target: Target) -> None:
        self.signer = Signer(target)
        self.directory = self.signer.request(target.directory_url).body
        self.nonce = acme_sh.nonce(self.signer.request(self.url("newNonce"), "HEAD").headers)

    def url(self, name: str) -> str:
        found = acme_sh.directory_url(self.directory, name)
        assert found.startswith("https://"), name
        return found

    def post(self, url: str, payload: dict[str, Any] | None = None, status: int = 200) -> Answer:
        answer = self.signer.post(url, payload, self.nonce)
        assert answer.status == status, answer
        self.nonce = acme_sh.nonce(answer.headers)
        assert self.nonce, "no Replay-Nonce (checklist 2)"
        return answer

    def register(self) -> None:
        account = {"termsOfServiceAgreed": True, "contact": ["mailto:sh@example.test"]}
        made = self.post(self.url("newAccount"), account, status=201)
        again = self.post(self.url("newAccount"), account)
        assert acme_sh.location(made.headers) == acme_sh.location(again.headers) != ""
        self.signer.kid = acme_sh.location(made.headers)

    def order(self, name: str) -> tuple[str, Answer]:
        """Order URL and order."""
        wanted = {"identifiers": [{"type": "dns", "value": name}]}
        order = self.post(self.url("newOrder"), wanted, status=201)
        return acme_sh.location(order.headers), order

    def poll(self, url: str, done: Callable[[bytes], bool], seconds: float = 100) -> Answer:
        deadline = time.monotonic() + seconds
        while True:
            answer = self.post(url)
            if done(answer.body):
                return answer
            assert time.monotonic() < deadline, answer
            time.sleep(min(acme_sh.retry_after(answer.headers), 2) or 0.2)


@pytest.fixture
def flow(target: Target) -> Flow:
    return Flow(target)


def test_bad_nonce_is_recognised(flow: Flow) -> None:
    """Checklist 5 and 6: 400, a fresh nonce, and one of the sentences that make it try again."""
    flow.nonce = "bm90LW9uZS1vZi1vdXJz"
    refused = flow.post(flow.url("newAccount"), {"termsOfServiceAgreed": True}, status=400)
    assert acme_sh.is_bad_nonce(refused.body)
    flow.register()


def test_obtain(flow: Flow, target: Target, webroot: Path, workdir: Path, row: NewRow) -> None:
    seen = row("acme.sh matching rules", "emulated", "http-01")
    name = "sh.example.test"
    flow.register()
    order_url, order = flow.order(name)
    (authorization_url,) = acme_sh.authorizations(order.body)
    pending = flow.post(authorization_url)
    assert acme_sh.identifier(pending.body) == name
    assert not acme_sh.is_wildcard(pending.body)
    assert not acme_sh.says_valid(pending.body)
    assert not acme_sh.says_invalid(pending.body)

    entry = acme_sh.challenge(pending.body, "http-01")
    assert entry.url, "checklist 30: nothing nested before url"
    assert entry.token, "checklist 30: nothing nested before token"
    token_file = webroot / ".well-known" / "acme-challenge" / entry.token
    token_file.write_text(f"{entry.token}.{flow.signer.thumbprint()}")
    flow.post(entry.url, {})
    valid = flow.poll(authorization_url, acme_sh.says_valid)
    assert not acme_sh.says_invalid(valid.body), "checklist 32: an unused sibling is invalid"

    key = openssl.new_key(workdir / "sh.key")
    csr = openssl.new_csr(workdir / "sh.csr", key, name, form="DER")
    finalized = flow.post(acme_sh.finalize_url(order.body), {"csr": b64(csr.read_bytes())})
    assert acme_sh.location(finalized.headers) == order_url, "checklist 19"
    done = flow.poll(order_url, lambda body: bool(acme_sh.certificate_url(body)))
    answer = flow.post(acme_sh.certificate_url(done.body))
    links = acme_sh.header_lines(answer.headers, "Link")
    assert len(acme_sh.alternates(answer.headers)) == sum(
        line.count("alternate") for line in links
    ), "checklist 11: one link per header line"
    blocks = acme_sh.certificates(answer.body)
    assert "".join(blocks) == answer.body.decode(), "checklist 43: only certificates"
    assert all(block.endswith("-----END CERTIFICATE-----\n") for block in blocks), "checklist 43"
    chain = workdir / "sh.pem"
    chain.write_text("".join(blocks))
    openssl.verify(chain, target.roots, key, hostname=name)
    seen.passed("obtain")
    for alternate in acme_sh.alternates(answer.headers):
        assert acme_sh.certificates(flow.post(alternate).body)[0] == blocks[0], "checklist 44"


def test_failure_is_understood(flow: Flow, webroot: Path) -> None:
    """Checklist 30 and 32: after a wrong answer the text says invalid, never valid, and why."""
    assert webroot.is_dir()
    flow.register()
    _, order = flow.order("wrong.example.test")
    (authorization_url,) = acme_sh.authorizations(order.body)
    entry = acme_sh.challenge(flow.post(authorization_url).body, "http-01")
    flow.post(entry.url, {})
    failed = flow.poll(authorization_url, acme_sh.says_invalid)
    assert not acme_sh.says_valid(failed.body)
    assert "urn:ietf:params:acme:error:" in acme_sh.error(failed.body)
    assert acme_sh.detail(failed.body)


def test_wildcard_authorization(flow: Flow) -> None:
    """Checklist 33: base name first, and the wildcard flag."""
    flow.register()
    _, order = flow.order("*.sh.example.test")
    (authorization_url,) = acme_sh.authorizations(order.body)
    pending = flow.post(authorization_url)
    assert acme_sh.identifier(pending.body) == "sh.example.test"
    assert acme_sh.is_wildcard(pending.body)
    assert acme_sh.challenge(pending.body, "dns-01").token
    assert acme_sh.challenge(pending.body, "http-01").token == "", "RFC 8555 section 8.3"


def test_lookup_of_an_unknown_account(flow: Flow) -> None:
    """RFC 8555 section 7.3.1; the refusal has a nonce and a detail to show."""
    refused = flow.post(flow.url("newAccount"), {"onlyReturnExisting": True}, status=400)
    assert b"accountDoesNotExist" in refused.body
    assert acme_sh.detail(refused.body)
