"""Figures measured from Rust, in a source checkout that has cargo."""

import json
import os
import subprocess
from functools import cache

from agentmem.bench.result import Figure, Settings, checkout

_COMMAND = ["cargo", "run", "--release", "--quiet", "--example", "bench", "-p", "agentmem-store"]


def figures(settings: Settings, names: dict[str, float | None]) -> tuple[list[Figure], list[str]]:
    """The figures of that names with their goals, and notes if they cannot be had."""
    measured = _measure(settings.quick, settings.corpus[:1])
    if isinstance(measured, str):
        return [], [f"from Rust: not available, {measured}"]
    found = [
        Figure(f"from Rust: {name}", value, unit, goal, is_limit=unit == "us")
        for name, goal in names.items()
        for value, unit in [measured[name]]
    ]
    return found, []


@cache
def _measure(quick: bool, corpus: tuple[str, ...]) -> dict[str, tuple[float, str]] | str:
    """All that the example measures, by name; or why there is nothing."""
    root = checkout()
    if root is None:
        return "this is no source checkout"
    try:
        done = subprocess.run(
            [*_COMMAND, "--", *(["--quick"] if quick else []), *map(os.path.abspath, corpus)],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except FileNotFoundError:
        return "there is no cargo"
    except subprocess.CalledProcessError as error:
        return f"the example failed: {error.stderr.strip().splitlines()[-1:]}"
    records = [json.loads(line) for line in done.stdout.splitlines()]
    return {record["name"]: (record["value"], record["unit"]) for record in records}
