"""Claude Code, unmodified: installed by npm into a cache folder, talked to through pipes."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import script
from benchmarks.npm import CHECKOUT, Package
from benchmarks.tree import Tree, TreeError, Turn

PACKAGE = "@anthropic-ai/claude-code"
VERSION = "2.1.328"
AGENTS = Path(__file__).resolve().parent / "agents"
TURNS_MAX = 400
_SHUT_OFF = (
    "DISABLE_TELEMETRY",
    "DISABLE_ERROR_REPORTING",
    "DISABLE_AUTOUPDATER",
    "DISABLE_AUTO_COMPACT",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC",
    "IS_SANDBOX",
)
_STREAMS = "-p --output-format stream-json --input-format stream-json --include-partial-messages"
_OPTIONS = [*_STREAMS.split(" "), "--verbose", "--dangerously-skip-permissions"]


def install() -> Path:
    """The binary of Claude Code, installed if it is not there yet."""
    # The build for musl is installed beside the other one on some machines, and sorts behind it.
    return Package(PACKAGE, VERSION, "@anthropic-ai/claude-code-linux-*/claude").install()


def surroundings(folder: Path) -> dict[str, str]:
    """What every agent is told: a fresh home, and of ours only what agentmem goes by."""
    home, scratch = folder / "home", folder / "tmp"
    home.mkdir(parents=True, exist_ok=True)
    scratch.mkdir(exist_ok=True)
    return {
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "HOME": str(home),
        "TMPDIR": str(scratch),
        **{name: value for name, value in os.environ.items() if name.startswith("AGENTMEM_")},
    }


def environment(folder: Path, port: int) -> dict[str, str]:
    """All that an instance is told: no servers but the model on loopback."""
    return {
        **surroundings(folder),
        "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{port}",
        "ANTHROPIC_API_KEY": "test",
        **dict.fromkeys(_SHUT_OFF, "1"),
    }


@dataclass(frozen=True)
class Model:
    """A model server in a process of its own."""

    port: int
    seed: int
    pid: int


@contextlib.contextmanager
def model(seed: int = 1, first_ms: float = 20.0, stream_ms: float = 100.0) -> Iterator[Model]:
    """A model server for the time of a `with` block."""
    pace = [f"--seed={seed}", f"--first-ms={first_ms}", f"--stream-ms={stream_ms}"]
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.model_server", *pace],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=CHECKOUT,
    )
    with server:
        assert server.stdin is not None, "a pipe"
        assert server.stdout is not None, "a pipe"
        try:
            yield Model(json.loads(server.stdout.readline())["port"], seed, server.pid)
        finally:
            server.stdin.close()


class Claude(Tree):
    """One instance, which stays alive for all its turns."""

    def __init__(
        self,
        name: str,
        folder: Path,
        served_by: Model,
        *,
        prefix: Sequence[str] = (),
        mcp: bool = False,
        options: Sequence[str] = (),
    ) -> None:
        work = folder / "work"
        script.write_files(work, name, TURNS_MAX)
        servers = ["--mcp-config", str(_mcp_config(folder))] if mcp else []
        super().__init__(
            name,
            [install(), *_OPTIONS, *servers, *options],
            folder=work,
            prefix=prefix,
            environment=environment(folder, served_by.port),
        )
        self.oracle = script.Oracle(name, work, served_by.seed)
        self.session: str | None = None
        """Its id, with which another process can resume the conversation."""
        self.mcp_servers: dict[str, str] = {}
        """Their states, as it reported them."""

    async def turn(self) -> Turn:
        """The next task, and whether the answer is right."""
        line, right = self.oracle.next()
        content = [{"type": "text", "text": line}]
        message = {"type": "user", "message": {"role": "user", "content": content}}
        began_s = await self.send(json.dumps(message))
        first_ms = 0.0
        while True:
            event = json.loads(await self.receive())
            if event["type"] == "stream_event" and not first_ms:
                first_ms = (time.perf_counter() - began_s) * 1000
            elif event["type"] == "system" and event.get("subtype") == "init":
                self.session = event["session_id"]
                servers = event.get("mcp_servers", ())
                self.mcp_servers = {each["name"]: each["status"] for each in servers}
            elif event["type"] == "result":
                total_ms = (time.perf_counter() - began_s) * 1000
                answer = str(event.get("result", ""))
                return Turn(first_ms, total_ms, answer, answer.strip() == right)

    async def turns(self, count: int) -> list[Turn]:
        """The next `count` tasks, one after the other; an error if an answer is wrong."""
        turns = []
        for _ in range(count):
            turns.append(await self.turn())
            if not turns[-1].right:
                raise TreeError(f"{self.name} answered {turns[-1].answer[:200]!r}")
        return turns


def _mcp_config(folder: Path) -> Path:
    """A file that names two servers of our own, one in Node and one in Python."""
    servers = {
        "node": {"command": "node", "args": [str(AGENTS / "mcp_echo.mjs")]},
        "python": {"command": sys.executable, "args": [str(AGENTS / "mcp_echo.py")]},
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mcp.json"
    path.write_text(json.dumps({"mcpServers": servers}))
    return path
