"""Put of 1 KiB."""

import time

import agentmem
from agentmem.bench import native
from agentmem.bench.result import Figure, Result, Settings
from agentmem.bench.timing import each, quantiles

_BURST = 10_000
_SIZE = 1024
_SUSTAINED = 300_000


def run(settings: Settings) -> Result:
    """Bursts that the arena takes in whole, with a rest between them; then without a rest."""
    bursts = 2 if settings.quick else 20
    sustained = _SUSTAINED // (20 if settings.quick else 1)
    values = settings.values(_BURST, _SIZE)
    nanoseconds: list[int] = []
    with agentmem.open(memory_max="2G", cold=False) as mem:
        agent = mem.agent("bench")
        for burst in range(bursts):
            # Sealed content would be told as equal: every burst has values of its own.
            fresh = [b"%08x%08x" % (burst, n) + value[16:] for n, value in enumerate(values)]
            nanoseconds += each(agent.put, fresh)
            agent.put(b"the end of burst %d" % burst).id  # noqa: B018  (waits until all is sealed)
            time.sleep(0.02)
    figures = quantiles("from Python: 1 KiB in bursts of 10,000", nanoseconds, 1.0, 5.0)
    figures.append(_sustained(values, sustained))
    rust, notes = native.figures(
        settings, {"put, p50": 1.0, "put, p99": 5.0, "put, sustained": None}
    )
    return Result(figures + rust, ["put", _BURST, bursts, _SIZE, sustained], notes)


def _sustained(values: list[bytes], count: int) -> Figure:
    """With back-pressure: until everything is hashed and in its place."""
    with agentmem.open(memory_max="2G", cold=False) as mem:
        agent = mem.agent("bench")
        begin = time.perf_counter()
        for number in range(count):
            value = values[number % len(values)]
            agent.put(b"%016x" % number + value[16:])
        agent.put(b"the end").id  # noqa: B018  (waits until all is sealed)
        seconds = time.perf_counter() - begin
    return Figure("from Python: sustained, sealed", count / seconds / 1000, "thousand/s")
