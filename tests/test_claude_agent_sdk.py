"""The session store for the Claude Agent SDK: the SDK's own suite, and what that leaves out."""

import asyncio
import json
import os
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import claude_agent_sdk as sdk
import hypothesis.strategies as st
import pytest
from claude_agent_sdk.testing import run_session_store_conformance
from conftest import PythonProcess
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import agentmem
from agentmem.integrations.claude_agent_sdk import AgentMemSessionStore
from agentmem.transfer.importing import import_all
from agentmem.transfer.sources import KINDS
from agentmem.turn import turn

T = TypeVar("T")

OPTIONAL = ("list_sessions", "list_session_summaries", "delete", "list_subkeys")
# One that finds out what there is, and one for each contract.
STORES_OF_THE_SUITE = 15
KEY: sdk.SessionKey = {"project_key": "-home-me", "session_id": str(uuid.UUID(int=1))}


def run(work: Awaitable[T]) -> T:
    async def main() -> T:
        return await work

    return asyncio.run(main())


def entry(n: int, **more: Any) -> Any:
    return {"type": "user", "uuid": str(uuid.UUID(int=n)), "n": n, **more}


# The SDK's suite


def suite(make_store: Callable[[], agentmem.Store]) -> None:
    stores = []

    def make() -> AgentMemSessionStore:
        stores.append(make_store())
        return AgentMemSessionStore(stores[-1])

    try:
        run(run_session_store_conformance(make))
    finally:
        for store in stores:
            store.close()
    assert len(stores) == STORES_OF_THE_SUITE


def test_no_method_is_left_out() -> None:
    for name in OPTIONAL:
        assert getattr(AgentMemSessionStore, name) is not getattr(sdk.SessionStore, name)


def test_it_meets_all_contracts_of_the_suite_embedded() -> None:
    suite(lambda: agentmem.open(memory_max="32M", cold=False, arena_bytes="1M"))


def test_it_meets_all_contracts_of_the_suite_over_the_daemon(daemon_socket: Path) -> None:
    names = map(str, range(STORES_OF_THE_SUITE))
    token = "sixteen bytes or more"
    suite(
        lambda: agentmem.connect(
            daemon_socket, domain=f"suite-{next(names)}", token=token, start=False
        )
    )


# What the suite leaves out


@pytest.fixture
def sessions(mem: agentmem.Store) -> AgentMemSessionStore:
    return AgentMemSessionStore(mem)


def test_an_entry_is_there_once_however_often_it_is_appended(
    mem: agentmem.Store, sessions: AgentMemSessionStore
) -> None:
    run(sessions.append(KEY, [entry(1), entry(2), entry(1)]))
    run(sessions.append(KEY, [entry(2), entry(3)]))
    # One that has not written to it before knows as well.
    run(AgentMemSessionStore(mem).append(KEY, [entry(3), entry(4)]))
    run(sessions.append(KEY, [entry(4), entry(5)]))
    assert run(sessions.load(KEY)) == [entry(n) for n in range(1, 6)]


def test_entries_without_a_uuid_are_all_kept(sessions: AgentMemSessionStore) -> None:
    title: Any = {"type": "custom-title", "customTitle": "same"}
    for _ in range(3):
        run(sessions.append(KEY, [title, title]))
    assert run(sessions.load(KEY)) == [title] * 6


def test_what_was_deleted_can_be_appended_again(
    mem: agentmem.Store, sessions: AgentMemSessionStore
) -> None:
    run(sessions.append(KEY, [entry(1)]))
    run(AgentMemSessionStore(mem).delete(KEY))
    assert run(sessions.load(KEY)) is None
    assert mem.stats()["logical_bytes"] == 0
    run(sessions.append(KEY, [entry(2), entry(1)]))
    assert run(sessions.load(KEY)) == [entry(2), entry(1)]


def test_reading_what_is_not_there_leaves_nothing(
    mem: agentmem.Store, sessions: AgentMemSessionStore
) -> None:
    assert run(sessions.load(KEY)) is None
    assert run(sessions.list_subkeys(sdk.SessionListSubkeysKey(**KEY))) == []
    run(sessions.delete(KEY))
    run(sessions.delete({**KEY, "subpath": "subagents/agent-1"}))
    assert mem.agents() == []


@pytest.mark.parametrize(
    "text", ["gr\u00fc\u00df \U0001f600", "\ud800 alone", "a\u2028b\x85c\r\n\0"]
)
def test_any_text_comes_back(sessions: AgentMemSessionStore, text: str) -> None:
    run(sessions.append(KEY, [entry(1, text=text), entry(2)]))
    assert run(sessions.load(KEY)) == [entry(1, text=text), entry(2)]


@pytest.mark.parametrize("name", ["a/b", "..", "%2F", "a%b", "\u00e4"])
def test_any_name_is_a_project_of_its_own(sessions: AgentMemSessionStore, name: str) -> None:
    run(sessions.append({"project_key": name, "session_id": name}, [entry(1)]))
    run(sessions.append({"project_key": "other", "session_id": name}, [entry(2)]))
    assert [found["session_id"] for found in run(sessions.list_sessions(name))] == [name]
    assert run(sessions.list_sessions("a")) == []


