"""What a forked child does, from its first moment to its last."""

import atexit
import gc
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import agentmem
from agentmem import _store, registry
from agentmem.errors import AgentMemError, Closed, InvalidArgument, NotFound, Unreachable
from agentmem.zygote import wire

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
_session: tuple[str | None, Path, agentmem.Store] | None = None
"""What a spare child opened, in which environment, and where."""
_environment: str | None = None
"""That of this process, once it was told one."""


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
    arguments: list[str]
    environment: str | None
    """See `surround`; None: what is there already."""
    umask: int

    @classmethod
    def parse(cls, module: str, request: Mapping[str, Any]) -> "Birth":
        """What `request` asks for.

        Raises:
            InvalidArgument: It cannot be understood.
        """
        birth = cls(
            module=module,
            function=request.get("function", ""),
            name=request.get("name"),
            importance=request.get("importance"),
            register=request.get("register", True),
            arguments=request.get("arguments", []),
            environment=request.get("environment"),
            umask=request.get("umask", 0o077),
        )
        is_sound = (
            _is_text(birth.function)
            and isinstance(birth.name, str | None)
            and isinstance(birth.importance, int | None)
            and isinstance(birth.umask, int)
            and 0 <= birth.umask <= 0o777
            and isinstance(birth.arguments, list)
            and all(map(_is_text, birth.arguments))
            and isinstance(birth.environment, str | None)
        )
        if not is_sound:
            raise InvalidArgument("what a child is to be cannot be understood; update agentmem")
        return birth

    def live(self, descriptors: list[int]) -> NoReturn:
        """Be that. `descriptors` are stdin, stdout, stderr and the working folder."""
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

    def _become(self, descriptors: list[int]) -> None:
        """Take on what the caller has and its zygote has not."""
        *streams, folder = descriptors
        for number, descriptor in zip(_STANDARD, streams, strict=True):
            os.dup2(descriptor, number)
        os.fchdir(folder)
        for descriptor in descriptors:
            os.close(descriptor)
        if self.environment is not None:
            surround(self.environment)
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


def wait(module: str, connection: socket.socket) -> NoReturn:
    """Be a spare child: make ready what every child needs, wait to be told, and be that."""
    global _session
    _reseed()
    gc.enable()
    path = registry.socket()
    with suppress(AgentMemError):
        _session = _environment, path, agentmem.connect(path, start=False)
        _rehearse_session(_session[2], own_name(module, os.getpid()))
    rehearse(module)
    line = wire.Line()
    request = None
    try:
        while request is None:
            request = line.receive(connection)
    except (EOFError, OSError):
        os._exit(0)  # The zygote is over, and nobody needs a spare.
    connection.close()
    Birth.parse(module, request).live(line.descriptors)


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
    environment, path, store = taken
    # The same environment leads to the same daemon, and costs less to compare.
    return store if environment == _environment or path == registry.socket() else None


def rehearse(module: str) -> None:
    """Do what a birth takes, to no effect. Each page that this process writes to after a fork is
    copied first; so that is done before anybody waits for it."""
    here, there = socket.socketpair()
    folder = os.open(".", os.O_PATH | os.O_DIRECTORY)
    umask = os.umask(0o077)
    environment = told() or os.fsdecode(_store.environment_block())
    request = {"op": "spawn", "environment": environment, "umask": umask}
    with here, there, wire.Line() as line:
        wire.send(here, wire.encoded(request), [*_STANDARD, folder])
        os.close(folder)
        birth = Birth.parse(module, line.receive(there) or request)
        birth._become(line.descriptors)
        line.descriptors = []
        with suppress(NotFound):
            birth._found()
        answer = {"ok": True, "pid": os.getpid(), "name": own_name(module, os.getpid())}
        wire.send(there, wire.encoded(answer))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


def own_name(module: str, pid: int) -> str:
    """What the agent of a child without a name is called."""
    return f"{module[:200]}-{pid}"


def _close(agent: agentmem.Agent) -> None:
    with suppress(AgentMemError):
        agent.close()


def told() -> str | None:
    """The environment that this process was given last; None before any."""
    return _environment


def surround(environment: str) -> None:
    """Make that the environment of this process; what is so already is not touched.

    It is one text: `NAME=VALUE`, with a NUL between two.

    Raises:
        InvalidArgument: It cannot be one.
    """
    global _environment
    if environment == _environment:
        return
    wanted = dict(each.partition("=")[::2] for each in environment.split("\0") if each)
    if "" in wanted:
        raise InvalidArgument("a variable of the environment has no name; give it one")
    zone = os.environ.get("TZ")
    for key in [key for key in os.environ if key not in wanted]:
        del os.environ[key]
    for key, value in wanted.items():
        if os.environ.get(key) != value:
            os.environ[key] = value
    if os.environ.get("TZ") != zone:
        time.tzset()
    _environment = environment


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
