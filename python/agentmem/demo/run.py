"""Carries out a plan and measures it."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentmem.demo.fleet import Fleet, Progress
from agentmem.demo.plan import Plan
from agentmem.process import (
    Sample,
    Watch,
    engine_cpu_seconds,
    mem_available_bytes,
    memory_of,
    rss_peak_bytes,
)


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
        Io: The corpus cannot be read, or a process died.
        OutOfMemory: The budget is too small for what cannot be compressed further.
    """
    available_bytes = mem_available_bytes()
    began_s = time.monotonic()
    with (
        Fleet(plan) as fleet,
        Watch(lambda: fleet.logical_bytes, fleet.resident_bytes) as watch,
        Watch(resident_bytes=fleet.store_bytes) as store_watch,
    ):
        report = fleet.perform(progress)
        end = watch.sample()
        each = fleet.memory_of_agents()
        stats = fleet.stats()
        figures = {
            "agents": plan.agents,
            "logical_bytes": fleet.logical_bytes,
            "stored_bytes": stats["stored_bytes"],
            "resident_bytes_end": end.resident_bytes,
            "processes": {
                "count": len(each),
                "own_bytes_end": sum(memory.own_bytes for memory in each),
                "mapped_bytes_end": sum(memory.shared_bytes for memory in each),
            },
            "store": {
                "own_bytes_end": sum(memory_of(pid).own_bytes for pid in fleet.store),
            },
            # Of these. What no sample can miss, an upper bound: shared pages count in full.
            "rss_bytes_peak": sum(map(rss_peak_bytes, fleet.store)),
            "cold_bytes": stats["disk_bytes"],
            "dedup_effectiveness": _dedup_effectiveness(plan, stats["by_kind"]),
            "by_kind": {
                kind: {name: amounts[name] for name in ("logical_bytes", "stored_bytes")}
                for kind, amounts in stats["by_kind"].items()
                if amounts["count"]
            },
            "readback_checked": fleet.checked,
            "readback_failed": fleet.failed,
            "cpu_seconds": fleet.cpu_seconds(),
            "cpu_seconds_engine": engine_cpu_seconds(fleet.store[-1]),
            "wall_seconds": time.monotonic() - began_s,
            "mem_available_bytes_before": available_bytes,
            "mem_available_bytes_end": mem_available_bytes(),
            "messages": fleet.messages,
            "counters": stats["counters"],
            "digest": fleet.digest(),
        }
    peak_bytes = watch.resident_peak_bytes
    figures["store"]["resident_bytes_peak"] = store_watch.resident_peak_bytes
    record = figures | {
        "resident_bytes_peak": peak_bytes,
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
        "language": plan.language,
        "embedded": plan.embedded,
    }
    return Outcome(plan, record, watch.samples)


def _dedup_effectiveness(plan: Plan, by_kind: dict[str, dict[str, int]]) -> dict[str, float]:
    """Duplicate bytes that were eliminated, of those that were offered, by kind."""
    offered = {"system_prompt": plan.prompt_bytes, "tool_definition": plan.tools_bytes}
    return {
        kind: by_kind[kind]["duplicate_bytes"] / max(1, (plan.agents - 1) * size)
        for kind, size in offered.items()
    }
