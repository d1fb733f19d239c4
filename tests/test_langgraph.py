"""The saver: LangGraph's conformance suite, its published examples, many processes, and bytes."""

import asyncio
import contextlib
import inspect
import io
import re
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from operator import add
from pathlib import Path
from typing import Annotated, Any, TypedDict

import langgraph.func
import langgraph.types
import pytest
from conftest import PythonProcess
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver, empty_checkpoint
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import ALL_CAPABILITIES
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from words import prose

import agentmem
import agentmem.integrations.langgraph
from agentmem.errors import NameTaken
from agentmem.integrations.langgraph import AgentMemSaver

CONFORMANCE_CASES = 81


class Sync(AgentMemSaver):
    """The methods that wait, under the names of those that are awaited."""

    async def aget_tuple(self, *args: Any) -> Any:
        return self.get_tuple(*args)

    async def alist(self, *args: Any, **options: Any) -> AsyncIterator[Any]:
        for each in self.list(*args, **options):
            yield each

    async def aput(self, *args: Any) -> Any:
        return self.put(*args)

    async def aput_writes(self, *args: Any, **options: Any) -> None:
        self.put_writes(*args, **options)

    async def adelete_thread(self, *args: Any) -> None:
        self.delete_thread(*args)

    async def adelete_for_runs(self, *args: Any) -> None:
        self.delete_for_runs(*args)

    async def acopy_thread(self, *args: Any) -> None:
        self.copy_thread(*args)

    async def aprune(self, *args: Any, **options: Any) -> None:
        self.prune(*args, **options)


@pytest.fixture
def saver(mem: agentmem.Store) -> AgentMemSaver:
    return AgentMemSaver(mem)


@pytest.mark.parametrize("kind", [AgentMemSaver, Sync])
def test_conformance(mem: agentmem.Store, kind: type[AgentMemSaver]) -> None:
    @checkpointer_test(name=kind.__name__)
    async def checkpointer() -> AsyncIterator[AgentMemSaver]:
        yield kind(mem)

    results = asyncio.run(validate(checkpointer)).results
    assert [failure for result in results.values() for failure in result.failures] == []
    # passed_all() overlooks what was not detected.
    detected = {name for name, result in results.items() if result.detected}
    assert detected == {capability.value for capability in ALL_CAPABILITIES}
    assert sum(result.tests_passed for result in results.values()) == CONFORMANCE_CASES


# Graphs


class State(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]
    steps: Annotated[list[str], add]


def chat(saver: BaseCheckpointSaver[Any], nodes: int = 1) -> Any:
    """A graph whose nodes each add a message of 2 KB."""

    def node(state: State) -> dict[str, Any]:
        n = len(state["messages"])
        return {"messages": [AIMessage(prose(n, 2000).decode())], "steps": [f"step {n}"]}

    builder = StateGraph(State)
    builder.add_sequence([(f"node-{n}", node) for n in range(nodes)])
    builder.add_edge(START, "node-0")
    builder.add_edge(f"node-{nodes - 1}", END)
    return builder.compile(checkpointer=saver)


def thread(name: str) -> Any:
    return {"configurable": {"thread_id": name}}


def say(graph: Any, name: str, turns: int, **options: Any) -> None:
    for n in range(turns):
        asked = HumanMessage(f"{n} " + prose(1000 + n, 500).decode(), id=f"{name}-{n}")
        graph.invoke({"messages": [asked]}, thread(name), **options)


def published(where: Any, number: int = 0) -> str:
    """An example from the framework's own documentation."""
    blocks = re.findall(r"```python\n(.*?)```", inspect.cleandoc(where.__doc__), re.DOTALL)
    return inspect.cleandoc(blocks[number])


def outputs(example: str, saver: Any) -> str:
    """What an example prints, and the state that it ends with, its checkpoints kept by `saver`."""
    assert example.count("InMemorySaver()") == 1
    names: dict[str, Any] = {"the_saver": saver, "__name__": "example"}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(example.replace("InMemorySaver()", "the_saver"), names)
    graph = names.get("graph") or names.get("review_workflow") or names["my_workflow"]
    state = graph.get_state(names["config"])
    # Ids come from the time.
    return re.sub("[0-9a-f]{32}", "ID", printed.getvalue()) + repr((state.values, state.next))


