"""What the engine costs at the pace of real agents."""

import heapq
import random
import re
import time
from datetime import datetime
from itertools import chain

import agentmem
from agentmem.bench.result import Figure, Result, Settings
from agentmem.process import cpu_seconds, engine_cpu_seconds

_AGENTS = 100
_SECONDS = 60.0
_QUICK_SECONDS = 5.0
_BEFORE_MESSAGES = 500
_TIMESTAMP = re.compile(rb'"timestamp":\s*"([^"]{19,40})"')


def run(settings: Settings) -> Result:
    """Replay a window of each agent's transcript in real time: messages at the times that they
    were recorded at. Each window begins with a message, so that no agent sleeps through it."""
    seconds = _QUICK_SECONDS if settings.quick else _SECONDS
    chance = random.Random(settings.seed)
    transcripts = _timed(settings)
    if not transcripts:
        return Result([], ["cpu"], ["not measured: no record in the corpus says when it was made"])
    with agentmem.open(memory_max="1G") as mem:
        due: list[tuple[float, int, bytes]] = []
        conversations = []
        for number in range(_AGENTS):
            conversation = mem.agent(f"agent-{number}").conversation()
            conversations.append(conversation)
            times, messages = chance.choice(transcripts)
            first = chance.randrange(len(messages))
            conversation.extend(messages[max(0, first - _BEFORE_MESSAGES) : first])
            for at, message in zip(times[first:], messages[first:], strict=True):
                if 0 <= at - times[first] < seconds:
                    due.append((at - times[first], number, message))
        # What came before is not measured.
        mem.flush()
        time.sleep(1)
        heapq.heapify(due)
        count, bytes_ = len(due), sum(len(message) for _, _, message in due)
        engine_s, process_s, began = engine_cpu_seconds(), cpu_seconds(), time.monotonic()
        while due:
            at, number, message = heapq.heappop(due)
            time.sleep(max(0.0, began + at - time.monotonic()))
            conversations[number].append(message)
        time.sleep(max(0.0, began + seconds - time.monotonic()))
        wall_s = time.monotonic() - began
        engine_s, process_s = engine_cpu_seconds() - engine_s, cpu_seconds() - process_s
    figures = [
        Figure("engine's thread, of one core", 100 * engine_s / wall_s, "%", 5.0),
        Figure("whole process, of one core", 100 * process_s / wall_s, "%"),
        Figure("messages", count / wall_s, "a second"),
        Figure("bytes", bytes_ / wall_s / 1000, "KB/s"),
    ]
    return Result(figures, ["cpu", _AGENTS, seconds, count, bytes_])


def _timed(settings: Settings) -> list[tuple[list[float], list[bytes]]]:
    """Transcripts whose records say when they were made: times and messages."""
    found = []
    for files in settings.texts.sources().values():
        for name in chain.from_iterable(files):
            messages = settings.texts.original(name)
            stamps = [_TIMESTAMP.search(message) for message in messages]
            if sum(stamp is not None for stamp in stamps) < len(messages) / 2:
                continue
            times: list[float] = []
            for stamp in stamps:
                last = times[-1] if times else 0.0
                # A record without a time, or with an earlier one, belongs to the one before it.
                times.append(last if stamp is None else max(last, _seconds(stamp[1]) or last))
            found.append((times, messages))
    return found


def _seconds(stamp: bytes) -> float | None:
    try:
        return datetime.fromisoformat(stamp.decode()).timestamp()
    except ValueError:
        return None
