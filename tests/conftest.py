"""What tests share. Text to store is made by words.py; real transcripts are never used."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import agentmem

TESTS = Path(__file__).resolve().parent


@pytest.fixture
def mem() -> Iterator[agentmem.Store]:
    """An open store with a temporary cold tier."""
    with agentmem.open(memory_max="64M") as store:
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
