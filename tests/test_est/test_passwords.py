"""Passwords: Argon2id, and what is known for a while."""

import asyncio
import datetime as dt

from pkiserver.clock import FixedClock, SystemClock
from protocols.est import passwords
from protocols.est.authentication import parse_basic
from protocols.est.passwords import PasswordChecker
from protocols.est.store import User
from tests.test_est.support import quickly_derived


def test_generated_passwords() -> None:
    first, second = passwords.generate(), passwords.generate()
    assert first != second
    assert [len(group) for group in first.split("-")] == [4] * 6
    assert set(first) <= set(passwords._ALPHABET + "-")


def test_octets_that_would_favour_letters_are_not_used() -> None:
    calls = iter([bytes([255] * 32), bytes(range(32))])
    assert passwords.generate(lambda _: next(calls)).startswith("abcd-efgh")


def test_stored_is_argon2id() -> None:
    stored = passwords.derive("secret")
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert passwords.matches("secret", stored)
    assert not passwords.matches("Secret", stored)


def test_a_user_does_not_show_its_password() -> None:
    assert "hash" not in repr(User("1", "default", "alice", "hash", None, 0))


async def test_what_was_right_is_known_for_a_while() -> None:
    clock = FixedClock(SystemClock().now())
    checker = PasswordChecker(clock)
    stored = quickly_derived("secret")
    assert not checker.is_known(stored, "secret")
    assert await checker.check(stored, "secret")
    assert checker.is_known(stored, "secret")
    assert not checker.is_known(stored, "other")
    assert not checker.is_known(quickly_derived("secret"), "secret")
    clock.advance(dt.timedelta(minutes=6))
    assert not checker.is_known(stored, "secret")


async def test_what_was_wrong_is_not_known() -> None:
    checker = PasswordChecker(FixedClock(SystemClock().now()))
    stored = quickly_derived("secret")
    wrong, nobody = await asyncio.gather(
        checker.check(stored, "other"), checker.check(None, "secret")
    )
    assert not wrong and not nobody
    assert not checker.is_known(stored, "other")


def test_basic() -> None:
    """RFC 7617 section 2: the first colon ends the name."""
    assert parse_basic(b"Basic YWxpY2U6YTpi") == ("alice", "a:b")
    assert parse_basic(b"bAsIc  YWxpY2U6w6Q=") == ("alice", "\u00e4")
    for value in (b"", b"Basic", b"Basic YWxpY2U", b"Basic OnB3", b"Digest YWxpY2U6Yg==",
                  b"Basic /////w=="):  # fmt: skip
        assert parse_basic(value) is None


def test_nobodys_is_as_much_work_as_a_users() -> None:
    """So it does not show which names exist."""
    assert passwords.NOBODY.split("$")[1:4] == passwords.derive("x").split("$")[1:4]
    assert not passwords.matches("", passwords.NOBODY)
