"""A tree of processes that a benchmark starts, talks to line by line, and ends."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from benchmarks import measure

_LINE_BYTES_MAX = 64 << 20
_END_S = 10.0


@dataclass(frozen=True)
class Turn:
    """One line in, and what came back."""

    first_event_ms: float
    """From sending the line to the first event of an answer."""
    total_ms: float
    """From sending the line to the end of the answer."""
    answer: str
    right: bool
    """Whether it is the answer that was known beforehand."""


class TreeError(Exception):
    """A tree ended, or said nothing for too long."""


class Tree:
    """Processes that one command starts; its stdin and stdout are pipes, its stderr a file.

    Attributes:
        name: what it is called, here and in the registry.
        command: the command itself.
        prefix: what manages it, such as `agentmem run --`; empty for none.
        folder: of its own; `stderr.txt` is in it.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        folder: Path,
        prefix: Sequence[str] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        self.name = name
        self.command = [str(word) for word in command]
        self.prefix = list(prefix)
        self.folder = folder
        self.environment = environment
        self._process: asyncio.subprocess.Process | None = None

    @property
    def process(self) -> asyncio.subprocess.Process:
        """The process that was started: the supervisor of a managed tree, else the root."""
        assert self._process is not None, f"{self.name} is started"
        return self._process

    @property
    def is_started(self) -> bool:
        """Whether there is a process to talk about."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """Of `process`."""
        return self.process.pid

    def pids(self) -> list[int]:
        """All processes of the tree that live, the supervisor too."""
        return measure.tree_of(self.pid)

    def agent_pids(self) -> list[int]:
        """As `pids`, without the supervisor."""
        return self.pids()[bool(self.prefix) :]

    async def start(self) -> Self:
        """Start it; it lives when this returns, and is not necessarily ready."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "stderr.txt").open("ab") as stderr:
            self._process = await asyncio.create_subprocess_exec(
                *self.prefix,
                *self.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                cwd=self.folder,
                env=self.environment,
                limit=_LINE_BYTES_MAX,
                # What a person types to stop a benchmark is not meant for the agents.
                start_new_session=True,
            )
        return self

    async def send(self, line: str) -> float:
        """Write one line; returns the moment before, of `time.perf_counter`."""
        stdin = self.process.stdin
        assert stdin is not None, "a pipe"
        began_s = time.perf_counter()
        stdin.write(line.encode() + b"\n")
        await stdin.drain()
        return began_s

    async def receive(self, timeout_s: float = 120.0) -> str:
        """The next line of stdout, without its end."""
        stdout = self.process.stdout
        assert stdout is not None, "a pipe"
        try:
            line = await asyncio.wait_for(stdout.readline(), timeout_s)
        except TimeoutError as error:
            raise TreeError(f"{self.name} said nothing for {timeout_s:.0f} s") from error
        if not line.endswith(b"\n"):
            raise TreeError(f"{self.name} ended: {self.stderr()[-500:]}")
        return line[:-1].decode()

    async def ask(self, line: str, right: str | None = None) -> Turn:
        """One line in, one line out."""
        began_s = await self.send(line)
        answer = await self.receive()
        took_ms = (time.perf_counter() - began_s) * 1000
        return Turn(took_ms, took_ms, answer, right is None or answer == right)

    def stderr(self) -> str:
        """What it said there."""
        return (self.folder / "stderr.txt").read_text(errors="replace")

    async def stop(self) -> int:
        """End it by closing its stdin, else by signals; its exit code. Again does nothing."""
        if self.process.returncode is not None:
            return self.process.returncode
        stdin = self.process.stdin
        assert stdin is not None, "a pipe"
        processes = {pid: measure.start_ticks(pid) for pid in self.pids()}
        stdin.close()
        for step in ("wait", "terminate", "kill"):
            if step == "terminate":
                self.process.terminate()
            elif step == "kill":
                _kill(processes)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended(), _END_S)
                break
        return self.process.returncode if self.process.returncode is not None else -1

    async def _ended(self) -> None:
        # A child that is not read from cannot end if its pipe is full.
        assert self.process.stdout is not None, "a pipe"
        while await self.process.stdout.read(1 << 16):
            pass
        await self.process.wait()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


def _kill(processes: dict[int, int | None]) -> None:
    """Kill what is left of a tree: a number that now is another process's is left alone."""
    for pid, ticks in processes.items():
        if ticks is not None and measure.start_ticks(pid) == ticks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
