"""Put and view through a session with a busy daemon, from Python, C and Node."""

import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path

import agentmem
from agentmem import daemon
from agentmem.bench.result import Figure, Result, Settings, checkout
from agentmem.bench.timing import quantiles, without_collector
from agentmem.process import cpu_seconds_of, fork

_SIZE = 1024
_ROUNDS = 200_000
# Of what was put, so much is held at a time, as by an agent whose older results go.
_HELD = 1024
# The other agent: so many puts and appends at a time, and then a rest.
_BATCH = 25
_REST_S = 0.005
_CONFIGURATION = """
memory_max = "2G"
pressure = false
"""
# The most microseconds that half of the calls may take.
_GOALS = {
    "python": {"put_1kib": 1.0, "view_hot": 1.0},
    "c": {"put_1kib": 0.5, "view_hot": 0.3},
    "node": {"put_1kib": 1.5, "view_hot": 2.0},
}
_LANGUAGES = {"python": "Python", "c": "C", "node": "Node"}
_NAMES = {"put_1kib": "put of 1 KiB", "view_hot": "view of something hot, its first byte read"}


def run(settings: Settings) -> Result:
    """Python here, the others by their own programs, one after the other beside the same daemon."""
    rounds = _ROUNDS // (20 if settings.quick else 1)
    values = settings.values(_HELD, _SIZE)
    with daemon.private(_CONFIGURATION) as socket, _busy(socket, values):
        pids = daemon.processes(socket)
        before_s, began_s = cpu_seconds_of(pids), time.monotonic()
        figures = _from_python(socket, values, rounds)
        others, notes = _from_others(socket)
        share = (cpu_seconds_of(pids) - before_s) / (time.monotonic() - began_s)
    figures += [*others, Figure("the daemon meanwhile", 100 * share, "% of a core")]
    return Result(figures, ["sessions", _SIZE, rounds, _HELD, _BATCH, _REST_S], notes)


def _title(language: str, benchmark: str) -> str:
    return f"from {_LANGUAGES[language]}: {_NAMES[benchmark]}"


def _figures(language: str, benchmark: str, nanoseconds: list[int]) -> list[Figure]:
    return quantiles(_title(language, benchmark), nanoseconds, _GOALS[language][benchmark])


def _from_python(socket: Path, values: list[bytes], rounds: int) -> list[Figure]:
    """A clock call is in each time, as in those of the other languages."""
    clock, puts, views = time.perf_counter_ns, list[int](), list[int]()
    with agentmem.connect(socket, start=False) as mem, without_collector():
        agent = mem.agent("bench-python")
        held: list[agentmem.Smu] = []
        for number in range(rounds):
            value = b"%016x" % number + values[number % _HELD][16:]
            if len(held) == _HELD:
                agent.release(held[number % _HELD])
            begin = clock()
            smu = agent.put(value)
            puts.append(clock() - begin)
            if len(held) == _HELD:
                held[number % _HELD] = smu
            else:
                held.append(smu)
        for smu in held:  # sealed, and mapped here
            with smu.view() as buffer:
                assert buffer[0]
        for number in range(rounds):
            smu = held[number % _HELD]
            begin = clock()
            with smu.view() as buffer:
                buffer[0]
            views.append(clock() - begin)
    return _figures("python", "put_1kib", puts) + _figures("python", "view_hot", views)


def _from_others(socket: Path) -> tuple[list[Figure], list[str]]:
    """What the programs of other languages say, where they can be built; and what cannot be had."""
    root = checkout()
    if root is None:
        return [], ["from C and Node: not available, this is no source checkout"]
    figures: list[Figure] = []
    try:
        commands = _output(root, "make", "--silent", "bench-programs")
        for command in commands.splitlines():
            printed = _output(root, *shlex.split(command), str(socket))
            for record in map(json.loads, printed.splitlines()):
                language, benchmark = record["language"], record["benchmark"]
                if benchmark in _NAMES:
                    name = _title(language, benchmark)
                    p50, p99 = record["p50_ns"] / 1000, record["p99_ns"] / 1000
                    figures.append(Figure(f"{name}, p50", p50, "us", _GOALS[language][benchmark]))
                    figures.append(Figure(f"{name}, p99", p99, "us"))
    except FileNotFoundError as error:
        return figures, [f"from other languages: not available, there is no {error.filename}"]
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines()[-1:]
        return figures, [f"from other languages: {shlex.join(error.cmd)} failed: {said}"]
    return figures, []


def _output(root: Path, *command: str) -> str:
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout


@contextmanager
def _busy(socket: Path, values: list[bytes]) -> Iterator[None]:
    """An agent in another process puts, appends and releases all the while."""
    pid = fork(partial(_work, socket, values, os.getpid()))
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _work(socket: Path, values: list[bytes], parent: int) -> None:
    with agentmem.connect(socket, start=False) as mem:
        agent = mem.agent("busy")
        talk, held = agent.conversation(), list[agentmem.Smu]()
        for number in count():
            value = b"%016x" % (1 << 60 | number) + values[number % _HELD][16:]
            held.append(agent.put(value))
            if number % 5 == 0:
                talk.append(value)
            if len(held) > _HELD:
                agent.release(held.pop(0))
            if number % _BATCH == 0:
                time.sleep(_REST_S)
                if os.getppid() != parent:
                    return
