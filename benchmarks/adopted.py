"""As `cycles`, of a small agent in Python that is taken up while it runs, by an ancestor of it.

Whoever starts a program and then becomes its supervisor may trace it wherever processes may trace
what is below them, as by Yama's usual rule.
"""

import sys

from agentmem.bench.result import Result
from benchmarks import programs
from benchmarks.cycles import IDLE_AFTER, as_figures, beside
from benchmarks.managed import agentmem_command
from benchmarks.stage import Settings, meaning, stage
from benchmarks.tree import Tree

# Starts the words behind "--", then becomes the words before it, with the process's number last.
_START_THEN_ADOPT = """
import os, subprocess, sys
at = sys.argv.index("--")
process = subprocess.Popen(sys.argv[at + 1:])
os.execvp(sys.argv[1], [*sys.argv[1:at], str(process.pid)])
"""


async def run(settings: Settings) -> Result:
    """See the module."""
    async with stage(settings) as on:
        count, command = settings.count_or(50), programs.notebook()
        adopt = [*agentmem_command(), "adopt", "--name=adopted", f"--idle-after={IDLE_AFTER}"]
        prefix = [sys.executable, "-c", _START_THEN_ADOPT, *adopt, "--"]
        managed = Tree("adopted", command, folder=on.folder / "adopted", prefix=prefix)
        await on.start(managed)
        untouched = await on.lines("untouched", command, managed=False)
        outcome = await beside(on, managed, untouched, count)
        notes = [outcome.crash] if outcome.crash else []
        return Result(as_figures("adopted", outcome, count), meaning(on, count), notes)
