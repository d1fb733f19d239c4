"""Carries out a plan and measures it."""

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import agentmem
from agentmem.demo import wire, writer
from agentmem.demo.fleet import Fleet
from agentmem.demo.plan import Plan
from agentmem.demo.wire import Kind
from agentmem.errors import AgentMemError, Io
from agentmem.process import (
    Sample,
    Watch,
    cpu_seconds,
    engine_cpu_seconds,
    mem_available_bytes,
    rss_peak_bytes,
)

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""

# What the writer's end of the pipe may be ahead.
_PIPE_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Outcome:
    """What a run measured.

    Attributes:
        plan: what was done.
        record: the figures, by the names they have in JSON.
        samples: memory over time.
    """

    plan: Plan
    record: dict[str, Any]
    samples: list[Sample]

    @property
    def synthetic(self) -> bool:
        """Whether the text was generated."""
        return bool(self.record["synthetic"])


def run(plan: Plan, progress: Progress) -> Outcome:
    """Hold the memory of the plan's agents, and read a part of it back.

    Raises:
        Io: The corpus cannot be read, or the writer died.
        OutOfMemory: The budget is too small for what cannot be compressed further.
    """
    available_bytes = mem_available_bytes()
    began_s, began_cpu_s = time.monotonic(), cpu_seconds()
    with agentmem.open(memory_max=plan.memory_max_bytes, cold=plan.cold) as mem:
        fleet = Fleet(mem, plan.agents, plan.seed)
        with Watch(lambda: fleet.logical_bytes) as watch:
            report = _fill(plan, fleet, progress)
            failed, checked = _read_back(fleet, progress)
            end = watch.sample()
            stats = mem.stats()
            figures = {
                "agents": plan.agents,
                "logical_bytes": fleet.logical_bytes,
                "stored_bytes": stats["stored_bytes"],
                "resident_bytes_end": end.resident_bytes,
                "cold_bytes": stats["disk_bytes"],
                "dedup_effectiveness": _dedup_effectiveness(plan, stats["by_kind"]),
                "by_kind": {
                    kind: {name: amounts[name] for name in ("logical_bytes", "stored_bytes")}
                    for kind, amounts in stats["by_kind"].items()
                    if amounts["count"]
                },
                "readback_checked": checked,
                "readback_failed": failed,
                "cpu_seconds": cpu_seconds() - began_cpu_s,
                "cpu_seconds_engine": engine_cpu_seconds(),
                "wall_seconds": time.monotonic() - began_s,
                "mem_available_bytes_before": available_bytes,
                "mem_available_bytes_end": mem_available_bytes(),
                "messages": fleet.samples.seen,
                "counters": stats["counters"],
                "digest": fleet.digest(),
            }
    peak_bytes = watch.resident_peak_bytes
    record = figures | {
        "resident_bytes_peak": peak_bytes,
        # What no sample can miss, an upper bound: pages of shared libraries count in full.
        "rss_bytes_peak": rss_peak_bytes(),
        "reduction": fleet.logical_bytes / peak_bytes,
        "cross_agent_equal_share": report["cross_agent_equal_share"],
        "ratio_original": report["ratio_original"],
        "ratio_rewritten": report["ratio_rewritten"],
        "writer": {name: report[name] for name in ("resident_bytes_peak", "cpu_seconds")},
        "scale": plan.scale,
        "memory_max_bytes": plan.memory_max_bytes,
        "cold": plan.cold,
        "corpus": " ".join(Path(path).name for path in plan.corpus) or "generated",
        "synthetic": report["synthetic"],
        "seed": plan.seed,
    }
    return Outcome(plan, record, watch.samples)


def _fill(plan: Plan, fleet: Fleet, progress: Progress) -> dict[str, Any]:
    """Do all that the writer says; what it reports at the end."""
    with subprocess.Popen(
        writer.command(plan), stdout=subprocess.PIPE, pipesize=_PIPE_BYTES
    ) as process:
        assert process.stdout is not None
        try:
            for frame in wire.read(process.stdout):
                if frame.kind is Kind.REPORT:
                    report: dict[str, Any] = json.loads(frame.messages[0])
                    return report
                if frame.kind is Kind.FAILED:
                    raise Io(frame.messages[0].decode())
                fleet.take(frame)
                progress("putting", fleet.logical_bytes, plan.logical_bytes)
        except EOFError as error:
            raise Io(f"the writer's process: {error}") from error
        except AgentMemError:
            process.kill()
            raise
    raise Io(f"the writer's process ended with {process.returncode}")


def _read_back(fleet: Fleet, progress: Progress) -> tuple[int, int]:
    """How many messages and contents were not what was put, of how many."""
    failed = checked = 0
    for is_right in fleet.read_back():
        checked += 1
        failed += not is_right
        progress("reading back", checked, len(fleet.samples))
    return failed, checked


def _dedup_effectiveness(plan: Plan, by_kind: dict[str, dict[str, int]]) -> dict[str, float]:
    """Duplicate bytes that were eliminated, of those that were offered, by kind."""
    offered = {"system_prompt": plan.prompt_bytes, "tool_definition": plan.tools_bytes}
    return {
        kind: by_kind[kind]["duplicate_bytes"] / max(1, (plan.agents - 1) * size)
        for kind, size in offered.items()
    }
