"""Benchmarks: each measures the promises that its name says, and the bad cases too.

A benchmark is a module with a `run(settings)` that gives a `Result`; `BENCHMARKS` has them all.
"""

from importlib import import_module

from agentmem.bench.result import Result, Settings

BENCHMARKS = {
    "put": "put of 1 KiB in bursts, and sustained",
    "view": "view of something hot",
    "sessions": "put and view through a session with a busy daemon, from Python, C and Node",
    "attach": "attach of a known 50 MB prompt",
    "spawn": "register an agent, attach prompt and tools, first message",
    "ratio": "stored conversations against zstd of each as a whole",
    "transfer": "imported transcripts: speed, size, and the same bytes out again",
    "tiers": "hot to warm and back, per core",
    "policy": "refaults of each policy on replayed transcripts",
    "cpu": "the engine's processor time at the pace that transcripts record",
    "scale": "ten million messages, a million contents, ten thousand agents",
    "liveness": "agents that are killed, a hundred at once and a thousand times a few",
    "peers": "put and get against LMDB, SQLite and Redis",
}


def run(name: str, settings: Settings) -> Result:
    """Run the benchmark called `name`."""
    result = import_module(f"agentmem.bench.{name}").run(settings)
    assert isinstance(result, Result)
    return result
