"""Importing transcripts: how fast, how small, and whether the same bytes come out again."""

import filecmp
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import agentmem
from agentmem._store import Tally
from agentmem.bench.result import Figure, Result, Settings
from agentmem.transfer.exporting import export_all
from agentmem.transfer.importing import import_all
from agentmem.transfer.sources import transcripts

_SHARE_GOAL_PERCENT = 85.0
_SPEED_GOAL_MB = 100.0
_QUICK_CONVERSATIONS = 3
_SNAPSHOTS = 50


def run(settings: Settings) -> Result:
    """Each source in a durable store of its own, a file for each conversation; then snapshots of
    the longest conversation of all, each of a few messages more."""
    figures: list[Figure] = []
    meaning: list[object] = ["transfer"]
    below = []
    total_bytes, total_s, longest = 0, 0.0, [b""]
    for source, files in settings.texts.sources().items():
        names = list(chain.from_iterable(files))
        if settings.quick:
            names = names[:_QUICK_CONVERSATIONS]
        conversations = [settings.texts.original(name) for name in names]
        longest = max(longest, *conversations, key=lambda each: sum(map(len, each)))
        ratio, best, file_bytes, seconds = _measure(conversations)
        share = 100 * ratio / best
        figures.append(
            Figure(f"{source}: share of whole zstd-3", share, "%", _SHARE_GOAL_PERCENT, False)
        )
        if share < _SHARE_GOAL_PERCENT:
            below.append(f"{source} reaches {share:.1f} % of {best:.2f}")
        total_bytes, total_s = total_bytes + file_bytes, total_s + seconds
        meaning.append([source, len(names), file_bytes])
    steps = range(1, _SNAPSHOTS + 1)
    snapshots = [longest[: max(1, len(longest) * step // _SNAPSHOTS)] for step in steps]
    ratio, best, file_bytes, _ = _measure(snapshots)
    meaning.append(["snapshots", file_bytes])
    figures += [
        Figure(f"{_SNAPSHOTS} snapshots of one: ratio", ratio, "x"),
        Figure(f"{_SNAPSHOTS} snapshots of one: whole zstd-3", best, "x"),
        Figure("import", total_bytes / total_s / 1e6, "MB/s", _SPEED_GOAL_MB, False),
    ]
    return Result(figures, meaning, below)


def _measure(conversations: Iterable[list[bytes]]) -> tuple[float, float, int, float]:
    """The ratio in the store, that of zstd-3 of each file, the bytes of all, and the seconds that
    the import took.

    Raises:
        AssertionError: Other bytes came out than went in.
    """
    tally = Tally()
    with TemporaryDirectory() as scratch:
        inside, out = Path(scratch, "in"), Path(scratch, "out")
        inside.mkdir()
        for number, messages in enumerate(conversations):
            text = b"[%s]\n" % b",\n".join(messages)
            tally.add([text])
            (inside / f"{number:05}.json").write_bytes(text)
        with agentmem.open(Path(scratch, "store"), memory_max="1G") as mem:
            *_, imported = import_all(mem, transcripts(inside))
            mem.reclaim()  # what the engine has not packed yet
            stored_bytes = mem.stats()["stored_bytes"]
            *_, exported = export_all(mem, out, "jsonl")
        names = sorted(path.name for path in inside.iterdir())
        same, *_ = filecmp.cmpfiles(inside, out / "transcripts", names, shallow=False)
        is_same = sorted(same) == names and not imported.failed and not exported.failed
        assert is_same, "other bytes came out than went in"
    ratio = tally.logical_bytes / stored_bytes
    return ratio, tally.ratios()["whole"], tally.logical_bytes, imported.seconds
