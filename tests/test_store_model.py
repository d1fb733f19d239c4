"""The real store and the model (model.py), driven side by side: a caller cannot tell them apart."""

import random
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import hypothesis.strategies as st
import model
import pytest
from conftest import until
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from strategies import CONTENTS, LINES, MESSAGES

import agentmem
from agentmem.errors import AgentMemError, Closed, OutOfMemory, Released

T = TypeVar("T")

MEMORY_MAX = 16 << 20
PINNED_MAX = 2 << 20
KINDS = ("system_prompt", "tool_definition", "tool_result", "message")
NAMES = st.sampled_from(["red", "green", "blue"])


class Shuffle(agentmem.Policy):
    """As bad as a policy can be without being wrong."""

    def choose(self, batch: list[agentmem.Candidate]) -> Sequence[int]:
        return random.sample(range(len(batch)), k=(len(batch) + 1) // 2)


class Broken(agentmem.Policy):
    def choose(self, batch: list[agentmem.Candidate]) -> Sequence[int]:
        raise RuntimeError("on purpose")


class Pair(NamedTuple):
    """The same thing in the store and in the model."""

    real: Any
    model: Any


def pick(data: st.DataObject, items: Sequence[T]) -> T:
    """One of `items`. Hypothesis gets to see its index only, since it keeps what it has seen."""
    return items[data.draw(st.integers(0, len(items) - 1))]


def kind_of(content: bytes) -> str:
    """One kind for one content, since what two kinds of the same bytes mean is not said."""
    return KINDS[zlib.crc32(content) % len(KINDS)]


class StoreAndModel(RuleBasedStateMachine):
    @initialize(
        tier=st.sampled_from(["kept", "temporary", "none"]),
        policy=st.sampled_from(["semantic", "lru", Shuffle(), Broken()]),
    )
    def open(self, tier: str, policy: Any) -> None:
        self.folder = tempfile.mkdtemp() if tier == "kept" else None
        self.options = {"memory_max": MEMORY_MAX, "policy": policy, "cold": tier != "none"}
        self.store = Pair(agentmem.open(self.folder, **self.options), model.Store())
        self.agents: dict[str, Pair] = {}
        self.smus: list[Pair] = []
        self.talks: list[Pair] = []
        self.released: list[Pair] = []
        self.views: list[tuple[Any, memoryview, bytes]] = []
        self.deaths = 0

    def teardown(self) -> None:
        if not hasattr(self, "smus"):  # it could not be opened
            return
        try:
            self.everything_reads_back()
            assert self.store.real.verify()["damaged"] == []
        finally:
            self.store.real.close()
            shutil.rmtree(self.folder or "", ignore_errors=True)
        self.views_keep_what_they_see()

    def both(self, real: Callable[[], T], modelled: Callable[[], Any]) -> Pair | None:
        """Do the same to both. Either both go on, or both raise the same error."""
        try:
            result = real()
        except AgentMemError as error:
            # The model is never full; the store may be, when all must stay in RAM.
            if isinstance(error, OutOfMemory) and self.may_be_full():
                return None
            with pytest.raises(type(error)):
                modelled()
            return None
        return Pair(result, modelled())

    def may_be_full(self) -> bool:
        talks = self.store.model.registered.values()
        messages = {m.raw for agent in talks for talk in agent.talks for m in talk.messages()}
        held = sum(map(len, {*self.store.model.contents.values(), *messages}))
        return not self.options["cold"] and held > MEMORY_MAX // 4

    def read(self, real: Callable[[], T], expected: T) -> None:
        try:
            found = real()
        except OutOfMemory:
            assert self.may_be_full()
        else:
            # A plain `assert a == b` would print megabytes.
            assert type(found) is type(expected)
            if found != expected:
                pytest.fail(f"read {str(found)[:200]} for {str(expected)[:200]}")

    # Agents

    @rule(
        name=NAMES,
        quota=st.none() | st.integers(0, 100_000),
        importance=st.none() | st.integers(0, 100),
    )
    def register(self, name: str, quota: int | None, importance: int | None) -> None:
        given = {"quota_bytes": quota, "importance": importance}
        agent = self.both(
            lambda: self.store.real.agent(name, **given),
            lambda: self.store.model.agent(name, **given),
        )
        if agent:
            self.take_up(agent)

    def take_up(self, agent: Pair) -> None:
        """What an agent holds from before, if it is none that is new."""
        self.agents[agent.model.name] = agent
        for figure in ("importance", "quota_bytes", "state"):
            assert getattr(agent.real, figure) == getattr(agent.model, figure)
        by_content = sorted(agent.model.smus(), key=lambda smu: smu.read())
        handles = sorted(agent.real.smus(), key=lambda smu: smu.read())
        assert [smu.kind for smu in handles] == [smu.kind for smu in by_content]
        self.smus += map(Pair, handles, by_content)
        assert sorted(agent.real.conversations()) == sorted(agent.model.conversations())
        for talk in agent.model.conversations():
            self.talks.append(Pair(*(side.conversation(talk) for side in agent)))

    @precondition(lambda self: self.agents)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        agent = self.agent(data)
        for side in agent:
            side.leave()
        self.forget(agent)

    @precondition(lambda self: not self.deaths)  # each takes the time until it is noticed
    @rule(name=NAMES, lasting=st.booleans(), content=CONTENTS)
    def lose(self, name: str, lasting: bool, content: bytes) -> None:
        if name in self.agents:
            return
        self.deaths += 1
        with subprocess.Popen(["sleep", "1000"]) as process:
            real = self.store.real.agent(name, pid=process.pid, lasting=lasting)
            self.take_up(Pair(real, self.store.model.agent(name, lasting=lasting)))
            agent = self.agents[name]
            kind = kind_of(content)
            self.both(
                lambda: agent.real.put(content, kind=kind),
                lambda: agent.model.put(content, kind=kind),
            )
            process.kill()
        if lasting:
            assert until(lambda: self.store.real.agent_stats(name)["pid"] == 0)
        else:
            assert until(lambda: name not in self.store.real.agents())
        agent.model.die()
        self.forget(agent)

    def forget(self, agent: Pair) -> None:
        """Its handles are dead, on both sides."""
        del self.agents[agent.model.name]
        for held in [*self.smus, *self.talks]:
            if held.model.agent is agent.model:
                for side in held:
                    with pytest.raises(Closed):
                        (side.read if hasattr(side, "read") else side.render)()
        self.smus = [smu for smu in self.smus if smu.model.agent is not agent.model]
        self.talks = [talk for talk in self.talks if talk.model.agent is not agent.model]

    @precondition(lambda self: self.agents)
    @rule(data=st.data(), state=st.sampled_from(["active", "paused", "idle"]))
    def move(self, data: st.DataObject, state: str) -> None:
        verb = {"active": "resume", "paused": "pause", "idle": "idle"}[state]
        for agent in self.agent(data):
            getattr(agent, verb)()
            assert agent.state == state

    @precondition(lambda self: self.agents)
    @rule(data=st.data(), more=st.integers(0, 100_000))
    def set_quota(self, data: st.DataObject, more: int) -> None:
        agent = self.agent(data)
        quota = agent.model.logical_bytes() + more
        agent.real.quota_bytes = agent.model.quota_bytes = quota
        assert agent.real.quota_bytes == quota

    @precondition(lambda self: len(self.agents) > 1)
    @rule(data=st.data())
    def close_agent(self, data: st.DataObject) -> None:
        agent = self.agent(data)
        for side in agent:
            side.close()
        self.forget(agent)

    def agent(self, data: st.DataObject) -> Pair:
        return self.agents[data.draw(st.sampled_from(sorted(self.agents)), label="agent")]

    # SMUs

    @precondition(lambda self: self.agents)
    @rule(data=st.data(), content=CONTENTS, name=st.none() | NAMES)
    def put(self, data: st.DataObject, content: bytes, name: str | None) -> None:
        agent = self.agent(data)
        kind = kind_of(content)
        smu = self.both(
            lambda: agent.real.put(content, kind=kind, name=name),
            lambda: agent.model.put(content, kind=kind, name=name),
        )
        if smu:
            assert smu.real.kind == kind
            self.smus.append(smu)

    @precondition(lambda self: self.agents)
    @rule(data=st.data(), name=NAMES)
    def attach_by_name(self, data: st.DataObject, name: str) -> None:
        agent = self.agent(data)
        smu = self.both(lambda: agent.real.attach(name), lambda: agent.model.attach(name))
        self.smus += [smu] if smu else []

    @precondition(lambda self: self.agents and self.smus)
    @rule(data=st.data(), how=st.sampled_from(["handle", "hex", "bytes"]))
    def attach(self, data: st.DataObject, how: str) -> None:
        agent, smu = self.agent(data), self.smu(data)
        key = {
            "handle": smu.real,
            "hex": smu.real.id,
            "bytes": bytes.fromhex(smu.real.id),
        }[how]
        attached = self.both(lambda: agent.real.attach(key), lambda: agent.model.attach(smu.model))
        self.smus += [attached] if attached else []

    @precondition(lambda self: self.agents and self.smus)
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        to, smu = self.agent(data), self.smu(data)
        giver = self.agents[smu.model.agent.name]
        shared = self.both(
            lambda: giver.real.share(smu.real, to=to.real),
            lambda: giver.model.share(smu.model, to=to.model),
        )
        self.smus += [shared] if shared else []

    @precondition(lambda self: self.smus)
    @rule(data=st.data())
    def hold_a_view(self, data: st.DataObject) -> None:
        smu = self.smu(data)
        pinned = sum(len(content) for _, _, content in self.views)
        if pinned + smu.model.logical_bytes <= PINNED_MAX:
            view = smu.real.view()
            self.views.append((view, view.__enter__(), smu.model.read()))

    @precondition(lambda self: self.views)
    @rule(data=st.data())
    def drop_a_view(self, data: st.DataObject) -> None:
        view, buffer, content = self.views.pop(data.draw(st.integers(0, len(self.views) - 1)))
        view.__exit__(None, None, None)
        # A memoryview that is still there keeps the bytes.
        assert buffer == content

    def smu(self, data: st.DataObject) -> Pair:
        return pick(data, self.smus)

    # Conversations

    @precondition(lambda self: self.agents)
    @rule(data=st.data(), name=st.none() | NAMES)
    def converse(self, data: st.DataObject, name: str | None) -> None:
        agent = self.agent(data)
        real = agent.real.conversation(name)
        talk = Pair(real, agent.model.conversation(real.name))
        assert len(talk.real) == len(talk.model)
        if all(known.model is not talk.model for known in self.talks):
            self.talks.append(talk)

    @precondition(lambda self: self.talks)
    @rule(data=st.data(), message=MESSAGES)
    def append(self, data: st.DataObject, message: Any) -> None:
        talk = self.talk(data)
        self.both(lambda: talk.real.append(message), lambda: talk.model.append(message))

    @precondition(lambda self: self.talks)
    @rule(data=st.data(), messages=st.lists(MESSAGES, max_size=5))
    def extend(self, data: st.DataObject, messages: list[Any]) -> None:
        talk = self.talk(data)
        if talk.model.agent.quota_bytes is None:  # how far a refused extend goes is not said
            self.both(lambda: talk.real.extend(messages), lambda: talk.model.extend(messages))

    @precondition(lambda self: self.talks)
    @rule(data=st.data(), lines=LINES)
    def load(self, data: st.DataObject, lines: bytes) -> None:
        talk = self.talk(data)
        if talk.model.agent.quota_bytes is None:
            loaded = self.both(lambda: talk.real.load(lines), lambda: talk.model.load(lines))
            assert loaded is None or loaded.real == loaded.model

    @precondition(lambda self: self.talks)
    @rule(data=st.data(), name=NAMES, beyond=st.booleans())
    def fork(self, data: st.DataObject, name: str, beyond: bool) -> None:
        talk, holder = self.talk(data), self.agent(data)
        at = data.draw(st.none() | st.integers(0, len(talk.model)))
        is_taken = name in holder.model.conversations()
        # Only one thing may be wrong with a call, since which error comes first is not said.
        if is_taken and holder.model.quota_bytes is not None:
            return
        if beyond and not is_taken and holder.model.quota_bytes is None:
            at = len(talk.model) + 1
        fork = self.both(
            lambda: talk.real.fork(at, name=name, agent=holder.real),
            lambda: talk.model.fork(at, name=name, agent=holder.model),
        )
        self.talks += [fork] if fork else []

    @precondition(lambda self: any(len(talk.model) for talk in self.talks))
    @rule(data=st.data())
    def read_messages(self, data: st.DataObject) -> None:
        talk = pick(data, [talk for talk in self.talks if len(talk.model)])
        index = data.draw(st.integers(-len(talk.model), len(talk.model) - 1))
        message = talk.model.messages()[index]
        self.read(lambda: talk.real.raw(index), message.raw)
        if not message.trail:
            self.read(lambda: talk.real[index], message.given())
        with pytest.raises(IndexError):
            talk.real.raw(len(talk.model))

    def talk(self, data: st.DataObject) -> Pair:
        return pick(data, self.talks)

    # Both

    @precondition(lambda self: self.smus or self.talks)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        held = pick(data, self.smus + self.talks)
        agent = self.agents[held.model.agent.name]
        agent.real.release(held.real)
        agent.model.release(held.model)
        with pytest.raises(Released):
            agent.real.release(held.real)
        self.smus = [smu for smu in self.smus if smu is not held]
        self.talks = [talk for talk in self.talks if talk is not held]

    @precondition(lambda self: self.smus or self.talks)
    @rule(data=st.data(), advice=st.sampled_from(["hot", "cold", "will_need"]))
    def advise(self, data: st.DataObject, advice: Any) -> None:
        held = pick(data, self.smus + self.talks)
        self.agents[held.model.agent.name].real.advise(held.real, advice)

    @rule(target_bytes=st.none() | st.integers(0, MEMORY_MAX))
    def reclaim(self, target_bytes: int | None) -> None:
        assert self.store.real.reclaim(target_bytes) >= 0

    @precondition(lambda self: self.options["cold"])
    @rule()
    def flush(self) -> None:
        self.store.real.flush()

    @precondition(lambda self: self.folder)
    @rule()
    def reopen(self) -> None:
        self.store.real.close()
        self.store = Pair(agentmem.open(self.folder, **self.options), self.store.model.reopen())
        assert sorted(self.store.real.agents()) == sorted(self.store.model.agents())
        self.smus, self.talks = [], []
        for name in list(self.agents):
            self.take_up(Pair(*(side.agent(name) for side in self.store)))
        self.everything_reads_back()

    @rule()
    def everything_reads_back(self) -> None:
        for smu in self.smus:
            self.read(smu.real.read, smu.model.read())
        for talk in self.talks:
            assert len(talk.real) == len(talk.model)
            self.read(talk.real.render, talk.model.render())
        self.figures_agree()

    def figures_agree(self) -> None:
        for smu in self.smus:
            # Waits until it is sealed; until then the engine cannot know what is shared.
            assert len(smu.real.id) == 64
        for smu in self.smus:
            assert smu.real.shared_by == smu.model.shared_by
        stats = self.store.real.stats()
        agents = self.store.model.registered.values()
        assert stats["agents"] == len(agents)
        assert stats["smus"] == len(self.store.model.contents)
        assert stats["conversations"] == sum(len(agent.talks) for agent in agents)
        assert stats["logical_bytes"] == sum(agent.logical_bytes() for agent in agents)
        assert stats["saved_bytes"] == max(0, stats["logical_bytes"] - stats["stored_bytes"])
        assert sum(k["logical_bytes"] for k in stats["by_kind"].values()) == stats["logical_bytes"]
        for agent in self.agents.values():
            figures = agent.real.stats()
            assert figures["smus"] == len({smu.id for smu in agent.model.held})
            assert figures["conversations"] == len(agent.model.talks)
            assert figures["messages"] == sum(map(len, agent.model.talks))

    @invariant()
    def charges_and_budget_are_right_at_any_moment(self) -> None:
        assert self.store.real.stats()["resident_bytes"] <= MEMORY_MAX * 1.1
        for agent in self.agents.values():
            assert agent.real.stats()["logical_bytes"] == agent.model.logical_bytes()

    @invariant()
    def views_keep_what_they_see(self) -> None:
        for _, buffer, content in self.views:
            assert buffer.readonly
            assert buffer.nbytes == len(content)
            assert buffer == content


# A broken policy is said on stderr, each time.
TestStoreAndModel = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")(
    StoreAndModel.TestCase
)
TestStoreAndModel.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
