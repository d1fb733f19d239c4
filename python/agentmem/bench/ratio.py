"""What stored conversations compress to, message by message readable, against zstd of the whole."""

from collections.abc import Iterable
from itertools import chain

import agentmem
from agentmem._store import Corpus, Tally
from agentmem.bench.result import Figure, Result, Settings

_GOAL_PERCENT = 85.0
_QUICK_CONVERSATIONS = 3


def run(settings: Settings) -> Result:
    """Each conversation in a store of its own, so that nothing is gained by sharing between them;
    then all of a source in one store, as agents would have them."""
    figures: list[Figure] = []
    meaning: list[object] = ["ratio"]
    below = []
    for source, files in settings.texts.sources().items():
        names = list(chain.from_iterable(files))
        if settings.quick:
            names = names[:_QUICK_CONVERSATIONS]
        conversations = [settings.texts.original(name) for name in names]
        whole = _tally(conversations)
        best = whole.ratios()["whole"]
        alone = whole.logical_bytes / sum(_stored_bytes([one]) for one in conversations)
        together = whole.logical_bytes / _stored_bytes(conversations)
        share = 100 * alone / best
        figures += [
            Figure(f"{source}: conversations", len(names), ""),
            Figure(f"{source}: ratio of each alone", alone, "x"),
            Figure(f"{source}: share of whole zstd-3", share, "%", _GOAL_PERCENT, False),
            Figure(f"{source}: ratio of all together", together, "x"),
        ]
        if len(names) > len(files):
            # What zstd finds that sees all conversations of a file at once.
            of_files = _ratio_of_files(settings.texts, files)
            figures.append(Figure(f"{source}: ratio of zstd-3 of whole files", of_files, "x"))
        if share < _GOAL_PERCENT:
            below.append(f"{source} reaches {share:.1f} % of {best:.2f}, not {_GOAL_PERCENT:.0f} %")
        meaning.append([source, len(names), whole.logical_bytes])
    return Result(figures, meaning, below)


def _ratio_of_files(texts: Corpus, files: Iterable[list[str]]) -> float:
    joined = (list(chain.from_iterable(map(texts.original, names))) for names in files)
    return _tally(joined).ratios()["whole"]


def _tally(conversations: Iterable[list[bytes]]) -> Tally:
    tally = Tally()
    for conversation in conversations:
        tally.add(conversation)
    return tally


def _stored_bytes(conversations: Iterable[list[bytes]]) -> int:
    """Bytes that these conversations are stored in, all of them packed."""
    with agentmem.open(memory_max="4G", cold=False, arena_bytes="4M", warm_after_s=1e6) as mem:
        agent = mem.agent("bench")
        for messages in conversations:
            agent.conversation().extend(messages)
        mem.reclaim()
        return int(mem.stats()["stored_bytes"])
