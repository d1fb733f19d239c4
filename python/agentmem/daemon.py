"""The daemon: where its program is, and how it is started.

It is a program of its own (crates/agentmem-daemon). All processes of a user share one.
"""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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


def stop(socket: Path) -> None:
    """End the one that listens at `socket`, and wait until what is to be durable is.

    Raises:
        Unreachable: It did not end in time; the text says what was said.
    """
    command = [str(program()), "--stop", f"--socket={socket}"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise Unreachable(f"agentmemd did not end: {done.stderr.strip()}")


def processes(socket: Path) -> list[int]:
    """The numbers of the processes of the one that listens at `socket`: its keeper, its engine."""
    return [int(number) for number in Path(f"{socket}.lock").read_text().split()]


@contextmanager
def private(configuration: str, *options: str) -> Iterator[Path]:
    """A daemon for the `with` block alone, on a socket in a temporary folder; gives the socket.

    Args:
        configuration: What its configuration file says, instead of the user's.
        options: More of its command line.

    Raises:
        Unsupported: This installation lacks the program.
        Unreachable: It did not start or end; the text says what it said.
    """
    with tempfile.TemporaryDirectory(prefix="agentmem-private-") as folder:
        file = Path(folder) / "agentmemd.toml"
        file.write_text(configuration)
        socket = Path(folder) / "agentmem.sock"
        start(socket, f"--config={file}", *options)
        try:
            yield socket
        finally:
            stop(socket)
