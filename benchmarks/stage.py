"""What a benchmark runs on: scratch folder, model server, registry, agents that end with it."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from benchmarks import claude_code, measure
from benchmarks.claude_code import Claude, Model
from benchmarks.managed import Runtime
from benchmarks.tree import Tree, Turn

MB = 1_000_000
MIB = 1 << 20
_AVAILABLE_BYTES_MIN = 1536 * MIB

T = TypeVar("T", bound=Tree)


@dataclass(frozen=True)
class Settings:
    """What a benchmark is told; each uses what it has a use for.

    Attributes:
        count: of agents, repetitions or cycles; None for what the benchmark takes by itself.
        turns: of each agent before anything is measured.
        seed: of all that is random, and of the model's answers.
        mcp: give each agent two MCP servers.
        mib: of a synthetic agent.
        corpus: where text comes from; generated if empty.
        parts: which parts of a benchmark that has some; all of them if empty.
        savers: which savers a benchmark of them measures; all of them if empty.
        peers: threads of each saver that writes whole states.
    """

    count: int | None = None
    turns: int = 15
    seed: int = 1
    mcp: bool = False
    mib: int = 64
    corpus: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    savers: tuple[str, ...] = ()
    peers: int = 20

    def count_or(self, default: int) -> int:
        """`count`, or what the benchmark takes by itself."""
        return default if self.count is None else self.count


@dataclass
class Stage:
    """See the module."""

    settings: Settings
    folder: Path
    model: Model
    runtime: Runtime
    trees: list[Tree] = field(default_factory=list)

    async def claude(
        self,
        name: str,
        *,
        managed: bool = True,
        idle_after: str = "2s",
        ssd: bool = False,
        options: Sequence[str] = (),
    ) -> Claude:
        """A running Claude Code."""
        prefix = self.runtime.prefix(name, idle_after=idle_after, ssd=ssd) if managed else []
        mcp = self.settings.mcp
        return await self.start(
            Claude(name, self.folder / name, self.model, prefix=prefix, mcp=mcp, options=options)
        )

    async def lines(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        managed: bool = True,
        idle_after: str = "2s",
        ssd: bool = False,
    ) -> Tree:
        """A running program that answers a line with a line."""
        prefix = self.runtime.prefix(name, idle_after=idle_after, ssd=ssd) if managed else []
        return await self.start(Tree(name, command, folder=self.folder / name, prefix=prefix))

    async def start(self, tree: T) -> T:
        """Start a tree that ends with the stage, if there is room for it."""
        available = measure.mem_available_bytes()
        if available < _AVAILABLE_BYTES_MIN:
            raise SystemExit(f"only {available // MIB} MiB are available: no further agent")
        self.trees.append(tree)
        await tree.start()
        return tree

    async def end(self, tree: Tree) -> int:
        """End a tree before the stage ends; its exit code."""
        assert tree in self.trees, "of this stage"
        return await tree.stop()


@contextlib.asynccontextmanager
async def stage(
    settings: Settings, *, first_ms: float = 20.0, stream_ms: float = 100.0
) -> AsyncIterator[Stage]:
    """A stage for the time of a `with` block."""
    with (
        tempfile.TemporaryDirectory(prefix="amb-", ignore_cleanup_errors=True) as name,
        claude_code.model(settings.seed, first_ms, stream_ms) as model,
    ):
        folder = Path(name)
        made = Stage(settings, folder, model, Runtime(folder / "run", folder / "cold"))
        try:
            yield made
        finally:
            # A few at once: each has to be brought back before it can end.
            trees = made.trees[:]
            for at in range(0, len(trees), 8):
                ends = [tree.stop() for tree in trees[at : at + 8] if tree.is_started]
                await asyncio.gather(*ends, return_exceptions=True)


def wrong(turns: Sequence[Turn]) -> int:
    """How many answers are not what they must be."""
    return sum(not turn.right for turn in turns)


def meaning(stage: Stage, *facts: object) -> list[object]:
    """What a benchmark did, apart from how long it took and where: for its digest."""
    settings = stage.settings
    done = [
        (tree.name, [(each.facts, each.steps) for each in tree.oracle.exchanges])
        for tree in stage.trees
        if isinstance(tree, Claude)
    ]
    return [settings.turns, settings.seed, settings.mcp, settings.mib, done, *facts]
