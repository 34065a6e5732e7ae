"""No stale `good`: whatever is kept in memory, no answer shows the time before a revocation once
that has returned, in whichever process it was made (checklist 7: shared generation number)."""

import asyncio
import base64
import datetime as dt
import itertools
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.ocsp import OCSPCertStatus

from pkiserver.ca import ocsp_codec
from pkiserver.ca.authorities import Authorities
from pkiserver.ca.issuance import Issued
from pkiserver.ca.model import Reason
from pkiserver.ca.responders import Responders
from pkiserver.ca.revocation import Revocation
from pkiserver.config import OCSPSettings
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix import der
from pkiserver.storage import open_database
from protocols.ocsp.cache import FRESH, AnswerCache
from protocols.ocsp.http import OCSPEndpoint
from tests.ca.status_support import ACTOR, NOW, PKI, ask, ask_serial, open_pki
from tests.test_ocsp.asked import Answer, Instantly, call, get, post

SHA256 = hashes.SHA256()
GOOD, REVOKED = OCSPCertStatus.GOOD, OCSPCertStatus.REVOKED


@dataclass(frozen=True)
class Worker:
    """What one process has: a database connection, a cache, an endpoint."""

    pki: PKI
    cache: AnswerCache
    endpoint: OCSPEndpoint | Instantly

    async def asks(self, issued: Issued) -> OCSPCertStatus | None:
        request = ask(issued.certificate, self.pki.certificate())
        return (await post(self.endpoint, request)).certificate_status


def worker(pki: PKI, cache: AnswerCache | None = None, *, instant: bool = False) -> Worker:
    cache = AnswerCache() if cache is None else cache
    endpoint = OCSPEndpoint(pki.status, pki.clock, pki.settings.ocsp, cache)
    return Worker(pki, cache, Instantly(endpoint) if instant else endpoint)


async def _another(pki: PKI) -> PKI:
    """The same PKI over a database of its own, as another process would have it."""
    database = open_database(pki.settings.storage.url, pki.home)
    authorities = Authorities(database, pki.clock, pki.keys, pki.audit, pki.settings)
    await authorities.load()
    revocation = Revocation(database, pki.clock, authorities, pki.audit)
    other = replace(pki, database=database, authorities=authorities, revocation=revocation)
    return replace(other, status=other.another_process())


@pytest.fixture(params=[False, True], ids=["ordinary", "instant"])
def instant(request: pytest.FixtureRequest) -> bool:
    """The way answers are asked for."""
    return bool(request.param)


@pytest.fixture
async def workers(tmp_path: Path, instant: bool) -> AsyncIterator[list[Worker]]:
    async with AsyncExitStack() as stack:
        pki = await stack.enter_async_context(open_pki(tmp_path))
        other = await _another(pki)
        stack.push_async_callback(other.database.close)
        await pki.status.start()
        yield [worker(pki, instant=instant), worker(other, instant=instant)]


async def test_a_kept_answer_is_given_again_octet_for_octet(workers: list[Worker]) -> None:
    """ECDSA signatures differ each time, so that the same octets come from memory."""
    one = workers[0]
    issued = await one.pki.issue()
    request = ask(issued.certificate, one.pki.certificate())
    first, second = await post(one.endpoint, request), await post(one.endpoint, request)
    assert first.body == second.body and first.headers == second.headers
    third = await post(one.endpoint, request)
    assert (third.body, third.headers) == (first.body, first.headers)
    got = [await get(one.endpoint, request) for _ in range(2)]
    assert got[0].body == got[1].body and got[0].certificate_status is GOOD
    assert len(one.cache) == 2
    if isinstance(one.endpoint, Instantly):
        assert one.endpoint.given >= 2


async def test_a_revocation_shows_in_the_next_answer_of_every_worker(
    workers: list[Worker],
) -> None:
    for turn, who in enumerate(workers):
        issued = await who.pki.issue(f"{turn}.example.com")
        assert [await each.asks(issued) for each in workers] == [GOOD, GOOD]
        await who.pki.revoke(issued)
        assert [await each.asks(issued) for each in workers] == [REVOKED, REVOKED]


