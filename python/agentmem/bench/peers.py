"""Put and get of 1 KiB, beside what people use for it today."""

import random
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import agentmem
from agentmem.bench.result import Figure, Result, Settings
from agentmem.bench.timing import each, quantiles

_SIZE = 1024
_COUNT = 10_000
_START_S = 5.0


class Missing(Exception):
    """A peer that is not installed; its text says what to do."""


class Peer:
    """A store with keys and values: how to put, and how to get."""

    def __init__(self, put: Callable[[bytes, bytes], Any], get: Callable[[bytes], Any]) -> None:
        self.put = put
        self.get = get


def run(settings: Settings) -> Result:
    """The same keys and values into each, one call at a time; gets in random order."""
    count = _COUNT // (20 if settings.quick else 1)
    values = settings.values(count, _SIZE)
    pairs = [(b"key-%06d" % number, value) for number, value in enumerate(values)]
    wanted = [key for key, _ in pairs]
    random.Random(settings.seed).shuffle(wanted)
    expected = dict(pairs)
    figures: list[Figure] = []
    notes = []
    for name, opened in PEERS.items():
        with tempfile.TemporaryDirectory(prefix="agentmem-bench-") as folder:
            try:
                with opened(Path(folder)) as peer:
                    puts = each(lambda pair: peer.put(*pair), pairs)
                    gets = each(peer.get, wanted)
                    assert all(bytes(peer.get(key)) == expected[key] for key in wanted[:100]), name
            except Missing as missing:
                notes.append(f"{name}: not measured, {missing}")
                continue
        figures += quantiles(f"{name}: put", puts) + quantiles(f"{name}: get", gets)
    return Result(figures, ["peers", count, _SIZE, sorted(PEERS)], notes)


@contextmanager
def _agentmem(folder: Path) -> Iterator[Peer]:
    """Content by handle: who put it keeps what `put` returns."""
    handles: dict[bytes, agentmem.Smu] = {}
    with agentmem.open(memory_max="1G", cold=False) as mem:
        agent = mem.agent("bench")

        def put(key: bytes, value: bytes) -> None:
            handles[key] = agent.put(value)

        yield Peer(put, lambda key: handles[key].read())


@contextmanager
def _agentmem_by_name(folder: Path) -> Iterator[Peer]:
    """Content by name, from any agent: a get attaches and copies."""
    with agentmem.open(memory_max="1G", cold=False) as mem:
        agent = mem.agent("bench")
        yield Peer(
            lambda key, value: agent.put(value, name=key.decode()),
            lambda key: agent.attach(key.decode()).read(),
        )


@contextmanager
def _lmdb(folder: Path) -> Iterator[Peer]:
    try:
        import lmdb
    except ImportError:
        raise Missing("pip install lmdb") from None
    with lmdb.open(str(folder), map_size=1 << 30, sync=False, writemap=True) as database:

        def put(key: bytes, value: bytes) -> None:
            with database.begin(write=True) as transaction:
                transaction.put(key, value)

        def get(key: bytes) -> Any:
            with database.begin() as transaction:
                return transaction.get(key)

        yield Peer(put, get)


@contextmanager
def _sqlite(folder: Path) -> Iterator[Peer]:
    database = sqlite3.connect(folder / "peer.sqlite", isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=OFF")
        database.execute("CREATE TABLE pairs (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")
        yield Peer(
            lambda key, value: database.execute("INSERT INTO pairs VALUES (?, ?)", (key, value)),
            lambda key: database.execute(
                "SELECT value FROM pairs WHERE key = ?", (key,)
            ).fetchone()[0],
        )
    finally:
        database.close()


@contextmanager
def redis_server(folder: Path) -> Iterator[Any]:
    """A client of a Redis server of our own, over a Unix socket, that writes nothing to disk.

    Raises:
        Missing: There is no client, or no server.
    """
    try:
        import redis
    except ImportError:
        raise Missing("pip install redis") from None
    server = shutil.which("redis-server")
    if server is None:
        raise Missing("there is no redis-server (Debian: apt install redis-server)")
    socket = folder / "redis.sock"
    options = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no"]
    with subprocess.Popen(
        [server, *options, "--dir", str(folder)], stdout=subprocess.DEVNULL
    ) as process:
        try:
            deadline = time.monotonic() + _START_S
            while not socket.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise Missing("redis-server did not start")
                time.sleep(0.02)
            with redis.Redis(unix_socket_path=str(socket)) as client:
                yield client
        finally:
            process.terminate()


@contextmanager
def _redis(folder: Path) -> Iterator[Peer]:
    with redis_server(folder) as client:
        yield Peer(client.set, client.get)


PEERS: dict[str, Callable[[Path], Any]] = {
    "agentmem, by handle": _agentmem,
    "agentmem, by name": _agentmem_by_name,
    "LMDB (no sync)": _lmdb,
    "SQLite (WAL, no sync)": _sqlite,
    "Redis (Unix socket)": _redis,
}
