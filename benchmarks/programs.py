"""Programs that answer a line with a line: small agents in other languages, and synthetic ones."""

import os
import sys
from pathlib import Path

from benchmarks.claude_code import AGENTS, CHECKOUT

_RELEASE = CHECKOUT / "target" / "release" / "examples" / "shapes"
_STATIC = CHECKOUT / "target" / "static" / "release" / "examples" / "shapes"


def shapes(mib: int, seed: int, *, static: bool = False) -> list[str]:
    """A program of so many MiB that compress as an agent's do; `check` looks at all of it."""
    variable = "AGENTMEM_SHAPES_STATIC" if static else "AGENTMEM_SHAPES"
    program = Path(os.environ.get(variable) or (_STATIC if static else _RELEASE))
    if not program.exists():
        flags = "RUSTFLAGS='-C target-feature=+crt-static' " if static else ""
        target = " --target-dir target/static" if static else ""
        raise SystemExit(
            f"no {program}: {flags}cargo build --release -p agentmem-pager --example shapes{target}"
        )
    return [str(program), "compress-like", f"--mib={mib}", f"--seed={seed}"]


def blocks(mib: int, seed: int) -> list[str]:
    """A Python program of so many MiB in blocks of 64 KiB that writes to some share of them."""
    return [sys.executable, str(AGENTS / "blocks.py"), str(mib), str(seed)]


def chatty() -> list[str]:
    """A small agent in Node."""
    return ["node", str(AGENTS / "chatty.mjs")]


def notebook() -> list[str]:
    """A small agent in Python."""
    return [sys.executable, str(AGENTS / "notebook.py")]