async def test_hold_release_and_a_new_reason_show_at_once(workers: list[Worker]) -> None:
    one, two = workers
    issued = await one.pki.issue()
    request = ask(issued.certificate, one.pki.certificate())
    for _ in range(2):
        await one.pki.revoke(issued, Reason.CERTIFICATE_HOLD)
        assert [await each.asks(issued) for each in workers] == [REVOKED, REVOKED]
        await two.pki.revocation.release("issuing", issued.record.serial, actor=ACTOR)
        assert [await each.asks(issued) for each in workers] == [GOOD, GOOD]
    for reason in (Reason.SUPERSEDED, Reason.KEY_COMPROMISE):
        await two.pki.revoke(issued, reason)
        for each in workers:
            shown = (await post(each.endpoint, request)).response.revocation_reason
            assert shown is not None and shown.value == reason.value


async def test_other_commits_do_not_cost_an_answer(workers: list[Worker]) -> None:
    """The mark moves with every commit; the stamp with changes of status alone."""
    one = workers[0]
    issued = await one.pki.issue()
    request = ask(issued.certificate, one.pki.certificate())
    before = await post(one.endpoint, request)
    await one.pki.issue("another.example.com")
    assert (await post(one.endpoint, request)).body == before.body


async def test_unauthorized_turns_good_with_the_certificate(workers: list[Worker]) -> None:
    one = workers[0]
    prepared = await one.pki.prepare()
    request = ask_serial(prepared.serial, one.pki.certificate())
    for each in workers:
        assert (await post(each.endpoint, request)).body == bytes.fromhex("30030a0106")
    await one.pki.issuance.issue(prepared)
    for each in workers:
        assert (await post(each.endpoint, request)).certificate_status is GOOD
        assert len(each.cache) == 1


