"""Stores, agents, policies, waiting: each sentence of their documentation, and each error."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from inspect import signature
from pathlib import Path

import pytest
from conftest import PythonProcess
from words import noise, prose

import agentmem
from agentmem.cli.duration import duration_ms
from agentmem.errors import (
    ArenaFull,
    Closed,
    ForkedChild,
    InvalidArgument,
    NameTaken,
    NotFound,
    QuotaExceeded,
    Released,
    StoreLocked,
    Unsupported,
)

CONFIGURATION = Path(__file__).parent.parent / "crates/agentmem-daemon/agentmemd.toml"
DEVICE = Path("/dev/agentmem")
KINDS = ["system_prompt", "tool_definition", "tool_result", "message"]
FIGURES = """
agents smus conversations messages frames logical_bytes stored_bytes resident_bytes hot_bytes
warm_bytes cold_bytes disk_bytes table_bytes arena_bytes module_bytes shared_bytes saved_bytes
pinned_bytes by_kind by_tier counters policy backend
"""
COUNTERS = """
put put_shared refault_warm refault_cold refault_warm_bytes refault_cold_bytes demote_warm
demote_cold promote_warm promote_cold evict gc_rewrite reject_memory policy_error
"""


# Stores


def test_a_store_without_path_has_a_private_folder_that_goes_at_close() -> None:
    with agentmem.open(memory_max="16M") as mem:
        assert mem.path is not None
        assert stat.S_IMODE(os.stat(mem.path).st_mode) == 0o700
        assert mem.memory_max == 16 << 20
    assert not os.path.exists(mem.path)


def test_a_store_without_cold_tier_has_no_folder_and_cannot_flush() -> None:
    with agentmem.open(memory_max="16M", cold=False) as mem:
        assert mem.path is None
        with pytest.raises(Unsupported):
            mem.flush()


def test_a_store_has_the_defaults_that_the_configuration_of_the_daemon_documents() -> None:
    documented = tomllib.loads(CONFIGURATION.read_text())
    ours = {name: each.default for name, each in signature(agentmem.open).parameters.items()}
    for name in ("warm_after", "cold_after"):
        assert ours[f"{name}_s"] == duration_ms(documented[name]) / 1000
    for name in ("cold", "warm_level", "cold_level", "policy", "pressure", "backend"):
        assert ours[name] == documented[name]


def test_a_backend_that_is_not_there_is_named_with_the_way_out() -> None:
    if DEVICE.exists():
        with agentmem.open(memory_max="64M", backend="kernel") as mem:
            assert mem.stats()["backend"] == "kernel"
        return
    with pytest.raises(Unsupported, match=r'/dev/agentmem: .*docs/kernel.md.*backend="auto"'):
        agentmem.open(backend="kernel")
    with agentmem.open(memory_max="64M", backend="auto") as mem:
        content = prose(1, 100_000)
        smu = mem.agent("a").put(content, kind="tool_result")
        with smu.view() as view:
            assert bytes(view) == content
        stats = mem.stats()
        assert (stats["backend"], stats["module_bytes"]) == ("user", 0)


def test_a_path_is_created_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "new" / "store"
    with agentmem.open(path, memory_max="16M") as mem:
        assert mem.path == str(path)
    assert path.is_dir()


@pytest.mark.parametrize(
    "wrong",
    [
        {"memory_max": "much"},
        {"memory_max": 0},
        {"memory_max": -1},
        {"policy": "fifo"},
        {"warm_level": 0},
        {"cold_level": 20},
        {"warm_after_s": -1.0},
        {"cold_after_s": float("nan")},
        {"on_full": "cry"},
        {"arena_bytes": 0},
        {"backend": "gpu"},
    ],
    ids=str,
)
def test_an_argument_out_of_range_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument):
        agentmem.open(**wrong)


def test_another_process_cannot_open_the_path(tmp_path: Path, python: type[PythonProcess]) -> None:
    code = (
        "import sys, agentmem\n"
        "try: agentmem.open(sys.argv[1]).close()\n"
        "except agentmem.errors.StoreLocked as error: print('locked', isinstance(error, OSError))\n"
        "else: print('opened')"
    )
    with agentmem.open(tmp_path, memory_max="16M"):
        assert python(code, tmp_path).output() == "locked True\n"
        with pytest.raises(StoreLocked):
            agentmem.open(tmp_path, memory_max="16M")
    assert python(code, tmp_path).output() == "opened\n"


def test_closing_twice_is_fine_and_what_follows_is_an_error() -> None:
    mem = agentmem.open(memory_max="16M")
    agent = mem.agent("a")
    smu, talk = agent.put(b"x"), agent.conversation("c")
    mem.close()
    mem.close()
    for call in (
        lambda: agent.put(b"y"),
        lambda: mem.agent("b"),
        lambda: mem.flush(),
        lambda: mem.reclaim(),
        lambda: smu.read(),
        lambda: talk.append(b"z"),
        lambda: agent.conversation("d"),
    ):
        with pytest.raises(Closed):
            call()


def address_space() -> tuple[int, int]:
    """Bytes of address space and descriptors of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd"))


