"""What the store means, in plain Python: the oracle of the property tests, and a description.

The model has the API of `agentmem` and keeps everything in dictionaries. Arenas, tiers, frames,
codecs and threads have no counterpart, because a caller must not be able to tell. So the model is
never full, and has no stored bytes, tiers or async twins.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from operator import attrgetter
from typing import Any, Self

from agentmem.errors import Closed, InvalidArgument, NameTaken, NotFound, QuotaExceeded, Released

Buffer = bytes | bytearray | memoryview


def as_bytes(data: str | Buffer) -> bytes:
    return data.encode() if isinstance(data, str) else bytes(data)


@dataclass(frozen=True)
class Message:
    """One message, and what surrounded it if it came in a transcript."""

    raw: bytes
    is_value: bool = False
    lead: bytes = b""
    trail: bytes = b""

    @classmethod
    def of(cls, given: Any) -> Self:
        """Bytes are kept as they are, anything else as a JSON text; that has no infinities."""
        if isinstance(given, Buffer):
            return cls(bytes(given))
        try:
            text = json.dumps(given, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        except ValueError as error:
            raise InvalidArgument(str(error)) from None
        return cls(text.encode(), is_value=True)

    def given(self) -> Any:
        return json.loads(self.raw) if self.is_value else self.raw

    @property
    def logical_bytes(self) -> int:
        return len(self.lead + self.raw + self.trail)


def split_lines(text: bytes) -> list[Message]:
    """The messages of a JSON lines transcript: white space stays with the line it surrounds, and
    a blank line with the one before it."""
    line = rb"(\s*)(\S|\S[^\n]*\S)(\s*\Z|[ \t\r]*\n(?:[ \t\r]*\n)*)"
    return [Message(raw, lead=a, trail=z) for a, raw, z in re.findall(line, text)]


@dataclass(frozen=True, eq=False, repr=False)
class Node:
    """A message and the node before it. A conversation is the last node of such a chain, which is
    why append and fork cost the same however long it is."""

    parent: Node | None
    message: Message
    count: int
    logical_bytes: int


@dataclass(eq=False, repr=False)
class Store:
    """Contents by id, each kept while some agent holds a handle on it; ids by name; agents."""

    contents: dict[str, bytes] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    registered: dict[str, Agent] = field(default_factory=dict)
    closed: bool = False

    def agent(
        self,
        name: str,
        *,
        importance: int | None = None,
        quota_bytes: int | None = None,
        lasting: bool = False,
    ) -> Agent:
        if self.closed:
            raise Closed(name)
        if not 1 <= len(name.encode()) <= 255 or not 0 <= (importance or 0) <= 100:
            raise InvalidArgument(name)
        agent = self.registered.setdefault(name, Agent(self, name))
        if agent.taken_up:
            raise NameTaken(name)
        if importance is not None:
            agent.importance = importance
        if quota_bytes is not None:
            agent.quota_bytes = quota_bytes
        agent.lasting, agent.taken_up = lasting, True
        return agent

    def agents(self) -> list[str]:
        return list(self.registered)

    def reopen(self) -> Store:
        """Close, and give what opening the path again gives: agents, to be taken up; old handles
        are dead."""
        self.closed = True
        store = Store(self.contents, self.names)
        store.registered = {name: old.again(store) for name, old in self.registered.items()}
        return store

    def handles(self) -> list[Smu]:
        return [smu for agent in self.registered.values() for smu in agent.held]

    def forget_unheld(self) -> None:
        """Drop each content whose last lease went, and its names."""
        held = {smu.id for smu in self.handles()}
        self.contents = {key: data for key, data in self.contents.items() if key in held}
        self.names = {name: key for name, key in self.names.items() if key in held}


@dataclass(eq=False, repr=False)
class Agent:
    """Holds handles and conversations, and is charged for the logical bytes of each of them,
    shared or not."""

    store: Store
    name: str
    importance: int = 50
    quota_bytes: int | None = None
    state: str = "active"
    held: list[Smu] = field(default_factory=list)
    talks: list[Conversation] = field(default_factory=list)
    taken_up: bool = False
    lasting: bool = False
    closed: bool = False

    def put(self, data: str | Buffer, *, kind: str = "tool_result", name: str | None = None) -> Smu:
        smu = self.lease(as_bytes(data), kind)
        if name is not None:
            self.store.names[name] = smu.id
        return smu

    def attach(self, key: str | bytes | Smu) -> Smu:
        if isinstance(key, Smu):
            return self.lease(key.read(), key.kind)
        wanted = key.hex() if isinstance(key, bytes) else self.store.names.get(key, key)
        found = [smu for smu in self.store.handles() if smu.id == wanted]
        if not found:
            raise NotFound(key)
        return self.lease(found[0].read(), found[0].kind)

    def share(self, smu: Smu, to: Agent) -> Smu:
        return to.attach(smu)

    def release(self, held: Smu | Conversation) -> None:
        held.check_held()
        held.released = True
        if isinstance(held, Smu):
            self.held.remove(held)
            self.store.forget_unheld()
        else:
            self.talks.remove(held)

    def smus(self) -> list[Smu]:
        return list({smu.id: smu for smu in self.held}.values())

    def conversation(self, name: str | None = None) -> Conversation:
        self.check_open()
        known = [talk for talk in self.talks if talk.name == name]
        return known[0] if known else self.begin(name, None)

    def conversations(self) -> list[str]:
        return [talk.name for talk in self.talks]

    def pause(self) -> None:
        self.state = "paused"

    def resume(self) -> None:
        self.state = "active"

    def idle(self) -> None:
        self.state = "idle"

    def again(self, store: Store) -> Agent:
        """The same agent for whoever takes it up next, with one lease on each content."""
        agent = Agent(store, self.name, self.importance, self.quota_bytes, self.state)
        agent.held = [replace(smu, agent=agent) for smu in self.smus()]
        agent.talks = [replace(talk, agent=agent) for talk in self.talks]
        return agent

    def leave(self) -> None:
        self.check_open()
        self.store.registered[self.name] = self.again(self.store)
        self.closed = True

    def die(self) -> None:
        """What the death of its process does."""
        self.leave() if self.lasting else self.close()

    def close(self) -> None:
        if self.closed:
            return
        self.held, self.talks, self.closed = [], [], True
        del self.store.registered[self.name]
        self.store.forget_unheld()

    def logical_bytes(self) -> int:
        return sum(map(attrgetter("logical_bytes"), (*self.held, *self.talks)))

    def charge(self, more: int) -> None:
        """Refuse what would take the agent beyond its quota."""
        self.check_open()
        if self.quota_bytes is not None and self.logical_bytes() + more > self.quota_bytes:
            raise QuotaExceeded(self.name)

    def lease(self, content: bytes, kind: str) -> Smu:
        self.charge(len(content))
        key = hashlib.sha256(content).hexdigest()
        self.store.contents[key] = content
        self.held.append(Smu(self, key, kind, len(content)))
        return self.held[-1]

    def begin(self, name: str | None, last: Node | None) -> Conversation:
        unused = (f"conversation-{n}" for n in count())
        name = name or next(each for each in unused if each not in self.conversations())
        self.talks.append(Conversation(self, name, last))
        return self.talks[-1]

    def check_open(self) -> None:
        if self.closed or self.store.closed:
            raise Closed(self.name)


@dataclass(eq=False, repr=False)
class Held:
    """What an agent can release: once."""

    agent: Agent
    released: bool = field(default=False, kw_only=True)

    def check_held(self) -> None:
        self.agent.check_open()
        if self.released:
            raise Released


@dataclass(eq=False, repr=False)
class Smu(Held):
    """One lease on one content. Putting the same content twice gives two."""

    id: str
    kind: str
    logical_bytes: int

    @property
    def shared_by(self) -> int:
        return len({smu.agent for smu in self.agent.store.handles() if smu.id == self.id})

    def read(self) -> bytes:
        self.check_held()
        return self.agent.store.contents[self.id]


@dataclass(eq=False, repr=False)
class Conversation(Held):
    """An agent's name for a chain of messages."""

    name: str
    last: Node | None

    @property
    def logical_bytes(self) -> int:
        return self.last.logical_bytes if self.last else 0

    def append(self, message: Any) -> None:
        self.add(Message.of(message))

    def extend(self, messages: Sequence[Any]) -> None:
        for message in messages:
            self.append(message)

    def load(self, transcript: str | Buffer) -> int:
        return sum(self.add(message) for message in split_lines(as_bytes(transcript)))

    def add(self, message: Message) -> int:
        self.check_held()
        self.agent.charge(message.logical_bytes)
        logical_bytes = self.logical_bytes + message.logical_bytes
        self.last = Node(self.last, message, len(self) + 1, logical_bytes)
        return 1

    def fork(
        self, at: int | None = None, *, name: str | None = None, agent: Agent | None = None
    ) -> Conversation:
        self.check_held()
        holder = agent or self.agent
        if at is not None and not 0 <= at <= len(self):
            raise InvalidArgument(at)
        if name is not None and name in holder.conversations():
            raise NameTaken(name)
        last = self.last
        while last is not None and at is not None and last.count > at:
            last = last.parent
        holder.charge(last.logical_bytes if last else 0)
        return holder.begin(name, last)

    def render(self) -> bytes:
        return b"".join(m.lead + m.raw + m.trail + b"\n" * m.is_value for m in self.messages())

    def messages(self) -> list[Message]:
        self.check_held()
        backwards: list[Message] = []
        node = self.last
        while node is not None:
            backwards.append(node.message)
            node = node.parent
        return backwards[::-1]

    def __len__(self) -> int:
        return self.last.count if self.last else 0

    def __getitem__(self, index: int | slice) -> Any:
        found = self.messages()[index]
        return [m.given() for m in found] if isinstance(found, list) else found.given()