async def test_no_stale_good_under_load(workers: list[Worker]) -> None:
    """Clients ask both workers all the time, with GET and POST; whoever asked after a revocation
    had returned is told of it."""
    issued = [await workers[0].pki.issue(f"{n}.example.com") for n in range(8)]
    requests = [ask(each.certificate, workers[0].pki.certificate()) for each in issued]
    revoked: set[int] = set()
    stopped = asyncio.Event()
    seen = {GOOD: 0, REVOKED: 0}

    async def client(number: int) -> None:
        for turn in itertools.count(number):
            if stopped.is_set():
                return
            which = turn % len(requests)
            known = which in revoked
            how = (post, get)[turn // len(requests) % 2]
            answer: Answer = await how(workers[turn % 2].endpoint, requests[which])
            status = answer.certificate_status
            assert status in (GOOD, REVOKED)
            assert status is REVOKED or not known, "a stale good"
            seen[status] += 1
            await asyncio.sleep(0)

    clients = [asyncio.create_task(client(n * 3)) for n in range(16)]
    for turn, each in enumerate(issued):
        await asyncio.sleep(0.03)
        await workers[turn % 2].pki.revoke(each)
        revoked.add(turn)
    await asyncio.sleep(0.03)
    stopped.set()
    await asyncio.gather(*clients)
    assert min(seen.values()) > 20, seen
    for who in workers:
        assert not isinstance(who.endpoint, Instantly) or who.endpoint.given > 20


async def test_no_stale_good_after_a_revocation_in_another_process(workers: list[Worker]) -> None:
    one = workers[0]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.test_ocsp.revoker", one.pki.home,
        stdin=PIPE, stdout=PIPE, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    for turn in range(20):
        issued = await one.pki.issue(f"{turn}.example.com")
        assert [await each.asks(issued) for each in workers] == [GOOD, GOOD]
        process.stdin.write(b"%d\n" % issued.record.serial)
        assert await process.stdout.readline() == b"done\n"
        assert [await each.asks(issued) for each in workers] == [REVOKED, REVOKED]
    process.stdin.close()
    assert await process.wait() == 0


async def test_kept_answers_are_made_anew_while_they_are_young(workers: list[Worker]) -> None:
    """thisUpdate is never older than an hour, nor than half of the validity."""
    one = workers[0]
    issued = await one.pki.issue()
    request = ask(issued.certificate, one.pki.certificate())
    first = (await post(one.endpoint, request)).response.this_update_utc
    one.pki.clock.advance(FRESH - dt.timedelta(seconds=1))
    assert (await post(one.endpoint, request)).response.this_update_utc == first
    one.pki.clock.advance(dt.timedelta(seconds=1))
    assert (await post(one.endpoint, request)).response.this_update_utc == first + FRESH


async def test_a_clock_that_was_set_back_gets_a_new_answer(tmp_path: Path, instant: bool) -> None:
    """An answer whose thisUpdate lies ahead would be refused by clients."""
    async with open_pki(tmp_path) as pki:
        one = worker(pki, instant=instant)
        issued = await pki.issue()
        for _ in range(3):
            await one.asks(issued)
        pki.clock.advance(dt.timedelta(minutes=-3))
        request = ask(issued.certificate, pki.certificate())
        shown = (await post(one.endpoint, request)).response
        assert shown.this_update_utc == NOW - dt.timedelta(minutes=3)


@pytest.mark.parametrize("minutes", [2, 8, 60])
async def test_no_cache_may_keep_an_answer_past_next_update(
    tmp_path: Path, minutes: int, instant: bool
) -> None:
    """Whenever it is given: now + max-age <= nextUpdate, and thisUpdate <= now."""
    short = OCSPSettings(validity=dt.timedelta(minutes=minutes), max_age=dt.timedelta(minutes=5))
    async with open_pki(tmp_path, ocsp=short) as pki:
        one = worker(pki, instant=instant)
        request = ask((await pki.issue()).certificate, pki.certificate())
        for _ in range(minutes * 2):
            answer = await post(one.endpoint, request)
            age = int(answer.headers[b"cache-control"].split(b",")[0].removeprefix(b"max-age="))
            now, shown = pki.clock.now(), answer.response
            assert shown.next_update_utc is not None
            assert shown.this_update_utc <= now
            assert now + dt.timedelta(seconds=age) <= shown.next_update_utc
            pki.clock.advance(dt.timedelta(seconds=50))


async def test_a_new_responder_signs_at_once(workers: list[Worker]) -> None:
    one, two = workers
    issued = await one.pki.issue()
    before = [await post(each.endpoint, ask(issued.certificate, one.pki.certificate()))
              for each in workers]  # fmt: skip
    one.pki.clock.advance(dt.timedelta(minutes=1))
    pki = two.pki
    responders = Responders(
        pki.database, pki.clock, pki.authorities, pki.keys, pki.audit, pki.settings
    )
    await responders.create(pki.authorities.get("issuing"), dt.timedelta(days=100))
    for each, old in zip(workers, before, strict=True):
        answer = await post(each.endpoint, ask(issued.certificate, one.pki.certificate()))
        assert answer.response.certificates != old.response.certificates


@pytest.mark.parametrize("unissued", ["unknown", "revoked"])
async def test_what_is_said_of_unissued_serials_is_not_kept(tmp_path: Path, unissued: str) -> None:
    """It changes when the certificate is issued, and nobody revokes then."""
    settings = OCSPSettings.model_validate({"unissued": unissued})
    async with open_pki(tmp_path, ocsp=settings) as pki:
        one = worker(pki)
        prepared = await pki.prepare()
        request = ask_serial(prepared.serial, pki.certificate())
        answer = await post(one.endpoint, request)
        assert answer.response.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL
        assert answer.certificate_status is not GOOD
        assert answer.headers[b"cache-control"] == b"no-store" and len(one.cache) == 0
        await pki.issuance.issue(prepared)
        assert (await post(one.endpoint, request)).certificate_status is GOOD


async def test_nonces_and_errors_are_not_kept(workers: list[Worker]) -> None:
    one = workers[0]
    issued = await one.pki.issue()
    with_nonce = ask(issued.certificate, one.pki.certificate(), nonce=b"n" * 32)
    first, second = [await post(one.endpoint, with_nonce) for _ in range(2)]
    assert first.body != second.body
    await post(one.endpoint, b"garbage")
    await post(one.endpoint, ask_serial(5, one.pki.certificate()))
    assert len(one.cache) == 0 and one.cache.size == 0


async def test_the_cache_is_bounded(tmp_path: Path) -> None:
    async with open_pki(tmp_path) as pki:
        small = worker(pki, AnswerCache(max_entries=3))
        requests = [
            ask((await pki.issue(f"{n}.example.com")).certificate, pki.certificate())
            for n in range(5)
        ]
        for request in requests:
            await post(small.endpoint, request)
        assert len(small.cache) == 3
        assert small.cache.find(("issuing", requests[0])) is None
        one_entry = small.cache.size // 3
        tiny = worker(pki, AnswerCache(max_bytes=2 * one_entry + 50))
        for request in requests:
            await post(tiny.endpoint, request)
        assert len(tiny.cache) == 2 and tiny.cache.size <= 2 * one_entry + 50
        nothing = worker(pki, AnswerCache(max_bytes=100))
        await post(nothing.endpoint, requests[0])
        assert len(nothing.cache) == 0


async def test_one_certificate_asked_about_in_many_ways_does_not_fill_the_cache(
    workers: list[Worker],
) -> None:
    """Octets that mean nothing, or another order, make another request of the same one: who knows
    a few certificates must not push out the answers of everybody else."""
    one = workers[0]
    issued, other = await one.pki.issue("a.example.com"), await one.pki.issue("b.example.com")
    issuer = one.pki.certificate()
    plain = ask(issued.certificate, issuer)
    text = base64.b64encode(plain).decode()
    for number in range(20):
        noise = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), bytes([number]))
        builder = ocsp.OCSPRequestBuilder().add_certificate(issued.certificate, issuer, SHA256)
        noisy = builder.add_extension(noise, critical=False).build().public_bytes(Encoding.DER)
        assert (await post(one.endpoint, noisy)).certificate_status is GOOD
        spelt = "".join(f"%{ord(c):02X}" if n % 21 == number else c for n, c in enumerate(text))
        answer = await call(one.endpoint, "GET", f"/ocsp/issuing/{spelt}", b"")
        assert answer.certificate_status is GOOD
        assert b"max-age" in answer.headers[b"cache-control"]
    ids = [
        ocsp_codec.parse_request(ask(c.certificate, issuer)).cert_ids[0] for c in (issued, other)
    ]
    for pair in itertools.permutations(ids):
        listed = b"".join(der.encode(der.SEQUENCE, each.encoded) for each in pair)
        tbs = der.encode(der.SEQUENCE, der.encode(der.SEQUENCE, listed))
        assert (await post(one.endpoint, der.encode(der.SEQUENCE, tbs))).status == 200
    assert len(one.cache) == 1, "the strange spellings share the answer to the request they spell"


