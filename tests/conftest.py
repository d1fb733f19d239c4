"""What tests share. Text to store is made by words.py; real transcripts are never used."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import agentmem
from agentmem.daemon import PROGRAM
from agentmem.errors import NotFound, Unreachable
from agentmem.zygote import Zygote

TESTS = Path(__file__).resolve().parent


MEMORY_MAX = "64M"


@pytest.fixture
def daemon_socket(tmp_path: Path) -> Iterator[Path]:
    """Where a daemon of this test listens, with a temporary cold tier."""
    with daemon(tmp_path / "agentmem.sock", f'memory_max = "{MEMORY_MAX}"') as socket:
        yield socket


@contextmanager
def daemon(socket: Path, configuration: str = "") -> Iterator[Path]:
    """A daemon with that configuration and not the user's, until it is left."""
    file = socket.with_suffix(".toml")
    file.write_text(configuration)
    options = (f"--socket={socket}", f"--config={file}")
    subprocess.run([PROGRAM, "--background", *options], check=True, timeout=60)
    try:
        yield socket
    finally:
        subprocess.run([PROGRAM, "--stop", *options], check=True, timeout=60)


def until(is_so: Callable[[], bool], timeout_s: float = 30.0) -> bool:
    """Whether it became so in time."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if is_so():
            return True
        time.sleep(0.01)
    return is_so()


@pytest.fixture(params=["embedded", "connected"])
def mem(request: pytest.FixtureRequest) -> Iterator[agentmem.Store]:
    """An open store with a temporary cold tier: in this process, and a daemon's."""
    if request.param == "embedded":
        store = agentmem.open(memory_max=MEMORY_MAX)
    else:
        store = agentmem.connect(request.getfixturevalue("daemon_socket"), start=False)
    with store:
        yield store


@pytest.fixture
def agent(mem: agentmem.Store) -> agentmem.Agent:
    """An agent of `mem`."""
    return mem.agent("agent")


@pytest.fixture
def python() -> "type[PythonProcess]":
    """Code that runs in a process of its own, with this folder's modules to import."""
    return PythonProcess


class PythonProcess(subprocess.Popen[str]):
    """A Python that runs `code`; its stdout is a text pipe."""

    def __init__(self, code: str, *arguments: object) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
        super().__init__(
            [sys.executable, "-u", "-c", code, *map(str, arguments)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def output(self) -> str:
        """All that it printed, once it has ended well."""
        text, _ = self.communicate(timeout=300)
        assert self.returncode == 0, text
        return text


ZYGOTE_AGENT = """
import json, os, random, signal, sys, time
from agentmem.zygote import current

DRAWN = random.random()

def main():
    print(json.dumps({
        "arguments": sys.argv[1:], "cwd": os.getcwd(), "umask": os.umask(0), "pid": os.getpid(),
        "group": os.getpgrp(), "marked": os.environ.get("MARK"), "drawn": random.random(),
        "descriptors": sorted(int(fd) for fd in os.listdir("/proc/self/fd")),
    }))
    return int(sys.argv[1]) if sys.argv[1:] and sys.argv[1].isdigit() else None

def talk():
    agent = current().agent
    agent.put(f"mine {sys.argv[1]}", name=f"of-{sys.argv[1]}")
    agent.conversation().append(b"first")
    print("put", flush=True)
    sys.stdin.read()

def upper():
    sys.stdout.write(sys.stdin.read().upper())

def fail():
    raise ValueError("as planned")

def say():
    sys.exit("said")

def handle():
    signal.signal(signal.SIGUSR1, lambda *_: sys.exit(7))
    print("ready", flush=True)
    time.sleep(600)

def group():
    child = os.fork()
    if child == 0:
        time.sleep(600)
    print(child, flush=True)
    time.sleep(600)
"""

Make = Callable[..., Zygote]


@pytest.fixture
def modules(tmp_path: Path, daemon_socket: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that modules are imported from; zygotes that were started are stopped at the end."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "zygote_agent.py").write_text(ZYGOTE_AGENT)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("AGENTMEM_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("AGENTMEM_SOCKET", str(daemon_socket))
    yield folder
    for found in (tmp_path / "run" / "zygotes").glob("*.sock"):
        module = found.name.rpartition("-")[0]
        try:
            with Zygote(module, start=False) as zygote:
                zygote.stop()
        except (NotFound, Unreachable):
            continue


@pytest.fixture
def zygote(modules: Path) -> Iterator[Make]:
    opened: list[Zygote] = []

    def make(target: str = "zygote_agent", **options: object) -> Zygote:
        opened.append(Zygote(target, **options))  # type: ignore[arg-type]
        return opened[-1]

    yield make
    for each in opened:
        each.close()
