"""Trees under `agentmem run`: how they are started, and what their supervisors say about them."""

import asyncio
import json
import os
import shlex
import shutil
import time
from pathlib import Path
from typing import Any

from benchmarks.npm import CHECKOUT

_POLL_S = 0.05
_REQUEST_S = 20.0
_ANSWER_BYTES_MAX = 1 << 20

Status = dict[str, Any]


class ManagedError(Exception):
    """A supervisor refused, said nothing, or did not get where it was to get."""


def agentmem_command() -> list[str]:
    """How `agentmem` is called: $AGENTMEM, else that of this checkout, else the one on the PATH."""
    if given := os.environ.get("AGENTMEM"):
        return shlex.split(given)
    here = CHECKOUT / ".venv" / "bin" / "agentmem"
    found = str(here) if here.exists() else shutil.which("agentmem")
    if found is None:
        raise SystemExit("agentmem is not installed: make setup, or name it in $AGENTMEM")
    return [found]


class Runtime:
    """A registry of its own, so that a benchmark neither sees nor disturbs other agents.

    Attributes:
        folder: its place, which must be short: the path of a socket has 107 bytes at most.
        cold_dir: the folder for frames on SSD.
    """

    def __init__(self, folder: Path, cold_dir: Path) -> None:
        self.folder = folder
        self.cold_dir = cold_dir
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        cold_dir.mkdir(parents=True, exist_ok=True)
        os.environ["AGENTMEM_RUNTIME_DIR"] = str(folder)

    def prefix(
        self,
        name: str,
        *,
        idle_after: str = "2s",
        memory_max: str | None = None,
        ssd: bool = False,
    ) -> list[str]:
        """What stands before the command of an agent called `name`."""
        options = [f"--name={name}", f"--idle-after={idle_after}"]
        if memory_max is not None:
            options.append(f"--memory-max={memory_max}")
        if ssd:
            options.append(f"--cold-dir={self.cold_dir}")
        return [*agentmem_command(), "run", *options, "--"]

    async def request(self, name: str, op: str, **fields: Any) -> dict[str, Any]:
        """One request to the supervisor of `name`, and its answer."""
        path = self.folder / "agents" / f"{name}.sock"
        try:
            reader, writer = await asyncio.open_unix_connection(path, limit=_ANSWER_BYTES_MAX)
        except OSError as error:
            raise ManagedError(f"{name} has no supervisor: {error}") from error
        try:
            writer.write(json.dumps({"op": op, **fields}).encode() + b"\n")
            await writer.drain()
            answer = json.loads(await asyncio.wait_for(reader.readline(), _REQUEST_S) or b"{}")
        except TimeoutError as error:
            raise ManagedError(f"the supervisor of {name} does not answer") from error
        finally:
            writer.close()
        if not answer.get("ok"):
            raise ManagedError(f"{name} refused {op}: {answer.get('text', 'it hung up')}")
        return dict(answer)

    async def status(self, name: str, *, verbose: bool = False) -> Status:
        """What the supervisor of `name` knows about its tree."""
        return dict((await self.request(name, "status", verbose=verbose))["agent"])

    async def reach(self, name: str, state: str, timeout_s: float = 60.0) -> Status:
        """Wait until `name` is in a state; its status then."""
        until_s = time.monotonic() + timeout_s
        while True:
            try:
                status = await self.status(name)
            except ManagedError:
                # A supervisor that was just started has no socket yet.
                if time.monotonic() > until_s:
                    raise
                status = {"state": "not there"}
            if status["state"] == state:
                return status
            if time.monotonic() > until_s:
                busy = status.get("busy_with")
                raise ManagedError(f"{name} is {status['state']}, not {state}; busy with {busy}")
            await asyncio.sleep(_POLL_S)

    async def to_ssd(self, name: str, timeout_s: float = 60.0) -> Status:
        """Have the frames of a tree that is paged out moved to SSD, all of them; its status then.

        There is no such command, and there need not be: a limit below what the frames take does it.
        """
        await self.request(name, "limit", memory_max_bytes=1 << 20)
        until_s = time.monotonic() + timeout_s
        while (status := await self.status(name))["compressed_bytes"]:
            if time.monotonic() > until_s:
                left = status["compressed_bytes"]
                raise ManagedError(f"{left} bytes of {name} stay in RAM: {status['state']}")
            await asyncio.sleep(_POLL_S)
        return status
