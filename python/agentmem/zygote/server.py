"""The zygote itself: one thread that imports, then waits and forks."""

import errno
import gc
import json
import os
import resource
import select
import selectors
import signal
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from itertools import count
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
from agentmem.zygote import environment, pages, wire
from agentmem.zygote.birth import DESCRIPTORS

CHILDREN_MAX = 4096
"""Children of one zygote, those that have ended and were not waited for included."""
CONNECTIONS_MAX = 512
"""Processes that may have spoken to it and not hung up."""

_UCRED = struct.Struct("3i")
# A child that was just asked has the processors meanwhile: whoever it wakes is often put onto its
# own, and when its daemon answers it has to wait for them.
_CHILD_FIRST_S = 0.002
_SPARE_AFTER_S = 0.01
_FULL_PAUSE_S = 0.01
_LOST_MAX = 2
"""Spares that end one after the other, before they were asked for anything."""
_BLOCKED = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


@dataclass(eq=False)
class _Caller:
    """A process that asks, and its children with the requests that they were born of."""

    number: int
    connection: socket.socket
    refusal: AgentMemError | None
    """What it is told to whatever it asks, before it is hung up on."""
    children: dict[int, int] = field(default_factory=dict)


@dataclass(eq=False)
class _Spare:
    """A child that waits to be asked what it is to be."""

    pid: int
    connection: socket.socket
    """On which it tells that it was."""
    made_s: float
    is_replaced: bool = False


class _Born(BaseException):
    """Unwinds the child out of what its parent was doing."""

    def __init__(self, zygote: socket.socket) -> None:
        super().__init__()
        self.zygote = zygote


