"""S37 and S38: the password page of NDES and Jamf's webhook, as their callers see them."""

import base64
import datetime as dt
import hashlib
import json
import re
from collections.abc import AsyncIterator

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.app import starlette_app
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.web.edge import Edge
from protocols.scep.logins import FAILURES, Logins, credentials
from protocols.scep.one_time import OneTimeChallenges
from protocols.scep.password_pages import Counter, PasswordPages, Wish, parse_wish
from tests.test_scep_challenges.world import World, request

PAGE = "/certsrv/mscep_admin/"
HOOK = "/scep-challenge/default"
FLEET = re.compile(r"(?i)The enrollment challenge password is: <B> (?P<password>\S*)")
JAMF = {
    "webhook": {"webhookEvent": "SCEPChallenge", "id": 7, "name": "SCEP", "eventTimestamp": 1},
    "event": {"scepServerUrl": "https://pki.example/scep/default", "payloadIdentifier": "x"},
}


class Caller:
    """A management system: a login and a client."""

    def __init__(self, world: World, client: httpx.AsyncClient, password: str) -> None:
        self.world = world
        self.client = client
        self.password = password
        self.validator = OneTimeChallenges(world.services, "default", dt.timedelta(hours=1))

    async def get(self, path: str = PAGE) -> str:
        answer = await self.client.get(path, auth=("fleet", self.password))
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        return answer.content.decode("utf-16")

    async def post(self, body: object, path: str = HOOK) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.client.post(path, content=content, auth=("fleet", self.password))


@pytest.fixture
async def caller(world: World) -> AsyncIterator[Caller]:
    services = world.services
    logins = Logins(services)
    counters = {
        label: Counter(
            OneTimeChallenges(services, label, dt.timedelta(minutes=60)),
            dt.timedelta(minutes=60), 3, "issuing",
        )
        for label in ("default", "other")
    }  # fmt: skip
    password = await logins.add("fleet", "default", actor="cli:op")
    app = Edge(starlette_app(PasswordPages(services, logins, counters).routes()), access_log=False)
    transport = httpx.ASGITransport(app, client=("192.0.2.50", 1))
    async with httpx.AsyncClient(transport=transport, base_url="https://pki.example") as client:
        yield Caller(world, client, password)


async def test_fleet_finds_the_password_and_a_device_enrols_with_it(caller: Caller) -> None:
    page = await caller.get()
    found = FLEET.search(page)
    assert found
    asked = request(found["password"])
    await caller.world.issue(asked, await caller.validator.validate(asked))


async def test_the_page_is_utf_16_with_its_sentences(caller: Caller) -> None:
    raw = (await caller.client.get(PAGE, auth=("fleet", caller.password))).content
    assert raw.startswith(b"\xff\xfe<\x00H\x00")
    page = raw[2:].decode("utf-16-le")
    assert re.search(r"challenge password is: <B> [0-9A-F]{32} </B>", page)
    assert "will expire within 60 minutes." in page
    certificate = caller.world.services.authorities.certificate("issuing")
    thumbprint = hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest().upper()
    assert " ".join(re.findall(".{8}", thumbprint)) in page
    # Scripts that split the page into words take the first of hexadecimal digits long enough.
    words = [word for word in page.split() if re.match(r"[A-F0-9]{16}", word)]
    assert words == [FLEET.search(page)["password"]]  # type: ignore[index]


@pytest.mark.parametrize(
    "path", ["/certsrv/mscep_admin", "/CertSrv/mscep_Admin/", "/certsrv/mscep_admin/default"]
)
async def test_the_page_is_found_in_any_case(caller: Caller, path: str) -> None:
    assert FLEET.search(await caller.get(path))


async def test_the_page_answers_post_and_refuses_head(caller: Caller) -> None:
    auth = ("fleet", caller.password)
    assert (await caller.client.post(PAGE, auth=auth)).status_code == 200
    assert (await caller.client.head(PAGE, auth=auth)).status_code == 405
    assert len(await caller.world.rows("SELECT id FROM scep_challenges")) == 1


async def test_a_full_cache_is_said_as_ndes_says_it(caller: Caller) -> None:
    for _ in range(3):
        await caller.get()
    assert "The password cache is full." in await caller.get()
    assert (await caller.post(JAMF)).status_code == 429
    caller.world.clock.advance(dt.timedelta(hours=1))
    assert FLEET.search(await caller.get())


async def test_a_login_of_another_section_has_no_permission(caller: Caller) -> None:
    page = await caller.get("/certsrv/mscep_admin/other")
    assert "You do not have sufficient permission to enroll with SCEP." in page
    assert (await caller.post(JAMF, "/scep-challenge/other")).status_code == 403
    assert (await caller.post(JAMF, "/scep-challenge/nothing")).status_code == 403
    assert await caller.world.rows("SELECT id FROM scep_challenges") == []


@pytest.mark.parametrize("name", ["a\x00b", "a\nb", "\x1b[2J", "n" * 500, "\u202e"])
async def test_names_that_none_can_have(caller: Caller, name: str) -> None:
    """Not every database stores these, and no terminal should show them."""
    header = "Basic " + base64.b64encode(f"{name}:x".encode()).decode()
    assert (await caller.client.get(PAGE, headers={"Authorization": header})).status_code == 401
    ((actor, thing),) = await caller.world.rows(
        "SELECT actor, object FROM audit WHERE action = 'scep.login.refuse'"
    )
    assert actor.isprintable() and thing.isprintable() and len(actor) < 500 and actor.isascii()


