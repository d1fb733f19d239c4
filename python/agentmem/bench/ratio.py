"""What stored conversations compress to, message by message readable, against zstd of the whole."""

from collections.abc import Iterable

import agentmem
from agentmem._store import Tally
from agentmem.bench.result import Figure, Result, Settings

_GOAL_PERCENT = 85.0
_QUICK_CONVERSATIONS = 3


def run(settings: Settings) -> Result:
    """Each conversation in a store of its own, so that nothing is gained by sharing between them;
    then all of a source in one store, as agents would have them."""
    figures: list[Figure] = []
    meaning: list[object] = ["ratio"]
    below = []
    for source, paths in settings.texts.sources().items():
        if settings.quick:
            paths = paths[:_QUICK_CONVERSATIONS]
        conversations = [settings.texts.original(path) for path in paths]
        whole = Tally()
        for conversation in conversations:
            whole.add(conversation)
        best = whole.ratios()["whole"]
        alone = whole.logical_bytes / sum(_stored_bytes([one]) for one in conversations)
        together = whole.logical_bytes / _stored_bytes(conversations)
        share = 100 * alone / best
        figures += [
            Figure(f"{source}: ratio of each alone", alone, "x"),
            Figure(f"{source}: share of whole zstd-3", share, "%", _GOAL_PERCENT, False),
            Figure(f"{source}: ratio of all together", together, "x"),
        ]
        if share < _GOAL_PERCENT:
            below.append(f"{source} reaches {share:.1f} % of {best:.2f}, not {_GOAL_PERCENT:.0f} %")
        meaning.append([source, len(paths), whole.logical_bytes])
    return Result(figures, meaning, below)


def _stored_bytes(conversations: Iterable[list[bytes]]) -> int:
    """Bytes that these conversations are stored in, all of them packed."""
    with agentmem.open(memory_max="4G", cold=False, arena_bytes="4M", warm_after_s=1e6) as mem:
        agent = mem.agent("bench")
        for messages in conversations:
            agent.conversation().extend(messages)
        mem.reclaim()
        return int(mem.stats()["stored_bytes"])
