"""The supervisor of a process tree: where its program is, and how this process becomes it.

It is a program of its own (crates/agentmem-pager), because a pager may not wait for Python.
"""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from agentmem.errors import Unsupported
from agentmem.programs import FOLDER, checked

PROGRAM = FOLDER / "agentmem-supervisor"
"""Where a wheel and `make setup` put the program."""

# What Python sets when it starts. Whatever it ignores would stay ignored in the agent.
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a tree is to be supervised; None leaves a setting to the supervisor."""

    name: str | None = None
    """What the agent is called; None: what its command is called."""
    importance: int | None = None
    """0 to 100: whose memory goes last."""
    idle_after_ms: int | None = None
    """How long it must have been quiet before it is paged out."""
    memory_max_bytes: int | None = None
    """What the tree may hold in RAM."""
    breath_ms: int | None = None
    """How often it is woken for a moment though nothing happened."""
    cold_dir: str | None = None
    """The folder on SSD for what was not used for long."""
    freeze: bool = True
    """Whether it may be frozen. Without that it is not paged out either, only watched."""
    best_effort: bool = False
    """Whether to run it all the same, and only freeze it, on a machine that cannot page out."""
    count: int | None = None
    """How many of it to start."""

    def arguments(self) -> list[str]:
        """The supervisor's options."""
        values = {
            "--name": self.name,
            "--importance": self.importance,
            "--idle-after-ms": self.idle_after_ms,
            "--memory-max-bytes": self.memory_max_bytes,
            "--breath-ms": self.breath_ms,
            "--cold-dir": self.cold_dir,
            "--count": self.count,
        }
        options = [f"{option}={value}" for option, value in values.items() if value is not None]
        if not self.freeze:
            options.append("--no-freeze")
        if self.best_effort:
            options.append("--best-effort")
        return options


def program() -> Path:
    """The supervisor's program.

    Raises:
        Unsupported: This installation lacks it.
    """
    return checked(PROGRAM, what="the supervisor", needed_by="agentmem run")


def become(arguments: Sequence[str]) -> NoReturn:
    """Turn this process into the supervisor. Nothing of Python stays.

    Descriptors are those that this process was started with: Python marks its own to be closed,
    and leaves the others as they are.

    Raises:
        Unsupported: This installation lacks the supervisor, or the kernel cannot start it.
    """
    executable = program()
    sys.stdout.flush()
    sys.stderr.flush()
    _restore_signals()
    try:
        os.execve(executable, [executable.name, *arguments], _environment())
    except OSError as error:
        raise Unsupported(
            f"the supervisor does not start ({executable}: {error.strerror}): agentmem was built"
            " for another kind of machine; install it again"
        ) from error


def _restore_signals() -> None:
    """Put back what Python changed at its start.

    A handler becomes the default by exec; what is ignored stays so, and Python does not tell
    whether a signal that it ignores was ignored before. By default it is not.
    """
    for number in _IGNORED_BY_PYTHON:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Now, so that an interrupt between here and there ends the process without a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _environment() -> Mapping[bytes, bytes]:
    """The environment without LC_CTYPE, where Python and not the caller set that (PEP 538)."""
    environment = dict(os.environb)
    try:
        given = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:
        return environment
    if not any(entry.startswith(b"LC_CTYPE=") for entry in given):
        environment.pop(b"LC_CTYPE", None)
    return environment