def test_a_closed_store_takes_nothing_however_many_handles_are_left() -> None:
    handles = []
    before = address_space()
    for n in range(5):
        with agentmem.open(memory_max="16M") as mem:
            agent = mem.agent("a")
            handles += [mem, agent, agent.put(noise(n, 1_000_000)), agent.conversation("c")]
    after = address_space()
    # The tables that handles look into stay mapped; a heap would be the budget several times over.
    assert after[0] - before[0] < 5 * (1 << 30)
    assert after[1] == before[1]


def test_stats_have_the_documented_keys(mem: agentmem.Store, agent: agentmem.Agent) -> None:
    handles = [agent.put(prose(1, 10_000), kind="system_prompt") for _ in range(2)]
    assert len({smu.id for smu in handles}) == 1  # waits until they are sealed
    stats = mem.stats()
    assert set(stats) >= set(FIGURES.split())
    assert set(stats["by_kind"]) == set(KINDS)
    assert set(stats["by_tier"]) >= {"hot", "warm", "cold"}
    assert set(stats["counters"]) >= set(COUNTERS.split())
    assert stats["policy"] == "semantic"
    prompts = stats["by_kind"]["system_prompt"]
    assert prompts["put_bytes"] == 20_000
    assert prompts["duplicate_bytes"] == 10_000
    assert stats["counters"]["put"] == 2
    assert stats["counters"]["put_shared"] == 1
    assert stats["logical_bytes"] == 20_000


def test_reclaim_and_advice_move_between_tiers_and_lose_nothing(
    mem: agentmem.Store, agent: agentmem.Agent
) -> None:
    content = prose(1, 500_000)
    smu = agent.put(content)
    smu.id  # noqa: B018  (waits until it is sealed)
    assert smu.tier == "hot"
    assert smu.numa_node is not None
    assert mem.reclaim() > 0
    assert smu.tier != "hot"
    assert smu.numa_node is None
    assert 0 < smu.stored_bytes < len(content)
    agent.advise(smu, "will_need")
    deadline = time.monotonic() + 10
    while smu.tier != "hot" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert smu.tier == "hot"
    mem.reclaim(0)
    assert smu.read() == content
    assert mem.verify()["damaged"] == []
    with pytest.raises(InvalidArgument):
        agent.advise(smu, "lukewarm")


# Agents


def test_an_agent_has_what_it_was_registered_with(mem: agentmem.Store) -> None:
    before = time.time()
    with mem.agent("planner", importance=70, quota_bytes="1M") as agent:
        assert (agent.name, agent.pid, agent.importance) == ("planner", os.getpid(), 70)
        assert (agent.state, agent.quota_bytes) == ("active", 1 << 20)
        for verb, state in (("pause", "paused"), ("resume", "active"), ("idle", "idle")):
            getattr(agent, verb)()
            assert agent.state == state
        agent.importance = 5
        agent.quota_bytes = None
        stats = agent.stats()
        assert stats["name"] == "planner"
        assert (stats["importance"], stats["quota_bytes"]) == (5, None)
        assert before - 2 <= stats["created_s"] <= stats["last_active_s"] <= time.time() + 2
        assert mem.agents() == ["planner"]
    assert mem.agents() == []


def test_names_and_importance_of_agents_have_bounds(mem: agentmem.Store) -> None:
    mem.agent("a" * 255)
    with pytest.raises(NameTaken):
        mem.agent("a" * 255)
    for name, importance in (("", 50), ("a" * 256, 50), ("b", 101), ("b", -1)):
        with pytest.raises(InvalidArgument):
            mem.agent(name, importance=importance)
    assert len(mem.agents()) == 1


def test_a_closed_agent_gives_everything_back(mem: agentmem.Store) -> None:
    agent, other = mem.agent("a"), mem.agent("b")
    smu = agent.put(b"only here", name="n")
    agent.conversation("c").append({"x": 1})
    kept = agent.share(agent.put(b"also there"), to=other)
    agent.close()
    for call in (lambda: agent.put(b"x"), lambda: agent.conversation("c")):
        with pytest.raises(Closed):
            call()
    with pytest.raises((Closed, Released)):
        smu.read()
    with pytest.raises(NotFound):
        other.attach("n")
    assert kept.read() == b"also there"
    assert kept.shared_by == 1
    assert mem.stats()["conversations"] == 0
    assert mem.agent("a").smus() == []


def test_a_dead_agent_is_reaped(mem: agentmem.Store) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        mem.agent("visitor", pid=process.pid).put(b"left behind", name="left")
        assert mem.agents() == ["visitor"]
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 15
    while mem.agents() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert mem.agents() == []
    with pytest.raises(NotFound):
        mem.agent("other").attach("left")


