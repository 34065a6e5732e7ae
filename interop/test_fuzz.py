"""A short run of the fuzzer: it finds nothing, and would find something. `make fuzz` runs long."""

from interop.fuzz import run
from interop.fuzz.cases import Case, Reply, Rng, mutated


def test_a_short_run_finds_nothing() -> None:
    assert run.main(["--seconds", "10", "--seed", "1"]) == 0


def test_findings_of_the_log() -> None:
    quiet = '{"event": "serving", "level": "info"}\n{"event": "x", "level": "warning"}\n'
    assert run.log_troubles(quiet) == []
    assert len(run.log_troubles(quiet + '{"event": "x", "level": "error"}\nTraceback (most')) == 2


def test_findings_of_memory() -> None:
    flat, grown = [100 << 20] * 30, [100 << 20] * 20 + [200 << 20] * 10
    assert run.Memory({1: flat, 2: flat}).report()[1] == []
    assert run.Memory({1: flat, 2: grown}).report()[1] == ["process 2 grows"]
    assert run.Memory({1: flat, 2: flat[:10]}).report()[1] == [
        "process 2 was not there all the time"
    ]


def test_findings_are_noted_with_their_request() -> None:
    findings = run.Findings()
    for _ in range(100):
        findings.note(Case(b"GET", b"/x", check=_wrong), "status 500")
    assert 0 < len(findings.bad) < 100 and "b'/x'" in findings.bad[0]


def _wrong(reply: Reply) -> str:
    return "wrong"


def test_damage_depends_on_the_seed_alone() -> None:
    data = bytes(range(200))
    damaged = {mutated(data, Rng(seed)) for seed in range(50)}
    assert damaged == {mutated(data, Rng(seed)) for seed in range(50)}
    assert len(damaged) > 45
