"""A program of `--mib` MiB that is paged out and asked: `--count` wakes (30), and from SSD."""

from agentmem.bench.result import Figure, Result
from benchmarks import measure, programs
from benchmarks.stage import MB, Settings, Stage, meaning, stage
from benchmarks.tree import Tree

_CHECK = "check"
_TOUCH = "step 0"


async def run(settings: Settings) -> Result:
    """See the module."""
    async with stage(settings) as on:
        count, mib = settings.count_or(30), settings.mib
        program = programs.shapes(mib, settings.seed)
        untouched = await on.lines("untouched", program, managed=False)
        managed = await on.lines("managed", program, ssd=True, idle_after="1s")
        right = (await untouched.ask(_CHECK)).answer
        base = [(await untouched.ask(_TOUCH)).total_ms for _ in range(count)]
        wakes, bad = await _wakes(on, managed, right, count, ssd=False)
        status = await on.runtime.reach(managed.name, "paged_out")
        from_ssd, bad_from_ssd = await _wakes(on, managed, right, max(1, count // 3), ssd=True)
        figures = [
            Figure("memory held", status["held_bytes"] / MB, "MB"),
            Figure("compressed", status["compressed_bytes"] / MB, "MB"),
            Figure("untouched: answer, p50", measure.percentile(base, 0.5), "ms"),
            Figure("wakes", len(wakes), ""),
            Figure("woken: answer, p50", measure.percentile(wakes, 0.5), "ms"),
            Figure("woken: answer, p99", measure.percentile(wakes, 0.99), "ms"),
            Figure("woken from SSD: answer, p50", measure.percentile(from_ssd, 0.5), "ms"),
            Figure("supervisor: wake, p50", status["wake_ms_p50"], "ms"),
            Figure("page-out: processor time, last", status["page_out_ms"]["cpu"], "ms"),
            Figure("wrong answers", bad + bad_from_ssd, "", 0),
        ]
        return Result(figures, meaning(on, count, right))


async def _wakes(
    on: Stage, tree: Tree, right: str, count: int, *, ssd: bool
) -> tuple[list[float], int]:
    """Times of short answers that need a wake, and how many checks of all memory went wrong."""
    times, bad = [], 0
    for _ in range(count):
        await on.runtime.reach(tree.name, "paged_out", timeout_s=120)
        if ssd:
            await on.runtime.to_ssd(tree.name)
        times.append((await tree.ask(_TOUCH)).total_ms)
        bad += not (await tree.ask(_CHECK, right)).right
        if ssd:
            await on.runtime.request(tree.name, "limit", memory_max_bytes=None)
    return times, bad