@pytest.mark.parametrize("path", [PAGE, HOOK])
async def test_a_login_is_needed(caller: Caller, path: str) -> None:
    basic = base64.b64encode
    for header in [
        None, "", "Basic", "Basic !!", "Bearer x", "Basic " + basic(b"fleet").decode(),
        "Basic " + basic(b"\xff:x").decode(), "Basic " + basic(b":x").decode(),
        "Basic " + "A" * 2000,
    ]:  # fmt: skip
        headers = {} if header is None else {"Authorization": header}
        answer = await caller.client.post(path, headers=headers)
        assert answer.status_code == 401, header
        assert answer.headers["www-authenticate"].startswith("Basic realm=")
    assert await caller.world.rows("SELECT id FROM scep_challenges") == []


async def test_a_windows_name_and_two_headers(caller: Caller) -> None:
    named = await caller.client.get(PAGE, auth=("CORP\\fleet", caller.password))
    assert named.status_code == 200
    good = "Basic " + base64.b64encode(f"fleet:{caller.password}".encode()).decode()
    both = [("Authorization", good), ("Authorization", good)]
    assert (await caller.client.get(PAGE, headers=both)).status_code == 401


async def test_guessing_ends_soon_and_is_in_the_audit_log(caller: Caller) -> None:
    for number in range(FAILURES.count + 3):
        name = "fleet" if number % 2 else "nobody"
        answer = await caller.client.get(PAGE, auth=(name, "wrong"))
        assert answer.status_code == (401 if number < FAILURES.count else 429)
    assert (await caller.client.get(PAGE, auth=("fleet", caller.password))).status_code == 429
    rows = await caller.world.rows(
        "SELECT detail FROM audit WHERE action = 'scep.login.refuse' AND outcome = 'refused'"
    )
    assert len(rows) == FAILURES.count
    assert {json.loads(detail)["cause"] for (detail,) in rows} == {
        "no such login",
        "wrong password",
    }
    caller.world.clock.advance(FAILURES.period)
    await caller.get()


@pytest.mark.parametrize(
    "event",
    [
        JAMF,
        b"",
        b"<JSSEvent><webhook><webhookEvent>SCEPChallenge</webhookEvent></webhook></JSSEvent>",
    ],
)
async def test_jamf_gets_the_challenge_as_plain_text(caller: Caller, event: object) -> None:
    answer = await caller.post(event)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    asked = request(answer.text)
    await caller.world.issue(asked, await caller.validator.validate(asked))


async def test_a_caller_may_bind_the_challenge(caller: Caller) -> None:
    wish = {"subjects": ["device-1.example"], "lifetime": "10m"}
    secret = (await caller.post(wish)).text
    await caller.validator.validate(request(secret))
    with pytest.raises(PKIError):
        await caller.validator.validate(request(secret, common_name="device-2.example"))
    caller.world.clock.advance(dt.timedelta(minutes=10))
    with pytest.raises(PKIError):
        await caller.validator.validate(request(secret))


BAD_BODIES: list[object] = [
    b"{", b"[]", b"\xff", b"[" * 50_000, {"unknown": 1}, {"lifetime": "61m"}, {"subjects": "x"},
    {"subjects": [1]}, {"lifetime": "soon"}, {"lifetime": None}, {"profile": "short"},
    {"subjects": ["*"]}, {"lifetime": "0s"}, {"webhook": {"webhookEvent": "PushSent"}},
    {"webhook": 1}, b"x" * 70_000,
]  # fmt: skip


async def test_bad_bodies_are_refused(caller: Caller) -> None:
    for body in BAD_BODIES:
        answer = await caller.post(body)
        assert 400 <= answer.status_code < 500, body
    assert await caller.world.rows("SELECT id FROM scep_challenges") == []


@settings(max_examples=100)
@given(st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode)))
def test_a_body_is_a_wish_or_refused(body: bytes) -> None:
    try:
        assert isinstance(parse_wish(body), Wish)
    except PKIError as error:
        assert error.code is ErrorCode.MALFORMED


async def test_passwords_of_logins_are_nowhere(
    caller: Caller, capsys: pytest.CaptureFixture[str]
) -> None:
    await caller.get()
    await caller.client.get(PAGE, auth=("fleet", "a-wrong-one"))
    seen = await caller.world.secrets_seen()
    output = "".join(capsys.readouterr())
    for secret in (caller.password, "a-wrong-one"):
        assert secret not in seen and secret not in output


async def test_logins_are_added_once_and_removed(caller: Caller) -> None:
    logins = Logins(caller.world.services)
    with pytest.raises(PKIError) as caught:
        await logins.add("fleet", "default", actor="cli:op")
    assert caught.value.code is ErrorCode.CONFLICT
    for name in ("", "a b", "a:b", "-x", "x" * 65):
        with pytest.raises(PKIError):
            await logins.add(name, "default", actor="cli:op")
    await logins.remove("fleet", actor="cli:op")
    assert await logins.list() == []
    assert (await caller.client.get(PAGE, auth=("fleet", caller.password))).status_code == 401
    with pytest.raises(PKIError):
        await logins.remove("fleet", actor="cli:op")


@settings(max_examples=100)
@given(
    st.text(st.characters(max_codepoint=255), max_size=60)
    | st.binary(max_size=40).map(lambda data: "Basic " + base64.b64encode(data).decode())
)
def test_credentials_are_read_or_refused(header: str) -> None:
    """RFC 7617."""
    try:
        name, _ = credentials(header)
    except PKIError as error:
        assert error.code is ErrorCode.UNAUTHORIZED
    else:
        assert ":" not in name
