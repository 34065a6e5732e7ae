"""Attacks on a running server, over TLS: whatever is sent, the answer is a typed refusal, nothing
unexpected is in the log, and the server goes on."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.test_acme.client import CONTENT_TYPE, ACMEClient, Signer, b64, make_csr
from tests.test_acme.hostile import Prey, prey
from tests.test_acme.world import problem

pytestmark = pytest.mark.asyncio(loop_scope="module")
A = "/acme/trusted"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prey]:
    with prey(tmp_path_factory.mktemp("hostile")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(server: Prey) -> AsyncIterator[httpx.AsyncClient]:
    async with server.http(http2=True) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(server: Prey, http: httpx.AsyncClient) -> ACMEClient:
    return await server.account(http)


@pytest.fixture(autouse=True)
def nothing_unexpected(server: Prey) -> Iterator[None]:
    """No error in the log and no answer of the 5xx kind but "not implemented"."""
    yield
    assert server.process.poll() is None
    for record in server.records():
        assert record["level"] in ("info", "debug", "warning"), record
        assert "exception" not in record, record
        assert record.get("status") is None or record["status"] < 500, record


def head(method: str, target: str, *lines: str) -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", *lines, "", ""]).encode("latin-1")


def parse(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, header and body of the first response."""
    first, _, rest = answer.partition(b"\r\n\r\n")
    status, *lines = first.decode("latin-1").split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines)
    return int(status.split(" ")[1]), fields, rest


CLOSE = ("Host: localhost", "Connection: close", "Content-Length: 0")
NOWHERE = [
    f"{A}/directory/", f"{A}//directory", "//acme/trusted/directory", A, f"{A}/", "/acme", "/acme/",
    f"{A}/new-nonce/", f"{A}/new-order/", f"{A}/../trusted/directory",
    f"{A}/%2e%2e/trusted/directory", "/acme/trusted%2fdirectory", "/acme%2ftrusted/directory",
    f"{A}%2Fnew-nonce", f"{A}/direct%6fry", f"{A}/new%2dorder", "/%61cme/trusted/directory",
    f"{A}/directory%00", f"{A}/order/%00", f"{A}/order/{'a' * 65}", f"{A}/order/a/b/c",
    f"{A}/order/%0d%0aX-Evil:%20y", "/acme/%ff/directory", f"{A}/order/..%2f..%2fetc%2fpasswd",
    f"{A}/new-nonce;a=b", "/ACME/trusted/directory", f"{A}/order/' OR 1=1 --".replace(" ", "%20"),
    f"{A}/renewal-info", f"{A}/renewal-info/", f"{A}/renewal-info/a/b", "/acme/nobody/new-nonce",
    "/acme/__class__/directory", f"{A}/cert/a/b/c", f"{A}/.well-known", "/..//acme",
]  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
async def test_paths(server: Prey, method: str) -> None:
    """Checklist 27, 35, 58: other spellings of a path lead nowhere, by any method."""
    answers = await asyncio.gather(
        *(server.talk(head(method, target, *CLOSE)) for target in NOWHERE)
    )
    for target, answer in zip(NOWHERE, answers, strict=True):
        status, fields, body = parse(answer)
        assert status == 404, (target, body)
        assert fields["content-type"] == "application/problem+json"
        assert "location" not in fields
        assert method == "HEAD" or json.loads(body)["status"] == 404


def get(*lines: str, target: str = f"{A}/directory", method: str = "GET") -> bytes:
    return head(method, target, *lines)


def post(*lines: str, body: bytes = b"") -> bytes:
    return head("POST", f"{A}/new-order", "Host: x", *lines) + body


