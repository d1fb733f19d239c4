"""The session for the OpenAI Agents SDK, beside the SDK's own SQLiteSession."""

import asyncio
import signal
from collections import Counter
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeVar

import hypothesis.strategies as st
import pytest
from agents import (
    Agent,
    Model,
    ModelResponse,
    RunConfig,
    Runner,
    SessionSettings,
    SQLiteSession,
    Usage,
)
from agents.extensions.memory import EncryptedSession
from agents.memory import Session
from conftest import PythonProcess
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from openai.types.responses import ResponseOutputMessage, ResponseOutputText

import agentmem
from agentmem.errors import Closed
from agentmem.integrations.openai_agents import AgentMemSession
from agentmem.turn import turn

T = TypeVar("T")


def run(work: Awaitable[T]) -> T:
    async def main() -> T:
        return await work

    return asyncio.run(main())


def item(n: int, **more: Any) -> Any:
    return {"role": "user", "content": f"number {n}", **more}


def items(*numbers: int) -> Any:
    return [item(n) for n in numbers]


@pytest.fixture
def session(mem: agentmem.Store) -> AgentMemSession:
    return AgentMemSession("user-42", mem)


# What the SDK's own tests ask of its sessions


def test_it_is_a_session_of_the_sdk(session: AgentMemSession) -> None:
    assert isinstance(session, Session)
    assert session.session_id == "user-42"


def test_items_come_back_in_order_and_equal(session: AgentMemSession) -> None:
    assert run(session.get_items()) == []
    told: Any = [
        {"role": "user", "content": "gr\u00fc\u00df \U0001f600 \ud800 \u2028 ' \" \\ \n"},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": '{"a": [1, 2.5]}'},
        {"type": "function_call_output", "call_id": "1", "output": [{"type": "input_text"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "", "logprobs": None}]},
    ]
    run(session.add_items(told))
    run(session.add_items(items(1)))
    assert run(session.get_items()) == [*told, item(1)]


def test_adding_nothing_does_nothing(mem: agentmem.Store, session: AgentMemSession) -> None:
    run(session.add_items([]))
    assert run(session.get_items()) == []
    assert mem.agents() == []


def test_the_last_items_are_popped_one_by_one(
    mem: agentmem.Store, session: AgentMemSession
) -> None:
    assert run(session.pop_item()) is None
    run(session.add_items(items(1, 2, 3)))
    run(session.add_items(items(4)))
    run(session.add_items(items(5, 6)))
    assert [run(session.pop_item()) for _ in range(3)] == items(6, 5, 4)
    run(session.add_items(items(7)))
    assert run(session.get_items()) == items(1, 2, 3, 7)
    assert [run(session.pop_item()) for _ in range(5)] == [*items(7, 3, 2, 1), None]
    assert mem.agents() == []


def test_a_cleared_session_begins_anew(mem: agentmem.Store, session: AgentMemSession) -> None:
    run(session.add_items(items(1, 2)))
    run(session.clear_session())
    assert run(session.get_items()) == []
    assert mem.stats()["logical_bytes"] == 0
    run(session.clear_session())
    run(session.add_items(items(3)))
    assert run(session.get_items()) == items(3)


def test_sessions_do_not_see_each_other(mem: agentmem.Store) -> None:
    one, other = AgentMemSession("one", mem), AgentMemSession("other", mem)
    run(one.add_items(items(1)))
    run(other.add_items(items(2)))
    run(one.clear_session())
    assert run(other.get_items()) == items(2)


def test_another_object_of_the_same_id_is_the_same_session(
    mem: agentmem.Store, session: AgentMemSession
) -> None:
    run(session.add_items(items(1)))
    again = AgentMemSession("user-42", mem)
    run(again.add_items(items(2)))
    assert run(session.get_items()) == run(again.get_items()) == items(1, 2)


@pytest.mark.parametrize("limit", [None, -1, 0, 1, 3, 4, 9, 10, 11])
def test_a_limit_gives_the_latest_items_oldest_first(mem: agentmem.Store, limit: int) -> None:
    session = AgentMemSession("user-42", mem)
    theirs = SQLiteSession("user-42")
    for batch in (items(1, 2, 3), items(4), items(5, 6, 7, 8), items(9, 10)):
        run(session.add_items(batch))
        run(theirs.add_items(batch))
    expected = run(theirs.get_items(limit))
    theirs.close()
    assert run(session.get_items(limit)) == expected


def test_the_settings_have_a_limit_that_a_call_overrides(mem: agentmem.Store) -> None:
    for given in (SessionSettings(limit=2), {"limit": 2}):
        session = AgentMemSession(f"of {type(given)}", mem, session_settings=given)
        run(session.add_items(items(1, 2, 3)))
        assert run(session.get_items()) == items(2, 3)
        assert run(session.get_items(limit=1)) == items(3)
        assert run(session.get_items(limit=5)) == items(1, 2, 3)
    session.session_settings = None
    assert run(session.get_items()) == items(1, 2, 3)