def test_a_summary_that_a_killed_writer_left_behind_is_brought_up_to_date(
    mem: agentmem.Store, sessions: AgentMemSessionStore
) -> None:
    run(sessions.append(KEY, [entry(1, customTitle="old", gitBranch="main")]))
    with turn(mem, f"claude/-home-me/{KEY['session_id']}") as agent:
        agent.conversation("main").append(json.dumps(entry(2, customTitle="new")).encode() + b"\n")
        agent.conversation("summary/2")
    (summary,) = run(sessions.list_session_summaries("-home-me"))
    assert summary["data"]["custom_title"] == "new"
    assert summary["data"]["git_branch"] == "main"
    run(sessions.append(KEY, [entry(3)]))
    (later,) = run(sessions.list_session_summaries("-home-me"))
    assert later["mtime"] > summary["mtime"]
    assert later["data"] == summary["data"]
    with turn(mem, f"claude/-home-me/{KEY['session_id']}") as agent:
        assert agent.conversations() == ["main", "summary/3"]


def test_an_entry_that_is_no_json_is_refused_and_not_quoted(
    sessions: AgentMemSessionStore,
) -> None:
    with pytest.raises(TypeError) as refused:
        run(sessions.append(KEY, [entry(1, text="secret"), entry(2, value=object())]))
    assert "secret" not in str(refused.value)
    assert run(sessions.load(KEY)) is None


def test_what_was_appended_with_flush_survives(tmp_path: Path) -> None:
    with agentmem.open(tmp_path / "store") as mem:
        commits = mem.stats()["counters"]["commit"]
        run(AgentMemSessionStore(mem, flush=True).append(KEY, [entry(1)]))
        assert mem.stats()["counters"]["commit"] > commits
    with agentmem.open(tmp_path / "store") as mem:
        assert run(AgentMemSessionStore(mem).load(KEY)) == [entry(1)]


def test_the_helpers_of_the_sdk_work_with_it(
    sessions: AgentMemSessionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(tmp_path))
    project = sdk.project_key_for_directory("/home/me")
    session_id = KEY["session_id"]
    transcript = tmp_path / "projects" / project / f"{session_id}.jsonl"
    told = [
        {
            "type": "user",
            "uuid": str(uuid.UUID(int=n)),
            "parentUuid": str(uuid.UUID(int=n - 1)) if n > 1 else None,
            "sessionId": session_id,
            "timestamp": f"2026-01-01T00:00:0{n}.000Z",
            "message": {"role": "user", "content": f"number {n}"},
        }
        for n in range(1, 4)
    ]
    transcript.parent.mkdir(parents=True)
    transcript.write_text("".join(f"{json.dumps(each)}\n" for each in told))
    for _ in range(2):
        run(sdk.import_session_to_store(session_id, sessions))
    assert run(sessions.load({"project_key": project, "session_id": session_id})) == told
    listed = run(sdk.list_sessions_from_store(sessions, "/home/me"))
    assert [each.first_prompt for each in listed] == ["number 1"]
    fork = run(sdk.fork_session_via_store(sessions, session_id, directory="/home/me"))
    messages = run(sdk.get_session_messages_from_store(sessions, fork.session_id, "/home/me"))
    assert [each.message["content"] for each in messages] == ["number 1", "number 2", "number 3"]
    run(sdk.delete_session_via_store(sessions, session_id, "/home/me"))
    listed = run(sdk.list_sessions_from_store(sessions, "/home/me"))
    assert [each.session_id for each in listed] == [fork.session_id]


def test_what_was_imported_can_be_resumed(
    mem: agentmem.Store, sessions: AgentMemSessionStore, tmp_path: Path
) -> None:
    told = [entry(n, customTitle=f"title {n}") for n in range(3)]
    folder = tmp_path / "-home-me"
    session_id = KEY["session_id"]
    main, agent = folder / f"{session_id}.jsonl", folder / session_id / "subagents" / "agent-1"
    agent.parent.mkdir(parents=True)
    # The last line of a transcript whose writer was killed.
    main.write_text("".join(f"{json.dumps(each)}\n" for each in told) + '{"type": "us')
    agent.with_suffix(".jsonl").write_text(json.dumps(entry(7)))
    agent.with_suffix(".meta.json").write_text('{\n "agentType": "explorer"\n}')
    os.utime(main, (1e9, 1e9))
    *_, imported = import_all(mem, KINDS["claude"](tmp_path))
    assert imported.failed == []
    assert run(sessions.load(KEY)) == told
    listed = [{"session_id": session_id, "mtime": 10**12}]
    assert run(sessions.list_sessions("-home-me")) == listed
    (summary,) = run(sessions.list_session_summaries("-home-me"))
    assert (summary["mtime"], summary["data"]["custom_title"]) == (10**12, "title 2")
    assert run(sessions.list_subkeys(sdk.SessionListSubkeysKey(**KEY))) == ["subagents/agent-1"]
    about = {"type": "agent_metadata", "agentType": "explorer"}
    assert run(sessions.load({**KEY, "subpath": "subagents/agent-1"})) == [about, entry(7)]
    run(sessions.append(KEY, [told[0], entry(4)]))
    assert run(sessions.load(KEY)) == [*told, entry(4)]