_Operation = Callable[[_Caller, list[str], list[int]], list[str]]
"""Of a caller, what it asks, and descriptors to send and close."""


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

    One is always forked beforehand, and is asked by the callers themselves, over a socket that all
    of them have: so who asks for one after the other waits for no fork, and not for this process.
    The child tells it first whose it is, and then answers.
    """

    def __init__(self, module: str, listener: socket.socket, *, idle_after_s: float) -> None:
        """One that listens already, and ends when nobody needed it for so long."""
        self._module = module
        self._listener = listener
        self._idle_after_s = idle_after_s
        self._selector = selectors.EpollSelector()
        self._callers: dict[int, _Caller] = {}
        self._numbers = count(1)
        self._orphans: set[int] = set()
        self._asking, self._births = wire.pair()
        self._spare: _Spare | None = None
        self._files = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._lost = 0
        self._spawned = 0
        self._is_over = False
        self._started_s = time.time()
        self._wakeup, self._rung = socket.socketpair()
        self._operations: dict[str, _Operation] = {
            "enter": self._enter,
            "reap": self._reap,
            "forget": self._forget,
            "abandon": self._abandon,
            "replace": self._replace,
            "status": self._status,
            "stop": self._stop,
        }

    def serve(self) -> tuple[socket.socket, socket.socket] | None:
        """Serve until it is over, which returns None. Each child returns from here too, with the
        socket over which it is asked what it is to be, and that to this process."""
        self._begin()
        needed_s = time.monotonic()
        try:
            while not self._is_over:
                self._turn()
                if self._callers or self._orphans:
                    needed_s = time.monotonic()
                elif time.monotonic() >= needed_s + self._idle_after_s:
                    break
        except _Born as born:
            return self._births, born.zygote
        # Whoever knocks now hangs on nothing, and starts the next one.
        self._close()
        self._births.close()
        return None

    def _turn(self) -> None:
        """Wait for something, and heed it."""
        spare, makes_spare = self._spare, self._makes_spare()
        # A request is for the spare to hear; it would wake this process for nothing.
        beside = spare.connection if spare else self._births
        pause_s = _SPARE_AFTER_S if makes_spare else self._idle_after_s
        ready = _ready([self._selector, beside], pause_s)
        if spare and beside in ready:
            if ready == [beside]:
                time.sleep(_CHILD_FIRST_S)
            self._hear_spare()
        for key, _ in self._selector.select(0):
            key.data()
        if self._births in ready:
            self._bear()
        elif makes_spare and not ready:
            try:
                self._make_spare()
            except AgentMemError:
                self._lost += 1  # Who asks is told why.

    def _makes_spare(self) -> bool:
        """Whether one is to be made before anybody asks for it."""
        return self._spare is None and not self._lost and not self._is_full()

    def _begin(self) -> None:
        for each in (self._listener, self._wakeup, self._rung):
            each.setblocking(False)
        self._listen(self._listener, self._accept)
        self._listen(self._rung, self._bury)
        # There may be more connections than a process usually has descriptors.
        soft, hard = self._files
        if hard == resource.RLIM_INFINITY or hard > soft:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._told_to_end)

    def _told_to_end(self, *_: object) -> None:
        self._is_over = True

    def _listen(self, source: socket.socket, heed: Callable[[], None]) -> None:
        self._selector.register(source, selectors.EVENT_READ, heed)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            # Whoever it was hung up; or descriptors ran out, and it goes on knocking.
            time.sleep(_FULL_PAUSE_S)
            return
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        _, uid, _ = _UCRED.unpack(peer)
        refusal: AgentMemError | None = None
        if uid != os.geteuid():
            refusal = PermissionDenied(f"user {uid} has no business with this zygote")
        elif len(self._callers) >= CONNECTIONS_MAX:
            refusal = LimitReached(f"{CONNECTIONS_MAX} connections; close some, or wait")
        if len(self._callers) >= 2 * CONNECTIONS_MAX:
            connection.close()
            return
        # A caller that does not read is not waited for.
        connection.setblocking(False)
        caller = _Caller(next(self._numbers), connection, refusal)
        self._callers[caller.number] = caller
        self._listen(connection, partial(self._hear, caller))

    def _hear(self, caller: _Caller) -> None:
        """Take in what a caller says, and answer it."""
        try:
            request, received = wire.receive(caller.connection)
        except BlockingIOError:
            return
        except (EOFError, OSError, ValueError):
            self._leave(caller)
            return
        wire.close(received)
        self._hear_spare()  # It may be this caller's, who knows it already.
        lent: list[int] = []
        try:
            said = self._done(caller, request, lent)
            is_heard = wire.reply(caller.connection.fileno(), *said, descriptors=lent)
        except AgentMemError as error:
            is_heard = wire.refuse(caller.connection.fileno(), error)
        if not is_heard or caller.refusal is not None:
            self._leave(caller)
        wire.close(lent)

    def _done(self, caller: _Caller, request: list[str], lent: list[int]) -> list[str]:
        if caller.refusal is not None:
            raise caller.refusal
        what, *texts = request
        operation = self._operations.get(what)
        if operation is None:
            raise InvalidArgument(f"a zygote knows no {what!r}")
        try:
            return operation(caller, texts, lent)
        except OSError as error:
            raise LimitReached(f"the system refused something to the zygote: {error}") from error

    def _leave(self, caller: _Caller) -> None:
        """A caller is gone. Its children go on, and are reaped when they end."""
        self._selector.unregister(caller.connection)
        caller.connection.close()
        del self._callers[caller.number]
        self._orphans |= {pid for pid in caller.children if not _has_ended(pid)}

    def _bear(self) -> None:
        """Somebody asks for a child, and there is no spare to hear it."""
        if self._is_full():
            text = f"{CHILDREN_MAX} children of one zygote; wait for some, or close them"
            self._refuse(LimitReached(text))
        elif self._lost >= _LOST_MAX:
            self._lost = 1  # The next who asks has it tried again.
            self._refuse(Unreachable("children end before they can be asked what to be"))
        else:
            try:
                self._make_spare()
            except AgentMemError as error:
                self._refuse(error)

    def _refuse(self, error: AgentMemError) -> None:
        with suppress(EOFError, OSError, ValueError):
            _, received = wire.receive(self._births, socket.MSG_DONTWAIT)
            if len(received) == DESCRIPTORS:
                wire.refuse(received[-1], error)
            wire.close(received)

    def _make_spare(self) -> None:
        try:
            check_forkable(self._module)
            ours, theirs = wire.pair()
        except OSError as error:
            raise LimitReached(f"the system refused descriptors: {error.strerror}") from error
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
        ours.setblocking(False)
        self._spare = _Spare(pid, ours, time.monotonic())

    def _hear_spare(self) -> None:
        """The spare was asked and is a caller's child now, or it is over."""
        if (spare := self._spare) is None:
            return
        try:
            told, received = wire.receive(spare.connection)
        except BlockingIOError:
            return
        except (EOFError, OSError, ValueError):
            self._lose(spare)
            return
        self._let_go(spare)
        self._lost = 0
        self._spawned += 1
        (file,) = received
        number, serial, digest = told
        caller = self._callers.get(int(number))
        if caller is not None:
            caller.children[spare.pid] = int(serial)
        elif not _has_ended(spare.pid):
            self._orphans.add(spare.pid)
        # Whoever comes next is likely to have the same one, and the next spare has it already.
        with suppress(InvalidArgument):
            environment.surround(digest, file)
        os.close(file)

    def _bury(self) -> None:
        """Reap whoever ended and is asked for by nobody."""
        self._rung.recv(4096)
        self._orphans = {pid for pid in self._orphans if not _has_ended(pid)}

    def _lose(self, spare: _Spare) -> None:
        """It is over, or of no use. Whatever the reason is, the next may be as well, again and
        again: so there is none until somebody asks."""
        self._let_go(spare)
        self._lost += not spare.is_replaced
        os.kill(spare.pid, signal.SIGKILL)
        if not _has_ended(spare.pid):
            self._orphans.add(spare.pid)

    def _let_go(self, spare: _Spare) -> None:
        self._spare = None
        spare.connection.close()

    def _drop(self) -> None:
        """In the child: nothing of the zygote's own is left."""
        _lead_group(0)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        resource.setrlimit(resource.RLIMIT_NOFILE, self._files)
        self._close()

    def _close(self) -> None:
        """But what children are asked over."""
        signal.set_wakeup_fd(-1)
        self._selector.close()
        for each in (self._listener, self._wakeup, self._rung, self._asking):
            each.close()
        for caller in self._callers.values():
            caller.connection.close()
        if self._spare is not None:
            self._spare.connection.close()

    def _is_full(self) -> bool:
        return self._child_count() >= CHILDREN_MAX

    def _child_count(self) -> int:
        return sum(len(each.children) for each in self._callers.values()) + len(self._orphans)

    def _enter(self, caller: _Caller, texts: list[str], lent: list[int]) -> list[str]:
        """What it takes to ask for children."""
        lent.append(os.dup(self._asking.fileno()))
        return [str(caller.number)]

    def _reap(self, caller: _Caller, texts: list[str], lent: list[int]) -> list[str]:
        """How a child ended, which is asked once its pidfd says that it did."""
        pid = _child_of(caller, texts)
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended == 0:
            raise InvalidArgument(f"process {pid} has not ended; poll its pidfd first")
        del caller.children[pid]
        return [str(os.waitstatus_to_exitcode(status))]

    def _forget(self, caller: _Caller, texts: list[str], lent: list[int]) -> list[str]:
        self._let_run(caller, _child_of(caller, texts))
        return []

    def _abandon(self, caller: _Caller, texts: list[str], lent: list[int]) -> list[str]:
        """The child of a request died, or will, before its caller could hear of it."""
        for pid, serial in list(caller.children.items()):
            if [str(serial)] == texts:
                self._let_run(caller, pid)
        return []

    def _let_run(self, caller: _Caller, pid: int) -> None:
        del caller.children[pid]
        if not _has_ended(pid):
            self._orphans.add(pid)

    def _replace(self, caller: _Caller, texts: list[str], lent: list[int]) -> list[str]:
        """Nobody answered for so many seconds. A spare that was there all the time may be stopped;
        when it is over, who asked it hears that."""
        try:
            (waited_s,) = map(float, texts)
        except ValueError:
            raise InvalidArgument(f"{texts!r} is no number of seconds") from None
        if self._spare is not None and time.monotonic() >= self._spare.made_s + waited_s:
            self._spare.is_replaced = True
            os.kill(self._spare.pid, signal.SIGKILL)
        return []

    def _status(self, caller: _Caller, texts: list[str], lent: list[int]) -> list[str]:
        status = {
            "pid": os.getpid(),
            "module": self._module,
            "children": self._child_count(),
            "spawned": self._spawned,
            "connections": len(self._callers),
            "started_ms": round(self._started_s * 1000),
        }
        return [json.dumps(status)]

    def _stop(self, caller: _Caller, texts: list[str], lent: list[int]) -> list[str]:
        self._is_over = True
        return []


def _ready(sources: list[selectors.EpollSelector | socket.socket], timeout_s: float) -> list[Any]:
    """Those that have something."""
    poll = select.poll()
    for each in sources:
        poll.register(each.fileno(), select.POLLIN)
    ready = {descriptor for descriptor, _ in poll.poll(timeout_s * 1000)}
    return [each for each in sources if each.fileno() in ready]


def _child_of(caller: _Caller, texts: list[str]) -> int:
    said = texts[0] if texts else ""
    if not said.isdecimal() or int(said) not in caller.children:
        raise NotFound(f"process {said!r} is no child that this caller asked for, or was let go")
    return int(said)


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
