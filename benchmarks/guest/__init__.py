"""Cycles as an ordinary user under Yama (ptrace_scope 1), after `agentmem setup`.

The kernel is Debian's, in a virtual machine that sees the files of this one and changes none of
them. Nothing is granted before setup, nor after `setup --undo`. Between the two an agent is frozen
by SIGSTOP, then in a cgroup that is delegated to the user: `--count` cycles of each program (5).
"""

import asyncio
import json
from typing import Any

from agentmem.bench.result import Figure, Result
from benchmarks.guest import kernel, machine
from benchmarks.stage import Settings

_TIMEOUT_S = 5400.0


async def run(settings: Settings) -> Result:
    """See the module."""
    count = settings.count_or(5)
    found = await asyncio.to_thread(kernel.unpacked)
    text, kind = await asyncio.to_thread(machine.run, found, count, settings.seed, _TIMEOUT_S)
    report = json.loads(text)
    steps, benchmarks = report["steps"], report["benchmarks"]
    figures = [Figure("ptrace_scope", report["ptrace_scope"], "", 1, False)]
    figures += [Figure(step["name"], step["passed"], "", 1, False) for step in steps]
    notes = [f"Linux {report['kernel']} in QEMU ({kind}), as uid {report['uid']}"]
    notes += [f"{step['name']}: {' | '.join(step['said'].splitlines())}" for step in steps]
    for label, record in benchmarks.items():
        figures += _figures(label, record)
        notes += [f"{label}: {note}" for note in record["notes"]]
    digests = [record.get("digest") for record in benchmarks.values()]
    return Result(figures, [count, settings.seed, digests], notes)


def _figures(label: str, record: dict[str, Any]) -> list[Figure]:
    """The figures of a benchmark that ran in the guest; none is one that falls short."""
    if not record["figures"]:
        return [Figure(f"{label}: is done", 0, "", 1, False)]
    return [
        # Of what has a goal, cycles alone have to reach it; the rest must not exceed it.
        Figure(f"{label}: {name}", each["value"], each["unit"], each.get("goal"), _is_limit(name))
        for name, each in record["figures"].items()
    ]


def _is_limit(name: str) -> bool:
    return not name.endswith(": cycles")
