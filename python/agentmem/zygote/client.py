"""Starting a zygote, and asking it for children."""

import fcntl
import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from agentmem import _store, control, registry
from agentmem.errors import (
    Closed,
    ForkedChild,
    InvalidArgument,
    Io,
    Unreachable,
    Unsupported,
)
from agentmem.zygote import wire
from agentmem.zygote.child import Child
from agentmem.zygote.place import Place, Target

IDLE_AFTER_S = 600.0
"""How long a zygote without children and callers stays."""
READY_TIMEOUT_S = 300.0
"""How long importing may take."""

_ANSWER_TIMEOUT_S = 60.0
_STARTS_MAX = 3
_LOG_BYTES_SHOWN = 2000

Stream = int | IO[Any] | None
"""A descriptor, what has one, `subprocess.DEVNULL`, or None for this process's own."""


class Zygote:
    """A session with the zygote of a module, which is started where there is none.

    There is one zygote for each user, interpreter and module, shared by all who ask. It ends when
    nobody has a session with it and no child of it runs for a while. What it imported it keeps:
    after a change of the code, `stop` it.

    Children have the caller's environment, working folder, umask, stdin, stdout and stderr. Limits,
    cgroup and namespaces are the zygote's, which are those of who started it, and they have no
    controlling terminal. What Python itself reads from the environment at its start (`PYTHON...`,
    the locale) is as it was for the zygote.

    Usable from several threads; not after a fork. Use it in a `with` statement, or close it.
    """

    def __init__(
        self,
        module: str,
        *,
        idle_after_s: float = IDLE_AFTER_S,
        huge_pages: bool = True,
        start: bool = True,
    ) -> None:
        """Open a session.

        Args:
            module: `MODULE[:FUNCTION]`; the function is `main` unless named.
            idle_after_s: Seconds without children and sessions after which a zygote that this
                starts ends.
            huge_pages: Whether a zygote that this starts moves its heap onto huge pages, so that
                forks take less time.
            start: Whether to start one where none runs.

        Raises:
            InvalidArgument: `module` names nothing that could be imported.
            NotFound: There is no such module.
            Unsupported: Importing it starts threads, or opens a store.
            Unreachable: None runs, and `start` is false.
            Io: It could not be started; the text says what it said.
        """
        target = Target.parse(module)
        self._function = target.function
        self._place = Place.of(target.module)
        self._whom = f"the zygote of {target.module}"
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._told: bytes | None = None
        for _ in range(_STARTS_MAX):
            self._connection = _dial(self._place)
            if self._connection is not None:
                return
            if not start:
                break
            with locked(self._place):
                if not is_there(self._place):
                    _launch(self._place, target.module, idle_after_s, huge_pages)
        raise Unreachable(f"{self._whom} does not run")

    def spawn(
        self,
        *arguments: str,
        name: str | None = None,
        importance: int | None = None,
        register: bool = True,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        umask: int | None = None,
    ) -> Child:
        """Fork a child that registers its agent with the daemon and calls the function.

        It ends as a script would: with what the function returns (None is 0), with 1 and a
        traceback when it raises, and with 125 when its agent could not be registered.

        Args:
            arguments: What the child has in `sys.argv[1:]`.
            name: Of its agent, which then outlives the process and can be taken up again. None:
                the module's with the pid, and what the agent holds is given back at the end.
            importance: Of its agent, 0 to 100; None for the default.
            register: Whether it has an agent at all.
            stdin: What it reads; this process's own by default. `subprocess.DEVNULL` for nothing.
            stdout: What it writes to.
            stderr: What it writes to.
            cwd: Its working folder; None for this process's own.
            env: Its whole environment; None for this process's own.
            umask: None for this process's own.

        Raises:
            LimitReached: The zygote has as many children as it may have, or the system has.
            InvalidArgument: An argument cannot be passed on, or all of them are too long.
            Unreachable: The zygote ended.
            Io: `cwd` cannot be opened.
        """
        request = {
            "op": "spawn",
            "function": self._function,
            "name": name,
            "importance": importance,
            "register": register,
            "arguments": list(arguments),
            "umask": _umask() if umask is None else umask,
        }
        environment = _store.environment_block() if env is None else _environment(env)
        opened: list[int] = []
        try:
            descriptors = [
                _descriptor(opened, given, own) for own, given in enumerate((stdin, stdout, stderr))
            ]
            descriptors.append(_folder(opened, cwd))
            answer, received = self._ask(request, descriptors, environment)
        finally:
            for descriptor in opened:
                os.close(descriptor)
        return Child(answer["pid"], answer["name"], received[0], lambda asked: self._ask(asked)[0])

    def status(self) -> dict[str, Any]:
        """Figures of the zygote: `pid`, `module`, `children` (those that ended and were not waited
        for included), `spawned`, `connections`, `started_ms` (Unix time)."""
        answer, _ = self._ask({"op": "status"})
        return {key: value for key, value in answer.items() if key != "ok"}

    def stop(self) -> None:
        """End the zygote. Its children go on, and nobody will know how they end."""
        self._ask({"op": "stop"})

    def close(self) -> None:
        """End this session. Children go on."""
        if self._connection is not None and os.getpid() == self._pid:
            self._connection.close()
        self._connection = None

    def _ask(
        self,
        request: dict[str, Any],
        descriptors: list[int] | None = None,
        environment: bytes | None = None,
    ) -> tuple[dict[str, Any], list[int]]:
        if os.getpid() != self._pid:
            raise ForkedChild("this is a session of the parent's with a zygote; open one here")
        with self._lock:
            if self._connection is None:
                raise Closed(f"this session with {self._whom} is closed")
            if environment is not None:
                # What the zygote heard last on this connection is not said again. A refusal leaves
                # open which that was.
                told, self._told = self._told, None
                request["environment"] = None if environment == told else os.fsdecode(environment)
            answer = wire.ask(self._connection, self._whom, request, descriptors or [])
            if environment is not None:
                self._told = environment
            return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


