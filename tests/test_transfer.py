"""Import and export: the same bytes, whatever they are and however often it was interrupted."""

import base64
import json
import signal
import sqlite3
from contextlib import closing
from pathlib import Path, PurePath
from typing import Any

import hypothesis.strategies as st
import pytest
from click.testing import CliRunner, Result
from conftest import PythonProcess
from hypothesis import given, settings
from words import message, prose, transcript

import agentmem
from agentmem.claude_layout import Session, path_of, place_of, session_of
from agentmem.cli import main
from agentmem.errors import InvalidArgument, NotFound
from agentmem.transfer.exporting import export_all
from agentmem.transfer.importing import Imported, import_all
from agentmem.transfer.msgpack import parts
from agentmem.transfer.sources import KINDS
from agentmem.turn import turn


def bring_in(mem: agentmem.Store, kind: str, path: Path) -> Imported:
    *_, imported = import_all(mem, KINDS[kind](path))
    return imported


def stored_bytes(mem: agentmem.Store) -> int:
    """What the store keeps once all is packed."""
    mem.reclaim()
    return int(mem.stats()["stored_bytes"])


def take_out(mem: agentmem.Store, folder: Path, form: Any = "jsonl") -> list[str]:
    failed = []
    for exported in export_all(mem, folder, form):
        failed = exported.failed
    return failed


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


CLAUDE = {
    "-home-me/aaaa.jsonl": transcript(1, 50),
    "-home-me/aaaa/subagents/agent-1.jsonl": transcript(2, 10),
    "-home-me/aaaa/subagents/agent-1.meta.json": b'{"agentType": "x"}',
    "-home-me/aaaa/tool-results/1.txt": b"\0\xff any bytes",
    "-home-me/bbbb.jsonl": transcript(1, 30) + b'{"cut',
    "-home-me/memory/notes.md": b"# Notes\n",
    "-home-me/notes.md": b"",
    "-home-other/cccc.jsonl": b"\n\n" + transcript(3, 5).replace(b"\n", b"\r\n"),
    "note": b"no newline",
}


def test_claude_codes_projects_come_out_as_they_went_in(
    mem: agentmem.Store, tmp_path: Path
) -> None:
    projects = write(tmp_path / "config" / "projects", CLAUDE)
    for path in (projects, projects.parent):
        imported = bring_in(mem, "claude", path)
        assert imported.failed == []
        assert imported.done == len(CLAUDE)
        assert imported.done_bytes == sum(map(len, CLAUDE.values()))
    assert imported.added == imported.added_bytes == 0
    assert take_out(mem, tmp_path / "claude", "claude") == []
    assert tree(tmp_path / "claude") == CLAUDE
    assert take_out(mem, tmp_path / "jsonl") == []
    assert tree(tmp_path / "jsonl" / "claude") == CLAUDE


def test_a_project_or_a_session_alone_keeps_its_place(mem: agentmem.Store, tmp_path: Path) -> None:
    projects = write(tmp_path / "projects", CLAUDE)
    bring_in(mem, "claude", projects / "-home-other")
    bring_in(mem, "claude", projects / "-home-me" / "bbbb.jsonl")
    take_out(mem, tmp_path / "out", "claude")
    wanted = ("-home-other/cccc.jsonl", "-home-me/bbbb.jsonl")
    assert tree(tmp_path / "out") == {name: CLAUDE[name] for name in wanted}


@pytest.mark.parametrize("kind", ["codex", "transcripts"])
def test_transcripts_come_out_as_they_went_in(
    mem: agentmem.Store, tmp_path: Path, kind: str
) -> None:
    files = {
        "2026/01/02/rollout-1.jsonl": transcript(1, 40),
        "2026/01/03/rollout-2.jsonl": transcript(1, 60),
        "runs.json": json.dumps([{"messages": [message(n), message(n + 1)]} for n in range(9)]),
        "state.traj": json.dumps({"history": [message(n) for n in range(9)]}, indent=1),
        "broken.json": b'{"a": [1, ',
    }
    content = {
        name: text.encode() if isinstance(text, str) else text for name, text in files.items()
    }
    bring_in(mem, kind, write(tmp_path / "in", content))
    assert take_out(mem, tmp_path / "out") == []
    assert tree(tmp_path / "out" / kind) == content


def test_a_transcript_that_is_another_one_takes_its_place(
    mem: agentmem.Store, tmp_path: Path
) -> None:
    file = tmp_path / "p" / "s.jsonl"
    lines = transcript(1, 100).splitlines(keepends=True)
    texts = [b"".join(lines[:60]), b"".join(lines[:40]) + lines[40][:10], b"".join(lines[:41]), b""]
    for text in texts:
        write(tmp_path, {"p/s.jsonl": text})
        assert bring_in(mem, "claude", file).added_bytes == len(text)
        with turn(mem, "claude/p/s") as agent:
            assert agent.conversation("main").render() == text


