"""View of something hot."""

import random

import agentmem
from agentmem.bench import native
from agentmem.bench.result import Result, Settings
from agentmem.bench.timing import each, quantiles

_CONTENTS = 20_000
_SIZE = 1024


def run(settings: Settings) -> Result:
    """View contents in random order, from `with` to the buffer and out again."""
    count = _CONTENTS // (20 if settings.quick else 1)
    with agentmem.open(memory_max="1G", cold=False) as mem:
        agent = mem.agent("bench")
        smus = [agent.put(value) for value in settings.values(count, _SIZE)]
        random.Random(settings.seed).shuffle(smus)
        _ = [smu.id for smu in smus]  # Waits until all are sealed.
        each(_view, smus)
        nanoseconds = each(_view, smus * 5)
    figures = quantiles("from Python: with smu.view() as buffer", nanoseconds, 1.0)
    rust, notes = native.figures(settings, {"view, p50": 0.5, "view, p99": None})
    return Result(figures + rust, ["view", count, _SIZE], notes)


def _view(smu: agentmem.Smu) -> None:
    with smu.view():
        pass
