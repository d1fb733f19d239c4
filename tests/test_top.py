"""`agentmem top`: its screen, driven by keys, and what it does without a terminal."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from click.testing import CliRunner
from fake_fleet import MIB, status
from textual.pilot import Pilot
from textual.widgets import DataTable, Static

from agentmem import fleet
from agentmem.cli import main
from agentmem.cli.graph import History, graph
from agentmem.cli.ps import COLUMNS
from agentmem.cli.top_app import _KEYS, Top
from agentmem.errors import NotFound
from agentmem.fleet import Agent
from agentmem.listing import Listing


def agent(name: str, **changes: Any) -> Agent:
    return Agent.from_status(name, status(name, **changes))


AGENTS = [
    agent("alpha", resident_bytes=5 * MIB, woken=1),
    agent("beta", resident_bytes=200 * MIB, state="running", woken=3),
    agent("gamma[b]", resident_bytes=50 * MIB, state="idle", woken=2),
    Agent(name="lost", state=fleet.LOST, why="its supervisor was killed"),
]


def drive(app: Top, steps: Callable[[Pilot[None]], Awaitable[None]]) -> None:
    """Run an app without a terminal, and have `steps` press its keys."""

    async def run() -> None:
        async with app.run_test(size=(160, 30)) as pilot:
            await pilot.pause()
            await steps(pilot)

    asyncio.run(run())


def names(app: Top) -> list[str]:
    """The agents, in the order of the screen."""
    table = app.query_one(DataTable)
    return [str(table.get_row_at(row)[0]) for row in range(table.row_count)]


def listed(agents: list[Agent]) -> Listing:
    return Listing(list(agents), None, "")


def quiet(agents: list[Agent] = AGENTS, **more: Any) -> Top:
    """An app that does not look by itself."""
    return Top(listed(agents), **{"interval_s": 3600, "look": lambda: listed(agents), **more})


def test_it_shows_agents_and_totals() -> None:
    app = quiet()

    async def steps(pilot: Pilot[None]) -> None:
        assert names(app) == ["alpha", "beta", "gamma[b]", "lost"]
        summary = str(app.query_one("#summary", Static).render())
        assert "4 agents (1 idle, 1 lost, 1 paged_out, 1 running)" in summary
        assert "resident 255.0 MiB (before 450.0 MiB)" in summary
        assert "█" in str(app.query_one("#graph", Static).render())

    drive(app, steps)


def test_keys_sort_and_sort_the_other_way() -> None:
    app = quiet()

    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("m")
        assert names(app) == ["beta", "gamma[b]", "alpha", "lost"]
        await pilot.press("m")
        assert names(app) == ["lost", "alpha", "gamma[b]", "beta"]
        await pilot.press("k")
        assert names(app)[0] == "beta"
        await pilot.press("s")
        assert names(app) == ["gamma[b]", "lost", "alpha", "beta"]
        for key in "bcxn":
            await pilot.press(key)
        assert names(app) == ["alpha", "beta", "gamma[b]", "lost"]

    drive(app, steps)


def test_every_column_can_be_sorted_by() -> None:
    assert list(_KEYS) == [column.title for column in COLUMNS]
    for key in _KEYS.values():
        sorted(AGENTS, key=key)


def test_keys_reach_the_selected_agent() -> None:
    sent: list[tuple[str, str]] = []
    app = quiet(command=lambda name, op: sent.append((name, op)))

    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("down", "p")
        await app.workers.wait_for_complete()
        await pilot.press("m", "w")  # Sorted anew, it stays the selected one.
        await app.workers.wait_for_complete()
        await pilot.press("r")
        await app.workers.wait_for_complete()

    drive(app, steps)
    assert sent == [("beta", "pause"), ("beta", "wake"), ("beta", "resume")]


def test_an_agent_that_cannot_is_said_and_nothing_ends() -> None:
    def fail(name: str, op: str) -> None:
        raise NotFound(f"no agent {name!r}")

    app = quiet(command=fail)

    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("w")
        await app.workers.wait_for_complete()
        await pilot.pause()
        assert [each.message for each in app._notifications] == ["no agent 'alpha'"]
        assert app.is_running

    drive(app, steps)


def test_it_looks_again() -> None:
    looks = [AGENTS[:1], []]
    app = quiet(interval_s=0.05, look=lambda: listed(looks.pop(0) if looks else []))

    async def steps(pilot: Pilot[None]) -> None:
        while names(app):
            await pilot.pause(0.05)
        await pilot.press("p")  # Nobody is selected.

    drive(app, steps)


def test_a_registry_that_is_refused_is_said() -> None:
    def refuse() -> Listing:
        raise NotFound("the folder is open to others")

    app = quiet(interval_s=0.05, look=refuse)

    async def steps(pilot: Pilot[None]) -> None:
        summary = app.query_one("#summary", Static)
        while "open to others" not in str(summary.render()):
            await pilot.pause(0.05)

    drive(app, steps)


@pytest.mark.parametrize("gone", ["#summary", "DataTable", "*"])
def test_what_arrives_when_the_screen_is_going_is_nothing(gone: str) -> None:
    app = quiet()

    async def steps(pilot: Pilot[None]) -> None:
        await app.screen.query(gone).remove()
        app.show(listed(AGENTS))
        app.refused("the folder is open to others")
        await pilot.pause()
        assert app.is_running

    drive(app, steps)


def test_without_a_terminal_it_prints_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "agents", lambda verbose=False: AGENTS)
    monkeypatch.setenv("AGENTMEM_SOCKET", "/nowhere/agentmem.sock")

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(main, arguments)

    assert run("top", "--once").stdout == run("ps").stdout
    assert run("top", "--once", "--json").stdout == run("ps", "--json").stdout
    assert len([json.loads(line) for line in run("top", "--json").stdout.splitlines()]) == 4
    result = run("top")
    assert (result.exit_code, "--once" in result.stderr) == (2, True)


# graphs


def test_graphs_begin_at_zero_and_show_whatever_is_not() -> None:
    assert graph([0, 1, 8], 4) == [" " * 2 + "▁█"]
    assert graph([0, 1000, 1], 3) == [" █▁"]
    assert graph([4, 8], 2, 2) == [" █", "██"]
    assert graph([], 3) == ["   "]
    assert graph([1, 8], 2, top=16) == ["▁▄"]
    assert graph(range(10), 3)[0][-1] == "█"


def test_history_forgets_who_is_gone() -> None:
    history = History()
    history.add(AGENTS, None)
    history.add(AGENTS[:1], {"resident_bytes": MIB})
    assert list(history.of(AGENTS[0])) == [5 * MIB, 5 * MIB]
    assert list(history.of(AGENTS[1])) == []
    assert list(history.total) == [255 * MIB, 6 * MIB]
