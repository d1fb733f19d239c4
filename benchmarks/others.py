"""opencode, Gemini CLI and Codex: `--turns` turns, then `--count` times (5) idle, paged out, woken.

A turn wakes them. Each answer must be the one that is known beforehand.
"""

from agentmem.bench.result import Figure, Result
from benchmarks import measure
from benchmarks.managed import ManagedError, Status
from benchmarks.rpc import KINDS, Agent
from benchmarks.stage import MB, Settings, Stage, meaning, stage
from benchmarks.tree import TreeError, Turn


async def run(settings: Settings) -> Result:
    """See the module."""
    async with stage(settings) as on:
        figures, notes = list[Figure](), list[str]()
        count = settings.count_or(5)
        for name in KINDS:
            found, said = await _one(on, name, count)
            figures += [Figure(f"{name}: {each.name}", *each[1:]) for each in found]
            notes += [f"{name}: {line}" for line in said]
        return Result(figures, meaning(on, count, sorted(KINDS)), notes)


async def _one(on: Stage, name: str, count: int) -> tuple[list[Figure], list[str]]:
    """What became of one of them."""
    # As users have it: a runtime gives memory back by itself in the first seconds of idleness.
    prefix = on.runtime.prefix(name, idle_after="5s")
    turns, figures, done, notes = list[Turn](), list[Figure](), 0, list[str]()
    try:
        folder, seed = on.folder / name, on.settings.seed
        agent = await on.start(KINDS[name](name, folder, on.model.port, prefix=prefix, seed=seed))
        awake = [await agent.turn() for _ in range(on.settings.turns)]
        turns += awake
        before = measure.memory_of_all(agent.agent_pids())
        figures += _awake(awake, before)
        status = await on.runtime.reach(name, "paged_out")
        figures += _away(agent, status, before)
        woken = list[Turn]()
        for _ in range(count):
            woken.append(await agent.turn())
            turns.append(woken[-1])
            status = await on.runtime.reach(name, "paged_out")
            done += 1
        first_ms = measure.percentile([turn.first_event_ms for turn in woken], 0.5)
        figures.append(Figure("woken: first piece of an answer, p50", first_ms, "ms"))
        notes += _notes(await on.runtime.status(name, verbose=True))
        await on.end(agent)
    except (SystemExit, TreeError, ManagedError) as why:
        notes.append(f"ended: {why}")
    wrong = [turn for turn in turns if not turn.right]
    notes += [f"wrong: {wrong[0].answer[:200]!r}"] if wrong else []
    return [
        *figures,
        Figure("cycles", done, "", count, False),
        Figure("wrong answers", len(wrong), "", 0),
    ], notes


def _awake(turns: list[Turn], before: measure.Memory) -> list[Figure]:
    first_ms = measure.percentile([turn.first_event_ms for turn in turns[1:]], 0.5)
    return [
        Figure("awake: first piece of an answer, p50", first_ms, "ms"),
        Figure("awake: private anonymous", before.private_anonymous / MB, "MB"),
    ]


def _away(agent: Agent, status: Status, before: measure.Memory) -> list[Figure]:
    after = measure.memory_of_all(agent.agent_pids())
    supervisor = measure.supervisor_bytes(agent.pid)
    return [
        Figure("processes", status["processes"], ""),
        Figure("away: private anonymous", after.private_anonymous / MB, "MB"),
        Figure("away: supervisor with frames", supervisor / MB, "MB"),
        Figure("PSS before", before.pss / MB, "MB"),
        Figure("PSS away, with supervisor and frames", (after.pss + supervisor) / MB, "MB"),
    ]


def _notes(status: Status) -> list[str]:
    left: dict[str, int] = {}
    for each in status.get("left_alone", ()):
        left[each["why"]] = left.get(each["why"], 0) + each["bytes"]
    said = [f"{why} {count / MB:.1f} MB" for why, count in left.items() if count > MB]
    return [f"left alone: {', '.join(said) or 'nothing'}", f"last wake: {status['last_wake']}"]
