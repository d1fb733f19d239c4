"""What a forked child does, from its first moment to its last."""

import atexit
import gc
import os
import random
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import agentmem
from agentmem import _store, registry
from agentmem.errors import AgentMemError, Closed, InvalidArgument, NotFound, Unreachable
from agentmem.zygote import environment, wire

DESCRIPTORS = 6
"""That a request comes with: stdin, stdout, stderr, the working folder, the environment, and where
the answer goes."""
EXIT_CODE = 125
"""What a child ends with when agentmem itself fails, as `agentmem run` does."""

_STANDARD = (0, 1, 2)


class Current(NamedTuple):
    """What a spawned process has of agentmem."""

    store: agentmem.Store
    """Its session with the daemon."""
    agent: agentmem.Agent
    """The agent that it is registered as."""


_current: Current | None = None
_session: tuple[str, Path, agentmem.Store] | None = None
"""What a spare child opened, in which environment, and where."""


def current() -> Current:
    """The session and the agent of this process, which a zygote forked.

    Raises:
        NotFound: No zygote did, or it was told not to register its children.
    """
    if _current is None:
        raise NotFound(
            "this process has no agent of its own: start it with agentmem spawn --zygote MODULE,"
            " or call agentmem.connect() and register one"
        )
    return _current


class Birth(NamedTuple):
    """What a child is to be: the request that it was forked for."""

    module: str
    function: str
    name: str | None
    """Of its agent. None: the module's and the pid, and the agent ends with the process."""
    importance: int | None
    register: bool
    umask: int
    caller: int
    """Number of the session that asked."""
    serial: int
    """Of the request, among those of that session."""
    environment: str
    """Which one; see `environment.surround`."""
    arguments: list[str]

    @classmethod
    def parse(cls, module: str, texts: list[str]) -> "Birth":
        """What `request` made them of.

        Raises:
            InvalidArgument: They cannot be understood.
        """
        try:
            (
                function,
                name,
                importance,
                register,
                umask,
                caller,
                serial,
                environment,
                *arguments,
            ) = texts
            birth = cls(
                module=module,
                function=function,
                name=name or None,
                importance=int(importance) if importance else None,
                register=bool(int(register)),
                umask=int(umask),
                caller=int(caller),
                serial=int(serial),
                environment=environment,
                arguments=arguments,
            )
        except ValueError:
            text = "what a child is to be cannot be understood; update agentmem"
            raise InvalidArgument(text) from None
        if not 0 <= birth.umask <= 0o777:
            raise InvalidArgument(f"{umask} is no umask: give 0 to 0o777")
        return birth

    def request(self) -> bytes:
        """What asks for it.

        Raises:
            InvalidArgument: It cannot be said.
        """
        return wire.encoded(
            self.function,
            self.name or "",
            "" if self.importance is None else str(self.importance),
            str(int(self.register)),
            str(self.umask),
            str(self.caller),
            str(self.serial),
            self.environment,
            *self.arguments,
        )

    def live(self, descriptors: list[int]) -> NoReturn:
        """Be that. `descriptors` are stdin, stdout, stderr, the working folder, the environment."""
        code, has_begun = EXIT_CODE, False
        try:
            self._become(descriptors)
            function = self._found()
            store = _take_session()
            if self.register:
                self._register(store)
            del store  # Of an agent's, there is another reference.
            has_begun = True
            code = _exit_code(function())
        except SystemExit as exit_:
            code = _exit_code(exit_.code)
        except KeyboardInterrupt:
            _end()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        except BaseException as error:
            if has_begun:
                sys.excepthook(*sys.exc_info())
                code = 1
            else:
                print(f"agentmem: {error}", file=sys.stderr)
        _end()
        os._exit(code)

    def tell(self, zygote: socket.socket, descriptors: list[int]) -> None:
        """Tell the zygote whose this process is, and in which environment the next spare should be,
        and then whoever asked; the last of `descriptors`, which leads there, is gone then.

        Raises:
            OSError: One of them is not there any more.
        """
        *_, file, caller = descriptors
        told = wire.encoded(str(self.caller), str(self.serial), self.environment)
        wire.send(zygote, told, [file])
        pid = os.getpid()
        pidfd = os.pidfd_open(pid)
        named = self.name or own_name(self.module, pid)
        if not wire.reply(caller, str(pid), named, descriptors=[pidfd]):
            raise BrokenPipeError("who asked is not there any more")
        wire.close([pidfd, descriptors.pop()])

    def _become(self, descriptors: list[int]) -> None:
        """Take on what the caller has and its zygote has not."""
        *streams, folder, file = descriptors
        for number, descriptor in zip(_STANDARD, streams, strict=True):
            os.dup2(descriptor, number)
        os.fchdir(folder)
        environment.surround(self.environment, file)
        wire.close(descriptors)
        unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
        sys.stdout.reconfigure(line_buffering=os.isatty(1), write_through=unbuffered)  # type: ignore[union-attr]
        os.umask(self.umask)
        sys.argv = [self.module, *self.arguments]

    def _register(self, store: agentmem.Store | None) -> None:
        global _current
        name = self.name or own_name(self.module, os.getpid())
        agent = None
        if store is not None:
            # Its daemon may have been started anew meanwhile.
            with suppress(Unreachable, Closed):
                agent = store.agent(name, importance=self.importance)
        if store is None or agent is None:
            store = agentmem.connect()
            agent = store.agent(name, importance=self.importance)
        if self.name is None:
            # Nobody could find it again. At exit, so that what the module does there comes first.
            atexit.register(_close, agent)
        _current = Current(store, agent)

    def _found(self) -> Callable[[], Any]:
        found: Any = import_module(self.module)
        for part in self.function.split("."):
            found = getattr(found, part, None)
        if not callable(found):
            raise NotFound(
                f"module {self.module} has no function {self.function}: name MODULE:FUNCTION"
            )
        function: Callable[[], Any] = found
        return function