@pytest.mark.parametrize("spell", [str, lambda text: text.rstrip("=")], ids=["padded", "bare"])
async def test_the_usual_spellings_of_a_get_are_answered_on_the_spot(
    tmp_path: Path, spell: Callable[[str], str]
) -> None:
    async with open_pki(tmp_path) as pki:
        issued = await pki.issue()
        one = worker(pki, instant=True)
        path = base64.b64encode(ask(issued.certificate, pki.certificate())).decode()
        for _ in range(3):
            await call(one.endpoint, "GET", f"/ocsp/issuing/{spell(path)}", b"")
        assert isinstance(one.endpoint, Instantly) and one.endpoint.given == 1


async def test_a_database_that_is_away_is_not_passed_over(tmp_path: Path, instant: bool) -> None:
    """Fail closed: what is kept cannot be checked, so it is not given."""
    async with open_pki(tmp_path) as pki:
        other = await _another(pki)
        one = worker(other, instant=instant)
        issued = await pki.issue()
        for _ in range(3):
            assert await one.asks(issued) is GOOD
        await other.database.close()
        request = ask(issued.certificate, pki.certificate())
        answer = await post(one.endpoint, request)
        assert answer.response.response_status is ocsp.OCSPResponseStatus.TRY_LATER


async def test_stamp_of_an_authority_that_is_not_here(tmp_path: Path) -> None:
    async with open_pki(tmp_path) as pki:
        with pytest.raises(PKIError) as caught:
            await pki.status.ocsp_stamp("nobody")
        assert caught.value.code is ErrorCode.NOT_FOUND
        assert pki.status.ocsp_stamp_now("nobody") is None


async def test_the_stamp_now_is_the_stamp_or_nothing(workers: list[Worker]) -> None:
    """Nothing until it was looked up after the last commit of whichever process."""
    one, two = (each.pki for each in workers)
    for who in (one, two):
        issued = await who.issue()
        assert one.status.ocsp_stamp_now("issuing") is None
        before = await one.status.ocsp_stamp("issuing")
        assert one.status.ocsp_stamp_now("issuing") == before
        await who.revoke(issued)
        assert one.status.ocsp_stamp_now("issuing") is None
        assert await one.status.ocsp_stamp("issuing") != before
