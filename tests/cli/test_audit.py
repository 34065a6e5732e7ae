"""`audit` and `why`: what happened, and that nobody changed it afterwards."""

import json
import sqlite3
from pathlib import Path

import pytest

from pkiserver import registry
from pkiserver.ca.history import Entry
from pkiserver.cli.why import REMEDIES, remedy
from pkiserver.clock import from_epoch
from pkiserver.errors import ErrorCode
from tests.cli.conftest import CLI


def change(home: Path, sql: str) -> None:
    database = sqlite3.connect(home / "pki.db")
    database.execute(sql)
    database.commit()
    database.close()


def test_lists_by_who_what_and_on_what(cli: CLI) -> None:
    every = cli("audit", "list", "--json").json
    assert [row["sequence"] for row in every] == list(range(1, len(every) + 1))
    assert len(cli("audit", "list", "--limit", "2", "--json").json) == 2
    created = cli("audit", "list", "--action", "authority", "--json").json
    assert {row["action"].split(".")[0] for row in created} == {"authority"}
    assert cli("audit", "list", "--action", "auth", "--json").json == []
    assert {row["actor"] for row in cli("audit", "list", "--actor", "cli:init", "--json").json} == {
        "cli:init"
    }
    first = cli("audit", "list", "--before", "3", "--json").json
    assert [row["sequence"] for row in first] == [1, 2]
    assert "token.create" in cli("audit", "list").out


def test_verify_prints_an_anchor_and_takes_it(cli: CLI) -> None:
    anchor = cli("audit", "verify").out.splitlines()[-1]
    cli("token", "create", "--role", "admin")
    assert cli("audit", "verify", "--anchor", anchor).status == 0
    assert cli("audit", "verify", "--anchor", "1:ff").status == 2
    other = f"{anchor.split(':')[0]}:{'0' * 64}"
    assert cli("audit", "verify", "--anchor", other).status == 1


def test_a_changed_row_is_named(cli: CLI, home: Path) -> None:
    change(home, "UPDATE audit SET actor = 'cli:nobody' WHERE sequence = 3")
    result = cli("audit", "verify")
    assert (result.status, "audit row 3" in result.err) == (1, True)


def test_a_tail_that_was_cut_off_is_seen_with_the_anchor(cli: CLI, home: Path) -> None:
    anchor = cli("audit", "verify").out.splitlines()[-1]
    change(home, "DELETE FROM audit WHERE sequence = (SELECT MAX(sequence) FROM audit)")
    assert cli("audit", "verify").status == 0
    assert cli("audit", "verify", "--anchor", anchor).status == 1


def test_an_export_is_a_line_per_row_with_the_chain(cli: CLI, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in cli("audit", "export").out.splitlines()]
    assert rows == cli("audit", "list", "--json").json
    assert all(b["previous"] == a["hash"] for a, b in zip(rows, rows[1:], strict=False))
    out = tmp_path / "audit.jsonl"
    assert cli("audit", "export", "--out", out, "--after", "2").status == 0
    assert [json.loads(line) for line in out.read_text().splitlines()] == rows[2:]
    assert out.stat().st_mode & 0o777 == 0o600
    assert cli("audit", "export", "--out", out).status == 2


def test_why_tells_the_story_of_a_serial(cli: CLI, tmp_path: Path) -> None:
    row = cli("cert", "issue", "--dns", "a.test", "--out", tmp_path / "a", "--json").json
    cli("cert", "revoke", row["serial"], "--reason", "superseded")
    cli("cert", "revoke", row["serial"], "--reason", "superseded")
    steps = cli("why", row["serial"].upper(), "--json").json
    assert [(step["action"], step["outcome"]) for step in steps] == [
        ("certificate.reserve", "done"),
        ("certificate.issue", "done"),
        ("certificate.revoke", "done"),
        ("certificate.revoke", "refused"),
    ]
    assert [step["remedy"] for step in steps[:3]] == [None] * 3
    assert steps[3]["detail"]["cause"] and steps[3]["remedy"]
    assert cli("why", row["id"], "--json").json == steps
    text = cli("why", row["serial"]).out
    assert "cli:" in text and "remedy:" in text and "superseded" in text


def test_why_tells_of_a_refused_request(cli: CLI, tmp_path: Path) -> None:
    """Invariant 9: a refusal is recorded with its cause."""
    cli("cert", "issue", "--profile", "smime", "--dns", "a.test", "--out", tmp_path / "a")
    step = cli("why", "profile:smime", "--json").json[-1]
    assert step["outcome"] == "refused"
    assert step["detail"]["rule"] == "profiles.smime.dns"
    assert "pkiserver.toml" in step["remedy"]


def test_why_knows_nothing_of_a_part_of_an_id(cli: CLI, tmp_path: Path) -> None:
    row = cli("cert", "issue", "--dns", "a.test", "--out", tmp_path / "a", "--json").json
    for text in (row["id"][:-1], "%", "_" * 32, "nobody"):
        assert cli("why", text).status == 2


def test_every_code_has_a_remedy() -> None:
    assert set(REMEDIES) == set(ErrorCode)


@pytest.mark.parametrize("kind", ["http-01", "dns-01", "tls-alpn-01"])
def test_a_challenge_that_failed_has_a_remedy_of_its_own(kind: str) -> None:
    entry = Entry(
        1, from_epoch(0), "acme:x", "acme.challenge.invalid", "y", "refused", {"type": kind},
        b"", b"",
    )  # fmt: skip
    assert remedy(entry, list(registry.available().values()))
