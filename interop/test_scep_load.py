"""Enrolments at the same time against two workers: each with a challenge of its own, several with
one and the same, and the same message several times over. No challenge makes two certificates, and
no message does."""

import asyncio
import datetime as dt
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from interop.bench import aftermath
from interop.bench import scep as bench
from interop.scep_server import SCEPServer, scep_server
from pkiserver.app import load_settings, open_runtime
from pkiserver.cms import certs_only, signed_data
from pkiserver.pkix import der
from protocols.scep.one_time import OneTimeChallenges

ENROLMENTS = 60
"""Challenges that one message has, sent once or several times."""
CONTESTED = 20
CONTENDERS = 4
"""So many messages, of devices of their own, have one challenge."""
REPEATS = 3
CONNECTIONS = 24

_STATUS = f"{bench._VERISIGN}.3"
_TRANSACTION = f"{bench._VERISIGN}.7"


@dataclass
class Seen:
    """The answers: challenge, transactionID and pkiStatus of each."""

    answers: list[tuple[str, str, str]] = field(default_factory=list)

    def note(self, challenge: str, body: bytes) -> None:
        (signer,) = signed_data.parse(body).signers
        status, transaction = (
            der.read_one(signer.attributes[oid][0]).contents.decode()
            for oid in (_STATUS, _TRANSACTION)
        )
        self.answers.append((challenge, transaction, status))

    def successful(self, challenge: str) -> set[str]:
        """The transactions that got a certificate for this challenge."""
        return {each[1] for each in self.answers if each[0] == challenge and each[2] == "0"}


_SECTION = """
[scep.load]
enrolments_per_device = "9999/1h"
failures_per_address = "9999/1h"
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SCEPServer]:
    env = {"PKISERVER_SERVER__WORKERS": "2", "PKISERVER_LOG__REQUESTS": "false"}
    with scep_server(tmp_path, "p256", sections=_SECTION, env=env) as running:
        yield running


async def _challenges(server: SCEPServer, count: int) -> list[str]:
    async with open_runtime(load_settings(server.home)) as runtime:
        challenges = OneTimeChallenges(runtime.services, "load", dt.timedelta(hours=1))
        return [(await challenges.create(actor="interop")).secret for _ in range(count)]


def _messages(
    recipient: x509.Certificate, challenges: list[str], source: random.Random
) -> list[tuple[str, bytes]]:
    """(challenge, message) in any order: of the first challenges a message each, REPEATS times; of
    the others CONTENDERS messages."""
    made = []
    for number, challenge in enumerate(challenges):
        contested = number >= ENROLMENTS
        for device in range(CONTENDERS if contested else 1):
            message = bench.message(number * CONTENDERS + device, recipient, challenge)
            made += [(challenge, message)] * (1 if contested else REPEATS)
    source.shuffle(made)
    return made


async def _send(server: SCEPServer, messages: list[tuple[str, bytes]]) -> Seen:
    seen, left = Seen(), iter(messages)

    async def work() -> None:
        async with httpx.AsyncClient(timeout=60) as http:
            for challenge, message in left:
                url = f"{server.url('load')}?operation=PKIOperation"
                answer = await http.post(url, content=message)
                assert answer.status_code == 200, answer.text
                seen.note(challenge, answer.content)

    await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
    return seen


async def test_no_challenge_is_used_twice(server: SCEPServer) -> None:
    """S27, S30 over two processes."""
    challenges = await _challenges(server, ENROLMENTS + CONTESTED)
    async with httpx.AsyncClient(timeout=60) as http:  # it makes the registration authority
        answer = await http.get(f"{server.url('load')}?operation=GetCACert")
    recipient = certs_only.parse(answer.content)[0]
    seen = await _send(server, _messages(recipient, challenges, random.Random(1)))
    assert {status for _, _, status in seen.answers} == {"0", "2"}
    for challenge in challenges:
        assert len(seen.successful(challenge)) == 1
    own = set(challenges[:ENROLMENTS])
    assert all(status == "0" for challenge, _, status in seen.answers if challenge in own)
    _check(server.home / "pki.db", len(challenges))


_ONCE = {
    "challenges that are not used": "SELECT id FROM scep_challenges WHERE used IS NULL",
    "challenges without a certificate of their own": (
        "SELECT h.id FROM scep_challenges h LEFT JOIN certificates c ON c.id = h.certificate "
        "WHERE c.status IS NULL OR c.status <> 'issued' OR c.requester <> 'scep:load/' || h.id"
    ),
    "certificates for one challenge": (
        "SELECT requester FROM certificates WHERE requester LIKE 'scep:load/%' "
        "GROUP BY requester HAVING count(*) > 1"
    ),
    "challenges used twice by the audit log": (
        "SELECT object FROM audit WHERE action = 'scep.challenge.use' "
        "GROUP BY object HAVING count(*) > 1"
    ),
    "transactions without a certificate": (
        "SELECT t.id FROM scep_transactions t LEFT JOIN certificates c ON c.id = t.certificate "
        "WHERE c.status IS NULL OR c.status <> 'issued'"
    ),
}


def _check(database: Path, count: int) -> None:
    aftermath.check_database(database)
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        for what, sql in _ONCE.items():
            assert connection.execute(sql).fetchall() == [], what
        issued = "SELECT count(*) FROM certificates WHERE requester LIKE 'scep:load/%'"
        assert connection.execute(issued).fetchone() == (count,)
