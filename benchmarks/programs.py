"""Programs that answer a line with a line: small agents in other languages, and synthetic ones."""

import os
import sys
from pathlib import Path

from benchmarks.claude_code import AGENTS
from benchmarks.npm import CHECKOUT

_RELEASE = CHECKOUT / "target" / "release" / "examples" / "shapes"
_BUILD = "cargo build --release -p agentmem-pager --example shapes"
_TRIPLE = "x86_64-unknown-linux-gnu"
_STATIC = CHECKOUT / "target" / "static" / _TRIPLE / "release" / "examples" / "shapes"


def shapes(mib: int, seed: int) -> list[str]:
    """A program of so many MiB that compress as an agent's do; `check` looks at all of it."""
    program = _built("AGENTMEM_SHAPES", _RELEASE, _BUILD)
    return [program, "compress-like", "--mib", str(mib), "--seed", str(seed)]


def static_shapes(mib: int, seed: int) -> list[str]:
    """A static binary with memory and threads of all kinds, so many MiB in all."""
    # With a target named, the flags are not for macros that the compiler itself loads.
    static = "RUSTFLAGS='-C target-feature=+crt-static'"
    build = f"{static} {_BUILD} --target-dir target/static --target {_TRIPLE}"
    program = _built("AGENTMEM_SHAPES_STATIC", _STATIC, build)
    return [program, "serve", "--mib", str(mib), "--seed", str(seed), "--threads", "2"]


def _built(variable: str, place: Path, build: str) -> str:
    program = Path(os.environ.get(variable) or place)
    if not program.exists():
        raise SystemExit(f"{program.name} is not built: {build}")
    return str(program)


def blocks(mib: int, seed: int) -> list[str]:
    """A Python program of so many MiB in blocks of 64 KiB that writes to some share of them."""
    return [sys.executable, str(AGENTS / "blocks.py"), str(mib), str(seed)]


def chatty() -> list[str]:
    """A small agent in Node."""
    return ["node", str(AGENTS / "chatty.mjs")]


def notebook() -> list[str]:
    """A small agent in Python."""
    return [sys.executable, str(AGENTS / "notebook.py")]