@pytest.mark.parametrize(
    ("where", "number"),
    [
        (langgraph.types.interrupt, 0),
        (langgraph.func.entrypoint, 0),
        (langgraph.func.entrypoint, 2),
    ],
    ids=["interrupt", "essay", "final"],
)
def test_published_examples_give_the_same_with_one_line_changed(
    saver: AgentMemSaver, where: Any, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    example = published(where, number)
    assert outputs(example, saver) == outputs(example, InMemorySaver())


ROOT = Path(__file__).resolve().parent.parent


def test_the_documented_examples_run(
    mem: agentmem.Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The fixture's store for each, which stays open.
    monkeypatch.setattr(agentmem, "open", lambda path: contextlib.nullcontext(mem))
    page = (ROOT / "docs" / "langgraph.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    docstring = inspect.getdoc(agentmem.integrations.langgraph)
    assert docstring is not None
    assert inspect.cleandoc(docstring.partition("\n\n")[2]) == examples[0].strip()
    names: dict[str, Any] = {}
    for example in examples:
        exec(example, names)
    assert capsys.readouterr().out == "Hello\n{'tea': True, 'cups': 3}\n['likes']\n"


def test_a_graph_finds_its_history(saver: AgentMemSaver) -> None:
    graph, reference = chat(saver), chat(InMemorySaver())
    for each in (graph, reference):
        say(each, "t", 12)
    found = [state.values for state in graph.get_state_history(thread("t"))]
    expected = [state.values for state in reference.get_state_history(thread("t"))]
    assert [len(state["messages"]) for state in found if state] == [
        len(state["messages"]) for state in expected if state
    ]
    assert [state.get("steps") for state in found] == [state.get("steps") for state in expected]
    assert graph.get_state(thread("t")).values["messages"][5].content == prose(5, 2000).decode()


def test_time_travel_goes_on_from_the_past(saver: AgentMemSaver) -> None:
    graph = chat(saver)
    say(graph, "t", 6)
    history = list(graph.get_state_history(thread("t")))
    past = next(state for state in history if len(state.values["messages"]) == 4)
    forked = graph.update_state(past.config, {"messages": [HumanMessage("instead")]})
    graph.invoke(None, forked)
    contents = [message.content for message in graph.get_state(thread("t")).values["messages"]]
    assert contents[4] == "instead"
    assert len(list(graph.get_state_history(thread("t")))) > len(history)
    assert graph.get_state(history[0].config).values == history[0].values


def test_delta_channels_outlive_pruning(saver: AgentMemSaver) -> None:
    def extend(state: list[str], writes: Sequence[list[str]]) -> list[str]:
        return [*state, *(line for write in writes for line in write)]

    def node(state: Any) -> Any:
        return {"lines": [f"answer {len(state['lines'])}"]}

    channel = DeltaChannel(extend, snapshot_frequency=5)
    schema: Any = TypedDict("schema", {"lines": Annotated[list[str], channel]})
    states = []
    for each in (saver, InMemorySaver()):
        builder = StateGraph(schema)
        builder.add_node("node", node)
        builder.add_edge(START, "node")
        graph: Any = builder.compile(checkpointer=each)
        for n in range(9):
            graph.invoke({"lines": [f"question {n}"]}, thread("t"))
            states.append(graph.get_state(thread("t")).values)
        if each is saver:
            saver.prune(["t"])
            assert 1 < len(list(saver.list(thread("t")))) < 27
            assert graph.get_state(thread("t")).values == states[-1]
    assert states[:9] == states[9:]


def test_threads_of_other_savers_go_on_with_their_versions(saver: AgentMemSaver) -> None:
    other = InMemorySaver()
    say(chat(other), "t", 2)
    for found in reversed(list(other.list(thread("t")))):
        config = found.parent_config or {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
        versions = found.checkpoint["channel_versions"]
        saver.put(config, found.checkpoint, found.metadata, versions)
    chat(saver).invoke({"messages": [HumanMessage("and now?")]}, thread("t"))
    assert len(chat(saver).get_state(thread("t")).values["messages"]) == 6


# Bytes


def stored(mem: agentmem.Store) -> int:
    mem.flush()
    mem.reclaim(0)
    return int(mem.stats()["stored_bytes"])


def test_the_whole_state_at_every_step_is_stored_once(
    mem: agentmem.Store, saver: AgentMemSaver
) -> None:
    graph = chat(saver)
    say(graph, "t", 60)
    messages = graph.get_state(thread("t")).values["messages"]
    content = sum(len(message.content) for message in messages)
    assert stored(mem) < content
    assert len(list(graph.get_state_history(thread("t")))) == 180


def test_lists_within_what_a_function_returns_are_stored_once(
    mem: agentmem.Store, saver: AgentMemSaver
) -> None:
    @entrypoint(checkpointer=saver)
    def talk(said: str, *, previous: Any = None) -> Any:
        before = previous["chat"]["lines"] if previous else []
        return {"user": "ada", "chat": {"lines": [*before, {"role": "user", "content": said}]}}

    said = [prose(n, 2000).decode() for n in range(60)]
    for each in said:
        talk.invoke(each, thread("t"))
    lines = talk.get_state(thread("t")).values["chat"]["lines"]
    assert [line["content"] for line in lines] == said
    # Each is stored as what was asked, too; all states together are more than 3,600,000 bytes.
    assert mem.stats()["logical_bytes"] < 5 * 60 * 2000


def test_a_copy_takes_no_more_and_stays_when_the_other_goes(
    mem: agentmem.Store, saver: AgentMemSaver
) -> None:
    graph = chat(saver)
    say(graph, "one", 40)
    before = stored(mem)
    saver.copy_thread("one", "two")
    assert stored(mem) == before
    with pytest.raises(NameTaken):
        saver.copy_thread("one", "two")
    expected = graph.get_state(thread("one")).values
    saver.delete_thread("one")
    assert graph.get_state(thread("one")).values == {}
    assert graph.get_state(thread("two")).values == expected
    assert stored(mem) <= before
    say(graph, "two", 1)
    assert len(graph.get_state(thread("two")).values["messages"]) == 82
    saver.delete_thread("two")
    assert mem.stats()["messages"] == mem.stats()["conversations"] == 0
    assert stored(mem) == 0


def test_pruning_frees_what_only_old_checkpoints_had(
    mem: agentmem.Store, saver: AgentMemSaver
) -> None:
    def node(state: dict[str, Any]) -> dict[str, Any]:
        return {"text": prose(len(state["text"]), 20_000 + len(state["text"]) % 7).decode()}

    builder = StateGraph(TypedDict("Text", {"text": str}))  # type: ignore[operator]
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    graph = builder.compile(checkpointer=saver)
    for n in range(20):
        graph.invoke({"text": prose(n, 10_000 + n).decode()}, thread("t"))
    expected, before = graph.get_state(thread("t")), stored(mem)
    saver.prune(["t"])
    assert graph.get_state(thread("t")) == expected
    assert len(list(saver.list(None))) == 1
    assert stored(mem) < before / 5


def test_values_of_any_size_and_kind_come_back(saver: AgentMemSaver) -> None:
    values: dict[str, Any] = {
        "bytes": prose(1, 300_000),
        "numbers": list(range(10_000)),
        "nothing": None,
        "empty": [],
        "files": {f"{n}.txt": prose(n, 700).decode() for n in range(50)},
        "mixed": [prose(2, 100_000), {"a": (1, [2])}, HumanMessage("hello"), *"abc"],
    }
    for step in range(3):
        checkpoint = empty_checkpoint()
        checkpoint["channel_values"] = values
        checkpoint["channel_versions"] = dict.fromkeys(values, step + 1)
        config = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
        put = saver.put(config, checkpoint, {"step": step}, checkpoint["channel_versions"])
        found = saver.get_tuple(put)
        reference = InMemorySaver()
        reference.put(config, checkpoint, {"step": step}, checkpoint["channel_versions"])
        expected = reference.get_tuple(put)
        assert found is not None
        assert expected is not None
        assert repr(found.checkpoint) == repr(expected.checkpoint)
        values["numbers"] = [*values["numbers"], step]
        values["files"] = {**values["files"], "7.txt": "changed", f"new-{step}": "x" * 70_000}
        values["mixed"] = values["mixed"][1:]


# Who dies, and who does not


WRITER = """
import os, signal, sys
import agentmem
from agentmem.integrations.langgraph import AgentMemSaver
from test_langgraph import chat, say, thread

how, where, durability = sys.argv[1:]
store = agentmem.open(where) if how == "embedded" else agentmem.connect(where, start=False)
saver = AgentMemSaver(store, flush=how == "embedded")
graph = chat(saver, nodes=3)
say(graph, "t", 2)

def die(state):
    os.kill(os.getpid(), signal.SIGKILL)

from langgraph.graph import END, START, StateGraph
from test_langgraph import State
builder = StateGraph(State)
builder.add_sequence([("first", lambda state: {"steps": ["kept"]}), ("second", die)])
builder.add_edge(START, "first")
builder.compile(checkpointer=saver).invoke({"steps": []}, thread("t"), durability=durability)
"""


@pytest.mark.parametrize("how", ["embedded", "connected"])
@pytest.mark.parametrize("durability", ["sync", "exit"])
def test_what_a_durability_promises_survives_its_process(
    how: str,
    durability: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    python: type[PythonProcess],
) -> None:
    connected = how == "connected"
    where = request.getfixturevalue("daemon_socket") if connected else tmp_path / "store"
    process = python(WRITER, how, where, durability)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    store = agentmem.connect(where, start=False) if connected else agentmem.open(where)
    with store:
        state = chat(AgentMemSaver(store), nodes=3).get_state(thread("t"))
        assert len(state.values["messages"]) == 8
        kept = "kept" in state.values["steps"]
        assert kept == (durability == "sync")


SHARER = """
import sys
import agentmem
from agentmem.integrations.langgraph import AgentMemSaver
from test_langgraph import put_some

with agentmem.connect(sys.argv[1], start=False) as store:
    put_some(AgentMemSaver(store), sys.argv[2], 25)
"""


def put_some(saver: AgentMemSaver, writer: str, count: int) -> None:
    """Checkpoints of one thread, each on the latest that there is, as processes that know nothing
    of each other put them."""
    config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    for n in range(count):
        before = saver.get_tuple(config)
        checkpoint = empty_checkpoint()
        lines = before.checkpoint["channel_values"]["lines"] if before else []
        checkpoint["channel_values"] = {"lines": [*lines, f"{writer} {n} " + "x" * 400]}
        checkpoint["channel_versions"] = {"lines": before.metadata["step"] + 2 if before else 1}
        parent = before.config if before else config
        metadata = {"step": checkpoint["channel_versions"]["lines"] - 1}
        put = saver.put(parent, checkpoint, metadata, checkpoint["channel_versions"])  # type: ignore[arg-type]
        saver.put_writes(put, [("lines", f"{writer} {n}")], writer)


def test_many_processes_use_one_thread(daemon_socket: Path, python: type[PythonProcess]) -> None:
    writers = [str(n) for n in range(4)]
    for process in [python(SHARER, daemon_socket, writer) for writer in writers]:
        process.output()
    with agentmem.connect(daemon_socket, start=False) as store:
        found = {each.checkpoint["id"]: each for each in AgentMemSaver(store).list(thread("t"))}
    assert len(found) == 4 * 25
    for each in found.values():
        lines = each.checkpoint["channel_values"]["lines"]
        # What it had of its parent, and one more: nothing torn, and nothing of others in between.
        parent = found.get((each.parent_config or {}).get("configurable", {}).get("checkpoint_id"))
        assert lines[:-1] == (parent.checkpoint["channel_values"]["lines"] if parent else [])
        assert each.pending_writes == [(lines[-1][0], "lines", lines[-1].partition(" x")[0])]


def test_a_writer_that_dies_on_the_way_leaves_nothing_torn(
    mem: agentmem.Store, saver: AgentMemSaver, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = chat(saver)
    say(graph, "t", 3)
    expected = graph.get_state(thread("t"))

    def fail(*_: Any) -> None:
        raise OSError("no more")

    for name in ("append",):
        with monkeypatch.context() as patched:
            patched.setattr("agentmem.integrations.langgraph.thread.Thread." + name, fail)
            with pytest.raises(OSError, match="no more"):
                say(graph, "t", 1, durability="sync")
    assert graph.get_state(thread("t")) == expected
    say(graph, "t", 1)
    messages = graph.get_state(thread("t")).values["messages"]
    assert [message.content for message in messages[:6]] == [
        message.content for message in expected.values["messages"]
    ]


def rewriting(saver: AgentMemSaver) -> None:
    saver.prune(["t"])


def copying(saver: AgentMemSaver) -> None:
    saver.copy_thread("t", "copy")


@pytest.mark.parametrize("act", [rewriting, copying])
def test_whoever_dies_while_a_generation_is_written_leaves_the_one_before(
    mem: agentmem.Store,
    saver: AgentMemSaver,
    act: Callable[[AgentMemSaver], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = chat(saver)
    say(graph, "t", 3)
    expected = list(graph.get_state_history(thread("t")))

    def fail(*_: Any) -> None:
        raise OSError("no more")

    with monkeypatch.context() as patched:
        patched.setattr("agentmem.integrations.langgraph.streams.NextStreams.finish", fail)
        with pytest.raises(OSError, match="no more"):
            act(saver)
    assert list(graph.get_state_history(thread("t"))) == expected
    act(saver)
    assert graph.get_state(thread("t")) == expected[0]
    saver.delete_thread("t")
    saver.delete_thread("copy")
    assert mem.stats()["conversations"] == 0
