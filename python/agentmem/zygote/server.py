"""The zygote itself: one thread that imports, then waits and forks."""

import errno
import gc
import os
import selectors
import signal
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from agentmem import _store
from agentmem.errors import (
    AgentMemError,
    InvalidArgument,
    LimitReached,
    NotFound,
    PermissionDenied,
    Unreachable,
    Unsupported,
)
from agentmem.zygote import pages, wire
from agentmem.zygote.birth import Birth, own_name, rehearse, surround, told

CHILDREN_MAX = 4096
"""Children of one zygote, those that have ended and were not waited for included."""
CONNECTIONS_MAX = 512
"""Processes that may have spoken to it and not hung up."""

_UCRED = struct.Struct("3i")
_BIRTH_DESCRIPTORS = 4
# The child before has the processors meanwhile.
_SPARE_AFTER_S = 0.01
_TOLD_TIMEOUT_S = 10.0
_BLOCKED = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


@dataclass(eq=False)
class _Caller:
    """A process that asks, and its children."""

    connection: socket.socket
    environment: str | None = None
    """What it told last, as it may leave out what has not changed."""
    line: wire.Line = field(default_factory=wire.Line)
    children: set[int] = field(default_factory=set)


@dataclass(eq=False)
class _Spare:
    """A child that waits to be told what it is to be."""

    pid: int
    connection: socket.socket
    environment: str | None


