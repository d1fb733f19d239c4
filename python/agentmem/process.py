"""What the kernel says about processes and their machine."""

import contextlib
import os
import re
import threading
import time
import traceback
from collections.abc import Callable, Iterable
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


class Memory(NamedTuple):
    """Memory of processes, in bytes."""

    own_bytes: int = 0
    """PSS without shared memory: heap, stacks, and the share of programs and libraries."""
    shared_bytes: int = 0
    """PSS of shared memory: a store's heaps, contents and arenas, as far as they are mapped."""


def memory_of(pid: int) -> Memory:
    """Memory of one process; nothing of one that has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return Memory()
    amounts = {name: int(amount) for name, amount in re.findall(r"^(\w+): +(\d+) kB", text, re.M)}
    shared = amounts.get("Pss_Shmem", 0)
    return Memory((amounts.get("Pss", 0) - shared) * 1024, shared * 1024)


def summed_bytes(pids: Iterable[int]) -> int:
    """Memory of processes together, each page once.

    Their PSS, and the pages of their memfds that none of them maps: a store also writes by system
    calls, and holds what its neighbours map.
    """
    own = mapped = 0
    memfds: dict[tuple[int, int], int] = {}
    for pid in pids:
        memory = memory_of(pid)
        own += memory.own_bytes
        mapped += memory.shared_bytes
        memfds |= memfds_of(pid)
    return own + max(mapped, sum(memfds.values()))


def memfds_of(pid: int) -> dict[tuple[int, int], int]:
    """Bytes that each memfd which a process has open takes in RAM, mapped or not."""
    found = {}
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                link = f"/proc/{pid}/fd/{name}"
                if os.readlink(link).startswith("/memfd:"):
                    status = os.stat(link)
                    found[status.st_dev, status.st_ino] = status.st_blocks * 512
    return found


def rss_peak_bytes(pid: int) -> int:
    """The most pages a process ever had mapped, those of shared libraries in full."""
    return _kilobytes(f"/proc/{pid}/status", "VmHWM") * 1024


def descriptors_of(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def fork(work: Callable[[], None]) -> int:
    """Start a copy of this process that does `work` and ends; returns its number.

    Nothing that this process would do at its own end happens in the copy.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except (BrokenPipeError, ConnectionResetError):
            pass  # Who reads has gone, and knows why.
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def mem_available_bytes() -> int:
    """What the kernel could give to new work without swapping, on the whole machine."""
    return _kilobytes("/proc/meminfo", "MemAvailable") * 1024


def mem_total_bytes() -> int:
    """The memory of the whole machine."""
    return _kilobytes("/proc/meminfo", "MemTotal") * 1024


def cpu_seconds() -> float:
    """Processor time of all threads of this process, that of the kernel on their behalf too."""
    return time.process_time()


def cpu_seconds_of(pids: Iterable[int]) -> float:
    """The same of other processes that live, to a hundredth of a second."""
    return sum(_ticks(Path(f"/proc/{pid}"))[1] for pid in pids) / _TICKS_PER_S


def engine_cpu_seconds(pid: int | None = None) -> float:
    """Processor time of the threads of the engines that a process has open; None: this process."""
    pid = pid or os.getpid()
    # The main thread of the command has the same name.
    others = (task for task in Path(f"/proc/{pid}/task").iterdir() if int(task.name) != pid)
    return (
        sum(ticks for name, ticks in map(_ticks, others) if name == _ENGINE_THREAD) / _TICKS_PER_S
    )


def _ticks(task: Path) -> tuple[str, int]:
    """The name of a thread or process, and its ticks of processor time; 0 if it ended meanwhile."""
    try:
        name, _, fields = (task / "stat").read_text().partition("(")[2].rpartition(")")
    except (FileNotFoundError, ProcessLookupError):
        return "", 0
    user, system = fields.split()[11:13]
    return name, int(user) + int(system)


def _kilobytes(path: str, field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", Path(path).read_text(), re.MULTILINE)
    assert found is not None, f"no {field} in {path}"
    return int(found[1])


class Sample(NamedTuple):
    """What was there at one moment."""

    seconds: float
    """Since the watch began."""
    resident_bytes: int
    """What the watch looks at."""
    logical_bytes: int
    """What agents held, as far as the watcher was told."""


class Watch:
    """Samples memory on a thread while its `with` block runs: this process's, if not told whose."""

    def __init__(
        self,
        logical_bytes: Callable[[], int] = lambda: 0,
        resident_bytes: Callable[[], int] = pss_bytes,
        *,
        period_s: float = 0.1,
    ) -> None:
        self.samples: list[Sample] = []
        self._logical_bytes = logical_bytes
        self._resident_bytes = resident_bytes
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
        sample = Sample(seconds, self._resident_bytes(), self._logical_bytes())
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
