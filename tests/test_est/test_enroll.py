"""simpleenroll, cacerts and the form of every answer (RFC 7030 sections 4.1 and 4.2)."""

import base64
import datetime as dt

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from pkiserver.ca.authority_rollover import Rotation
from pkiserver.ca.model import Reason, Requester
from pkiserver.cms import certs_only
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix import der
from pkiserver.web.peer import Peer
from pkiserver.web.problems import STATUS_OF_CODE
from protocols.est.errors import NotAuthenticated, text_of
from tests.test_est.conftest import OpenWorld
from tests.test_est.support import (
    ADDRESS,
    PASSWORD,
    PKCS10,
    World,
    issued,
    make_csr,
    new_key,
    peer_with,
)

ALICE = ("alice", PASSWORD)


def names_in(response: httpx.Response) -> list[bytes]:
    return [name for name, _ in response.headers.raw]


async def test_cacerts_has_the_whole_chain(world: World) -> None:
    """E24: the issuing CA, and its root."""
    answer = await world.request("GET", "cacerts")
    found = certs_only.parse(base64.b64decode(answer.content, validate=True))
    authorities = world.runtime.services.authorities
    assert set(found) == set(authorities.path("issuing"))
    assert answer.headers["content-type"] == "application/pkcs7-mime"
    assert answer.headers["content-transfer-encoding"] == "base64"


async def test_cacerts_during_a_rollover(world: World) -> None:
    """E24: the next generation and what links the two are there before it takes over."""
    authorities = world.runtime.services.authorities
    await authorities.rotate("root", Rotation(), actor="test:pytest")
    answer = await world.request("GET", "cacerts")
    found = certs_only.parse(base64.b64decode(answer.content))
    expected = authorities.rollover_certificates("issuing")
    assert len(expected) >= 3
    assert set(found) == {*authorities.path("issuing"), *expected}


async def test_names_of_fields_are_in_title_case(world: World) -> None:
    """E1, E7."""
    answer = await world.request("GET", "cacerts")
    assert {b"Content-Type", b"Content-Length", b"Content-Transfer-Encoding"} <= {*names_in(answer)}


@pytest.mark.parametrize(
    ("agent", "wrapped"), [("libest 1.0", True), ("curl/8", False), ("", False)]
)
async def test_only_libest_gets_lines(world: World, agent: str, wrapped: bool) -> None:
    """E5, E6."""
    answer = await world.request("GET", "cacerts", headers={"User-Agent": agent})
    assert (b"\n" in answer.content) == wrapped
    enrolled = await world.post(
        "simpleenroll", make_csr(), auth=ALICE, headers={"User-Agent": agent}
    )
    assert b"\n" not in enrolled.content


@pytest.mark.parametrize("path", ["simpleenroll", "default/simpleenroll"])
async def test_enrolment_with_a_password(world: World, path: str) -> None:
    """E10, E12, E28: the answer to a password sent at once is the one certificate."""
    answer = await world.post(path, make_csr("dev1", ["dev1.example.org"]), auth=ALICE)
    certificate = issued(answer)
    assert answer.headers["content-type"] == "application/pkcs7-mime; smime-type=certs-only"
    assert certificate.subject.rfc4514_string() == "CN=dev1"
    ((requester,),) = await world.rows(
        "SELECT requester FROM certificates WHERE requester LIKE 'est%'"
    )
    assert requester == "est:user:alice"


@pytest.mark.parametrize("auth", [None, ("alice", "wrong"), ("bob", PASSWORD), ("", "")])
async def test_401_has_no_body(world: World, auth: tuple[str, str] | None) -> None:
    """E8."""
    answer = await world.post("simpleenroll", make_csr(), auth=auth)
    assert (answer.status_code, answer.content) == (401, b"")
    assert answer.headers["www-authenticate"].startswith("Basic realm=")
    assert answer.headers["content-length"] == "0"
    assert await world.certificates() == 0


@pytest.mark.parametrize(
    "value",
    ["Basic", "Basic !!!", "Bearer x", "Basic " + "A" * 4000, "Basic YWxpY2U=", "Basic gICA"],
)
async def test_an_authorization_field_of_another_kind(world: World, value: str) -> None:
    answer = await world.post("simpleenroll", make_csr(), headers={"Authorization": value})
    assert answer.status_code == 401


