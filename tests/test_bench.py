"""Benchmarks, small: that they run, do the same each time, and hide nothing. Never how fast."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentmem.bench import BENCHMARKS, peers, run
from agentmem.bench.result import Figure, Result, Settings
from agentmem.cli.bench import bench

QUICK = Settings(quick=True)


@pytest.fixture(autouse=True)
def _no_cargo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not build the Rust part: it takes minutes, and other tests build the same code."""
    monkeypatch.setattr("agentmem.bench.native.checkout", lambda: None)
    monkeypatch.setattr("agentmem.bench.sessions.checkout", lambda: None)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_quick_run(name: str) -> None:
    result = run(name, QUICK)
    assert result.figures
    assert all(figure.value >= 0 for figure in result.figures)
    record = json.loads(json.dumps(result.as_record(name, QUICK)))
    assert record["bench"] == name
    assert record["machine"]["cores"] >= 1
    assert record["seed"] == 1
    assert len(record["figures"]) == len(result.figures)


@pytest.mark.parametrize("name", ["put", "ratio", "peers"])
def test_digest_is_the_same_each_time(name: str) -> None:
    assert run(name, QUICK).digest == run(name, QUICK).digest
    assert run(name, QUICK).digest == run(name, Settings(quick=True)).digest


def test_digest_changes_with_what_is_done() -> None:
    assert Result([], ["put", 1]).digest != Result([], ["put", 2]).digest
    assert Result([Figure("x", 1, "s")], ["put"]).digest == Result([], ["put"]).digest


def test_goals_are_limits_or_least_values() -> None:
    assert Figure("time", 2, "us", 3).is_met
    assert not Figure("time", 4, "us", 3).is_met
    assert Figure("speed", 4, "MB/s", 3, is_limit=False).is_met
    assert not Figure("speed", 2, "MB/s", 3, is_limit=False).is_met
    assert Figure("size", 2, "MB").is_met is None


def test_values_differ() -> None:
    values = QUICK.values(2_000, 64)
    assert len(set(values)) == 2_000
    assert {len(value) for value in values} == {64}


def test_missing_peer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    result = peers.run(QUICK)
    assert [note for note in result.notes if "redis-server" in note]
    assert not [figure for figure in result.figures if figure.name.startswith("Redis")]


def test_programs_of_other_languages_say_what_they_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said = {"benchmark": "put_1kib", "language": "c", "p50_ns": 700, "p99_ns": 2000}
    other = said | {"benchmark": "view_awaited"}
    program = tmp_path / "program"
    lines = "\n".join(map(json.dumps, [said, other]))
    program.write_text(f"#!/bin/sh\ncat <<end\n{lines}\nend\n")
    program.chmod(0o700)
    makefile = f"bench-programs:\n\t@echo {program}\n\t@echo false\n"
    (tmp_path / "Makefile").write_text(makefile)
    monkeypatch.setattr("agentmem.bench.sessions.checkout", lambda: tmp_path)
    result = run("sessions", QUICK)
    (half, most) = [figure for figure in result.figures if figure.name.startswith("from C")]
    assert (half.value, half.goal, half.is_met, most.value) == (0.7, 0.5, False, 2.0)
    (note,) = result.notes
    assert "false" in note


def test_command_lists_and_refuses(tmp_path: Path) -> None:
    listed = CliRunner().invoke(bench)
    assert listed.exit_code == 0
    assert all(name in listed.stdout for name in BENCHMARKS)
    assert CliRunner().invoke(bench, ["nothing"]).exit_code == 2


def test_command_prints_one_object_a_line() -> None:
    result = CliRunner().invoke(bench, ["view", "attach", "--quick", "--json"])
    assert result.exit_code == 0, result.output
    assert [json.loads(line)["bench"] for line in result.stdout.splitlines()] == ["view", "attach"]


def test_command_marks_what_falls_short(monkeypatch: pytest.MonkeyPatch) -> None:
    short = Result([Figure("speed", 1, "MB/s", 2, is_limit=False)], [], ["only half"])
    monkeypatch.setattr("agentmem.bench.run", lambda name, settings: short)
    result = CliRunner().invoke(bench, ["put"])
    assert "NO" in result.stdout
    assert "only half" in result.stdout
