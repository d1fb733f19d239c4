"""The daemon: where it listens, where its program is, and how it is started.

It is a program of its own (crates/agentmem-daemon). Every process of a user shares one.
"""

import os
import subprocess
from pathlib import Path

from agentmem.errors import Unreachable, Unsupported
from agentmem.registry import base

PROGRAM = Path(__file__).resolve().parent / "_bin" / "agentmemd"
"""Where a wheel and `make setup` put the program."""

_VARIABLE = "AGENTMEM_SOCKET"


def socket_path() -> Path:
    """Where the daemon of this user listens."""
    given = os.environ.get(_VARIABLE)
    return Path(given) if given else base() / "agentmem.sock"


def program() -> Path:
    """The daemon's program.

    Raises:
        Unsupported: This installation lacks it.
    """
    if not os.access(PROGRAM, os.X_OK):
        raise Unsupported(f"{PROGRAM} is missing: install the wheel again, or run `make setup`")
    return PROGRAM


def start(socket: Path, *options: str) -> None:
    """Start it in the background; returns when it listens at `socket`.

    Raises:
        Unsupported: This installation lacks the program.
        Unreachable: It did not start; the text says what it said.
    """
    command = [program(), "--background", f"--socket={socket}", *options]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise Unreachable(f"agentmemd did not start: {done.stderr.strip()}")