def test_quota_counts_logical_bytes_shared_or_not(mem: agentmem.Store) -> None:
    rich, poor = mem.agent("rich"), mem.agent("poor", quota_bytes=1000)
    big, small = rich.put(noise(1, 900), name="big"), rich.put(noise(2, 400))
    held = poor.attach("big")
    for call in (
        lambda: poor.put(noise(1, 900)),
        lambda: poor.attach(small),
        lambda: rich.share(small, to=poor),
        lambda: poor.conversation("c").append(bytes(101)),
    ):
        with pytest.raises(QuotaExceeded) as caught:
            call()
        assert isinstance(caught.value, MemoryError)
    poor.put(bytes(100))
    assert poor.stats()["logical_bytes"] == 1000
    poor.release(held)
    assert rich.share(small, to=poor).read() == noise(2, 400)
    assert big.shared_by == 1


# A policy of one's own


class Recorder(agentmem.Policy):
    def __init__(self) -> None:
        self.batches: list[list[agentmem.Candidate]] = []

    def choose(self, batch: list[agentmem.Candidate]) -> Sequence[int]:
        self.batches.append(batch)
        return range(len(batch))


def test_a_python_policy_is_asked_in_batches() -> None:
    policy = Recorder()
    with agentmem.open(memory_max="16M", policy=policy) as mem:
        agent = mem.agent("a", importance=33)
        handles = [agent.put(prose(n, 100_000), importance=9) for n in range(300)]
        assert handles[0].read() == prose(0, 100_000)
        assert mem.stats()["counters"]["policy_error"] == 0
    assert 0 < len(policy.batches) < 150
    candidate = max(policy.batches, key=len)[0]
    assert isinstance(candidate, agentmem.Candidate)
    assert (candidate.agent, candidate.agent_importance) == ("a", 33)
    assert (candidate.kind, candidate.importance) == ("tool_result", 9)
    assert candidate.resident_bytes > 0


class Broken(agentmem.Policy):
    def choose(self, batch: list[agentmem.Candidate]) -> Sequence[int]:
        raise RuntimeError("on purpose")


class OutOfRange(agentmem.Policy):
    def choose(self, batch: list[agentmem.Candidate]) -> Sequence[int]:
        return [len(batch), -1]


# An exception that nobody can catch is said on stderr.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("policy", [Broken(), OutOfRange()], ids=["raises", "out of range"])
def test_a_broken_policy_is_counted_and_the_store_goes_on(policy: agentmem.Policy) -> None:
    with agentmem.open(memory_max="16M", policy=policy) as mem:
        agent = mem.agent("a")
        handles = [agent.put(prose(n, 100_000)) for n in range(300)]
        assert mem.stats()["counters"]["policy_error"] > 0
        for n, smu in enumerate(handles):
            assert smu.read() == prose(n, 100_000)


# Waiting, and other processes


def test_a_full_arena_is_an_error_for_who_wants_it() -> None:
    with agentmem.open(memory_max="256M", on_full="fail", arena_bytes="64K") as mem:
        agent = mem.agent("a")
        contents = [noise(n, 16_000) for n in range(1000)]
        refused = 0
        for content in contents:
            try:
                agent.put(content)
            except ArenaFull:
                refused += 1
        assert 0 < refused < len(contents)
        assert mem.stats()["smus"] == len(contents) - refused


def test_awaitable_twins(mem: agentmem.Store, agent: agentmem.Agent) -> None:
    async def use() -> None:
        smu, talk = agent.put(b"x"), agent.conversation("c")
        talk.append({"n": 1})
        await mem.flush_async()
        assert await mem.reclaim_async(0) >= 0
        with await smu.view_async() as buffer:
            assert buffer == b"x"
        assert await talk.read_async(0) == {"n": 1}
        report, _ = await asyncio.gather(mem.verify_async(), mem.flush_async())
        assert report["damaged"] == []
        assert report["smus"] == 1
        agent.release(smu)
        with pytest.raises(Released):
            await smu.view_async()

    asyncio.run(use())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_told_so(mem: agentmem.Store, agent: agentmem.Agent) -> None:
    smu, talk = agent.put(b"x"), agent.conversation("c")
    calls = (
        lambda: agent.put(b"y"),
        lambda: smu.read(),
        lambda: smu.view(),
        lambda: talk.append(b"z"),
        lambda: mem.agent("b"),
        lambda: mem.flush(),
        lambda: mem.stats(),
    )
    child = os.fork()
    if child == 0:
        told = 0
        for call in calls:
            try:
                call()
            except ForkedChild:
                told += 1
        os._exit(told)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == len(calls)
    # The parent goes on as if nothing had been.
    assert (smu.read(), len(talk), mem.agents()) == (b"x", 0, ["agent"])
