"""Starting a zygote, and asking it for children."""

import errno
import fcntl
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

from agentmem import _store, registry
from agentmem.errors import (
    Closed,
    ForkedChild,
    InvalidArgument,
    Io,
    LimitReached,
    Unreachable,
    Unsupported,
)
from agentmem.zygote import wire
from agentmem.zygote.birth import Birth
from agentmem.zygote.child import Child
from agentmem.zygote.environment import Environment, text_of
from agentmem.zygote.place import Place, Target

IDLE_AFTER_S = 600.0
"""How long a zygote without children and callers stays."""
READY_TIMEOUT_S = 300.0
"""How long importing may take."""

_ANSWER_TIMEOUT_S = 60.0
_STUCK_AFTER_S = 10.0
"""How long a spare may take to tell that it was asked, before it is replaced."""
_PATIENCE = 6
_KNOCKS_MAX = 600
_ASKED_MAX = 2
_STARTS_MAX = 3
_LOG_BYTES_SHOWN = 2000

Stream = int | IO[Any] | None
"""A descriptor, what has one, `subprocess.DEVNULL`, or None for this process's own."""


class _Session(NamedTuple):
    """A connection with a zygote, and a way to its spare children."""

    connection: socket.socket
    number: int
    """What the zygote knows it by."""
    births: socket.socket
    """Shared by all sessions; whatever is sent on it the next spare hears."""

    def close(self) -> None:
        self.connection.close()
        self.births.close()


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
        self._module = target.module
        self._function = target.function
        self._place = Place.of(target.module)
        self._whom = f"the zygote of {target.module}"
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._session: _Session | None = None
        self._environment: Environment | None = None
        self._serials = count(1)
        for _ in range(_STARTS_MAX):
            self._session = _dial(self._place)
            if self._session is not None:
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
            LimitReached: The zygote has as many children as it may have, or the system has, or too
                many others wait for theirs.
            InvalidArgument: An argument cannot be passed on, or all of them are too long.
            Unreachable: The zygote ended.
            Io: `cwd` cannot be opened.
        """
        session = self._open()
        environment = _store.environment_block() if env is None else text_of(env)
        opened: list[int] = []
        try:
            descriptors = [
                _descriptor(opened, given, own) for own, given in enumerate((stdin, stdout, stderr))
            ]
            descriptors.append(_folder(opened, cwd))
            digest, file = self._in_file(environment)
            opened.append(file)
            birth = Birth(
                module=self._module,
                function=self._function,
                name=name,
                importance=importance,
                register=register,
                umask=_umask() if umask is None else umask,
                caller=session.number,
                serial=next(self._serials),
                environment=digest,
                arguments=list(arguments),
            )
            said, received = self._bear(session, birth, [*descriptors, file])
        finally:
            wire.close(opened)
        pid, named = said
        return Child(int(pid), named, received[0], self._ask)

    def status(self) -> dict[str, Any]:
        """Figures of the zygote: `pid`, `module`, `children` (those that ended and were not waited
        for included), `spawned`, `connections`, `started_ms` (Unix time)."""
        found: dict[str, Any] = json.loads(self._ask("status")[0])
        return found

    def stop(self) -> None:
        """End the zygote. Its children go on, and nobody will know how they end."""
        self._ask("stop")

    def close(self) -> None:
        """End this session. Children go on."""
        if self._session is not None and os.getpid() == self._pid:
            self._session.close()
        if self._environment is not None:
            self._environment.close()
        self._session = self._environment = None

    def _ask(self, *texts: str) -> list[str]:
        session = self._open()
        with self._lock:
            return wire.ask(session.connection, self._whom, *texts)[0]

    def _open(self) -> _Session:
        if os.getpid() != self._pid:
            raise ForkedChild("this is a session of the parent's with a zygote; open one here")
        if self._session is None:
            raise Closed(f"this session with {self._whom} is closed")
        return self._session

    def _in_file(self, environment: bytes) -> tuple[str, int]:
        """Which environment that is, and a descriptor of a file that holds it, made once for those
        that follow each other."""
        with self._lock:
            known = self._environment
            if known is None or known.text != environment:
                self._environment = Environment.of(environment)
                if known is not None:
                    known.close()
                known = self._environment
            return known.digest, os.dup(known.file)

    def _bear(
        self, session: _Session, birth: Birth, descriptors: list[int]
    ) -> tuple[list[str], list[int]]:
        """Ask the spare, or another one, if somebody killed that."""
        asked = birth.request()
        for _ in range(_ASKED_MAX):
            here, there = wire.pair()
            with here:
                with there:
                    self._send(session, asked, [*descriptors, there.fileno()])
                try:
                    return self._answer(here)
                except (EOFError, ConnectionError):
                    # Who was asked died before it could say so, and did nothing else.
                    self._ask("abandon", str(birth.serial))
        raise Unreachable(f"children of {self._whom} end before they tell that they were asked")

    def _send(self, session: _Session, asked: bytes, descriptors: list[int]) -> None:
        """Over a socket that other processes send on as well, so that its mode is theirs too."""
        for _ in range(_PATIENCE):
            try:
                return wire.send(session.births, asked, descriptors, socket.MSG_DONTWAIT)
            except BlockingIOError:
                poll = select.poll()
                poll.register(session.births, select.POLLOUT)
                if not poll.poll(_STUCK_AFTER_S * 1000):
                    self._replace()
            except OSError as error:
                if error.errno != errno.ETOOMANYREFS:
                    raise wire.gone(self._whom, error) from error
        raise LimitReached(f"{self._whom} has too many others wait; wait for some of them")

    def _answer(self, here: socket.socket) -> tuple[list[str], list[int]]:
        """What is said there; a spare that is stopped is replaced."""
        here.settimeout(_STUCK_AFTER_S)
        for _ in range(_PATIENCE):
            try:
                return wire.answer(here, self._whom)
            except TimeoutError:
                self._replace()
        raise Unreachable(f"no child of {self._whom} tells that it was asked")

    def _replace(self) -> None:
        self._ask("replace", str(_STUCK_AFTER_S))

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
    session = _dial(place)
    if session is None:
        return False
    session.close()
    return True


def _dial(place: Place) -> _Session | None:
    """A session with a zygote that answered; None when there is none."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(_ANSWER_TIMEOUT_S)
    try:
        with registry.address(place.socket) as address:
            _connect(connection, address)
        wire.send(connection, wire.encoded("enter"))
        # One that is about to end may have been connected to, and hangs up.
        said, received = wire.answer(connection, "the zygote")
    except (FileNotFoundError, ConnectionError, EOFError):
        connection.close()
        return None
    except BaseException as error:
        connection.close()
        if isinstance(error, TimeoutError | BlockingIOError):
            raise Unreachable(f"the zygote of {place.name} does not answer; end it") from error
        raise
    return _Session(connection, int(said[0]), socket.socket(fileno=received[0]))


def _connect(connection: socket.socket, address: str) -> None:
    """Once there is room in the queue of those who knock."""
    for tries_left in reversed(range(_KNOCKS_MAX)):
        try:
            return connection.connect(address)
        except BlockingIOError:
            if not tries_left:
                raise
        time.sleep(_ANSWER_TIMEOUT_S / _KNOCKS_MAX)


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
    answer = ready.read()
    if not answer:
        said = place.log.read_text(errors="replace")[-_LOG_BYTES_SHOWN:].strip()
        raise Io(f"the zygote of {module} did not start: {said}")
    wire.checked(f"the zygote of {module}", wire.decoded(answer))


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
