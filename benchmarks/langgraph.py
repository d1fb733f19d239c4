"""Savers of LangGraph's side by side: stored bytes, latency of put, and many threads.

The same graph, with 2 KB of text a turn, for every saver, each in a process of its own (savers.py).
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from agentmem.bench.result import Figure, Result
from benchmarks.interpreter import pins, with_packages
from benchmarks.npm import CHECKOUT
from benchmarks.savers import MISSING, SAVERS, TURN_BYTES
from benchmarks.stage import Settings

_GROWTH_TURNS = 200
_EARLY, _LATE = 10, 1000
_THREAD_TURNS = 50
_THREADS = 1000
_PEER_THREADS = 20
"""Of savers that write the whole state at every step: more of them would be many gigabytes."""
_PACKAGES = (
    "langgraph",
    "langgraph-checkpoint-sqlite",
    "langgraph-checkpoint-postgres",
    "psycopg[binary]",
)
_OWN = ("agentmem", "agentmem, daemon", "agentmem, flushed at every call")


async def run(settings: Settings) -> Result:
    """See the module."""
    python = with_packages("savers", _PACKAGES)
    figures: list[Figure] = []
    notes = [f"peers: {', '.join(pins(python, _PACKAGES))}"]
    if not settings.corpus:
        notes.append("the text is generated: --corpus FILE takes real conversations")
    given = {"seed": settings.seed, "corpus": list(settings.corpus)}
    measured = _Measured(python, given, notes)
    meaning = [_growth(measured, figures), _GROWTH_TURNS, _LATE, _THREAD_TURNS, TURN_BYTES]
    _latency(measured, figures)
    _threads(measured, figures, settings.count_or(_THREADS))
    return Result(figures, ["langgraph", *meaning], notes)


class _Measured:
    """Runs one saver after the other."""

    def __init__(self, python: Path, given: dict[str, Any], notes: list[str]) -> None:
        self._python = python
        self._given = given
        self._notes = notes

    def __call__(self, what: str, name: str, **given: int) -> dict[str, Any] | None:
        """What one saver is measured to do; None, with a note, if it is not there."""
        paths = os.pathsep.join([str(CHECKOUT), str(CHECKOUT / "python")])
        command = [self._python, "-m", "benchmarks.savers", what, name]
        done = subprocess.run(
            [*command, json.dumps(self._given | given)],
            env=os.environ | {"PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            text=True,
        )
        if done.returncode == 0:
            result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
            return result
        why = "FAILED, as stderr says"
        if done.returncode == MISSING:
            why = f"not measured, {done.stdout.strip()}"
        note = f"{name}: {why}"
        if note not in self._notes:
            self._notes.append(note)
        return None


def _growth(measured: _Measured, figures: list[Figure]) -> list[Any]:
    digests = set()
    for name in (
        "agentmem",
        "agentmem, flushed at every call",
        "SqliteSaver",
        "SqliteSaver, DeltaChannel",
    ):
        found = measured("growth", name, turns=_GROWTH_TURNS)
        if found is None:
            continue
        title, content = f"{name}: {_GROWTH_TURNS} turns", found["content"]
        if found["stored"] is not None:
            goal = 1.0 if name == "agentmem" else None
            figures.append(
                Figure(f"{title}, stored", found["stored"] / content, "of content", goal)
            )
        figures.append(Figure(f"{title}, files", found["files"] / content, "of content"))
        if name == "agentmem":
            readable = Figure(f"{title}, readable", found["checkpoints"], "checkpoints", 600, False)
            figures.append(readable)
        digests.add(found["digest"])
    return sorted(digests)


def _latency(measured: _Measured, figures: list[Figure]) -> None:
    early, late = {}, {}
    for name in (*_OWN, "InMemorySaver", "SqliteSaver"):
        early[name] = measured("latency", name, turns=_EARLY + 5)
        # What writes whole states gets the state of the turns before at once.
        begin = 0 if name == "agentmem" else _LATE - 15
        if name != "SqliteSaver":
            late[name] = measured("latency", name, turns=_LATE, begin=begin)
        for turn, found in ((_EARLY, early[name]), (_LATE, late.get(name))):
            if found is not None:
                title = f"{name}: turn {turn:,}"
                for what in ("put p50", "put p99", "get p50", "serialising p50"):
                    figures.append(Figure(f"{title}, {what}", found[what] / 1000, "us"))
    own = early["agentmem"], late["agentmem"]
    peers = early["SqliteSaver"], late["InMemorySaver"]
    if None in own or None in peers:
        return
    beyond = [max(0, each["put p50"] - each["serialising p50"]) for each in own]  # type: ignore[index]
    figures.append(
        Figure("agentmem: put beyond serialising, late / early", beyond[1] / beyond[0], "", 1.3)
    )
    titles = (f"turn {_EARLY}, of SqliteSaver's", f"turn {_LATE:,}, of InMemorySaver's")
    for title, mine, peer in zip(titles, own, peers, strict=True):
        share = mine["put p50"] / peer["put p50"]  # type: ignore[index]
        figures.append(Figure(f"agentmem: put p50 at {title}", share, "", 1.0))


def _threads(measured: _Measured, figures: list[Figure], count: int) -> None:
    for name in SAVERS:
        if name == "SqliteSaver, DeltaChannel":
            continue
        its = count if name in ("agentmem", "agentmem, daemon") else min(count, _PEER_THREADS)
        found = measured("threads", name, turns=_THREAD_TURNS, count=its)
        if found is None:
            continue
        title = f"{name}: {its:,} threads"
        content = found["content"]
        for what in ("stored", "files", "resident"):
            if found[what] is not None:
                figures.append(Figure(f"{title}, {what}", found[what] / content, "of content"))
        for what in ("put p50", "put p99", "get p50", "get p99"):
            figures.append(Figure(f"{title}, {what}", found[what] / 1000, "us"))