async def test_a_user_of_one_label_is_nobody_at_another(open_world: OpenWorld) -> None:
    world = await open_world("[est.default]\n[est.other]\n")
    await world.add_user(label="other")
    assert (await world.post("simpleenroll", make_csr(), auth=ALICE)).status_code == 401
    assert (await world.post("other/simpleenroll", make_csr(), auth=ALICE)).status_code == 200


async def test_failed_logins_are_limited_per_address(open_world: OpenWorld) -> None:
    world = await open_world('[est.default]\nfailures_per_address = "3/15m"\n')
    await world.add_user()
    for number in range(3):
        answer = await world.post("simpleenroll", make_csr(), auth=(f"user{number}", "x"))
        assert answer.status_code == 401
    answer = await world.post("simpleenroll", make_csr(), auth=ALICE)
    assert answer.status_code == 429
    assert 0 < int(answer.headers["retry-after"]) <= 900
    elsewhere = Peer("192.0.2.99", tls_version="TLSv1.3")
    assert (
        await world.post("simpleenroll", make_csr(), auth=ALICE, peer=elsewhere)
    ).status_code == 200
    world.clock.advance(dt.timedelta(minutes=16))
    assert (await world.post("simpleenroll", make_csr(), auth=ALICE)).status_code == 200


async def test_failed_logins_are_limited_per_user(open_world: OpenWorld) -> None:
    """Whoever was let in a moment ago is not locked out by others' guesses."""
    world = await open_world('[est.default]\nfailures_per_user = "2/15m"\n')
    await world.add_user()
    await world.add_user("bob")
    assert (await world.post("simpleenroll", make_csr(), auth=ALICE)).status_code == 200
    for name in ("alice", "bob"):
        for number in range(2):
            peer = Peer(f"198.51.100.{number}", tls_version="TLSv1.3")
            answer = await world.post("simpleenroll", make_csr(), auth=(name, "x"), peer=peer)
            assert answer.status_code == 401
    assert (await world.post("simpleenroll", make_csr(), auth=("bob", PASSWORD))).status_code == 429
    assert (await world.post("simpleenroll", make_csr(), auth=ALICE)).status_code == 200


async def test_a_removed_user_is_out_at_once(world: World) -> None:
    from protocols.est import store

    assert (await world.post("simpleenroll", make_csr(), auth=ALICE)).status_code == 200
    await world.runtime.services.database.write(
        lambda tx: store.remove_user(tx, "default", "alice")
    )
    assert (await world.post("simpleenroll", make_csr(), auth=ALICE)).status_code == 401


@pytest.mark.parametrize(
    ("cn", "dns", "status"),
    [
        ("sensor-1", ["a.dev.example.org"], 200),
        ("a.dev.example.org", [], 200),
        ("other", ["a.dev.example.org"], 403),
        ("sensor-1", ["a.example.org"], 403),
        ("www.example.org", ["a.dev.example.org"], 403),
    ],
)
async def test_names_of_a_user(open_world: OpenWorld, cn: str, dns: list[str], status: int) -> None:
    world = await open_world()
    await world.add_user(names={"cn": ["sensor-*"], "dns": ["*.dev.example.org"]})
    answer = await world.post("simpleenroll", make_csr(cn, dns), auth=ALICE)
    assert answer.status_code == status
    assert len(await world.refusals()) == (status == 403)


async def test_the_same_request_again_gets_the_same_certificate(world: World) -> None:
    """E13: an answer that was lost; for other requesters, and later, a new one is made."""
    await world.add_user("bob")
    request = make_csr()
    first = issued(await world.post("simpleenroll", request, auth=ALICE))
    assert issued(await world.post("simpleenroll", request, auth=ALICE)) == first
    assert issued(await world.post("simpleenroll", request, auth=("bob", PASSWORD))) != first
    world.clock.advance(dt.timedelta(minutes=11))
    again = issued(await world.post("simpleenroll", request, auth=ALICE))
    assert again != first
    assert issued(await world.post("simpleenroll", request, auth=ALICE)) == again


async def test_a_revoked_certificate_is_not_given_again(world: World) -> None:
    request = make_csr()
    first = issued(await world.post("simpleenroll", request, auth=ALICE))
    await world.runtime.services.revocation.revoke(
        "issuing", first.serial_number, Reason.KEY_COMPROMISE, actor=Requester("test", "x")
    )
    answer = await world.post("simpleenroll", request, auth=ALICE)
    # The key is on the list of compromised ones now.
    assert answer.status_code in (200, 400)
    if answer.status_code == 200:
        assert issued(answer) != first


