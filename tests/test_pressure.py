"""The daemon in a cgroup with less memory than its budget: it lives, and nothing is lost."""

import contextlib
import os
import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import until
from test_metrics import of, scrape

import agentmem
from agentmem.daemon import PROGRAM, LocalConnection

LIMIT = 192 << 20
PIECE = 1 << 20
PIECES = 400


@pytest.fixture
def group() -> Iterator[Path]:
    """A cgroup (version 2) of the test's own, with a limit."""
    mounts = Path("/proc/self/mountinfo").read_text()
    mount = re.search(r"^(?:\S+ ){4}(\S+) .* - cgroup2 ", mounts, re.MULTILINE)
    own = re.search(r"^0::(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
    if mount is None or own is None:
        pytest.skip("there are no cgroups of version 2")
    parent = Path(mount[1] + own[1])
    control = parent / "cgroup.subtree_control"
    if "memory" not in (parent / "cgroup.controllers").read_text().split():
        pytest.skip(f"{parent}: no memory controller of version 2")
    was_on = "memory" in control.read_text().split()
    folder = parent / f"agentmem-test-{os.getpid()}"
    try:
        control.write_text("+memory")
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"{parent}: {error}")
    try:
        (folder / "memory.max").write_text(str(LIMIT))
        yield folder
    finally:
        # Who has ended leaves it a moment later.
        until(lambda: "populated 0" in (folder / "cgroup.events").read_text())
        folder.rmdir()
        if not was_on:
            control.write_text("-memory")


@contextlib.contextmanager
def daemon_in(group: Path, folder: Path) -> Iterator[Path]:
    file = folder / "agentmemd.toml"
    file.write_text('memory_max = "1G"')
    options = (f"--socket={folder / 'agentmem.sock'}", f"--config={file}")
    # A shell moves itself there first, and becomes the daemon.
    moved = f'echo $$ > "{group}/cgroup.procs" && exec "$@"'
    command = ["sh", "-c", moved, "sh", PROGRAM, "--background", *options]
    subprocess.run(command, check=True, timeout=60)
    try:
        yield folder / "agentmem.sock"
    finally:
        subprocess.run([PROGRAM, "--stop", *options], check=True, timeout=60)


def test_a_budget_beyond_the_limit_of_a_cgroup_kills_nobody(group: Path, tmp_path: Path) -> None:
    noise = random.Random(1)
    with daemon_in(group, tmp_path) as socket:
        holders = (tmp_path / "agentmem.sock.lock").read_text()
        with agentmem.connect(socket, start=False) as mem:
            agent = mem.agent("a")
            pieces = [noise.randbytes(PIECE) for _ in range(PIECES)]
            held = [agent.put(piece) for piece in pieces]
            for smu, piece in zip(held, pieces, strict=True):
                with smu.view() as view:
                    assert bytes(view) == piece
            assert of(scrape(LocalConnection(socket, 30)), "agentmem_machine_allows_bytes") < LIMIT
        assert (tmp_path / "agentmem.sock.lock").read_text() == holders, "the same engine"
        assert "oom_kill 0" in (group / "memory.events").read_text().splitlines()