FRAMING: dict[str, bytes] = {
    "bare line feeds": b"GET /acme/trusted/directory HTTP/1.1\nHost: x\n\n",
    "a folded line": get("Host: x", "X: a\r\n b"),
    "both framings": post(
        "Content-Length: 5", "Transfer-Encoding: chunked", body=b"0\r\n\r\nGET / HTTP/1.1\r\n"
    ),
    "two lengths": post("Content-Length: 1", "Content-Length: 2", body=b"ab"),
    "a list of lengths": post("Content-Length: 1, 2"),
    "a negative length": post("Content-Length: -1"),
    "a length with a sign": post("Content-Length: +1"),
    "a length in hexadecimal": post("Content-Length: 0x1"),
    "a length of many digits": post("Content-Length: " + "9" * 30),
    "a length beyond the limit": post("Content-Length: 99999999"),
    "a coding nobody knows": post("Transfer-Encoding: gzip, chunked"),
    "chunked spelt oddly": post("Transfer-Encoding: xchunked"),
    "a chunk size that is none": post("Transfer-Encoding: chunked", body=b"zz\r\n"),
    "a huge chunk size": post("Transfer-Encoding: chunked", body=b"f" * 20 + b"\r\n"),
    "no Host": get(),
    "two Hosts": get("Host: a", "Host: b"),
    "a space before the colon": get("Host : a"),
    "a NUL in a field": get("Host: a", "X: a\0b"),
    "a long field": get("Host: a", "X: " + "a" * 70_000),
    "a long target": get("Host: a", target=f"{A}/" + "a" * 70_000),
    "many fields": get("Host: a", "Connection: close", *["X: y"] * 2000),
    "another version": b"GET / HTTP/3.7\r\nHost: a\r\n\r\n",
    "HTTP/0.9": b"GET /acme/trusted/directory\r\n\r\n",
    "HTTP/2 without asking": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "another method": get("Host: a", method="HACK"),
    "CONNECT": get("Host: a", target="localhost:22", method="CONNECT"),
    "a target that is no path": get("Host: a", target="acme/trusted/directory"),
    "a fragment": get("Host: a", target=f"{A}/directory#x"),
    "octets": bytes(range(256)) * 4,
    "TLS inside TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
}


async def test_framing(server: Prey) -> None:
    """RFC 9112: what cannot be framed beyond doubt is refused, and the connection ends."""
    answers = await asyncio.gather(*(server.talk(data) for data in FRAMING.values()))
    for what, answer in zip(FRAMING, answers, strict=True):
        assert answer.count(b"\r\n\r\n") == 1, (what, answer)
        status, fields, body = parse(answer)
        assert status in (400, 404, 413, 414, 431, 501, 505), (what, answer)
        assert fields["content-type"] == "application/problem+json"
        assert json.loads(body)["status"] == status


async def test_body_that_ends_early(server: Prey) -> None:
    """The client is gone: nobody is answered, nothing is an error."""
    request = head("POST", f"{A}/new-order", "Host: x", f"Content-Type: {CONTENT_TYPE}",
                   "Content-Length: 100")  # fmt: skip
    for _ in range(5):
        _, writer = await asyncio.open_connection(
            "127.0.0.1", server.port, ssl=server.tls(), server_hostname="localhost"
        )
        writer.write(request + b"{")
        await writer.drain()
        writer.transport.abort()