def test_only_what_is_new_is_stored(mem: agentmem.Store, tmp_path: Path) -> None:
    lines = transcript(1, 100).splitlines(keepends=True)
    file = write(tmp_path, {"p/s.jsonl": b"".join(lines[:40])}) / "p" / "s.jsonl"
    bring_in(mem, "claude", file)
    file.write_bytes(b"".join(lines))
    before = mem.stats()["counters"]["append"]
    imported = bring_in(mem, "claude", file)
    assert imported.added_bytes == len(b"".join(lines[40:]))
    # And what it is about.
    assert mem.stats()["counters"]["append"] == before + 60 + 1


IMPORT_AND_DIE = """
import os, signal, sys
from pathlib import Path
import agentmem
from agentmem.transfer.importing import import_all
from agentmem.transfer.sources import KINDS
from agentmem.turn import turn

mem = agentmem.connect(sys.argv[1], start=False)
sources = KINDS["claude"](Path(sys.argv[2]))
steps = import_all(mem, sources)
for _ in range(3):
    next(steps)
with turn(mem, sources[3].agent_name) as agent:
    data = Path(sources[3].name).read_bytes()
    agent.conversation("main").load(b"".join(data.splitlines(keepends=True)[:15]))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_an_import_that_was_killed_goes_on(daemon_socket: Path, tmp_path: Path) -> None:
    files = {f"p/{n}.jsonl": transcript(n, 30) for n in range(6)}
    folder = write(tmp_path / "in", files)
    process = PythonProcess(IMPORT_AND_DIE, daemon_socket, folder)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    with agentmem.connect(daemon_socket, start=False) as mem:
        imported = bring_in(mem, "claude", folder)
        assert (imported.done, imported.added) == (6, 3)
        assert imported.added_bytes < sum(len(files[f"p/{n}.jsonl"]) for n in (3, 4, 5))
        take_out(mem, tmp_path / "out", "claude")
    assert tree(tmp_path / "out") == files


def test_snapshots_of_one_conversation_cost_little(mem: agentmem.Store, tmp_path: Path) -> None:
    lines = transcript(1, 300).splitlines(keepends=True)
    write(tmp_path / "one", {"s.jsonl": b"".join(lines)})
    bring_in(mem, "transcripts", tmp_path / "one")
    once = stored_bytes(mem)
    write(
        tmp_path / "all",
        {f"{n:03}.jsonl": b"".join(lines[:n]) for n in range(10, 301, 10)},
    )
    bring_in(mem, "transcripts", tmp_path / "all")
    assert stored_bytes(mem) < 1.3 * once


def test_what_cannot_be_imported_is_named_and_the_rest_is(
    mem: agentmem.Store, tmp_path: Path
) -> None:
    long = "/".join(["long" * 20] * 4)
    write(tmp_path / "in", {f"p/s/{long}.jsonl": b"{}\n", "p/t.jsonl": b"{}\n"})
    imported = bring_in(mem, "claude", tmp_path / "in")
    assert imported.done == 1
    (failed,) = imported.failed
    assert long in failed


def test_there_must_be_something(tmp_path: Path) -> None:
    for kind in KINDS:
        with pytest.raises(NotFound, match="missing"):
            KINDS[kind](tmp_path / "missing")
    for kind in ("transcripts", "langgraph-sqlite"):
        with pytest.raises(NotFound):
            KINDS[kind](None)
    (tmp_path / "text").write_text("no database")
    with pytest.raises(InvalidArgument, match="text"):
        KINDS["langgraph-sqlite"](tmp_path / "text")


# Places


@given(
    st.lists(
        st.text("ab.%/"[:-1], min_size=1, max_size=3).filter(lambda part: part not in (".", "..")),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from(["", ".jsonl", ".json"]),
)
def test_every_file_of_a_project_has_its_own_place(names: list[str], suffix: str) -> None:
    path = PurePath(*names[:-1], names[-1] + suffix)
    session, conversation = place_of(path)
    assert path_of(session, conversation) == path
    assert session_of(session.agent_name) == session


def test_nothing_is_written_outside_of_the_folder(mem: agentmem.Store, tmp_path: Path) -> None:
    out = tmp_path / "a" / "out"
    for name in ("../escaped", "/tmp/absolute", "x/../../y", "codex/../../z"):
        with turn(mem, name) as agent:
            agent.conversation("main").append(b"{}\n")
    with turn(mem, Session("..", "..").agent_name) as agent:
        agent.conversation("main").append(b"{}\n")
        agent.conversation("file/../../x").append(b"{}\n")
    failed = take_out(mem, out)
    assert len(failed) == 6
    assert all("outside" in line for line in failed)
    assert not out.exists()
    assert [path for path in tmp_path.rglob("*") if path.name in ("escaped", "y", "z", "x")] == []


def test_a_conversation_for_whose_file_there_is_no_place_is_named(
    mem: agentmem.Store, tmp_path: Path
) -> None:
    places = [("a", "b/c"), ("a/b", "c"), ("a/b/c.jsonl", "d"), ("e", "f" * 255)]
    for name, conversation in places:
        with turn(mem, name) as agent:
            agent.conversation(conversation).append(b"{}\n")
    failed = take_out(mem, tmp_path / "out")
    assert [line.split(":")[0] for line in failed] == ["/".join(place) for place in places[1:]]
    assert tree(tmp_path / "out") == {"a/b/c.jsonl": b"{}\n"}


def test_a_file_that_cannot_be_whole_is_not_left(mem: agentmem.Store, tmp_path: Path) -> None:
    with turn(mem, "langgraph-sqlite/t") as agent:
        header = {"table": "writes", "row": {"value": {"bytes": 3}}}
        agent.conversation("main").extend([json.dumps(header).encode(), b"12"])
    (failed,) = take_out(mem, tmp_path / "out")
    assert failed.startswith("langgraph-sqlite/t/main: ")
    assert tree(tmp_path / "out") == {}


def test_an_agent_that_somebody_has_is_left_out_and_named(
    mem: agentmem.Store, tmp_path: Path
) -> None:
    busy = mem.agent("busy")
    busy.conversation("talk").append({"n": 1})
    with turn(mem, "free") as agent:
        agent.conversation("talk").extend([{"n": 1}, {"n": 2}])
    (failed,) = take_out(mem, tmp_path / "out")
    assert "'busy'" in failed
    assert tree(tmp_path / "out") == {"free/talk.jsonl": b'{"n":1}\n{"n":2}\n'}
    with pytest.raises(InvalidArgument, match="not empty"):
        take_out(mem, tmp_path / "out")


# Threads of LangGraph


def pack(value: Any) -> bytes:
    """`value` as msgpack, of which the tests need little."""
    if isinstance(value, bytes):  # an ext, as the saver writes messages
        return b"\xc9" + len(value).to_bytes(4) + b"\x05" + value
    if isinstance(value, str):
        return b"\xdb" + len(value.encode()).to_bytes(4) + value.encode()
    if isinstance(value, int):
        return b"\xd3" + value.to_bytes(8, signed=True)
    if isinstance(value, list):
        return b"\xdc" + len(value).to_bytes(2) + b"".join(map(pack, value))
    assert isinstance(value, dict)
    pairs = (pack(each) for pair in value.items() for each in pair)
    return bytes([0x80 + len(value)]) + b"".join(pairs)


def checkpoints(path: Path, steps: int) -> dict[str, list[tuple[Any, ...]]]:
    """A file as the saver writes it, of one thread that grows and a small one; its rows."""
    told = [prose(n, 800) for n in range(steps)]
    with closing(sqlite3.connect(path)) as database:
        database.execute(
            "CREATE TABLE checkpoints (thread_id TEXT, checkpoint_ns TEXT, checkpoint_id TEXT,"
            " parent_checkpoint_id TEXT, type TEXT, checkpoint BLOB, metadata BLOB)"
        )
        database.execute(
            "CREATE TABLE writes (thread_id TEXT, checkpoint_ns TEXT, checkpoint_id TEXT,"
            " task_id TEXT, idx INTEGER, channel TEXT, type TEXT, value BLOB)"
        )
        for n in range(steps):
            state = pack({"v": n, "channel_values": {"messages": told[: n + 1]}, "id": f"{n:06}"})
            row = ("long", "", f"{n:06}", f"{n - 1:06}" if n else None, "msgpack", state, b"{}")
            database.execute("INSERT INTO checkpoints VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            write_row = ("long", "", f"{n:06}", "t", -1, "messages", "msgpack", pack(told[n]))
            database.execute("INSERT INTO writes VALUES (?, ?, ?, ?, ?, ?, ?, ?)", write_row)
        odd = ("gr\u00fc\u00df", "sub:1", "000000", None, None, b"\0\xff no msgpack", None)
        database.execute("INSERT INTO checkpoints VALUES (?, ?, ?, ?, ?, ?, ?)", odd)
        database.commit()
        return {
            table: sorted(database.execute(f"SELECT * FROM {table}"), key=repr)
            for table in ("checkpoints", "writes")
        }


def rows(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    found: dict[str, list[tuple[Any, ...]]] = {"checkpoints": [], "writes": []}
    for text in tree(folder).values():
        for line in text.splitlines():
            record = json.loads(line)
            values = (
                base64.b64decode(value["base64"]) if isinstance(value, dict) else value
                for value in record["row"].values()
            )
            found[record["table"]].append(tuple(values))
    return {table: sorted(each, key=repr) for table, each in found.items()}


def test_threads_of_langgraph_come_out_row_by_row(mem: agentmem.Store, tmp_path: Path) -> None:
    path = tmp_path / "checkpoints.sqlite"
    expected = checkpoints(path, 60)
    imported = bring_in(mem, "langgraph-sqlite", path)
    assert (imported.done, imported.added, imported.failed) == (2, 2, [])
    assert bring_in(mem, "langgraph-sqlite", path).added == 0
    assert take_out(mem, tmp_path / "out") == []
    assert rows(tmp_path / "out") == expected
    # Each of the checkpoints holds the whole state, of which a step adds one message.
    assert imported.done_bytes > 60 * 60 / 2 * 800
    assert stored_bytes(mem) < 60 * 800


def test_a_thread_that_went_on_is_brought_up_to_date(mem: agentmem.Store, tmp_path: Path) -> None:
    path = tmp_path / "checkpoints.sqlite"
    checkpoints(path, 5)
    bring_in(mem, "langgraph-sqlite", path)
    path.unlink()
    expected = checkpoints(path, 7)
    assert bring_in(mem, "langgraph-sqlite", path).added == 1
    with closing(sqlite3.connect(path)) as database:
        database.execute("DELETE FROM writes")
        database.commit()
    bring_in(mem, "langgraph-sqlite", path)
    take_out(mem, tmp_path / "out")
    assert rows(tmp_path / "out") == {**expected, "writes": []}


VALUES = st.recursive(
    st.integers(-(2**63), 2**63 - 1) | st.text(max_size=80) | st.binary(max_size=200),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=5)
    ),
    max_leaves=20,
)


@given(VALUES, st.integers(0, 3))
def test_parts_of_msgpack_are_the_whole(value: Any, cut: int) -> None:
    data = pack(value)
    data = data[: len(data) - cut]
    assert b"".join(parts(data)) == data
    assert all(parts(data))


@settings(max_examples=300)
@given(st.binary(max_size=60))
def test_any_bytes_are_parts_of_themselves(data: bytes) -> None:
    assert b"".join(parts(data)) == data


def test_elements_of_lists_and_large_values_are_parts() -> None:
    told = [prose(n, 200) for n in range(3)]
    state = pack({"values": {"messages": told, "n": [1, 2, 3], "large": "x" * 5000}})
    found = parts(state)
    assert all(pack(each) in found for each in told)
    assert pack("x" * 5000) in found
    assert parts(b"\x81" * 100_000) == [b"\x81" * 100_000]


# The commands


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)), prog_name="agentmem")


def test_the_commands_make_a_store_and_read_it(tmp_path: Path) -> None:
    projects = write(tmp_path / "in", CLAUDE)
    store = ("--path", tmp_path / "store")
    planned = run("import", "claude", projects, "--dry-run", *store)
    assert planned.exit_code == 0
    assert planned.stdout.startswith(f"Would import {len(CLAUDE)} conversations")
    assert not (tmp_path / "store").exists()
    imported = run("import", "claude", projects, "--json", *store)
    assert imported.exit_code == 0
    record = json.loads(imported.stdout)
    assert (record["done"], record["failed"], record["dry_run"]) == (len(CLAUDE), [], False)
    assert record["added_bytes"] == record["conversation_bytes"]
    exported = run("export", tmp_path / "out", "--format", "claude", *store)
    assert exported.exit_code == 0
    assert exported.stdout.startswith(f"Wrote {len(CLAUDE)} files")
    assert tree(tmp_path / "out") == CLAUDE
    again = run("export", tmp_path / "out", *store)
    assert again.exit_code == 1
    assert "not empty" in again.stderr


def test_the_commands_use_the_daemon(daemon_socket: Path, tmp_path: Path) -> None:
    projects = write(tmp_path / "in", CLAUDE)
    assert run("import", "claude", projects, "--socket", daemon_socket).exit_code == 0
    exported = run("export", tmp_path / "out", "--format", "claude", "--socket", daemon_socket)
    assert exported.exit_code == 0
    assert tree(tmp_path / "out") == CLAUDE


def test_what_is_left_out_is_exit_code_1(tmp_path: Path) -> None:
    long = "/".join(["long" * 20] * 4)
    write(tmp_path / "in", {f"p/s/{long}.jsonl": b"{}\n"})
    result = run("import", "claude", tmp_path / "in", "--path", tmp_path / "store")
    assert result.exit_code == 1
    assert result.stderr.startswith("left out: ")
