"""What is durable survives close, kill -9, damage and a full disk; damage is named."""

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import crash_writer
import pytest
from conftest import PythonProcess
from words import message, noise, prose

import agentmem
from agentmem.errors import AgentMemError, Damaged, Io, NotFound

KILLS = 30
WRITER = "import crash_writer, sys; crash_writer.write(sys.argv[1], int(sys.argv[2]))"


def open_at(path: Path) -> agentmem.Store:
    return agentmem.open(path, memory_max="32M")


# Close and reopen


def test_a_reopened_store_has_the_same_of_everything(tmp_path: Path) -> None:
    prompt, large = prose(1, 50_000), noise(2, 3_000_000)
    values = [message(n) for n in range(300)]
    with open_at(tmp_path) as mem:
        agent, other = mem.agent("a", importance=80), mem.agent("b")
        smu = agent.put(prompt, kind="system_prompt", name="prompt", importance=90)
        agent.share(smu, to=other)
        agent.put(large)
        agent.put(b"")
        agent.release(agent.put(b"released", name="released"))
        talk = agent.conversation("talk")
        talk.extend(values)
        talk.append(b"\0 bytes")
        talk.fork(10, name="fork", agent=other).append({"own": True})
        mem.agent("nobody")
        rendered, key, before = talk.render(), smu.id, mem.stats()
    # Twice, because what recovery writes must itself be recoverable.
    for _ in range(2):
        with open_at(tmp_path) as mem:
            assert sorted(mem.agents()) == ["a", "b", "nobody"]
            after = mem.stats()
            for figure in ("agents", "smus", "conversations", "logical_bytes"):
                assert after[figure] == before[figure], figure
            agent, other = mem.agent("a"), mem.agent("b")
            held = {smu.read(): smu for smu in agent.smus()}
            assert set(held) == {prompt, large, b""}
            smu = held[prompt]
            assert (smu.kind, smu.id, smu.importance) == ("system_prompt", key, 90)
            assert smu.shared_by == 2
            assert [smu.read() for smu in other.smus()] == [prompt]
            with mem.agent("visitor") as visitor:
                assert visitor.attach("prompt").id == visitor.attach(key).id == key
                assert agent.put(prompt).id == key
                with pytest.raises(NotFound):
                    visitor.attach("released")
            # One of its two references: the other keeps the content.
            agent.release(next(smu for smu in agent.smus() if smu.id == key))
            assert agent.conversations() == ["talk"]
            talk = agent.conversation("talk")
            assert talk.render() == rendered
            assert talk[:] == [*values, b"\0 bytes"]
            assert other.conversation("fork")[:] == [*values[:10], {"own": True}]
            assert mem.verify()["damaged"] == []


# kill -9


def test_what_was_flushed_survives_kill_9(tmp_path: Path, python: type[PythonProcess]) -> None:
    source = random.Random(9)
    flushed, released = -1, set()
    for round_ in range(KILLS):
        writer = python(WRITER, tmp_path, round_)
        # From before it has opened the store, to some hundred steps later.
        time.sleep(source.uniform(0.05, 0.8))
        writer.kill()
        printed, _ = writer.communicate()
        assert writer.returncode == -9, "the writer failed by itself"
        for line in printed.splitlines():
            verb, n = line.split()
            if verb == "flushed":
                flushed = max(flushed, int(n))
            else:
                released.add(int(n))
        assert_all_flushed_is_there(tmp_path, flushed, released, source)
    assert flushed > 5 * KILLS, "the writer was killed too early to say anything"


def assert_all_flushed_is_there(
    path: Path, flushed: int, released: set[int], source: random.Random
) -> None:
    with open_at(path) as mem:
        assert mem.verify()["damaged"] == []
        if "writer" not in mem.agents():
            assert flushed == -1
            return
        agent = mem.agent("writer")
        talk = agent.conversation("log")
        assert len(talk) > flushed
        assert talk[:] == [crash_writer.message(n) for n in range(len(talk))]
        with mem.agent("reader") as reader:
            for n in range(len(talk) + 50):
                try:
                    found = reader.attach(f"smu {n}").read()
                except NotFound:
                    assert n > flushed or n in released
                else:
                    assert found == crash_writer.content(n)
        forks = set(agent.conversations()) - {"log"}
        assert forks >= {f"fork {n}" for n in range(0, flushed + 1, 7)}
        for name in source.sample(sorted(forks), k=min(5, len(forks))):
            n = int(name.split()[1])
            # A fork that was not flushed may be there without its own message, or not at all.
            fork = agent.conversation(name)
            expected = [*map(crash_writer.message, range(n + 1)), {"fork": n}]
            assert fork[:] == (expected if n <= flushed else expected[: len(fork)])


# Damage


class Survey(NamedTuple):
    """Which of the objects of a damaged store read back, and which say that they cannot."""

    whole: set[str]
    hurt: set[str]
    reported: list[str]


@cache
def smus() -> dict[str, bytes]:
    return {f"smu {n}": noise(n, 60_000) for n in range(40)}


