"""The daemon: where its program is, and how it is started.

It is a program of its own (crates/agentmem-daemon). All processes of a user share one.
"""

import http.client
import socket as sockets
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
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


class LocalConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, socket: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._socket = socket

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = sockets.socket(sockets.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._socket))


def figures(socket: Path, timeout_s: float = 2.0) -> dict[str, float]:
    """The metrics of the one that listens at `socket`, by name; summed over what labels tell apart.

    Raises:
        Unreachable: None listens, or it does not answer in time.
    """
    with closing(LocalConnection(socket, timeout_s)) as connection:
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"the daemon at {socket}: {error}") from error
    found: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            labelled, value = line.rsplit(" ", 1)
            name = labelled.partition("{")[0]
            found[name] = found.get(name, 0.0) + float(value)
    return found


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