async def test_expecting_to_continue_with_too_much(server: Prey) -> None:
    """Checklist 58: who asks first is told before sending."""
    answer = await server.talk(
        head("POST", f"{A}/new-order", "Host: x", f"Content-Type: {CONTENT_TYPE}",
             "Expect: 100-continue", "Content-Length: 200000"),
    )  # fmt: skip
    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_pipelining(server: Prey) -> None:
    """Each of several requests sent at once gets its answer, in their order."""
    pair = head("GET", f"{A}/directory", "Host: x") + head("PUT", f"{A}/new-order", "Host: x")
    last = head("GET", f"{A}/nothing", "Host: x", "Connection: close")
    answer = await server.talk(pair * 50 + last)
    found = [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert found == [b"200", b"405"] * 50 + [b"404"]


async def test_a_request_hidden_in_a_body(server: Prey) -> None:
    """The octets of a body that was refused unread are not the next request."""
    inner = head("GET", "/healthz", "Host: x")
    answer = await server.talk(
        head("PUT", f"{A}/new-order", "Host: x", f"Content-Length: {len(inner)}"), inner,
        head("GET", f"{A}/nothing", "Host: x", "Connection: close"),
    )  # fmt: skip
    assert b"alive" not in answer
    assert answer.startswith(b"HTTP/1.1 405 ")


NAMES = [
    "", " ", ".", "..", "a..example", ".example.com", "example.com.", "*", "*.", "*.com.",
    "*.*.example.com", "a.*.example.com", "a*.example.com", "**.example.com", "-a.example.com",
    "a-.example.com", "a b.example.com", "a/b.example.com", "a@example.com", "a:80", "a,b.example",
    "a\0.example.com", "a\n.example.com", "a\r\nX: y", f"{'a' * 64}.example.com",
    ".".join(["abcdefgh"] * 30), "a" * 256, "b\u00fccher.example", "\uff45xample.com",
    "example\u3002com", "ex\u200bample.com", "\u202egro.elpmaxe", "\u0430pple.example",
    "\U0001f512.example", "xn--", "xn--a.example", "xn--zzzzzzzzzzzz-.example",
    "xn--\u00fc.example", "127.0.0.1", "0x7f.1", "2130706433", "[::1]", "::1", "1.2.3.4.5",
    "http://example.com", "example.com/path", "example.com?x", "%00.example.com", "$(id).example",
    "'; DROP TABLE acme_orders; --", "<script>.example", "a\\b.example", "localhost:443",
]  # fmt: skip
ADDRESSES = [
    "127.1", "0x7f000001", "010.0.0.1", "1.2.3.4/32", "1.2.3.4 ", "fe80::1%eth0",
    "::ffff:999.1.1.1", "\u0661.2.3.4",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["dns", "ip", "DNS", "email", "", "permanent-identifier"])
async def test_names(client: ACMEClient, kind: str) -> None:
    """What is no name of its type is refused, alone and together, before anything is stored."""
    objects = [{"type": kind, "value": value} for value in NAMES]
    if kind == "ip":
        objects = [item for item in objects if item["value"] not in ("127.0.0.1", "::1")]
        objects += [{"type": kind, "value": value} for value in ADDRESSES]
    for item in objects:
        refused = await client.new_order([item])
        assert refused.status_code in (400, 403), (item, refused.text)
        assert refused.json()["type"].rpartition(":")[2] in (
            "malformed", "rejectedIdentifier", "unsupportedIdentifier"
        ), refused.text  # fmt: skip
        assert len(refused.headers.get_list("replay-nonce")) == 1
        pre = await client.post(client.directory["newAuthz"], {"identifier": item})
        assert pre.status_code in (400, 403), (item, pre.text)
    listed = await client.post(f"{client.signer.kid}/orders")
    assert listed.json()["orders"] == []


async def test_too_many_names(client: ACMEClient) -> None:
    many = [f"n{n}.example.org" for n in range(101)]
    problem(await client.new_order(many), 400, "malformed")
    problem(await client.new_order(["a.example.org"] * 2000), 400, "malformed")
    nested: Any = "a.example.org"
    for _ in range(7):
        nested = [nested]
    problem(await client.new_order([nested]), 400, "malformed")


WRONG: list[object] = [
    None, True, 0, -1, 1.5, 10**400, "", "x", "\ud83d\ude00", [], {}, [[]], [None], {"a": {}},
    ["x"] * 1000, "x" * 10_000, {"type": "dns"}, [{"type": "dns", "value": 1}],
    [{"type": ["dns"], "value": "a.example.org"}],
]  # fmt: skip
MEMBERS = {
    "newAccount": ("contact", "termsOfServiceAgreed", "onlyReturnExisting",
                   "externalAccountBinding"),
    "newOrder": ("identifiers", "notBefore", "notAfter", "profile", "replaces"),
    "newAuthz": ("identifier",),
    "revokeCert": ("certificate", "reason"),
    "keyChange": ("protected", "payload", "signature", "account", "oldKey"),
}  # fmt: skip


@pytest.mark.parametrize("resource", MEMBERS)
async def test_members_of_the_wrong_type(
    server: Prey, http: httpx.AsyncClient, client: ACMEClient, resource: str
) -> None:
    """No type of any member makes more of a request than a refusal, or is ignored for being
    empty."""
    signer = Signer() if resource == "newAccount" else client.signer
    good: dict[str, object] = {"onlyReturnExisting": True}
    if resource == "newOrder":
        good = {"identifiers": [{"type": "dns", "value": "a.example.org"}], "profile": "none"}
    for member in MEMBERS[resource]:
        for value in WRONG:
            if member == "onlyReturnExisting" and value is None:
                continue  # absent, which makes an account
            payload = json.dumps(good | {member: value}).encode()
            response = await client.post(client.directory[resource], payload, signer=signer)
            assert 400 <= response.status_code < 500 or (member, response.status_code) == (
                "profile", 201
            ), (member, value, response.text)  # fmt: skip
            if response.status_code >= 400:
                problem(response, response.status_code, response.json()["type"].split(":")[-1])


async def test_payloads(client: ACMEClient) -> None:
    """Octets that are no JSON object, at every resource that reads one."""
    bodies = [b"{", b"[]", b"null", b"{}x", b'{"a":1,"a":2}', b"\xff", b"{" * 5000,
              b'{"a":' * 50 + b"1" + b"}" * 50, b'{"a":NaN}', b"\xef\xbb\xbf{}",
              b'"\\ud800"', b'{"a":"' + b"a" * 60_000]  # fmt: skip
    for resource in MEMBERS:
        signer = Signer() if resource == "newAccount" else None
        for body in bodies:
            response = await client.post(client.directory[resource], body, signer=signer)
            assert response.status_code == 400, (resource, body[:20], response.text)


async def test_csrs(client: ACMEClient) -> None:
    """A ready order survives every CSR that is none, and still takes a good one."""
    order = (await client.new_order(["csr.example.org"])).json()
    assert order["status"] == "ready"
    good, _ = make_csr(["csr.example.org"])
    bad = [b"", b"\x30", b"\x30\x84\xff\xff\xff\xff", bytes(60_000), good[:-1], good + b"\0",
           b"\x30\x80" * 1000, make_csr(["csr.example.org", "more.example.org"])[0],
           make_csr(["CSR.example.org.evil"])[0], make_csr([])[0]]  # fmt: skip
    bad += [good[:place] + bytes([good[place] ^ 0x41]) + good[place + 1 :]
            for place in range(0, len(good), 5)]  # fmt: skip
    for csr in bad:
        response = await client.finalize(order, csr)
        assert response.status_code in (400, 403), response.text
        assert response.json()["type"].rpartition(":")[2] in (
            "malformed", "badCSR", "badPublicKey", "unauthorized", "rejectedIdentifier"
        ), response.text  # fmt: skip
    done = await client.finalize(order, good)
    assert done.status_code == 200, done.text
    assert done.json()["status"] == "valid"


async def test_a_replay_over_streams_and_workers(
    server: Prey, http: httpx.AsyncClient, client: ACMEClient
) -> None:
    """Section 6.5: one nonce, sent at once on many streams of one connection and on many
    connections, so to both workers, is good once."""
    url = client.directory["newOrder"]
    payload = {"identifiers": [{"type": "dns", "value": "replay.example.org"}]}
    async with server.http() as separate:
        for _ in range(5):
            body = client.signer.sign(url, payload, nonce=await client.nonce())
            headers = {"Content-Type": CONTENT_TYPE}
            sends = [h.post(url, content=body, headers=headers) for h in [http, separate] * 12]
            answers = await asyncio.gather(*sends)
            statuses = sorted(answer.status_code for answer in answers)
            assert statuses == [201] + [400] * 23
            for answer in answers:
                if answer.status_code == 400:
                    problem(answer, 400, "badNonce")


async def test_one_order_finalized_by_many(server: Prey, http: httpx.AsyncClient) -> None:
    """Of CSRs for different keys that arrive at both workers at once, one is certified."""
    client = await server.account(http)
    order = (await client.new_order(["race.example.org"])).json()
    async with server.http() as separate:
        clients = []
        for connection in [http, separate] * 4:
            one = await server.client(connection, signer=client.signer)
            clients.append((one, make_csr(["race.example.org"])[0]))
        answers = await asyncio.gather(*(one.finalize(order, csr) for one, csr in clients))
    assert sorted(answer.status_code for answer in answers) == [200] + [403] * 7
    kinds = {a.json()["type"].split(":")[-1] for a in answers if a.status_code == 403}
    assert kinds == {"orderNotReady"}


async def test_deactivation_while_others_work(server: Prey, http: httpx.AsyncClient) -> None:
    """Section 7.3.6: once the answer is there, nothing of the account goes on."""
    client = await server.account(http)
    orders = [(await client.new_order([f"d{n}.example.org"])).json() for n in range(4)]
    parallel = [await server.client(http, signer=client.signer) for _ in range(9)]
    work = [
        one.finalize(order, make_csr([order["identifiers"][0]["value"]])[0])
        for one, order in zip(parallel, orders, strict=False)
    ]
    work += [one.new_order(["late.example.org"]) for one in parallel[4:8]]
    end = parallel[8].post(str(client.signer.kid), {"status": "deactivated"})
    *answers, ended = await asyncio.gather(*work, end)
    assert ended.json()["status"] == "deactivated"
    assert {answer.status_code for answer in answers} <= {200, 201, 401, 403}, answers
    problem(await client.new_order(["after.example.org"]), 401, "unauthorized")
    problem(await client.post(client.directory["newAccount"], {}, signer=Signer(
        client.signer.key)), 403, "unauthorized")  # fmt: skip


async def test_directories_are_apart(server: Prey, http: httpx.AsyncClient) -> None:
    """Neither an account nor an object of one directory is known in another, whichever `kid` and
    URL a request combines."""
    first = await server.account(http)
    order_url = (await first.new_order(["apart.example.org"])).headers["location"]
    order = (await first.post(order_url)).json()
    csr, _ = make_csr(["apart.example.org"])
    done = (await first.finalize(order, csr)).json()
    same_key = await server.client(http, "default", Signer(first.signer.key))
    assert (await same_key.new_account()).status_code == 201
    for url, payload in [
        (order_url, None), (order["finalize"], {"csr": b64(csr)}),
        (order["authorizations"][0], None), (order["authorizations"][0], {"status": "deactivated"}),
        (done["certificate"], None), (f"{first.signer.kid}", None),
        (f"{first.signer.kid}/orders", None),
    ]:  # fmt: skip
        there = url.replace("/acme/trusted/", "/acme/default/")
        problem(await same_key.post(there, payload), 403, "unauthorized")
        problem(await same_key.post(url, payload), 400, "accountDoesNotExist")
        foreign = await same_key.post(there, payload, signer=first.signer)
        problem(foreign, 400, "accountDoesNotExist")
    bound = await server.client(http, "bound", Signer(first.signer.key))
    problem(await bound.new_account(), 403, "externalAccountRequired")


async def test_memory_stays_flat(server: Prey, client: ACMEClient) -> None:
    """Refusals leave nothing behind: neither large bodies nor many small ones."""
    large = b"{" + b" " * 120_000

    async def attack(rounds: int) -> None:
        for _ in range(rounds):
            await client.http.post(
                client.directory["newOrder"], content=large, headers={"Content-Type": CONTENT_TYPE}
            )
            await client.post(client.directory["newOrder"], b"{" * 20_000)
            await client.post(client.directory["newAccount"], {"contact": ["x" * 300] * 300})

    await attack(20)
    before = server.memory()
    await attack(50)
    assert server.memory() - before < 8 * 1024
