"""One agent of the demonstration, as a user of the public API, in a process of its own."""

import hashlib
import mmap
import os
import socket
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import agentmem
from agentmem.demo import wire
from agentmem.demo.readback import Samples, message_hash
from agentmem.demo.wire import Frame, Kind
from agentmem.errors import AgentMemError

SharedKind = Literal["system_prompt", "tool_definition"]

_READ_CONVERSATIONS: Final = 2
_READ_MESSAGES: Final = 3
# How far an agent goes on before it says so.
_TELL_BYTES: Final = 4_000_000
_TELL_CHECKS: Final = 100


class Member:
    """What one agent holds, and what it does when it is told.

    Attributes:
        logical_bytes: what it has put so far.
        samples: what is to be read back.
        checked: samples and shared contents that were read back.
        failed: of these, what was not what had been put.
    """

    def __init__(self, mem: agentmem.Store, number: int, seed: int) -> None:
        self.logical_bytes = self.checked = self.failed = 0
        self.samples = Samples(f"{seed} {number}")
        self._agent = mem.agent(f"agent-{number:03}")
        self._shared: list[tuple[agentmem.Smu, bytes]] = []
        # Others are found again by their names; a handle of each would count as the store's.
        self._latest: deque[agentmem.Conversation] = deque(maxlen=_READ_CONVERSATIONS)
        self._begun = 0

    def take(self, frame: Frame) -> None:
        """Do what one frame says; of reading back, see `read_back`."""
        match frame.kind:
            case Kind.PROMPT:
                self._put(frame.messages[0], "system_prompt")
            case Kind.TOOLS:
                self._put(frame.messages[0], "tool_definition")
            case Kind.WAKE:
                self._wake()
            case Kind.WRITE:
                self._write(frame)
            case Kind.IDLE:
                self._agent.idle()
            case Kind.PAUSE:
                self._agent.pause()
            case other:
                raise AssertionError(other)

    def _put(self, content: bytes, kind: SharedKind) -> None:
        """Put what others put too, in full, as agents do that know nothing of each other."""
        smu = self._agent.put(content, kind=kind)
        self._shared.append((smu, message_hash(content)))
        self.logical_bytes += len(content)
        # Known once it is sealed, and so no longer held by this process.
        assert smu.id

    def _wake(self) -> None:
        """Go on: read the prompt, the tools and the ends of the latest conversations."""
        self._agent.resume()
        for smu, _ in self._shared:
            with smu.view() as buffer:
                # Of each page a byte, so that all of it is mapped, as after reading it.
                assert len(bytes(buffer[:: mmap.PAGESIZE])) == -(
                    -smu.logical_bytes // mmap.PAGESIZE
                )
        for conversation in self._latest:
            assert conversation[-_READ_MESSAGES:]

    def _write(self, frame: Frame) -> None:
        if frame.conversation == self._begun:
            self._latest.append(self._conversation(frame.conversation))
            self._begun += 1
        assert frame.conversation == self._begun - 1
        conversation = self._latest[-1]
        self.samples.offer(frame.conversation, len(conversation), frame.messages)
        for message in frame.messages:
            conversation.append(message)
            self.logical_bytes += len(message)

    def _conversation(self, number: int) -> agentmem.Conversation:
        return self._agent.conversation(f"task-{number}")

    def read_back(self) -> Iterator[bool]:
        """Read what was sampled, and all that is shared; for each, whether it is what was put."""
        for smu, expected in self._shared:
            yield self._note(self._shared_is(smu, expected))
        for sampled in self.samples.by_conversation():
            try:
                message = self._conversation(sampled.conversation)[sampled.position]
                yield self._note(message_hash(message) == sampled.hash)
            except (AgentMemError, IndexError):  # One that is gone is made anew, and is empty.
                yield self._note(False)

    def _note(self, is_right: bool) -> bool:
        self.checked += 1
        self.failed += not is_right
        return is_right

    @staticmethod
    def _shared_is(smu: agentmem.Smu, expected: bytes) -> bool:
        try:
            with smu.view() as buffer:
                return message_hash(buffer) == expected
        except AgentMemError:
            return False

    def state(self) -> dict[str, Any]:
        """How far it is; `digest` is equal whenever the same was put and chosen."""
        what = [
            self.logical_bytes,
            self.samples.seen,
            [expected.hex() for _, expected in self._shared],
            self._begun,
            self.samples.digest().hex(),
        ]
        return {
            "logical_bytes": self.logical_bytes,
            "messages": self.samples.seen,
            "samples": len(self.samples) + len(self._shared),
            "checked": self.checked,
            "failed": self.failed,
            "digest": hashlib.sha256(repr(what).encode()).hexdigest(),
        }


def perform(daemon: Path, number: int, seed: int, fed: socket.socket, pipe: int) -> None:
    """Be agent `number` in a process of its own.

    It holds what it holds until stdin ends.
    """
    with agentmem.connect(daemon, start=False) as mem:
        follow(fed, pipe, {number: Member(mem, number, seed)})
        # Whoever started all this holds the other end.
        os.read(0, 1)


def follow(fed: socket.socket, pipe: int, members: Mapping[int, Member]) -> None:
    """Have members, by their numbers, do what frames from `fed` say, until that ends; say over
    `pipe` how far they are."""
    told_bytes = dict.fromkeys(members, -1)
    for frame in wire.read(fed.makefile("rb")):
        number, member = frame.agent, members[frame.agent]
        if frame.kind is Kind.READ_BACK:
            for _ in member.read_back():
                if member.checked % _TELL_CHECKS == 0:
                    wire.tell_json(pipe, Kind.STATE, member.state(), number)
            told_bytes[number] = -1
        else:
            member.take(frame)
        if frame.kind in wire.FOR_ALL:
            # What holds it is not to be held until the next one comes.
            frame = Frame(frame.kind)
            fed.send(wire.TAKEN)
        if told_bytes[number] < 0 or member.logical_bytes >= told_bytes[number] + _TELL_BYTES:
            told_bytes[number] = member.logical_bytes
            wire.tell_json(pipe, Kind.STATE, member.state(), number)
