"""What the kernel says about this process and its machine."""

import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

_ENGINE_THREAD = "agentmem"
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def pss_bytes() -> int:
    """Memory of this process: its private pages, and its share of those that others map too.

    The arenas and heaps of a store are shared memory that only this process maps, so they count
    in full.
    """
    return _kilobytes("/proc/self/smaps_rollup", "Pss") * 1024


def rss_peak_bytes() -> int:
    """The most pages this process ever had mapped, those of shared libraries in full."""
    return _kilobytes("/proc/self/status", "VmHWM") * 1024


def mem_available_bytes() -> int:
    """What the kernel could give to new work without swapping, on the whole machine."""
    return _kilobytes("/proc/meminfo", "MemAvailable") * 1024


def mem_total_bytes() -> int:
    """The memory of the whole machine."""
    return _kilobytes("/proc/meminfo", "MemTotal") * 1024


def cpu_seconds() -> float:
    """Processor time of all threads of this process, that of the kernel on their behalf too."""
    return time.process_time()


def engine_cpu_seconds() -> float:
    """Processor time of the threads of the engines that this process has open."""
    ticks = 0
    for task in Path("/proc/self/task").iterdir():
        if int(task.name) == os.getpid():
            continue  # The main thread of the command has the same name.
        try:
            name, _, fields = (task / "stat").read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue  # It ended meanwhile.
        if name == _ENGINE_THREAD:
            user, system = fields.split()[11:13]
            ticks += int(user) + int(system)
    return ticks / _TICKS_PER_S


def _kilobytes(path: str, field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", Path(path).read_text(), re.MULTILINE)
    assert found is not None, f"no {field} in {path}"
    return int(found[1])


class Sample(NamedTuple):
    """What was there at one moment."""

    seconds: float
    """Since the watch began."""
    resident_bytes: int
    """Memory of this process, as `pss_bytes` has it."""
    logical_bytes: int
    """What agents held, as far as the watcher was told."""


class Watch:
    """Samples this process's memory on a thread, while its `with` block runs."""

    def __init__(
        self, logical_bytes: Callable[[], int] = lambda: 0, *, period_s: float = 0.1
    ) -> None:
        self.samples: list[Sample] = []
        self._logical_bytes = logical_bytes
        self._period_s = period_s
        self._begin_s = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    @property
    def resident_peak_bytes(self) -> int:
        """The largest sample."""
        return max(sample.resident_bytes for sample in self.samples)

    def sample(self) -> Sample:
        """Take one sample now."""
        seconds = time.monotonic() - self._begin_s
        sample = Sample(seconds, pss_bytes(), self._logical_bytes())
        self.samples.append(sample)
        return sample

    def _run(self) -> None:
        pause_s = self._period_s
        while not self._stop.wait(pause_s):
            # The kernel walks all pages for a sample: where that is long, look less often.
            began_s = time.monotonic()
            self.sample()
            pause_s = max(self._period_s, 10 * (time.monotonic() - began_s))

    def __enter__(self) -> Self:
        self.sample()
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.sample()