def wait(module: str, births: socket.socket, zygote: socket.socket) -> NoReturn:
    """Be a spare child: make ready what every child needs, wait to be asked over `births`, which
    is then told over `zygote`, and be what was asked for."""
    global _session
    _reseed()
    gc.enable()
    path = registry.socket()
    with suppress(AgentMemError):
        _session = environment.given(), path, agentmem.connect(path, start=False)
        _rehearse_session(_session[2], own_name(module, os.getpid()))
    rehearse(module)
    poll = select.poll()
    poll.register(births, select.POLLIN)
    poll.register(zygote, select.POLLIN)
    asked = None
    while asked is None:
        if any(descriptor == zygote.fileno() for descriptor, _ in poll.poll()):
            os._exit(0)  # The zygote is over, and nobody needs a spare.
        asked = _asked(module, births)
    birth, descriptors = asked
    try:
        birth.tell(zygote, descriptors)
    except OSError:
        os._exit(0)
    births.close()
    zygote.close()
    birth.live(descriptors)


def _asked(module: str, births: socket.socket) -> tuple[Birth, list[int]] | None:
    """What somebody asks for, unless it makes no sense, which is answered, or nobody waits for it
    any more."""
    try:
        request, descriptors = wire.receive(births, socket.MSG_DONTWAIT)
    except (EOFError, ValueError, OSError):
        return None
    if len(descriptors) == DESCRIPTORS and not _is_hung_up(descriptors[-1]):
        try:
            return Birth.parse(module, request), descriptors
        except AgentMemError as error:
            wire.refuse(descriptors[-1], error)
    wire.close(descriptors)
    return None


def _is_hung_up(connection: int) -> bool:
    poll = select.poll()
    poll.register(connection, 0)
    return bool(poll.poll(0))


def _rehearse_session(store: agentmem.Store, name: str) -> None:
    """Do what an agent begins with, and leave nothing. The first call of each kind is the dearest,
    here and at the other end."""
    with store.agent(name) as agent, suppress(NotFound):
        agent.conversation()
        agent.attach(name)


def _take_session() -> agentmem.Store | None:
    """The session that was opened beforehand, if it is with the daemon that is meant now."""
    global _session
    taken, _session = _session, None
    if taken is None:
        return None
    which, path, store = taken
    # The same environment leads to the same daemon, and costs less to compare.
    return store if which == environment.given() or path == registry.socket() else None


def rehearse(module: str) -> None:
    """Do what a birth takes, to no effect. Each page that this process writes to after a fork is
    copied first; so that is done before anybody waits for it."""
    here, there = wire.pair()
    umask = os.umask(0o077)
    folder = os.open(".", os.O_PATH | os.O_DIRECTORY)
    own = environment.Environment.of(_store.environment_block())
    with here, there, closing(own):
        digest = environment.given() or own.digest
        wanted = Birth(module, "", None, None, False, umask, 0, 0, digest, [])
        lent = [*_STANDARD, folder, own.file, there.fileno()]
        wire.send(here, wanted.request(), lent)
        os.close(folder)
        asked = _asked(module, there)
        if asked is None:
            return
        birth, descriptors = asked
        birth.tell(there, descriptors)
        wire.close(wire.receive(here)[1])
        wire.close(wire.receive(here)[1])
        birth._become(descriptors)
        with suppress(NotFound):
            birth._found()


def own_name(module: str, pid: int) -> str:
    """What the agent of a child without a name is called."""
    return f"{module[:200]}-{pid}"


def _close(agent: agentmem.Agent) -> None:
    with suppress(AgentMemError):
        agent.close()


def _reseed() -> None:
    """No two children draw the same random numbers."""
    random.seed()
    if numpy_random := sys.modules.get("numpy.random"):
        seed: Callable[[], None] = numpy_random.seed
        seed()


def _exit_code(value: object) -> int:
    """What `sys.exit(value)` means."""
    if value is None:
        return 0
    if isinstance(value, int):
        return value & 0xFF
    print(value, file=sys.stderr)
    return 1


def _end() -> None:
    """What the interpreter does at its end, but taking apart every object, which siblings share."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
    except BaseException:
        sys.excepthook(*sys.exc_info())