class _Born(BaseException):
    """Unwinds the child out of what its parent was doing."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__()
        self.connection = connection


_Operation = Callable[[_Caller, dict[str, Any], wire.Line, list[int]], dict[str, Any]]
"""Of a caller, what it asks, the line that this came in, and descriptors to send and close."""


def load(module: str, *, huge_pages: bool) -> None:
    """Import `module` so that forks of this process share what that made.

    Raises:
        NotFound: It cannot be found.
        Unsupported: It did what a fork would break.
    """
    gc.disable()  # What it frees would leave holes that children fill, a page each.
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        raise NotFound(f"importing {module}: {error}") from error
    check_forkable(module)
    gc.collect()
    gc.freeze()
    if huge_pages:
        pages.collapse()
        check_forkable(module)


def check_forkable(module: str) -> None:
    """Fail where a fork would lose, or share, what must not be.

    Raises:
        Unsupported: There are other threads, or open stores; it names them.
    """
    threads = [
        f"{(task / 'comm').read_text().strip()} ({task.name})"
        for task in Path("/proc/self/task").iterdir()
        if int(task.name) != os.getpid()
    ]
    if threads:
        raise Unsupported(
            f"{module} started threads when it was imported, and a fork copies none of them:"
            f" {', '.join(threads)}. Start them in the function that runs in the child; for"
            " numeric libraries set OPENBLAS_NUM_THREADS=1 or OMP_NUM_THREADS=1 when the zygote"
            " is started"
        )
    if stores := _store.open_stores():
        raise Unsupported(
            f"{module} left {len(stores)} store open when it was imported, and a fork cannot take"
            " it along: open it, or connect, in the function that runs in the child"
        )


class Server:
    """Forks children for whoever of this user asks.

    One is always forked beforehand, so that who asks for one after the other waits for no fork.
    """

    def __init__(self, module: str, listener: socket.socket, *, idle_after_s: float) -> None:
        """One that listens already, and ends when nobody needed it for so long."""
        self._module = module
        self._listener = listener
        self._idle_after_s = idle_after_s
        self._selector = selectors.DefaultSelector()
        self._callers: set[_Caller] = set()
        self._orphans: set[int] = set()
        self._spare: _Spare | None = None
        self._makes_spare = True
        self._spawned = 0
        self._is_over = False
        self._started_s = time.time()
        self._wakeup, self._rung = socket.socketpair()
        self._operations: dict[str, _Operation] = {
            "spawn": self._spawn,
            "reap": self._reap,
            "forget": self._forget,
            "status": self._status,
            "stop": self._stop,
        }

    def serve(self) -> socket.socket | None:
        """Serve until it is over, which returns None. Each child returns from here too, with the
        connection on which it is told what it is to be."""
        self._begin()
        needed_s = time.monotonic()
        try:
            while not self._is_over:
                wants_spare = self._spare is None and self._makes_spare
                pause_s = _SPARE_AFTER_S if wants_spare else self._idle_after_s
                events = self._selector.select(pause_s)
                if wants_spare and not events:
                    self._spare = self._fork()
                    rehearse(self._module)
                for key, _ in events:
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.fileobj is self._rung:
                        self._rung.recv(4096)
                        self._bury()
                    else:
                        self._hear(key.data)
                if self._callers or self._orphans:
                    needed_s = time.monotonic()
                elif time.monotonic() >= needed_s + self._idle_after_s:
                    break
        except _Born as born:
            return born.connection
        # Whoever knocks now hangs on nothing, and starts the next one.
        self._close()
        return None

    def _begin(self) -> None:
        for each in (self._listener, self._wakeup, self._rung):
            each.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._rung, selectors.EVENT_READ)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._told_to_end)

    def _told_to_end(self, *_: object) -> None:
        self._is_over = True

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # Whoever it was hung up, or descriptors ran out.
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        _, uid, _ = _UCRED.unpack(peer)
        refusal: AgentMemError | None = None
        if uid != os.geteuid():
            refusal = PermissionDenied(f"user {uid} has no business with this zygote")
        elif len(self._callers) >= CONNECTIONS_MAX:
            refusal = LimitReached(f"{CONNECTIONS_MAX} connections; close some, or wait")
        # A caller that does not read is not waited for.
        connection.setblocking(False)
        if refusal is not None:
            with connection:
                _answer(connection, failure(refusal))
            return
        caller = _Caller(connection)
        self._callers.add(caller)
        self._selector.register(connection, selectors.EVENT_READ, caller)

    def _hear(self, caller: _Caller) -> None:
        """Take in what a caller says, and answer it."""
        try:
            request = caller.line.receive(caller.connection)
        except BlockingIOError:
            return
        except (EOFError, OSError, ValueError):
            self._leave(caller)
            return
        if request is None:
            return
        line, caller.line = caller.line, wire.Line()
        lent: list[int] = []
        with line:
            try:
                operation = self._operations.get(str(request.get("op")))
                if operation is None:
                    raise InvalidArgument(f"a zygote knows no {request.get('op')!r}")
                answer = {"ok": True, **operation(caller, request, line, lent)}
            except AgentMemError as error:
                answer = failure(error)
        if not _answer(caller.connection, answer, lent):
            self._leave(caller)
        for descriptor in lent:
            os.close(descriptor)

    def _bury(self) -> None:
        """Reap whoever ended and is asked for by nobody."""
        self._orphans = {pid for pid in self._orphans if not _has_ended(pid)}
        if self._spare is not None and _has_ended(self._spare.pid):
            self._lose_spare()

    def _lose_spare(self) -> None:
        """The spare died. Whatever the reason is, the next would die as well, again and again."""
        if self._spare is not None:
            self._spare.connection.close()
        self._spare = None
        self._makes_spare = False

    def _leave(self, caller: _Caller) -> None:
        """A caller is gone. Its children go on, and are reaped when they end."""
        self._selector.unregister(caller.connection)
        caller.connection.close()
        caller.line.close()
        self._callers.discard(caller)
        self._orphans |= {pid for pid in caller.children if not _has_ended(pid)}

    def _spawn(
        self, caller: _Caller, request: dict[str, Any], line: wire.Line, lent: list[int]
    ) -> dict[str, Any]:
        birth = Birth.parse(self._module, request)
        if len(line.descriptors) != _BIRTH_DESCRIPTORS:
            raise InvalidArgument("a child needs stdin, stdout, stderr and a working folder")
        if self._child_count() >= CHILDREN_MAX:
            raise LimitReached(
                f"{CHILDREN_MAX} children of one zygote; wait for some, or close them"
            )
        environment = birth.environment
        if environment is None:
            environment = caller.environment
        if environment is None:
            raise InvalidArgument("a child needs an environment; tell it once")
        # Whoever comes next is likely to have the same one, and the next spare has it already.
        surround(environment)
        pid = self._bear(request | {"environment": environment}, line.descriptors)
        caller.environment = environment
        caller.children.add(pid)
        lent.append(os.pidfd_open(pid))
        self._spawned += 1
        return {"pid": pid, "name": birth.name or own_name(self._module, pid)}

    def _bear(self, request: dict[str, Any], descriptors: list[int]) -> int:
        """Tell the spare what it is to be, or another one, if somebody killed that."""
        for _ in range(2):
            spare = self._spare or self._fork()
            self._spare, self._makes_spare = None, True
            if spare.environment == request["environment"]:
                request = request | {"environment": None}
            with spare.connection:
                try:
                    wire.send(spare.connection, wire.encoded(request), descriptors)
                except OSError:
                    os.kill(spare.pid, signal.SIGKILL)  # It may be stopped, and never be told.
                    self._orphans.add(spare.pid)
                    continue
                return spare.pid
        raise Unreachable("children end before they are told what to be")

    def _fork(self) -> _Spare:
        check_forkable(self._module)
        ours, theirs = socket.socketpair()
        # A signal that comes between here and the child's own handlers is the child's, and waits.
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
        try:
            pid = os.fork()
            if pid == 0:
                ours.close()
                self._drop()
                raise _Born(theirs)
        except OSError as error:
            ours.close()
            raise LimitReached(f"the system refused to fork: {error.strerror}") from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        theirs.close()
        _lead_group(pid)
        ours.settimeout(_TOLD_TIMEOUT_S)
        return _Spare(pid, ours, told())

    def _drop(self) -> None:
        """In the child: nothing of the zygote's own is left."""
        _lead_group(0)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._close()

    def _close(self) -> None:
        signal.set_wakeup_fd(-1)
        self._selector.close()
        for each in (self._listener, self._wakeup, self._rung):
            each.close()
        for caller in self._callers:
            caller.connection.close()
            caller.line.close()
        if self._spare is not None:
            self._spare.connection.close()

    def _child_count(self) -> int:
        return sum(len(each.children) for each in self._callers) + len(self._orphans)

    def _reap(
        self, caller: _Caller, request: dict[str, Any], line: wire.Line, lent: list[int]
    ) -> dict[str, Any]:
        """How a child ended, which is asked once its pidfd says that it did."""
        pid = _child_of(caller, request)
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended == 0:
            raise InvalidArgument(f"process {pid} has not ended; poll its pidfd first")
        caller.children.discard(pid)
        return {"code": os.waitstatus_to_exitcode(status)}

    def _forget(
        self, caller: _Caller, request: dict[str, Any], line: wire.Line, lent: list[int]
    ) -> dict[str, Any]:
        pid = _child_of(caller, request)
        caller.children.discard(pid)
        if not _has_ended(pid):
            self._orphans.add(pid)
        return {}

    def _status(
        self, caller: _Caller, request: dict[str, Any], line: wire.Line, lent: list[int]
    ) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "module": self._module,
            "children": self._child_count(),
            "spawned": self._spawned,
            "connections": len(self._callers),
            "started_ms": round(self._started_s * 1000),
        }

    def _stop(
        self, caller: _Caller, request: dict[str, Any], line: wire.Line, lent: list[int]
    ) -> dict[str, Any]:
        self._is_over = True
        return {}


def _child_of(caller: _Caller, request: dict[str, Any]) -> int:
    pid = request.get("pid")
    if not isinstance(pid, int) or pid not in caller.children:
        raise NotFound(f"process {pid!r} is no child that this caller asked for, or was let go")
    return pid


def _lead_group(pid: int) -> None:
    """Both sides do it, so that it is done whoever comes first."""
    try:
        os.setpgid(pid, pid)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.ESRCH, errno.EPERM):
            raise


def _has_ended(pid: int) -> bool:
    """Whether a child has ended; it is reaped then."""
    return os.waitpid(pid, os.WNOHANG)[0] != 0


def failure(error: AgentMemError) -> dict[str, Any]:
    """The answer that has an error raised where it was asked."""
    return {"ok": False, "error": type(error).__name__, "text": str(error)}


def _answer(
    connection: socket.socket, answer: dict[str, Any], descriptors: list[int] | None = None
) -> bool:
    """Whether it could be said."""
    try:
        wire.send(connection, wire.encoded(answer), descriptors or [])
    except OSError:
        return False
    return True