# Beside the SDK's own store in memory, step by step

PROJECTS = st.sampled_from(["p", "p/q"])
SESSIONS = st.sampled_from(["a", "b"])
SUBPATHS = st.sampled_from([None, None, "subagents/agent-1", "subagents/agent-2"])
VALUES = st.one_of(st.text(max_size=8), st.integers(), st.lists(st.booleans(), max_size=3))
FIELDS = st.sampled_from(["customTitle", "gitBranch", "text", "tag", "cwd"])


class BesideTheReference(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.mem = agentmem.open(memory_max="32M", cold=False, arena_bytes="1M")
        self.ours, self.reference = AgentMemSessionStore(self.mem), sdk.InMemorySessionStore()
        self.number = 0

    def both(self, method: str, *arguments: Any) -> None:
        ours, theirs = (
            run(getattr(store, method)(*arguments)) for store in (self.ours, self.reference)
        )
        assert ours == theirs

    @staticmethod
    def key(project: str, session: str, subpath: str | None) -> sdk.SessionKey:
        key: sdk.SessionKey = {"project_key": project, "session_id": session}
        return {**key, "subpath": subpath} if subpath else key

    @rule(
        project=PROJECTS,
        session=SESSIONS,
        subpath=SUBPATHS,
        batch=st.lists(st.tuples(st.booleans(), st.dictionaries(FIELDS, VALUES)), min_size=1),
    )
    def append(self, project: str, session: str, subpath: str | None, batch: list[Any]) -> None:
        entries = []
        for has_uuid, fields in batch:
            self.number += 1
            entries.append(entry(self.number, **fields) if has_uuid else {"type": "tag"} | fields)
        self.both("append", self.key(project, session, subpath), entries)

    @rule(project=PROJECTS, session=SESSIONS, subpath=SUBPATHS)
    def delete(self, project: str, session: str, subpath: str | None) -> None:
        self.both("delete", self.key(project, session, subpath))

    @rule()
    def reclaim(self) -> None:
        self.mem.reclaim(0)

    @rule()
    def forget(self) -> None:
        self.ours = AgentMemSessionStore(self.mem)

    @invariant()
    def same(self) -> None:
        for project in ("p", "p/q"):
            for session in ("a", "b"):
                for subpath in (None, "subagents/agent-1", "subagents/agent-2"):
                    self.both("load", self.key(project, session, subpath))
                key = self.key(project, session, None)
                subkeys = [run(store.list_subkeys(key)) for store in (self.ours, self.reference)]
                assert sorted(subkeys[0]) == sorted(subkeys[1])
            summaries, listed = (
                {each["session_id"]: each for each in run(found)}
                for found in (
                    self.ours.list_session_summaries(project),
                    self.ours.list_sessions(project),
                )
            )
            assert {name: each["mtime"] for name, each in summaries.items()} == {
                name: each["mtime"] for name, each in listed.items()
            }
            theirs = run(self.reference.list_session_summaries(project))
            assert {name: each["data"] for name, each in summaries.items()} == {
                each["session_id"]: each["data"] for each in theirs
            }

    def teardown(self) -> None:
        self.mem.close()


TestBesideTheReference = BesideTheReference.TestCase
TestBesideTheReference.settings = settings(
    max_examples=15, stateful_step_count=12, deadline=None, print_blob=True
)


# Several processes

APPEND = """
import asyncio, sys
import agentmem
from agentmem.integrations.claude_agent_sdk import AgentMemSessionStore

async def main(socket, name, count):
    sessions = AgentMemSessionStore(agentmem.connect(socket, start=False))
    key = {"project_key": "p", "session_id": "s"}
    for n in range(count):
        batch = [{"type": "x", "by": name, "batch": n, "part": part} for part in range(3)]
        await sessions.append(key, batch)
        await sessions.append(key, [{"type": "x", "uuid": str(n), "gitBranch": str(n)}])

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def test_processes_append_to_one_session(daemon_socket: Path) -> None:
    count = 20
    names = ["a", "b", "c"]
    processes = [PythonProcess(APPEND, daemon_socket, name, count) for name in names]
    for process in processes:
        process.output()
    with agentmem.connect(daemon_socket, start=False) as mem:
        sessions = AgentMemSessionStore(mem)
        loaded: Any = run(sessions.load({"project_key": "p", "session_id": "s"}))
        (summary,) = run(sessions.list_session_summaries("p"))
    batches = [each for each in loaded if "by" in each]
    # Each batch lies together, and those of a process in its order.
    assert [each["part"] for each in batches] == [0, 1, 2] * count * len(names)
    for name in names:
        assert [each["batch"] for each in batches if each["by"] == name][::3] == list(range(count))
    # What all of them appended is there once.
    assert sorted(int(each["uuid"]) for each in loaded if "uuid" in each) == list(range(count))
    assert summary["data"]["git_branch"] == str(count - 1)
