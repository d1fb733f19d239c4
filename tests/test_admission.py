"""Whether there is room: the decision, and the command."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fake_fleet import MIB, status

from agentmem import fleet
from agentmem.admission import RATIO_ASSUMED, RESERVE_BYTES_MIN, decide, fleet_left
from agentmem.cli import admit as command
from agentmem.cli import main
from agentmem.fleet import Agent

GIB = 1024 * MIB


def agent(name: str, **changes: Any) -> Agent:
    return Agent.from_status(name, status(name, **changes))


def idle(private_bytes: int, *, held: int = 0, compressed: int = 0, **changes: Any) -> Agent:
    changes |= {"state": "idle", "private_bytes": private_bytes}
    return agent("idle", held_bytes=held, compressed_bytes=compressed, **changes)


def test_a_reserve_is_kept() -> None:
    room = decide(GIB, 100 * GIB, 6 * GIB, [])
    assert (room.reserve_bytes, room.is_room) == (5 * GIB, True)
    assert not decide(GIB + 1, 100 * GIB, 6 * GIB, []).is_room
    assert decide(0, GIB, 0, []).reserve_bytes == RESERVE_BYTES_MIN
    assert not decide(0, GIB, 0, []).is_room


def test_idle_agents_count_with_their_own_ratio_or_that_of_all_or_a_careful_one() -> None:
    own = idle(100 * MIB, held=400 * MIB, compressed=100 * MIB)
    fresh = idle(100 * MIB)
    assert decide(0, GIB, GIB, [own]).reclaimable_bytes == 75 * MIB
    assert decide(0, GIB, GIB, [fresh]).reclaimable_bytes == pytest.approx(
        100 * MIB * (1 - 1 / RATIO_ASSUMED), abs=1
    )
    both = decide(0, GIB, GIB, [own, fresh])
    assert (both.reclaimable_bytes, both.idle_agents) == (150 * MIB, 2)


def test_a_fleet_has_no_more_room_than_its_budget_leaves() -> None:
    give = idle(100 * MIB, held=400 * MIB, compressed=100 * MIB)
    for left, reclaimable, is_room in [(GIB, 0, True), (GIB - 1, 0, False), (949 * MIB, 75, True)]:
        room = decide(GIB, 100 * GIB, 50 * GIB, [give] if reclaimable else [], left)
        assert (room.is_room, room.fleet_left_bytes) == (is_room, left)
    room = decide(GIB, 100 * GIB, 50 * GIB, [], -MIB)
    assert room.why.endswith(", 1.0 MiB beyond the fleet's budget")
    assert not decide(GIB, 100 * GIB, 0, [], 50 * GIB).is_room
    figures = {"agentmem_resident_bytes": 30.0, "agentmem_tree_bytes": 50.0}
    assert fleet_left(figures | {"agentmem_fleet_budget_bytes": 100.0}) == 20
    assert fleet_left(figures | {"agentmem_fleet_budget_bytes": 0.0}) is None
    assert fleet_left({}) is None


def test_what_does_not_shrink_gives_nothing() -> None:
    grown = idle(100 * MIB, held=100 * MIB, compressed=120 * MIB)
    assert decide(0, GIB, GIB, [grown]).reclaimable_bytes == 0


@pytest.mark.parametrize("state", ["running", "paged_out", "frozen", "waking", "damaged"])
def test_only_idle_agents_count(state: str) -> None:
    assert decide(0, GIB, GIB, [agent("a", state=state)]).idle_agents == 0


def test_unknown_agents_do_not_count() -> None:
    lost = Agent(name="a", state=fleet.LOST)
    silent = Agent(name="b", state=fleet.SILENT)
    assert decide(0, GIB, GIB, [lost, silent]).reclaimable_bytes == 0


def test_the_command_says_why_and_exits_accordingly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "mem_total_bytes", lambda: 16 * GIB)
    monkeypatch.setattr(command, "mem_available_bytes", lambda: 2 * GIB)
    monkeypatch.setattr(fleet, "agents", lambda: [idle(300 * MIB)])
    monkeypatch.setenv("AGENTMEM_SOCKET", str(tmp_path / "no daemon"))

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(main, ["admit", *arguments])

    result = run("--need", "1G")
    assert (result.exit_code, result.stdout) == (
        0,
        "room for 1.0 GiB: 2.0 GiB available, 819.2 MiB of it kept in reserve,"
        " 200.0 MiB to be had from 1 idle agent\n",
    )
    result = run("--need", "2G", "--json")
    record = json.loads(result.stdout)
    assert (result.exit_code, record["is_room"], record["need_bytes"]) == (1, False, 2 * GIB)
    assert record["why"].startswith("no room for 2.0 GiB: ")
    assert run().exit_code == 2
