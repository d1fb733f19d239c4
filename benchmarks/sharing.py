"""agentmem beside other ways to share: 50 MB with `--count` processes (100); put and get of 1 KiB.

Ray's Plasma store, Redis over a Unix socket, multiprocessing.shared_memory: the same steps, which
`stores` has, one after the other, in the same interpreter.
"""

import json
import os
import subprocess

from agentmem.bench.result import Figure, Result
from benchmarks.claude_code import CHECKOUT
from benchmarks.interpreter import pins, with_packages
from benchmarks.stage import Settings
from benchmarks.stores import SHARED_BYTES, VALUE_BYTES, VALUES, WAYS

_PACKAGES = ("ray", "numpy", "redis")
_MISSING = 3


async def run(settings: Settings) -> Result:
    """See the module."""
    python, count = with_packages("peers", _PACKAGES), settings.count_or(100)
    paths = os.pathsep.join([str(CHECKOUT), str(CHECKOUT / "python")])
    figures, notes = [], [f"peers: {', '.join(pins(python, _PACKAGES))}"]
    for name in WAYS:
        done = subprocess.run(
            [python, "-m", "benchmarks.stores", name, str(count), str(settings.seed)],
            env=os.environ | {"PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            text=True,
        )
        if done.returncode not in (0, _MISSING):
            notes.append(f"{name}: FAILED, as stderr says")
            continue
        # Whatever else a peer prints comes before.
        said = done.stdout.strip().splitlines()[-1]
        if done.returncode == _MISSING:
            notes.append(f"{name}: not measured, {said}")
            continue
        for what, value in json.loads(said).items():
            title, _, unit = what.rpartition(", ")
            figures.append(Figure(f"{name}: {title}", value, unit))
    return Result(figures, ["sharing", count, SHARED_BYTES, VALUES, VALUE_BYTES, list(WAYS)], notes)
