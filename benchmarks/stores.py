"""`python -m benchmarks.stores NAME COUNT SEED`: one way to share, as a JSON object on stdout.

Runs in an interpreter that has the peers, which `sharing` makes. All ways go through the same steps
in the same order, each in a process of its own.
"""

import json
import mmap
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any, Final

import agentmem
from agentmem import daemon
from agentmem.bench.peers import Missing, redis_server
from agentmem.bench.timing import each, quantile
from agentmem.process import fork, mem_available_bytes, summed_bytes
from benchmarks.measure import tree_of

SHARED_BYTES: Final = 50_000_000
VALUES: Final = 5_000
VALUE_BYTES: Final = 1024

Touch = Callable[[], Any]
"""Gets what is shared and reads a byte of each page; gives what keeps it there."""


@dataclass(frozen=True)
class Crew:
    """Processes that are ready to share something.

    Attributes:
        touch_all: has all of them touch it; returns when the last has.
        beside: processes that are no descendants of this one, but belong to it.
    """

    touch_all: Callable[[], None]
    beside: list[int]

    def resident_bytes(self) -> int:
        """Memory of everything, this process and servers included, each page once."""
        return summed_bytes([*tree_of(os.getpid()), *self.beside])


@dataclass(frozen=True)
class Way:
    """One way to share, once its server runs.

    Attributes:
        crew: gives that many processes that are ready to touch the content.
        put: keeps a value under a key; what it gives is passed to `get`.
        get: the value, copied.
    """

    crew: Callable[[bytes, int], Any]
    put: Callable[[str, bytes], Any]
    get: Callable[[Any], Any]


def touched(view: Any) -> int:
    """Read a byte of each page."""
    return sum(memoryview(view)[:: mmap.PAGESIZE])


@contextmanager
def forked(opened: Callable[[], Touch], count: int, beside: list[int]) -> Iterator[Crew]:
    """A crew of copies of this process: each calls `opened`, is ready, and touches when told."""
    told, tell = os.pipe()
    wait, go = os.pipe()
    stay, leave = os.pipe()

    def work() -> None:
        os.close(go)
        os.close(leave)
        touch = opened()
        os.write(tell, b".")
        os.read(wait, 1)
        kept = touch()
        os.write(tell, b".")
        # Whatever becomes of the parent, it ends with it.
        os.read(stay, 1)
        del kept

    def all_tell() -> None:
        for _ in range(count):
            assert os.read(told, 1), "a process failed"

    pids = [fork(work) for _ in range(count)]
    os.close(tell)

    def touch_all() -> None:
        os.close(go)
        all_tell()

    try:
        all_tell()
        yield Crew(touch_all, beside)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            os.waitpid(pid, 0)
        os.close(leave)


@contextmanager
def _agentmem(folder: Path) -> Iterator[Way]:
    with daemon.private('memory_max = "1G"\ncold = false\n') as socket:
        mem = agentmem.connect(socket, start=False)
        agent = mem.agent("bench")

        def crew(content: bytes, count: int) -> Any:
            smu = agent.put(content, name="shared")
            assert smu.id

            def opened() -> Touch:
                session = agentmem.connect(socket, start=False)
                own = session.agent(f"agent-{os.getpid()}")

                def touch() -> Any:
                    view = own.attach("shared").view()
                    touched(view)
                    # A session that nobody refers to is closed.
                    return session, view

                return touch

            return forked(opened, count, daemon.processes(socket))

        yield Way(crew, lambda _, value: agent.put(value), lambda smu: smu.read())
        mem.close()


@contextmanager
def _shared_memory(folder: Path) -> Iterator[Way]:
    kept: list[SharedMemory] = []

    def put(key: str, value: bytes) -> str:
        made = SharedMemory(f"bench-{os.getpid()}-{key}", create=True, size=len(value))
        kept.append(made)
        made.buf[: len(value)] = value
        return made.name

    def get(name: str) -> bytes:
        found = SharedMemory(name)
        try:
            return bytes(found.buf[:VALUE_BYTES])
        finally:
            found.close()

    def crew(content: bytes, count: int) -> Any:
        name = put("shared", content)

        def touch() -> Any:
            found = SharedMemory(name)
            touched(found.buf)
            return found

        return forked(lambda: touch, count, [])

    try:
        yield Way(crew, put, get)
    finally:
        for each_kept in kept:
            each_kept.close()
            each_kept.unlink()


