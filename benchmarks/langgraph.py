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
from benchmarks.savers import MISSING, REDIS_PACKAGES, SAVERS, TURN_BYTES
from benchmarks.stage import Settings

_GROWTH_TURNS = 200
_EARLY, _LATE = 10, 1000
_THREAD_TURNS = 50
_THREADS = 1000
_MB = 1_000_000
_PACKAGES = (
    "langgraph",
    "langgraph-checkpoint-sqlite",
    "langgraph-checkpoint-postgres",
    "psycopg[binary]",
    *REDIS_PACKAGES,
)
_JUDGED = ("agentmem", "agentmem, daemon")
"""What goals are set for."""
_OWN = (*_JUDGED, "agentmem, flushed at every call")
_GROWING = (*_OWN, "SqliteSaver", "SqliteSaver, DeltaChannel")


async def run(settings: Settings) -> Result:
    """See the module."""
    python = with_packages("savers", _PACKAGES)
    figures: list[Figure] = []
    notes = [f"peers: {', '.join(pins(python, _PACKAGES))}"]
    if not settings.corpus:
        notes.append("the text is generated: --corpus FILE takes real conversations")
    given = {"seed": settings.seed, "corpus": list(settings.corpus)}
    unknown = set(settings.savers) - SAVERS.keys()
    if unknown:
        raise SystemExit(f"--saver {', '.join(unknown)}: there are {', '.join(SAVERS)}")
    measured = _Measured(python, given, notes, settings.savers or tuple(SAVERS))
    meaning: list[Any] = [_GROWTH_TURNS, _LATE, _THREAD_TURNS, TURN_BYTES]
    for part in settings.parts or ("growth", "latency", "threads"):
        match part:
            case "growth":
                meaning.append(_growth(measured, figures))
            case "latency":
                _latency(measured, figures)
            case _:
                _threads(measured, figures, settings.count_or(_THREADS), settings.peers)
    return Result(figures, ["langgraph", *meaning], notes)


class _Measured:
    """Runs one saver after the other."""

    def __init__(
        self, python: Path, given: dict[str, Any], notes: list[str], chosen: tuple[str, ...]
    ) -> None:
        self._python = python
        self._given = given
        self._notes = notes
        self._chosen = chosen

    def note(self, note: str) -> None:
        """Say something about what was measured."""
        self._notes.append(note)

    def __call__(self, what: str, name: str, **given: int) -> dict[str, Any] | None:
        """What one saver is measured to do; None if it was not chosen, or, with a note, if it is
        not there."""
        if name not in self._chosen:
            return None
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
    for name in _GROWING:
        found = measured("growth", name, turns=_GROWTH_TURNS)
        if found is None:
            continue
        title, content = f"{name}: {_GROWTH_TURNS} turns", found["content"]
        if found["stored"] is not None:
            goal = 1.0 if name in _JUDGED else None
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
        begin = 0 if name in _JUDGED else _LATE - 15
        if name != "SqliteSaver":
            late[name] = measured("latency", name, turns=_LATE, begin=begin)
        for turn, found in ((_EARLY, early[name]), (_LATE, late.get(name))):
            if found is not None:
                title = f"{name}: turn {turn:,}"
                for what in ("put p50", "put p99", "get p50", "serialising p50"):
                    figures.append(Figure(f"{title}, {what}", found[what] / 1000, "us"))
    for name in _JUDGED:
        _compare(measured, figures, name, early, late)


def _compare(
    measured: _Measured,
    figures: list[Figure],
    name: str,
    early: dict[str, Any],
    late: dict[str, Any],
) -> None:
    """One of our own beside the others."""
    mine, later = early[name], late[name]
    if mine is None or later is None:
        return
    beyond = [max(0, each["put p50"] - each["serialising p50"]) for each in (mine, later)]
    title = f"{name}: put beyond serialising, turn {_LATE:,} / turn {_EARLY}"
    figures.append(Figure(title, beyond[1] / beyond[0], "", 1.3))
    if not beyond[1]:
        measured.note(f"{name}: at turn {_LATE:,} a put takes less than serialising alone")
    peers = (
        (f"turn {_EARLY}, of SqliteSaver's", mine, early["SqliteSaver"]),
        (f"turn {_LATE:,}, of InMemorySaver's", later, late["InMemorySaver"]),
    )
    for title, own, peer in peers:
        if peer is not None:
            share = own["put p50"] / peer["put p50"]
            figures.append(Figure(f"{name}: put p50 at {title}", share, "", 1.0))


def _threads(measured: _Measured, figures: list[Figure], count: int, peers: int) -> None:
    for name in SAVERS:
        if name == "SqliteSaver, DeltaChannel":
            continue
        its = count if name in _JUDGED else min(count, peers)
        found = measured("threads", name, turns=_THREAD_TURNS, count=its)
        if found is None:
            continue
        title = f"{name}: {its:,} threads"
        content = found["content"]
        figures.append(Figure(f"{title}, content", content / _MB, "MB"))
        for what in ("stored", "files", "PSS", "MemAvailable less"):
            if found[what] is not None:
                figures.append(Figure(f"{title}, {what}", found[what] / _MB, "MB"))
        for what in ("put p50", "put p99", "get p50", "get p99"):
            figures.append(Figure(f"{title}, {what}", found[what] / 1000, "us"))
