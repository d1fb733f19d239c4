"""`python -m benchmarks NAME`: run one benchmark, print a table and add a line to results/."""

import argparse
import asyncio
import dataclasses
import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from agentmem.bench.result import Figure, Result, commit, machine
from benchmarks.claude_code import VERSION
from benchmarks.npm import CHECKOUT
from benchmarks.stage import Settings

BENCHMARKS = {
    "plain": "Claude Code without agentmem: memory, time to the first event, SIGSTOP",
    "idle": "one idle Claude Code: what it and its frames hold in RAM and on SSD",
    "fleet": "--count instances at once, all idle; then 20 of them asked",
    "wake": "first event of a turn that wakes a frozen agent, against an untouched one",
    "synthetic": "wake of a program of --mib MiB",
    "page_out": "processor time of paging out, and input that arrives meanwhile",
    "awake": "turns of an agent that is managed and awake, against a plain one",
    "cycles": "--count times: a turn, idle, paged out, woken; four programs",
    "adopted": "--count such cycles of a program that is taken up while it runs",
    "guest": "cycles as an ordinary user under Yama, on Debian's kernel in QEMU",
    "others": "opencode, Gemini CLI, Codex: --count times idle, paged out, woken by a turn",
    "peers": "against nothing, zram swap, and kill and resume",
    "recovery": "a daemon with a million messages and contents is killed --count times",
    "sharing": "--count processes share 50 MB; 1 KiB put and got: beside Ray, Redis, shared_memory",
    "zygote": "--count agents in processes forked from a zygote, a message a second each",
    "frameworks": "children of zygotes that imported real frameworks, against plain processes",
    "langgraph": "savers of LangGraph's: bytes, latency, --count threads of 50 turns",
    "tmux": "Claude Code in a terminal: idle, paged out, woken by a key",
}


def main() -> int:
    """What the command line asks for; 0 if all that must be reached is."""
    given = _arguments()
    settings = Settings(
        given.count,
        given.turns,
        given.seed,
        given.mcp,
        given.mib,
        tuple(given.corpus),
        tuple(given.part),
        tuple(given.saver),
        given.peers,
    )
    print(f"{given.name}: {BENCHMARKS[given.name]} ...", file=sys.stderr)
    began_s, load = time.monotonic(), os.getloadavg()[0]
    result: Result = asyncio.run(import_module(f"benchmarks.{given.name}").run(settings))
    result.meaning.insert(0, given.name)
    load = max(load, os.getloadavg()[0])
    if load > 2 * len(os.sched_getaffinity(0)):
        result.notes.append(f"the machine was busy (load {load:.1f}): times are upper bounds")
    record = as_record(given.name, settings, result) | {
        "load": round(load, 1),
        "seconds": round(time.monotonic() - began_s, 1),
        "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    given.results.mkdir(parents=True, exist_ok=True)
    with (given.results / f"{given.name}.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")
    print(json.dumps(record) if given.json else table(given.name, result))
    return 1 if any(figure.is_met is False for figure in result.figures) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog="\n".join(f"  {name:<10} {text}" for name, text in BENCHMARKS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=BENCHMARKS, metavar="NAME")
    parser.add_argument("--count", type=int, help="agents, repetitions or cycles")
    parser.add_argument("--turns", type=int, default=15, help="of each agent before (15)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mcp", action="store_true", help="two MCP servers for each agent")
    parser.add_argument("--mib", type=int, default=64, help="of a synthetic agent (64)")
    parser.add_argument("--corpus", action="append", metavar="FILE", default=[], help="of texts")
    parser.add_argument(
        "--part",
        action="append",
        choices=("growth", "latency", "threads"),
        default=[],
        help="of langgraph, only that (several may be given)",
    )
    parser.add_argument(
        "--saver", action="append", metavar="NAME", default=[], help="of langgraph, only that"
    )
    parser.add_argument(
        "--peers", type=int, default=20, help="threads of savers that write whole states (20)"
    )
    parser.add_argument("--results", type=Path, default=CHECKOUT / "results", metavar="DIR")
    parser.add_argument("--json", action="store_true", help="the record instead of a table")
    return parser.parse_args()


def as_record(name: str, settings: Settings, result: Result) -> dict[str, Any]:
    """A result as one JSON object."""
    figures: dict[str, dict[str, Any]] = {}
    for figure in result.figures:
        figures[figure.name] = {"value": figure.value, "unit": figure.unit}
        if figure.goal is not None:
            figures[figure.name] |= {"goal": figure.goal, "met": figure.is_met}
    return {
        "bench": name,
        "figures": figures,
        "notes": result.notes,
        # Where the corpus lies is nobody's affair.
        "settings": dataclasses.asdict(settings) | {"corpus": len(settings.corpus)},
        "claude_code": VERSION,
        # Whoever measures something else than this checkout's own says so in the record.
        "agentmem": os.environ.get("AGENTMEM", "of this checkout"),
        "machine": machine(),
        "commit": commit(),
        "digest": result.digest,
    }


def table(name: str, result: Result) -> str:
    """A result as people read it; what falls short says so."""
    rows = [(name, "", "", "must reach", "")]
    for figure in result.figures:
        value = f"{figure.value:,.3g}" if abs(figure.value) < 100 else f"{figure.value:,.0f}"
        met = {None: "", True: "yes", False: "FALLS SHORT"}[figure.is_met]
        rows.append((figure.name, value, figure.unit, _goal(figure), met))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}} {row[2]:<{widths[2]}}"
        f"  {row[3]:<{widths[3]}}  {row[4]}".rstrip()
        for row in rows
    ]
    short = [figure.name for figure in result.figures if figure.is_met is False]
    verdict = [f"falls short: {'; '.join(short)}"] if short else []
    notes = [f"note: {note}" for note in result.notes]
    return "\n".join([*lines, *notes, *verdict, f"digest {result.digest}"])


def _goal(figure: Figure) -> str:
    if figure.goal is None:
        return ""
    return f"at {'most' if figure.is_limit else 'least'} {figure.goal:,g}"


if __name__ == "__main__":
    sys.exit(main())
