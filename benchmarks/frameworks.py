"""Children of zygotes that have imported real frameworks, against plain processes."""

import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path

import agentmem
from agentmem.bench.result import Figure, Result
from benchmarks.agents import spawned
from benchmarks.measure import memory_of
from benchmarks.stage import MB, Settings
from benchmarks.zygote import daemon

CHECKOUT = Path(__file__).resolve().parents[1]
_CHILDREN = 8

# What is installed, by name, and what is imported of it.
FRAMEWORKS = {
    "langgraph": "langgraph.graph, langgraph.prebuilt",
    "openai-agents": "agents",
    "anthropic": "anthropic",
    "pydantic-ai": "pydantic_ai, pydantic_ai.models.openai",
    "all four": "langgraph.graph, langgraph.prebuilt, agents, anthropic, pydantic_ai",
}

_PLAIN = """
import sys, time
began = time.perf_counter()
import {module}
print(time.perf_counter() - began, flush=True)
{module}.alone()
"""
_SPAWNING = """
import os, sys
from agentmem.zygote import Zygote
reading, writing = os.pipe()
with Zygote({module!r}, huge_pages=True) as zygote:
    children = []
    for _ in range({count}):
        children.append(zygote.spawn("3600", stdout=writing))
        os.read(reading, 8)
    print(zygote.status()["pid"], *(child.pid for child in children), flush=True)
    sys.stdin.read()
    for child in children:
        child.kill()
    zygote.stop()
"""


async def run(settings: Settings) -> Result:
    """Each framework by itself, and all of them together."""
    count = settings.count or _CHILDREN
    python, versions = await asyncio.to_thread(_install)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        paths = [folder, str(CHECKOUT), str(CHECKOUT / "python")]
        async with daemon():
            os.environ["PYTHONPATH"] = os.pathsep.join(paths)
            with agentmem.connect(start=False) as mem:
                owner = mem.agent("owner")
                owner.put(b"You mend builds. " * 1000, name=spawned.PROMPT)
                owner.put(b'{"name": "read_file"}' * 3000, name=spawned.TOOLS)
                for name, imports in FRAMEWORKS.items():
                    module = "framed_" + "".join(filter(str.isalpha, name))
                    source = (
                        f"import {imports}\nfrom benchmarks.agents.spawned import alone, main\n"
                    )
                    (Path(folder) / f"{module}.py").write_text(source)
                    figures += await asyncio.to_thread(_measured, python, name, module, count)
    return Result(figures, [count, *FRAMEWORKS], [f"installed: {versions}"])


def _install() -> tuple[Path, str]:
    """An interpreter that has the frameworks, and their versions."""
    folder = CHECKOUT / "target" / "frameworks"
    python = folder / "bin" / "python"
    names = [name for name in FRAMEWORKS if " " not in name]
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    if not python.exists():
        venv.create(folder, with_pip=True)
    subprocess.run([*pip, "install", *names], check=True, stdout=sys.stderr)
    frozen = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout
    return python, " ".join(line for line in frozen.split() if line.partition("==")[0] in names)


def _measured(python: Path, name: str, module: str, count: int) -> Iterator[Figure]:
    plain = [_plain(python, module) for _ in range(3)]
    import_s = statistics.median(seconds for seconds, _ in plain)
    plain_bytes = statistics.median(held for _, held in plain)
    with _process(python, _SPAWNING.format(module=module, count=count)) as process:
        assert process.stdout is not None
        zygote, *children = map(int, process.stdout.readline().split())
        own = [memory_of(child).private_anonymous for child in children]
        together = sum(memory_of(pid).pss for pid in (zygote, *children))
    yield Figure(f"{name}: import that is saved", import_s, "s")
    yield Figure(f"{name}: a plain process, private", plain_bytes / MB, "MB")
    yield Figure(f"{name}: a child, private", statistics.median(own) / MB, "MB")
    yield Figure(f"{name}: {count} children and the zygote, PSS each", together / MB / count, "MB")


def _plain(python: Path, module: str) -> tuple[float, int]:
    """Seconds of the import, and private memory after the first message."""
    with _process(python, _PLAIN.format(module=module), "3600") as process:
        assert process.stdout is not None
        seconds = float(process.stdout.readline())
        os.read(process.stdout.fileno(), 8)
        return seconds, memory_of(process.pid).private_anonymous


@contextlib.contextmanager
def _process(python: Path, code: str, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that runs `code` until this is left, which closes its stdin."""
    with subprocess.Popen(
        [str(python), "-c", code, *arguments],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        yield process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.stdout.read()
