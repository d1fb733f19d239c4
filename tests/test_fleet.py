"""The registry's rules, ps, and what a person has supervisors do; against fake supervisors."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_fleet import MIB, Fleet, fleet_in

from agentmem import fleet, registry
from agentmem.cli import main
from agentmem.cli.ps import COLUMNS, cells
from agentmem.errors import Damaged, Io, NotFound, PermissionDenied
from agentmem.units import short_bytes

RUNTIME_FOLDER = Path(__file__).parent.parent / "spec" / "runtime_folder.json"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="agentmem")


def records(*arguments: str) -> list[dict[str, Any]]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def supervisors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """A registry of its own, with no agent yet."""
    # Longer than the path of a socket may be.
    folder = tmp_path / ("long" * 30)
    monkeypatch.setenv("AGENTMEM_RUNTIME_DIR", str(folder))
    with fleet_in(folder) as started:
        yield started


# the registry


@pytest.mark.parametrize("case", json.loads(RUNTIME_FOLDER.read_text()), ids=str)
def test_the_registry_and_the_socket_are_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, case: dict[str, Any]
) -> None:
    for name in ("AGENTMEM_RUNTIME_DIR", "XDG_RUNTIME_DIR", "AGENTMEM_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    for name, value in case["environment"].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    monkeypatch.setattr(registry, "_is_ours", lambda path: case["run_is_ours"])
    assert registry.base() == Path(case["folder"])
    assert registry.socket() == Path(case["socket"])


def test_no_registry_means_no_agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTMEM_RUNTIME_DIR", str(tmp_path / "none"))
    assert fleet.agents() == []
    result = run("ps")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "agentmem run" in result.stderr
    assert records("ps") == []


@pytest.mark.parametrize("below", ["", "agents"])
@pytest.mark.parametrize("mode", [0o755, 0o710, 0o701])
def test_a_registry_that_is_open_to_others_is_refused(
    supervisors: Fleet, below: str, mode: int
) -> None:
    folder = supervisors.agents.parent / below
    folder.chmod(mode)
    with pytest.raises(PermissionDenied, match=f"{mode:04o}.*chmod 700"):
        fleet.agents()
    result = run("ps")
    assert (result.exit_code, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1


def test_a_registry_of_somebody_else_is_refused(
    supervisors: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    with pytest.raises(PermissionDenied, match="belongs to user"):
        registry.folder()


def test_a_registry_behind_a_link_is_refused(
    supervisors: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "link"
    link.symlink_to(supervisors.agents.parent)
    monkeypatch.setenv("AGENTMEM_RUNTIME_DIR", str(link))
    with pytest.raises(PermissionDenied, match="is no folder"):
        registry.folder()


def test_only_names_are_names(supervisors: Fleet) -> None:
    for wrong in (".hidden.sock", "a b.sock", "-a.json", f"{'x' * 65}.json", "a.txt", "ä.json"):
        (supervisors.agents / wrong).touch()
    supervisors.lost("a.b-c_9")
    for name in ("a-11", "a-2", "a"):
        supervisors.lost(name)
    assert registry.names(supervisors.agents) == ["a", "a-2", "a-11", "a.b-c_9"]


# agents


def test_an_agent_is_what_its_supervisor_says(supervisors: Fleet) -> None:
    supervisors.start("planner")
    (agent,) = fleet.agents()
    assert (agent.name, agent.state, agent.processes) == ("planner", "paged_out", 3)
    assert agent.command == "claude --resume"
    assert agent.ratio == pytest.approx(150 / (3 + 25 + 2))
    assert agent.left_alone == ()
    (agent,) = fleet.agents(verbose=True)
    assert agent.left_alone == (fleet.LeftAlone(4242, 65536, "the stack"),)


def test_a_killed_supervisor_leaves_a_lost_agent(supervisors: Fleet) -> None:
    supervisors.lost("worker")
    supervisors.note("gone", pid=0, ticks=0)
    (supervisors.agents / "torn.json").write_text('{"name": ')
    found = {agent.name: agent for agent in fleet.agents()}
    assert found.keys() == {"worker", "gone"}
    assert {agent.state for agent in found.values()} == {"lost"}
    assert found["worker"].why == "its supervisor was killed"
    assert "agents" not in run("ps").stdout
    (record,) = [each for each in records("ps") if each["name"] == "worker"]
    assert record["why"] == "its supervisor was killed"
    assert "resident_bytes" not in record


def test_supervisors_that_hang_cost_one_second_together(supervisors: Fleet) -> None:
    for number in range(8):
        supervisors.start(f"hangs-{number}", lambda _: None)
    supervisors.start("works")
    start = time.monotonic()
    found = fleet.agents()
    assert time.monotonic() - start < 2.5
    assert [agent.state for agent in found] == ["no_answer"] * 8 + ["paged_out"]
    assert "did not answer within 1 s" in str(found[0].why)


@pytest.mark.parametrize(
    "answer",
    [b"nonsense\n", b"[1]\n", b"{}\n", b'{"ok": true}\n', b'{"ok": true, "agent": 1}\n', b"["],
)
def test_nonsense_is_no_answer(supervisors: Fleet, answer: bytes) -> None:
    supervisors.start("planner", lambda _: answer)
    (agent,) = fleet.agents()
    assert agent.state == "no_answer"
    assert run("ps").exit_code == 0


def test_figures_of_another_type_are_left_out_and_text_cannot_steer_a_terminal(
    supervisors: Fleet,
) -> None:
    supervisors.start(
        "planner",
        name="impostor",
        processes="many",
        resident_bytes=True,
        woken=None,
        busy_with="\x1b[2J",
        command="a\nb",
        left_alone=[1, {"pid": 1, "bytes": 2, "why": "\x07"}],
        page_out_ms=[],
    )
    (agent,) = fleet.agents(verbose=True)
    assert (agent.name, agent.processes, agent.resident_bytes, agent.woken) == ("planner", 0, 0, 0)
    assert (agent.busy_with, agent.command) == ("?[2J", "a?b")
    assert agent.left_alone == (fleet.LeftAlone(1, 2, "?"),)


def test_totals_count_only_who_answered(supervisors: Fleet) -> None:
    supervisors.start("a")
    supervisors.start("b", state="running", resident_before_bytes=None, resident_bytes=100 * MIB)
    supervisors.lost("c")
    total = fleet.totals(fleet.agents())
    assert (total.agents, total.processes, total.woken) == (2, 6, 14)
    assert total.resident_before_bytes == 250 * MIB
    assert total.ratio == pytest.approx(250 / (103 + 50 + 4))
    assert fleet.totals([]).ratio is None


# ps


def test_ps_for_people_has_a_row_for_each_and_totals(supervisors: Fleet) -> None:
    supervisors.start("planner")
    supervisors.start("worker", state="running", paused=True, ssd_bytes=5 * MIB, wake_ms_p50=None)
    supervisors.lost("dead")
    lines = run("ps").stdout.splitlines()
    assert lines[0].split() == " ".join(column.title for column in COLUMNS).split()
    assert lines[1].split() == ["dead", "tree", "lost"]
    shown = "planner tree paged_out 3 150M 3.0M 25M 0B 5.0x 7 80/144 ms terminal"
    assert " ".join(lines[2].split()) == shown
    assert "running (paused)" in lines[3]
    assert lines[4].startswith("2 agents")
    assert lines[5] == "dead: its supervisor was killed"


def test_ps_verbose_says_what_was_left_alone_and_what_keeps_awake(supervisors: Fleet) -> None:
    left = [{"pid": 7, "bytes": n * MIB, "why": "shared with others"} for n in range(1, 8)]
    supervisors.start("planner", left_alone=left, busy_with="an answer is streaming in")
    text = run("ps", "-v").stdout
    assert "planner: claude --resume" in text
    assert "busy with an answer is streaming in" in text
    assert "left alone 7.0 MiB of 7: shared with others" in text
    assert "left alone 3.0 MiB in 2 more places" in text


def test_ps_json_is_one_object_a_line(supervisors: Fleet) -> None:
    supervisors.start("planner")
    (record,) = records("ps", "-v")
    assert record["state"] == "paged_out"
    assert record["left_alone"] == [{"pid": 4242, "bytes": 65536, "why": "the stack"}]
    assert record["ratio"] == pytest.approx(5)
    assert "why" not in record


def test_a_row_has_a_cell_for_each_column(supervisors: Fleet) -> None:
    supervisors.start("planner", resident_before_bytes=None, wake_ms_p50=None)
    supervisors.lost("dead")
    assert {len(cells(agent)) for agent in fleet.agents()} == {len(COLUMNS)}


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0B"),
        (999, "999B"),
        (1000, "1.0K"),
        (150 * MIB, "150M"),
        (1536 * MIB, "1.5G"),
        (10**16, "9095T"),
    ],
)
def test_short_amounts(amount: int, text: str) -> None:
    assert short_bytes(amount) == text


# pause, resume, wake, limit


def test_commands_reach_their_agents(supervisors: Fleet) -> None:
    supervisors.start("a")
    supervisors.start("b")
    result = run("pause", "a", "b")
    assert (result.exit_code, result.stdout) == (0, "a: paused\nb: paused\n")
    assert run("wake", "--all").stdout == "a: awake\nb: awake\n"
    assert records("resume", "a") == [{"name": "a", "ok": True}]
    ops = [each["op"] for each in supervisors.requests if each["op"] != "status"]
    assert ops == ["pause", "pause", "wake", "wake", "resume"]


def test_limit_sends_bytes_or_none(supervisors: Fleet) -> None:
    supervisors.start("a")
    assert run("limit", "a", "--memory-max", "2G").stdout == "a: at most 2.0 GiB\n"
    assert run("limit", "a", "--memory-max", "none").stdout == "a: no limit\n"
    assert supervisors.requests == [
        {"op": "limit", "memory_max_bytes": 2 * 1024**3},
        {"op": "limit", "memory_max_bytes": None},
    ]
    assert run("limit", "a", "--memory-max", "lots").exit_code == 2


def test_one_that_fails_does_not_keep_the_others(supervisors: Fleet) -> None:
    said = {"ok": False, "error": "Damaged", "text": "frame 7 is damaged"}
    supervisors.start("bad", lambda _: said)
    supervisors.start("good")
    result = run("wake", "none", "bad", "good")
    assert (result.exit_code, result.stdout) == (1, "good: awake\n")
    assert result.stderr.splitlines() == [
        "Error: no agent 'none' is running; agentmem ps lists them",
        "Error: agent 'bad': frame 7 is damaged",
    ]
    with pytest.raises(Damaged):
        fleet.command("bad", "wake")


def test_an_answer_with_an_unknown_error_is_an_error_all_the_same(supervisors: Fleet) -> None:
    supervisors.start("odd", lambda _: {"ok": False, "error": "BY_NUMBER"})
    with pytest.raises(Io, match="refused"):
        fleet.command("odd", "wake")


def test_commands_say_whom_they_want(supervisors: Fleet) -> None:
    for arguments in (["pause"], ["pause", "--all", "a"]):
        assert run(*arguments).exit_code == 2
    assert run("wake", "--all").exit_code == 0


def test_a_command_without_any_agent_says_how_to_start_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTMEM_RUNTIME_DIR", str(tmp_path / "none"))
    with pytest.raises(NotFound, match="agentmem run"):
        fleet.command("planner", "wake")