def test_an_item_that_is_no_json_is_refused_and_not_quoted(session: AgentMemSession) -> None:
    with pytest.raises(TypeError) as refused:
        run(session.add_items([item(1, secret="secret"), item(2, value=object())]))
    assert "secret" not in str(refused.value)
    assert run(session.get_items()) == []


def test_a_closed_store_says_so(mem: agentmem.Store, session: AgentMemSession) -> None:
    mem.close()
    with pytest.raises(Closed):
        run(session.add_items(items(1)))
    with pytest.raises(Closed):
        run(session.get_items())


class Parrot(Model):
    """A model that says how many items it was given."""

    async def get_response(self, system_instructions: Any, input: Any, *_: Any, **__: Any) -> Any:
        text = ResponseOutputText(
            text=f"{len(input)} items", type="output_text", annotations=[], logprobs=[]
        )
        said = ResponseOutputMessage(
            id="1", content=[text], role="assistant", status="completed", type="message"
        )
        return ModelResponse(output=[said], usage=Usage(), response_id=None)

    def stream_response(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError


def test_a_run_of_the_sdk_remembers_what_was_said(session: AgentMemSession) -> None:
    parrot = Agent(name="parrot", model=Parrot())
    config = RunConfig(tracing_disabled=True)
    said = [
        run(Runner.run(parrot, f"Hello {n}", session=session, run_config=config)).final_output
        for n in range(3)
    ]
    assert said == ["1 items", "3 items", "5 items"]
    session.session_settings = SessionSettings(limit=2)
    last = run(Runner.run(parrot, "Hello", session=session, run_config=config)).final_output
    assert last == "3 items"
    assert [each.get("role") for each in run(session.get_items(limit=8))] == [
        "user",
        "assistant",
    ] * 4


def test_it_works_inside_an_encrypted_session(mem: agentmem.Store) -> None:
    inner: Any = AgentMemSession("user-42", mem)
    session = EncryptedSession("user-42", inner, "a key that is long enough for the test")
    run(session.add_items(items(1, 2, 3)))
    assert run(session.get_items()) == items(1, 2, 3)
    assert run(session.get_items(limit=2)) == items(2, 3)
    assert all("number" not in str(each) for each in run(inner.get_items()))
    assert run(session.pop_item()) == item(3)
    session.session_settings = SessionSettings(limit=1)
    assert run(session.get_items()) == items(2)
    run(session.clear_session())
    assert run(session.get_items()) == []


def test_calls_at_the_same_time_are_done_one_after_the_other(session: AgentMemSession) -> None:
    async def main() -> Any:
        await asyncio.gather(*(session.add_items(items(n, n)) for n in range(20)))
        added = await session.get_items()
        popped = await asyncio.gather(*(session.pop_item() for _ in range(41)))
        return added, popped

    added, popped = run(main())
    assert added[::2] == added[1::2]
    assert Counter(map(str, added)) == Counter(map(str, items(*range(20), *range(20))))
    assert Counter(map(str, popped)) == Counter(map(str, [*added, None]))


def test_a_cancelled_call_is_done_whole_before_it_ends(
    mem: agentmem.Store, session: AgentMemSession
) -> None:
    async def main() -> None:
        with turn(mem, "openai-agents/user-42") as agent:
            agent.conversation("items/0").append(b'{"n":0}\n')
            adding = asyncio.ensure_future(session.add_items(items(1)))
            await asyncio.sleep(0.01)
            for _ in range(2):
                adding.cancel()
                await asyncio.sleep(0.01)
            assert not adding.done()
        with pytest.raises(asyncio.CancelledError):
            await adding
        assert await session.get_items() == [{"n": 0}, item(1)]

    asyncio.run(main())


def test_what_a_killed_process_left_half_done_does_not_count(
    mem: agentmem.Store, session: AgentMemSession
) -> None:
    run(session.add_items(items(1, 2)))
    with turn(mem, "openai-agents/user-42") as agent:
        talk = agent.conversation("items/0")
        talk.fork(0, name="stage").append(b'{"n":9}\n')
    assert run(session.get_items()) == items(1, 2)
    with turn(mem, "openai-agents/user-42") as agent:
        assert agent.conversations() == ["items/0"]
        # It had come as far as the new conversation, and not to giving the old one back.
        agent.conversation("items/0").fork(0, name="items/1").append(b'{"n":1}\n')
    assert run(session.get_items()) == [{"n": 1}]
    with turn(mem, "openai-agents/user-42") as agent:
        assert agent.conversations() == ["items/1"]


def test_popping_costs_no_bytes(mem: agentmem.Store, session: AgentMemSession) -> None:
    for n in range(200):
        run(session.add_items([item(n, text="x" * 500)]))
    before = mem.stats()["stored_bytes"]
    for _ in range(10):
        run(session.pop_item())
    assert mem.stats()["stored_bytes"] <= before


def test_what_was_added_with_flush_survives(tmp_path: Path) -> None:
    with agentmem.open(tmp_path / "store") as mem:
        commits = mem.stats()["counters"]["commit"]
        run(AgentMemSession("user-42", mem, flush=True).add_items(items(1)))
        assert mem.stats()["counters"]["commit"] > commits
    with agentmem.open(tmp_path / "store") as mem:
        assert run(AgentMemSession("user-42", mem).get_items()) == items(1)


# Beside SQLiteSession, step by step

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
ITEMS = st.lists(st.dictionaries(st.text(max_size=5), JSON, max_size=3), max_size=4)
LIMITS = st.none() | st.integers(-2, 8)


class BesideSQLiteSession(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.mem = agentmem.open(memory_max="32M", cold=False, arena_bytes="1M")
        self.pairs = [
            (AgentMemSession(name, self.mem), SQLiteSession(name)) for name in ("one", "other")
        ]

    def both(self, which: int, method: str, *arguments: Any) -> None:
        ours, theirs = (run(getattr(each, method)(*arguments)) for each in self.pairs[which])
        assert ours == theirs

    @rule(which=st.integers(0, 1), told=ITEMS)
    def add(self, which: int, told: Any) -> None:
        self.both(which, "add_items", told)

    @rule(which=st.integers(0, 1), count=st.integers(1, 4))
    def pop(self, which: int, count: int) -> None:
        for _ in range(count):
            self.both(which, "pop_item")

    @rule(which=st.integers(0, 1))
    def clear(self, which: int) -> None:
        self.both(which, "clear_session")

    @rule(which=st.integers(0, 1), limit=LIMITS)
    def limit(self, which: int, limit: int | None) -> None:
        for session in self.pairs[which]:
            session.session_settings = SessionSettings(limit=limit)

    @rule(which=st.integers(0, 1), limit=LIMITS)
    def get(self, which: int, limit: int | None) -> None:
        self.both(which, "get_items", limit)

    @rule()
    def reclaim(self) -> None:
        self.mem.reclaim(0)

    @invariant()
    def same(self) -> None:
        for which in range(2):
            self.both(which, "get_items")

    def teardown(self) -> None:
        self.mem.close()
        for _, theirs in self.pairs:
            theirs.close()


TestBesideSQLiteSession = BesideSQLiteSession.TestCase
TestBesideSQLiteSession.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, print_blob=True
)


# Several processes

WORK = """
import asyncio, sys
import agentmem
from agentmem.integrations.openai_agents import AgentMemSession

async def main(socket, name, count):
    session = AgentMemSession("shared", agentmem.connect(socket, start=False))
    popped = []
    for n in range(count):
        await session.add_items([{"by": name, "n": n, "part": part} for part in range(3)])
        popped.append(await session.pop_item())
    print(len(popped), flush=True)
    print(*[f"{each['by']} {each['n']} {each['part']}" for each in popped], sep=chr(10))

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def test_processes_share_a_session_and_no_item_is_popped_twice(daemon_socket: Path) -> None:
    count, names = 20, ["a", "b", "c"]
    processes = [PythonProcess(WORK, daemon_socket, name, count) for name in names]
    popped = [line for process in processes for line in process.output().splitlines()[1:]]
    with agentmem.connect(daemon_socket, start=False) as mem:
        left: Any = run(AgentMemSession("shared", mem).get_items())
    seen = Counter(popped) + Counter(f"{e['by']} {e['n']} {e['part']}" for e in left)
    added = (f"{name} {n} {part}" for name in names for n in range(count) for part in range(3))
    assert seen == Counter(added)
    for name in names:
        mine = [(each["n"], each["part"]) for each in left if each["by"] == name]
        assert mine == sorted(mine)


ADD_AND_DIE = """
import asyncio, os, signal, sys
import agentmem
from agentmem.integrations.openai_agents import AgentMemSession

async def main(socket):
    session = AgentMemSession("shared", agentmem.connect(socket, start=False))
    await session.add_items([{"n": 1}, {"n": 2}])
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(sys.argv[1]))
"""


def test_a_session_outlives_the_process_that_wrote_it(daemon_socket: Path) -> None:
    process = PythonProcess(ADD_AND_DIE, daemon_socket)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    with agentmem.connect(daemon_socket, start=False) as mem:
        assert run(AgentMemSession("shared", mem).get_items()) == [{"n": 1}, {"n": 2}]