@cache
def talks() -> dict[str, list[dict[str, Any]]]:
    return {f"talk {n}": [message(1000 * n + m) for m in range(300)] for n in range(8)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with `smus` and `talks`, all of them on disk."""
    path = tmp_path_factory.mktemp("whole")
    with open_at(path) as mem:
        agent = mem.agent("a")
        for name, data in smus().items():
            agent.put(data, name=name)
        for name, values in talks().items():
            agent.conversation(name).extend(values)
        mem.reclaim(0)
        mem.flush()
    return path


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """A copy of that store, to be damaged."""
    return shutil.copytree(whole, tmp_path / "copy")


def frame_files(path: Path) -> list[Path]:
    """The files that hold frames: the index and the lock are small or named otherwise."""
    files = [f for f in path.rglob("*") if f.is_file() and "index" not in f.name]
    return [f for f in files if f.stat().st_size > 10_000]


def complaint(read: Callable[[], object], expected: object) -> str | None:
    """What the store says of something that cannot be read; None for what reads back."""
    try:
        found = read()
    except Damaged as error:
        return str(error)
    assert found == expected, "damaged, and nobody noticed"
    return None


def survey(path: Path) -> Survey:
    """Read everything. An error must name what is hurt, by its name or its id."""
    whole, hurt = set(), set()
    with open_at(path) as mem:
        agent = mem.agent("a")
        handles = {name: agent.attach(name) for name in smus()}
        said = {name: complaint(handles[name].read, data) for name, data in smus().items()}
        for name, values in talks().items():
            said[name] = complaint(partial(list, agent.conversation(name)), values)
        reported = mem.verify()["damaged"]
        for name, text in said.items():
            keys = [name, handles[name].id] if name in handles else [name]
            if text is None:
                whole.add(name)
            else:
                hurt.add(name)
                assert any(key in text for key in keys), text
                assert any(key in line for key in keys for line in reported), name
        # A hurt store still takes new content.
        assert agent.put(b"new").read() == b"new"
    return Survey(whole, hurt, reported)


def test_an_undamaged_store_reports_nothing(copy: Path) -> None:
    assert survey(copy) == Survey({*smus(), *talks()}, set(), [])


def test_flipped_bytes_hurt_what_they_hit_and_nothing_else(whole: Path, tmp_path: Path) -> None:
    source = random.Random(4)
    hurt_ever = set()
    for round_ in range(10):
        copy = shutil.copytree(whole, tmp_path / str(round_))
        with source.choice(frame_files(copy)).open("r+b") as file:
            at = source.randrange(os.fstat(file.fileno()).st_size)
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ (1 << source.randrange(8))]))
        found = survey(copy)
        assert len(found.whole) >= len(found.hurt), f"one byte at {at} hurt {found.hurt}"
        hurt_ever |= found.hurt
    assert hurt_ever


def test_a_truncated_file_hurts_what_was_in_it_and_nothing_else(copy: Path) -> None:
    file = max(frame_files(copy), key=lambda file: file.stat().st_size)
    os.truncate(file, file.stat().st_size * 4 // 5)
    found = survey(copy)
    assert found.hurt
    # A frame holds several SMUs, and all of a cut one are gone.
    assert len(found.whole) > len(found.hurt)


def test_a_missing_file_is_damage_and_not_a_crash(copy: Path) -> None:
    max(frame_files(copy), key=lambda file: file.stat().st_size).unlink()
    try:
        found = survey(copy)
    except Damaged:
        return
    assert found.hurt


def test_a_damaged_index_is_refused_or_recovered_from(whole: Path, tmp_path: Path) -> None:
    source = random.Random(5)
    for round_ in range(10):
        copy = shutil.copytree(whole, tmp_path / str(round_))
        index = next(file for file in copy.rglob("*index*") if file.is_file())
        with index.open("r+b") as file:
            file.seek(source.randrange(os.fstat(file.fileno()).st_size))
            file.write(source.randbytes(64))
        try:
            with open_at(copy) as mem:
                mem.verify()
        except AgentMemError:
            pass


# Full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", tmp_path], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("this machine does not let root mount a file system")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


def test_a_full_disk_loses_nothing_and_flush_succeeds_later(small_disk: Path) -> None:
    contents = [noise(n, 300_000) for n in range(40)]
    path = small_disk / "store"
    with agentmem.open(path, memory_max="64M") as mem:
        agent = mem.agent("a")
        handles = [agent.put(data, name=str(n)) for n, data in enumerate(contents)]
        talk = agent.conversation("talk")
        talk.extend([message(n) for n in range(100)])
        for _ in range(2):
            with pytest.raises(Io):
                mem.flush()
        assert [smu.read() for smu in handles] == contents
        assert talk[:] == [message(n) for n in range(100)]
        subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
        mem.flush()
    with agentmem.open(path, memory_max="64M") as mem:
        agent = mem.agent("a")
        assert [agent.attach(str(n)).read() for n in range(40)] == contents
        assert mem.verify()["damaged"] == []
