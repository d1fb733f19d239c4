"""What a benchmark is told, and what it gives."""

import hashlib
import os
import platform
import re
import subprocess
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from agentmem._store import Corpus

_SYNTHETIC_BYTES = 32 << 20


class Figure(NamedTuple):
    """One measured value."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    """What it must reach, where there is a promise."""
    is_limit: bool = True
    """Whether the goal is the most it may be; else the least."""

    @property
    def is_met(self) -> bool | None:
        """Whether it reaches its goal; None without one."""
        if self.goal is None:
            return None
        return self.value <= self.goal if self.is_limit else self.value >= self.goal


@dataclass(frozen=True)
class Settings:
    """What a benchmark is told.

    Attributes:
        quick: do a small part, to see that it runs.
        seed: of all that is random.
        corpus: where text comes from; generated if empty.
    """

    quick: bool = False
    seed: int = 1
    corpus: tuple[str, ...] = ()

    @cached_property
    def texts(self) -> Corpus:
        """The corpus, read when it is first used."""
        if self.corpus:
            return Corpus.open(self.corpus)
        return Corpus.generate(self.seed, _SYNTHETIC_BYTES // (8 if self.quick else 1))

    def values(self, count: int, size: int) -> list[bytes]:
        """`count` different texts of `size` bytes each."""
        text = b"".join(self.messages(count * size))
        cut = [text[at : at + size] for at in range(0, count * size, size)]
        return [b"%08x" % number + value[8:] for number, value in enumerate(cut)]

    def messages(self, size: int, agent: int = 0) -> list[bytes]:
        """Rewritten messages of real conversations, `size` bytes or a little more in all."""
        conversations = self.texts.rewritten(self.seed, agent, size)
        return [message for _, messages in conversations for message in messages]


@dataclass(frozen=True)
class Result:
    """What a benchmark measured.

    Attributes:
        figures: the values.
        meaning: what was measured, without anything that depends on time: its hash is the digest,
            so that a benchmark cannot be made faster by doing something else.
        notes: what a reader must know, what could not be measured above all.
    """

    figures: list[Figure]
    meaning: list[Any]
    notes: list[str] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """A hash of the meaning."""
        return hashlib.sha256(repr(self.meaning).encode()).hexdigest()[:16]

    def as_record(self, name: str, settings: Settings) -> dict[str, Any]:
        """All of it as one JSON object."""
        figures = {}
        for figure in self.figures:
            figures[figure.name] = {"value": figure.value, "unit": figure.unit}
            if figure.goal is not None:
                figures[figure.name] |= {"goal": figure.goal, "met": figure.is_met}
        return {
            "bench": name,
            "figures": figures,
            "notes": self.notes,
            "quick": settings.quick,
            "seed": settings.seed,
            "corpus": " ".join(Path(path).name for path in settings.corpus) or "generated",
            "machine": machine(),
            "commit": commit(),
            "digest": self.digest,
        }


def machine() -> dict[str, Any]:
    """What this ran on."""
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    return {
        "processor": model[1] if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def checkout() -> Path | None:
    """The source checkout that this package is used from, if it is."""
    root = Path(__file__).resolve().parents[3]
    return root if (root / "crates" / "agentmem-store").is_dir() else None


def commit() -> str | None:
    """The commit of the checkout, with a plus if there are changes; None if unknown."""
    root = checkout()
    if root is None:
        return None
    try:
        head, changes = (
            subprocess.run(
                ["git", "-C", str(root), *command], capture_output=True, text=True, check=True
            ).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changes else "")