@contextmanager
def _redis(folder: Path) -> Iterator[Way]:
    with redis_server(folder) as client:

        def put(key: str, value: bytes) -> str:
            client.set(key, value)
            return key

        def crew(content: bytes, count: int) -> Any:
            put("shared", content)

            def opened() -> Touch:
                import redis

                # With so many at once an answer takes longer than the client would wait by itself.
                own = redis.Redis(unix_socket_path=str(folder / "redis.sock"), socket_timeout=None)
                own.ping()

                def touch() -> Any:
                    copy = own.get("shared")
                    touched(copy)
                    return copy

                return touch

            return forked(opened, count, [])

        yield Way(crew, put, client.get)


@contextmanager
def _ray(folder: Path) -> Iterator[Way]:
    """Ray on loopback, without its dashboard and reports; a process is an actor."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_memory_monitor_refresh_ms": "0"}
    try:
        import numpy
        import ray
    except ImportError:
        raise Missing("pip install ray numpy") from None
    ray.init(
        num_cpus=os.cpu_count(),
        object_store_memory=4 * SHARED_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _node_ip_address="127.0.0.1",
        _temp_dir=str(folder),
    )

    @ray.remote(num_cpus=0)
    class Process:
        def ping(self) -> None:
            pass

        def touch(self, held: list[Any]) -> None:
            self.kept = ray.get(held[0])
            touched(self.kept)

    @contextmanager
    def crew(content: bytes, count: int) -> Iterator[Crew]:
        # Only arrays are shared without a copy.
        shared = ray.put(numpy.frombuffer(content, dtype=numpy.uint8))
        del content
        actors = [Process.remote() for _ in range(count)]
        ray.get([actor.ping.remote() for actor in actors])
        yield Crew(lambda: ray.get([actor.touch.remote([shared]) for actor in actors]), [])
        for actor in actors:
            ray.kill(actor)

    try:
        yield Way(crew, lambda _, value: ray.put(value), ray.get)
    finally:
        ray.shutdown()


WAYS: Final[dict[str, Callable[[Path], Any]]] = {
    "agentmem": _agentmem,
    "Ray (Plasma)": _ray,
    "Redis (Unix socket)": _redis,
    "multiprocessing.shared_memory": _shared_memory,
}


def measure(name: str, count: int, seed: int) -> dict[str, float]:
    """The figures of one way."""
    chance = random.Random(seed)
    pairs = [(f"key-{number}", chance.randbytes(VALUE_BYTES)) for number in range(VALUES)]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, WAYS[name](Path(folder)) as way:
        # Before values are kept: each may be a mapping that all processes would inherit.
        with way.crew(chance.randbytes(SHARED_BYTES), count) as crew:
            before, available = crew.resident_bytes(), mem_available_bytes()
            began_s = time.monotonic()
            crew.touch_all()
            seconds = time.monotonic() - began_s
            after = crew.resident_bytes()
            available -= mem_available_bytes()
        kept = []
        puts = each(lambda pair: kept.append(way.put(*pair)), pairs)
        order = list(range(VALUES))
        chance.shuffle(order)
        gets = each(lambda number: way.get(kept[number]), order)
        assert all(bytes(way.get(kept[n])) == pairs[n][1] for n in order[:100])
    return {
        "all have touched it, ms": seconds * 1000,
        "memory more, MB": (after - before) / 1e6,
        "memory in all, MB": after / 1e6,
        "available memory less, MB": available / 1e6,
        "put p50, us": quantile(puts, 0.5) / 1000,
        "put p99, us": quantile(puts, 0.99) / 1000,
        "get p50, us": quantile(gets, 0.5) / 1000,
        "get p99, us": quantile(gets, 0.99) / 1000,
    }


def main() -> int:
    """Measure what the command line names; 3, with the reason, if it is not there."""
    try:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
    except Missing as missing:
        print(missing)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