MALFORMED = [
    b"",
    b"AAAA",
    b"!!!!",
    b"\x30\x03\x02\x01\x00",
    base64.b64encode(make_csr()[:-5]),
    base64.b64encode(make_csr() + b"\0"),
    base64.b64encode(der.encode(der.SEQUENCE, b"\x30\x84\xff\xff\xff\xff")),
    base64.b64encode(der.encode(der.SEQUENCE, der.encode(der.SEQUENCE) * 2, b"\3\1\0")),
    b"-----BEGIN CERTIFICATE REQUEST-----\n",
    b"A" * 300_000,
]


@pytest.mark.parametrize("operation", ["simpleenroll", "simplereenroll", "serverkeygen"])
async def test_malformed_requests(world: World, operation: str) -> None:
    """E26: a 4xx and a short text, never a 500; nothing is issued."""
    peer = peer_with(await world.enroll("dev1"))
    before = await world.certificates()
    for body in MALFORMED:
        answer = await world.request(
            "POST", operation, content=body, headers=PKCS10, auth=ALICE, peer=peer
        )
        assert answer.status_code == (413 if len(body) > 200_000 else 400), body
        assert answer.headers["content-type"].startswith("text/plain")
        assert 0 < len(answer.content) < 500
    assert await world.certificates() == before


ABSENT = [
    ("POST", "cacerts", 405),
    ("DELETE", "csrattrs", 405),
    ("GET", "simpleenroll", 405),
    ("GET", "", 404),
    ("GET", "nowhere/cacerts", 404),
    ("GET", "default/other", 404),
    ("GET", "default/cacerts/", 404),
    ("GET", "default/default/cacerts", 404),
    ("GET", "cacerts%2f", 404),
    ("GET", "%63acerts", 404),
    ("POST", "fullcmc", 404),
    ("GET", "crls", 404),
]


async def test_what_is_not_there(world: World) -> None:
    """E25: text, not a problem document."""
    for method, path, status in ABSENT:
        answer = await world.request(method, path)
        assert answer.status_code == status, path
        assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
async def test_other_media_types(world: World, kind: str | None) -> None:
    """What a web page could send without the browser asking first is not taken."""
    headers = {} if kind is None else {"Content-Type": kind}
    body = base64.b64encode(make_csr())
    answer = await world.request("POST", "simpleenroll", content=body, headers=headers, auth=ALICE)
    assert answer.status_code == 415


async def test_parameters_of_the_media_type_do_not_matter(world: World) -> None:
    """E11; E7: Content-Transfer-Encoding of requests is not looked at."""
    headers = {
        "Content-Type": "Application/PKCS10; charset=x; smime-type=y",
        "Content-Transfer-Encoding": "binary",
    }
    body = base64.b64encode(make_csr())
    answer = await world.request("POST", "simpleenroll", content=body, headers=headers, auth=ALICE)
    assert answer.status_code == 200


async def test_weak_keys_and_foreign_wishes_are_refused(world: World) -> None:
    weak = rsa.generate_private_key(65537, 1024)
    curve = ec.generate_private_key(ec.SECP256K1())
    for request in (make_csr(key=weak), make_csr(key=curve)):
        answer = await world.post("simpleenroll", request, auth=ALICE)
        assert answer.status_code == 400
    assert await world.certificates() == 0
    assert len(await world.refusals()) == 2


async def test_a_request_that_was_not_signed_with_its_key(world: World) -> None:
    request = bytearray(make_csr())
    request[-3] ^= 1
    answer = await world.post("simpleenroll", bytes(request), auth=ALICE)
    assert answer.status_code == 400


async def test_approval(open_world: OpenWorld) -> None:
    """E13: 202 with Retry-After, the certificate for the same request once somebody approved."""
    world = await open_world(
        '[profiles.device]\nrequires_approval = true\n[est.default]\nretry_after = "90s"\n'
    )
    await world.add_user()
    request = make_csr()
    for _ in range(2):
        answer = await world.post("simpleenroll", request, auth=ALICE)
        assert (answer.status_code, answer.headers["retry-after"]) == (202, "90")
        # Bouncy Castle's client does not read it, and fails over what it has not read.
        assert answer.content == b""
    approvals = world.runtime.services.approvals
    (pending,) = await approvals.newest()
    await approvals.approve(pending.id, Requester("cli", "operator"))
    certificate = issued(await world.post("simpleenroll", request, auth=ALICE))
    world.clock.advance(dt.timedelta(hours=1))
    assert issued(await world.post("simpleenroll", request, auth=ALICE)) == certificate
    assert await world.certificates() == 1