@contextmanager
def locked(place: Place) -> Iterator[None]:
    """Nobody else starts or ends the zygote of `place` while the `with` block runs."""
    with place.lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def is_there(place: Place) -> bool:
    """Whether the zygote of `place` runs and answers."""
    connection = _dial(place)
    if connection is None:
        return False
    connection.close()
    return True


def _dial(place: Place) -> socket.socket | None:
    """A connection with a zygote that answered; None when there is none."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(_ANSWER_TIMEOUT_S)
    try:
        with registry.address(place.socket) as address:
            connection.connect(address)
        # One that is about to end may have been connected to, and hangs up.
        wire.ask(connection, "the zygote", {"op": "status"})
    except (FileNotFoundError, ConnectionRefusedError, Unreachable):
        connection.close()
        return None
    except BaseException:
        connection.close()
        raise
    return connection


def _launch(place: Place, module: str, idle_after_s: float, huge_pages: bool) -> None:
    """Start a zygote in the background; returns when it listens."""
    # What this process would import, and from where.
    search = os.pathsep.join(os.path.abspath(path) for path in sys.path)
    reading, writing = os.pipe()
    with open(reading, "rb") as ready, place.log.open("wb") as log:
        options = [f"--ready={writing}", f"--idle-after={idle_after_s}"]
        if not huge_pages:
            options.append("--no-huge-pages")
        try:
            subprocess.run(
                [sys.executable, "-P", "-m", "agentmem.zygote", *options, module],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=os.environ | {"PYTHONPATH": search},
                pass_fds=[writing],
                timeout=_ANSWER_TIMEOUT_S,
                check=False,
            )
        finally:
            os.close(writing)
        _await_ready(ready, place, module)


def _await_ready(ready: IO[bytes], place: Place, module: str) -> None:
    readable, _, _ = select.select([ready], [], [], READY_TIMEOUT_S)
    if not readable:
        raise Io(f"the zygote of {module} has not imported it within {READY_TIMEOUT_S:g} s")
    line = ready.read()
    if not line:
        said = place.log.read_text(errors="replace")[-_LOG_BYTES_SHOWN:].strip()
        raise Io(f"the zygote of {module} did not start: {said}")
    answer = json.loads(line)
    if answer.get("ok") is not True:
        raise control.said(f"the zygote of {module}", answer)


def _descriptor(opened: list[int], given: Stream, own: int) -> int:
    """What a child has for its descriptor `own`."""
    if given is None:
        try:
            os.fstat(own)
        except OSError:  # This process has none; a child must have something there.
            given = subprocess.DEVNULL
        else:
            return own
    if isinstance(given, int) and given >= 0:
        return given
    if given == subprocess.DEVNULL:
        descriptor = os.open(os.devnull, os.O_RDWR)
        opened.append(descriptor)
        return descriptor
    if isinstance(given, int):
        raise InvalidArgument(f"{given} is no descriptor: give one, a file, or subprocess.DEVNULL")
    given.flush()
    return given.fileno()


def _environment(env: Mapping[str, str]) -> bytes:
    for name, value in env.items():
        if not name or "=" in name or "\0" in name + value:
            raise InvalidArgument(f"{name!r} cannot be a variable of the environment, as it is")
    try:
        return os.fsencode("\0".join(f"{name}={value}" for name, value in env.items()))
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"a variable of the environment is no text: {error}") from error


def _folder(opened: list[int], path: str | os.PathLike[str] | None) -> int:
    try:
        descriptor = os.open(path or ".", os.O_PATH | os.O_DIRECTORY)
    except OSError as error:
        raise Io(f"a child cannot work in {path or '.'}: {error.strerror}") from error
    opened.append(descriptor)
    return descriptor


def _umask() -> int:
    """This process's umask. The call that tells it changes it for a moment, so that is for where
    no other thread can make a file meanwhile; the file that tells it costs more than a fork."""
    if threading.active_count() == 1:
        umask = os.umask(0o077)
        os.umask(umask)
        return umask
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    raise Unsupported("this kernel does not tell a process's umask; give one")
