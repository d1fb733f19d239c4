"""The process that makes the text: it rewrites a corpus for each agent and sends it on.

It decides who wakes when: agents take turns in shifts of ten, and each wakes several times.
"""

import random
import socket
from collections.abc import Iterator
from typing import Final

from agentmem._store import Corpus, MessageSet, Tally, equal_share
from agentmem.demo import wire
from agentmem.demo.plan import Plan
from agentmem.demo.wire import Frame, Kind
from agentmem.process import Watch, cpu_seconds

SHIFT_AGENTS: Final = 10
WAKES: Final = 4
TURN_BYTES: Final = 256 << 10

# Agents whose messages are compared with each other, and how much of each is compressed to compare
# the rewritten text with the original.
_SAMPLED_AGENTS: Final = 10
_TALLY_BYTES: Final = 8_000_000
_SYNTHETIC_BYTES: Final = 64 << 20


def load(corpus: tuple[str, ...], seed: int) -> Corpus:
    """The text to work with; generated if there is no corpus."""
    return Corpus.open(corpus) if corpus else Corpus.generate(seed, _SYNTHETIC_BYTES)


class Comparison:
    """Whether rewriting does what it must: nothing equal between agents, and the same ratios."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._sets: dict[int, MessageSet] = {}
        self._original = Tally()
        self._rewritten = Tally()

    def add(self, agent: int, name: str, messages: list[bytes]) -> None:
        """Look at one conversation, if the agent is one of the sample."""
        if agent >= _SAMPLED_AGENTS:
            return
        self._sets.setdefault(agent, MessageSet()).add(messages)
        if self._rewritten.logical_bytes < _TALLY_BYTES * (agent + 1):
            self._rewritten.add(messages)
            # The last conversation of an agent is cut.
            self._original.add(self._corpus.original(name)[: len(messages)])

    def as_record(self) -> dict[str, float]:
        """The figures."""
        return {
            "cross_agent_equal_share": equal_share(list(self._sets.values())),
            "ratio_original": self._original.ratios()["whole"],
            "ratio_rewritten": self._rewritten.ratios()["whole"],
        }


class Author:
    """What one agent writes, in turns."""

    def __init__(self, number: int, plan: Plan, corpus: Corpus, comparison: Comparison) -> None:
        self.number = number
        self.written_bytes = 0
        self._comparison = comparison
        self._turns = self._split(corpus.rewritten(plan.seed, number, plan.conversation_bytes))

    def turn(self) -> Frame | None:
        """The next turn; None when everything is written."""
        frame = next(self._turns, None)
        if frame is not None:
            self.written_bytes += sum(map(len, frame.messages))
        return frame

    def _split(self, conversations: Iterator[tuple[str, list[bytes]]]) -> Iterator[Frame]:
        for number, (name, messages) in enumerate(conversations):
            self._comparison.add(self.number, name, messages)
            turn: list[bytes] = []
            turn_bytes = 0
            for message in messages:
                turn.append(message)
                turn_bytes += len(message)
                if turn_bytes >= TURN_BYTES:
                    yield Frame(Kind.WRITE, self.number, number, turn)
                    turn, turn_bytes = [], 0
            if turn:
                yield Frame(Kind.WRITE, self.number, number, turn)


def frames(plan: Plan, corpus: Corpus, comparison: Comparison) -> Iterator[Frame]:
    """Everything that happens, in order."""
    chance = random.Random(plan.seed)
    yield Frame(Kind.PROMPT, messages=[corpus.prompt(plan.seed, plan.prompt_bytes)])
    yield Frame(Kind.TOOLS, messages=[corpus.tools(plan.seed, plan.tools_bytes)])
    authors = [Author(number, plan, corpus, comparison) for number in range(plan.agents)]
    for wake in range(WAKES):
        until_bytes = plan.conversation_bytes * (wake + 1) // WAKES
        chance.shuffle(authors)
        for first in range(0, len(authors), SHIFT_AGENTS):
            yield from _shift(authors[first : first + SHIFT_AGENTS], until_bytes, chance)


def _shift(authors: list[Author], until_bytes: int, chance: random.Random) -> Iterator[Frame]:
    """A few agents at work at the same time, until each has written so much."""
    for author in authors:
        yield Frame(Kind.WAKE, author.number)
    at_work = list(authors)
    while at_work:
        for author in list(at_work):
            turn = author.turn() if author.written_bytes < until_bytes else None
            if turn is not None:
                yield turn
                continue
            at_work.remove(author)
            yield Frame(chance.choice([Kind.IDLE, Kind.IDLE, Kind.PAUSE]), author.number)


def serve(plan: Plan, feeds: list[socket.socket], pipe: int) -> None:
    """Send each agent what is its own, and over `pipe` what that took."""
    began_s = cpu_seconds()
    with Watch() as watch:
        streams = [feed.makefile("wb") for feed in feeds]
        corpus = load(plan.corpus, plan.seed)
        comparison = Comparison(corpus)
        for frame in frames(plan, corpus, comparison):
            is_for_all = frame.kind in wire.FOR_ALL
            for number in range(plan.agents) if is_for_all else [frame.agent]:
                wire.write(streams[number], frame._replace(agent=number))
                streams[number].flush()
                if is_for_all:
                    wire.await_taken(feeds[number], number)
        for number, stream in enumerate(streams):
            wire.write(stream, Frame(Kind.READ_BACK, number))
            stream.close()
    report = comparison.as_record() | {
        "synthetic": corpus.synthetic,
        "resident_bytes_peak": watch.resident_peak_bytes,
        "cpu_seconds": cpu_seconds() - began_s,
    }
    wire.tell_json(pipe, Kind.REPORT, report)
