"""`est user` and `why` on a home."""

import pytest

from tests.cli.conftest import CLI, cli, home, logs_as_they_were, made_home

__all__ = ["cli", "home", "logs_as_they_were", "made_home"]


def test_users(cli: CLI) -> None:
    done = cli("est", "user", "add", "alice", "--subject", "dev*", "--dns", "*.example.org")
    assert done.status == 0, done.err
    password = done.out.splitlines()[-1]
    assert len(password) == 29
    (listed,) = cli("est", "user", "list", "--json").json
    assert listed["names"] == {"cn": ["dev*"], "dns": ["*.example.org"]}
    shown = cli("est", "user", "list").out
    assert password not in shown
    assert shown.split("\n")[0].split() == ["NAME", "LABEL", "NAMES", "CREATED"]
    twice = cli("est", "user", "add", "alice")
    assert twice.status == 2 and "already" in twice.err
    assert cli("est", "user", "remove", "alice").status == 0
    assert cli("est", "user", "remove", "alice").status == 2
    assert cli("est", "user", "list", "--json").json == []


def test_the_key_of_a_user(cli: CLI) -> None:
    """A user who is made anew has another key."""
    keys = []
    for _ in range(2):
        cli("est", "user", "add", "alice")
        keys.append(cli("est", "user", "key", "alice").out.splitlines()[-1])
        cli("est", "user", "remove", "alice")
    assert keys[0] != keys[1]
    assert [len(bytes.fromhex(key)) for key in keys] == [32, 32]
    assert cli("est", "user", "key", "alice").status == 2


@pytest.mark.parametrize(
    "words",
    [
        ("a:b",),
        ("",),
        ("x" * 101,),
        ("alice", "--dns", "not a name"),
        ("alice", "--ip", "300.0.0.1"),
        ("alice", "--label", "nowhere"),
    ],
)
def test_mistakes(cli: CLI, words: tuple[str, ...]) -> None:
    done = cli("est", "user", "add", *words)
    assert done.status == 2
    assert done.err.startswith("pkiserver: ")


def test_what_is_in_the_audit_log(cli: CLI) -> None:
    password = cli("est", "user", "add", "alice").out.splitlines()[-1]
    log = cli("audit", "list", "--json").out
    assert "est.user.add" in log
    assert password not in log


def test_the_first_configuration_has_est(cli: CLI) -> None:
    assert cli("check").status == 0


def test_an_unknown_label_is_told_from_those_there_are(cli: CLI) -> None:
    refused = cli("est", "user", "add", "alice", "--label", "nothing")
    assert refused.status == 2 and "there are: default" in refused.err


def test_a_listener_for_client_certificates_that_nobody_takes(
    cli: CLI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PKISERVER_SERVER__MTLS", "127.0.0.1:9443")
    assert cli("check").status == 0
    monkeypatch.setenv("PKISERVER_EST__DEFAULT__AUTH", '["basic"]')
    refused = cli("check")
    assert refused.status == 2 and "server.mtls" in refused.err and "auth" in refused.err


@pytest.mark.parametrize(
    "words",
    [("scep", "challenge", "--profile", "x"), ("cert", "issue", "--profile", "x", "--out", "y")],
)
def test_an_unknown_profile_is_told_from_those_there_are(cli: CLI, words: tuple[str, ...]) -> None:
    refused = cli(*words)
    assert refused.status == 2 and "tls-server" in refused.err and "device" in refused.err
