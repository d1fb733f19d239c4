"""Where supervisors are found: the registry, a folder that belongs to one user and nobody else.

Each supervisor has a socket `NAME.sock` and a note `NAME.json` in it; the rules are in
ARCHITECTURE.md. Little is imported here: hooks of agents run through this at every turn.
"""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from agentmem.errors import Io, PermissionDenied

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""What an agent can be called."""

AGENTS_MAX = 1024
"""How many agents one user can have."""

NOTE_BYTES_MAX = 1024 * 1024
_VARIABLE = "AGENTMEM_RUNTIME_DIR"


class Note(NamedTuple):
    """What a supervisor left beside its socket; what a note lacks is 0 or empty."""

    name: str
    pid: int
    start_ticks: int
    root_pid: int
    command: str
    started_ms: int

    @property
    def is_alive(self) -> bool:
        """Whether the supervisor lives: the process with its number is the one that it was."""
        return self.pid > 0 and start_ticks(self.pid) == self.start_ticks


def base() -> Path:
    """The folder of everything that lives as long as this user's agents do.

    The rule is the same in Rust, and `spec/runtime_folder.json` holds both to it.
    """
    if given := os.environ.get(_VARIABLE):
        return Path(given)
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "agentmem"
    run = Path(f"/run/user/{os.geteuid()}")
    return run / "agentmem" if _is_ours(run) else Path(f"/tmp/agentmem-{os.geteuid()}")


def socket() -> Path:
    """The socket of the daemon."""
    given = os.environ.get("AGENTMEM_SOCKET")
    return Path(given) if given else base() / "agentmem.sock"


def _is_ours(path: Path) -> bool:
    """Whether this is a folder of this user's."""
    try:
        found = path.stat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def folder() -> Path | None:
    """The folder of the agents; None when there is none yet.

    Raises:
        PermissionDenied: Somebody else could have put something there.
    """
    path = base()
    for each in (path, path / "agents"):
        try:
            found = each.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        _check(each, found)
    return path / "agents"


def made(name: str) -> Path:
    """The folder `name` beside that of the agents, made where there is none.

    Raises:
        PermissionDenied: Somebody else could have put something there.
        Io: It cannot be made.
    """
    path = base()
    for each in (path, path / name):
        try:
            # What is above the base belongs to the system, or to whoever named it.
            each.mkdir(mode=0o700, parents=each == path, exist_ok=True)
            found = each.lstat()
        except OSError as error:
            raise Io(f"{each} cannot be made: {error.strerror}; set {_VARIABLE}") from error
        _check(each, found)
    return path / name


@contextmanager
def address(path: Path) -> Iterator[str]:
    """Where to bind or connect a socket at `path`, while the `with` block runs.

    By way of the folder's descriptor: the path of a socket may have 107 bytes, no more.
    """
    descriptor = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)


def _check(path: Path, found: os.stat_result) -> None:
    """Refuse a folder that is not 0700 and ours."""
    if not stat.S_ISDIR(found.st_mode):
        wrong = "is no folder"
    elif found.st_uid != os.geteuid():
        wrong = f"belongs to user {found.st_uid} and not to {os.geteuid()}"
    elif stat.S_IMODE(found.st_mode) & 0o077:
        wrong = f"is open to others (mode {stat.S_IMODE(found.st_mode):04o})"
    else:
        return
    raise PermissionDenied(
        f"{path} {wrong}, so what is in it is not trusted:"
        f" chmod 700 it if it is yours, or set {_VARIABLE} to another folder"
    )


def names(agents: Path) -> list[str]:
    """The names of all that are in the folder, dead ones too; 2 comes before 11."""
    import re

    stems = {
        entry.name.rpartition(".")[0]
        for entry in os.scandir(agents)
        if entry.name.endswith((".sock", ".json"))
    }
    found = (name for name in stems if re.fullmatch(NAME, name, re.ASCII))
    return sorted(found, key=in_order)[:AGENTS_MAX]


def in_order(name: str) -> list[tuple[str, int]]:
    """What names are sorted by: numbers in them count as numbers."""
    import re

    return [(text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", name)]


def note(agents: Path, name: str) -> Note | None:
    """The note of an agent; None when there is none that can be read."""
    try:
        descriptor = os.open(agents / f"{name}.json", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            found = json.loads(file.read(NOTE_BYTES_MAX))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    return Note(
        name=name,
        pid=_number(found.get("pid")),
        start_ticks=_number(found.get("start_ticks")),
        root_pid=_number(found.get("root_pid")),
        command=command_text(found.get("command")),
        started_ms=_number(found.get("started_ms")),
    )


def command_text(command: Any) -> str:
    """A command as one line, whether it came as text or as a list of arguments."""
    if isinstance(command, list):
        import shlex

        command = shlex.join(str(argument) for argument in command)
    return printable(str(command)) if command is not None else ""


def printable(text: str) -> str:
    """`text` without what a terminal would obey: agents choose the names of their processes."""
    return "".join(each if each.isprintable() else "?" for each in text)


def start_ticks(pid: int) -> int | None:
    """When a process began, in the kernel's ticks; None when there is none, or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def _number(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
