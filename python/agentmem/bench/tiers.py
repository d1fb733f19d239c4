"""From hot to warm and back, by processor time."""

import time

import agentmem
from agentmem.bench import native
from agentmem.bench.result import Figure, Result, Settings
from agentmem.demo.plan import MB

_BYTES = 256 << 20
_SIZE = 64 << 10


def run(settings: Settings) -> Result:
    """Contents of 64 KiB: demoted by a reclaim, promoted by views. Then conversations."""
    total = _BYTES // (20 if settings.quick else 1)
    values = settings.values(total // _SIZE, _SIZE)
    with _open() as mem:
        agent = mem.agent("bench")
        smus = [agent.put(value) for value in values]
        del values
        assert smus[-1].id
        began = time.process_time()
        mem.reclaim()
        demote_s = time.process_time() - began
        warm = sum(smu.tier == "warm" for smu in smus)
        began = time.process_time()
        for smu in smus:
            with smu.view():
                pass
        promote_s = time.process_time() - began
    logical_mb = len(smus) * _SIZE / MB
    figures = [
        Figure("contents, hot to warm", logical_mb / demote_s, "MB/s", 300.0, False),
        Figure("contents, warm to hot", logical_mb / promote_s, "MB/s", 1000.0, False),
        Figure("conversations, put and packed", *_pack(settings, total)),
        Figure("conversations, read in order", *_read(settings, total)),
    ]
    rust, notes = native.figures(
        settings, {"demote": 300.0, "promote": 1000.0, "promote at the budget": 1000.0}
    )
    if warm < len(smus):
        notes.append(f"{len(smus) - warm} of {len(smus)} contents stayed hot")
    return Result(figures + rust, ["tiers", total, _SIZE], notes)


def _open() -> agentmem.Store:
    return agentmem.open(memory_max="3G", cold=False, warm_after_s=1e6)


def _pack(settings: Settings, total: int) -> tuple[float, str]:
    """Everything that putting and packing takes, hashing and indexing included."""
    messages = settings.messages(total)
    with _open() as mem:
        began = time.process_time()
        mem.agent("bench").conversation().extend(messages)
        mem.reclaim()
        seconds = time.process_time() - began
    return total / MB / seconds, "MB/s"


def _read(settings: Settings, total: int) -> tuple[float, str]:
    """Decoding and handing out, message by message."""
    with _open() as mem:
        conversation = mem.agent("bench").conversation()
        conversation.extend(settings.messages(total))
        mem.reclaim()
        began = time.process_time()
        read = sum(map(len, conversation))
        seconds = time.process_time() - began
    return read / MB / seconds, "MB/s"
