"""The agents of the demonstration, as users of the public API."""

import hashlib
from collections.abc import Iterator
from typing import Final, Literal

import agentmem
from agentmem.demo.readback import Samples, message_hash
from agentmem.demo.wire import Frame, Kind
from agentmem.errors import AgentMemError

SharedKind = Literal["system_prompt", "tool_definition"]

_READ_CONVERSATIONS: Final = 2
_READ_MESSAGES: Final = 3


class Member:
    """One agent: what it holds, and what it does when it wakes."""

    def __init__(self, agent: agentmem.Agent) -> None:
        self.agent = agent
        self.shared: list[agentmem.Smu] = []
        self.conversations: list[agentmem.Conversation] = []

    def wake(self) -> None:
        """Go on: read the prompt, the tools and the ends of the latest conversations."""
        self.agent.resume()
        for smu in self.shared:
            with smu.view() as buffer:
                assert len(buffer) == smu.logical_bytes
        for conversation in self.conversations[-_READ_CONVERSATIONS:]:
            assert conversation[-_READ_MESSAGES:]

    def conversation(self, number: int) -> agentmem.Conversation:
        """Its conversation of that number, begun if it is the next."""
        if number == len(self.conversations):
            self.conversations.append(self.agent.conversation(f"task-{number}"))
        return self.conversations[number]


class Fleet:
    """All agents, driven by what the writer says.

    Attributes:
        logical_bytes: what they have put so far.
        samples: what is to be read back.
    """

    def __init__(self, mem: agentmem.Store, agents: int, seed: int) -> None:
        self.logical_bytes = 0
        self.samples = Samples(seed)
        self._members = [Member(mem.agent(f"agent-{number:03}")) for number in range(agents)]
        self._shared_hashes: list[bytes] = []

    def take(self, frame: Frame) -> None:
        """Do what one frame says."""
        match frame.kind:
            case Kind.PROMPT:
                self._put_everywhere(frame.messages[0], "system_prompt")
            case Kind.TOOLS:
                self._put_everywhere(frame.messages[0], "tool_definition")
            case Kind.WAKE:
                self._members[frame.agent].wake()
            case Kind.WRITE:
                self._write(frame)
            case Kind.IDLE:
                self._members[frame.agent].agent.idle()
            case Kind.PAUSE:
                self._members[frame.agent].agent.pause()
            case other:
                raise AssertionError(other)

    def _put_everywhere(self, content: bytes, kind: SharedKind) -> None:
        """Every agent puts the content in full, as agents do that know nothing of each other."""
        self._shared_hashes.append(message_hash(content))
        for member in self._members:
            member.shared.append(member.agent.put(content, kind=kind))
            self.logical_bytes += len(content)

    def _write(self, frame: Frame) -> None:
        conversation = self._members[frame.agent].conversation(frame.conversation)
        self.samples.offer(frame.agent, frame.conversation, len(conversation), frame.messages)
        for message in frame.messages:
            conversation.append(message)
            self.logical_bytes += len(message)

    def read_back(self) -> Iterator[bool]:
        """Read what was sampled, and all that is shared; for each, whether it is what was put."""
        for n, expected in enumerate(self._shared_hashes):
            for member in (self._members[0], self._members[-1]):
                yield self._shared_is(member.shared[n], expected)
        for sampled in self.samples.by_conversation():
            conversation = self._members[sampled.agent].conversations[sampled.conversation]
            try:
                yield message_hash(conversation[sampled.position]) == sampled.hash
            except AgentMemError:
                yield False

    @staticmethod
    def _shared_is(smu: agentmem.Smu, expected: bytes) -> bool:
        try:
            with smu.view() as buffer:
                return message_hash(buffer) == expected
        except AgentMemError:
            return False

    def digest(self) -> str:
        """A hash of what was put and chosen: equal whenever the same plan was carried out."""
        what = [
            len(self._members),
            self.logical_bytes,
            self.samples.seen,
            [shared.hex() for shared in self._shared_hashes],
            [len(member.conversations) for member in self._members],
            self.samples.digest().hex(),
        ]
        return hashlib.sha256(repr(what).encode()).hexdigest()
