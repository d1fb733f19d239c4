"""A turn, idle, paged out, woken, `--count` times (200), with four programs one after the other.

Claude Code's answers are known beforehand; each other program runs a second time, untouched, and
both must say the same. A program that is not there is named and counts as not passed.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from agentmem.bench.result import Figure, Result
from benchmarks import programs, script
from benchmarks.claude_code import TURNS_MAX
from benchmarks.managed import ManagedError
from benchmarks.stage import Settings, Stage, meaning, stage
from benchmarks.tree import Tree, TreeError

IDLE_AFTER = "300ms"
_SHAPES_MIB = 16


class Outcome(NamedTuple):
    """What became of one program."""

    cycles: int
    """How many were done."""
    wrong: int
    crash: str | None
    """What ended it before all were done."""
    wakes: int
    """As its supervisor counts."""


async def run(settings: Settings) -> Result:
    """See the module."""
    async with stage(settings, first_ms=5.0, stream_ms=20.0) as on:
        count = min(settings.count_or(200), TURNS_MAX)
        figures, notes = list[Figure](), list[str]()
        for name, runner in _runners(on, count).items():
            try:
                outcome = await runner()
            except SystemExit as missing:
                notes.append(f"{name}: left out: {missing}")
                figures.append(Figure(f"{name}: cycles", 0, "", count, False))
                continue
            figures += as_figures(name, outcome, count)
            notes += [f"{name}: {outcome.crash}"] if outcome.crash else []
        return Result(figures, meaning(on, count), notes)


def as_figures(name: str, outcome: Outcome, count: int) -> list[Figure]:
    """What became of a program that was to do `count` cycles."""
    return [
        Figure(f"{name}: cycles", outcome.cycles, "", count, False),
        Figure(f"{name}: wakes", outcome.wakes, ""),
        Figure(f"{name}: wrong answers", outcome.wrong, "", 0),
        Figure(f"{name}: crashes", outcome.crash is not None, "", 0),
    ]


def _runners(on: Stage, count: int) -> dict[str, Callable[[], Awaitable[Outcome]]]:
    def lines(name: str, command: Callable[[], list[str]]) -> Callable[[], Awaitable[Outcome]]:
        return lambda: _lines(on, name, command(), count)

    seed = on.settings.seed
    return {
        "claude": lambda: _claude(on, count),
        "chatty": lines("chatty", lambda: _there(programs.chatty())),
        "notebook": lines("notebook", lambda: _there(programs.notebook())),
        "static": lines("static", lambda: programs.static_shapes(_SHAPES_MIB, seed)),
    }


def _there(command: list[str]) -> list[str]:
    if not Path(command[-1]).exists():
        raise SystemExit(f"no {command[-1]}")
    return command


async def _claude(on: Stage, count: int) -> Outcome:
    agent = await on.claude("claude", idle_after=IDLE_AFTER)

    async def cycle(_: int) -> bool:
        return (await agent.turn()).right

    return await _cycles(on, agent, count, cycle)


async def _lines(on: Stage, name: str, command: list[str], count: int) -> Outcome:
    managed = await on.lines(name, command, idle_after=IDLE_AFTER)
    untouched = await on.lines(f"{name}-untouched", command, managed=False)
    return await beside(on, managed, untouched, count, is_shapes=name == "static")


async def beside(
    on: Stage, managed: Tree, untouched: Tree, count: int, *, is_shapes: bool = False
) -> Outcome:
    """Cycles of one program, next to another that is left alone: both must say the same."""

    async def cycle(number: int) -> bool:
        line = "step 50" if is_shapes else script.words(12, "cycle", on.settings.seed, number)
        right = (await untouched.ask(line)).answer
        good = (await managed.ask(line, right)).right
        if is_shapes:
            right = (await untouched.ask("check")).answer
            good &= (await managed.ask("check", right)).right
        return good

    outcome = await _cycles(on, managed, count, cycle)
    await on.end(untouched)
    return outcome


async def _cycles(
    on: Stage, tree: Tree, count: int, cycle: Callable[[int], Awaitable[bool]]
) -> Outcome:
    """Cycles until all are done or something ends them."""
    bad, done, crash, wakes = 0, 0, None, 0
    for number in range(count):
        try:
            bad += not await cycle(number)
            wakes = (await on.runtime.reach(tree.name, "paged_out"))["woken"]
        except (TreeError, ManagedError) as error:
            crash = str(error)
            break
        done += 1
    code = await on.end(tree)
    if crash is None and code != 0:
        crash = f"ended with {code}"
    return Outcome(done, bad, crash, wakes)