async def test_rejection(open_world: OpenWorld) -> None:
    world = await open_world("[profiles.device]\nrequires_approval = true\n[est.default]\n")
    await world.add_user()
    request = make_csr()
    await world.post("simpleenroll", request, auth=ALICE)
    approvals = world.runtime.services.approvals
    (pending,) = await approvals.newest()
    await approvals.reject(pending.id, Requester("cli", "operator"), "who is this?")
    answer = await world.post("simpleenroll", request, auth=ALICE)
    assert answer.status_code == 403
    assert "who is this?" in answer.text


async def test_what_approval_would_be_of_no_use_for(open_world: OpenWorld) -> None:
    world = await open_world("[profiles.device]\nrequires_approval = true\n[est.default]\n")
    await world.add_user()
    answer = await world.post("serverkeygen", make_csr(), auth=ALICE)
    assert answer.status_code == 403


async def test_a_certificate_and_a_password(open_world: OpenWorld) -> None:
    """auth_require = "all"."""
    world = await open_world('[est.default]\n[est.both]\nauth_require = "all"\n')
    await world.add_user()
    await world.add_user(label="both")
    held = await world.enroll("dev1")
    peer = peer_with(held)
    request = make_csr("dev1")
    assert (await world.post("both/simpleenroll", request, peer=peer)).status_code == 401
    assert (await world.post("both/simpleenroll", request, auth=ALICE)).status_code == 403
    bad = await world.post("both/simpleenroll", request, auth=("alice", "x"), peer=peer)
    assert bad.status_code == 401
    assert (
        await world.post("both/simpleenroll", request, auth=ALICE, peer=peer)
    ).status_code == 200
    other = await world.post("both/simpleenroll", make_csr("dev2"), auth=ALICE, peer=peer)
    assert other.status_code == 403


async def test_a_wrong_password_is_not_made_up_for_by_a_certificate(world: World) -> None:
    peer = peer_with(await world.enroll("dev1"))
    answer = await world.post("simpleenroll", make_csr("dev1"), auth=("alice", "x"), peer=peer)
    assert answer.status_code == 401


async def test_what_a_proxy_holds_is_not_its_clients(open_world: OpenWorld) -> None:
    """Behind a proxy that ends TLS, its certificate and channel say nothing about the client."""
    world = await open_world(f'[server]\ntrusted_proxies = ["{ADDRESS}"]\n[est.default]\n')
    await world.add_user()
    peer = peer_with(await world.enroll("dev1"))
    assert (await world.post("simpleenroll", make_csr("dev1"), peer=peer)).status_code == 401


def test_every_error_code_has_a_status() -> None:
    assert set(STATUS_OF_CODE) == set(ErrorCode)
    assert all(status >= 400 for status in STATUS_OF_CODE.values())


def test_our_own_faults_stay_ours() -> None:
    assert "secret" not in text_of(PKIError(ErrorCode.INTERNAL, "secret path"))
    assert "\n" not in text_of(PKIError(ErrorCode.MALFORMED, "a\nb"))
    assert NotAuthenticated("x").code is ErrorCode.UNAUTHORIZED


async def test_old_rows_are_deleted(world: World) -> None:
    await world.post("simpleenroll", make_csr(), auth=("alice", "x"))
    await world.enroll()
    (job,) = world.runtime.protocols["est"].jobs
    await job.run()
    assert await world.rows("SELECT 1 FROM est_failures")
    world.clock.advance(dt.timedelta(days=2))
    await job.run()
    assert not await world.rows("SELECT 1 FROM est_failures")
    assert not await world.rows("SELECT 1 FROM est_enrollments")


async def test_a_subject_with_more_than_the_template_has(world: World) -> None:
    from cryptography import x509

    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "CH"),
            x509.NameAttribute(NameOID.COMMON_NAME, "dev1"),
        ]
    )
    answer = await world.post("simpleenroll", make_csr(subject, key=new_key()), auth=ALICE)
    assert issued(answer).subject.rfc4514_string() == "CN=dev1"
