"""The daemon: where its program is, and how it is started.

It is a program of its own (crates/agentmem-daemon). All processes of a user share one.
"""

import subprocess
from pathlib import Path

from agentmem.errors import Unreachable
from agentmem.programs import FOLDER, checked

PROGRAM = FOLDER / "agentmemd"
"""Where a wheel and `make setup` put the program."""


def program() -> Path:
    """The daemon's program.

    Raises:
        Unsupported: This installation lacks it.
    """
    return checked(PROGRAM, what="agentmemd", needed_by="a session with the daemon")


# What it says when another start was quicker.
_RUNS_ALREADY = 3


def start(socket: Path, *options: str) -> None:
    """Start it in the background; returns when it listens at `socket`.

    Raises:
        Unsupported: This installation lacks the program.
        Unreachable: It did not start; the text says what it said.
    """
    command = [str(program()), "--background", f"--socket={socket}", *options]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode not in (0, _RUNS_ALREADY):
        raise Unreachable(f"agentmemd did not start: {done.stderr.strip()}")
