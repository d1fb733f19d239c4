"""What the kernel says about trees of processes: memory without counting a page twice, and time."""

import contextlib
import os
import random
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_KIB = 1024


class Memory(NamedTuple):
    """Memory of processes, in bytes."""

    pss: int = 0
    """Private pages, and of each shared page the share that falls to these processes."""
    private_anonymous: int = 0
    """Resident anonymous pages that no other process has: what paging out can give back."""
    anonymous_pss: int = 0
    """As `pss`, of anonymous pages alone."""
    rss: int = 0
    """Resident pages, shared ones in full: too high as soon as processes share."""

    def plus(self, other: "Memory") -> "Memory":
        """The sum."""
        return Memory(*(mine + its for mine, its in zip(self, other, strict=True)))

    @property
    def file_pss(self) -> int:
        """The share of file and shared memory pages."""
        return self.pss - self.anonymous_pss


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on (state first); empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def start_ticks(pid: int) -> int | None:
    """When a process was started: with its number, what tells it from any other."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def tree_of(pid: int) -> list[int]:
    """`pid` and all its descendants that live, it first; empty when it is gone."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) and fields[0] != "Z":
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid] if _stat(pid) else []
    for each in found:
        found += sorted(children.get(each, ()))
    return found


def memory_of(pid: int) -> Memory:
    """Memory of one process; nothing when it is gone."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return Memory()
    value = {name: int(amount) * _KIB for name, amount in re.findall(r"(\w+):\s+(\d+) kB", rollup)}
    if not value:
        return Memory()
    private, anonymous = value["Private_Dirty"] + value["Private_Clean"], value["Anonymous"]
    # The kernel gives no figure for private anonymous pages: Pss_Anon is it exactly as long as
    # no page is shared with a fork, and less than a page too much for each that is.
    return Memory(
        pss=value["Pss"],
        private_anonymous=min(value["Pss_Anon"], private, anonymous),
        anonymous_pss=value["Pss_Anon"],
        rss=value["Rss"],
    )


def memory_of_all(pids: Iterable[int]) -> Memory:
    """Memory of processes together."""
    total = Memory()
    for pid in pids:
        total = total.plus(memory_of(pid))
    return total


def supervisor_bytes(pid: int) -> int:
    """Memory of a supervisor with all its frames, those in memfds that it does not map too."""
    held: dict[int, int] = {}
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        with contextlib.suppress(OSError):
            if str(link.readlink()).startswith("/memfd:"):
                found = link.stat()
                held[found.st_ino] = found.st_blocks * 512
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    pss = {name: int(amount) * _KIB for name, amount in re.findall(r"(\w+):\s+(\d+) kB", rollup)}
    # What of a memfd is mapped counts in both, so that part is taken out once.
    return pss["Pss"] - min(pss["Pss_Shmem"], sum(held.values())) + sum(held.values())


def file_resident_bytes(pids: Iterable[int], binary: Path) -> int:
    """PSS of the pages of `binary` over all these processes: each page once, if no other has it."""
    wanted, total = str(binary.resolve()), 0
    for pid in pids:
        inside = False
        try:
            lines = Path(f"/proc/{pid}/smaps").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for line in lines:
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                inside = line.endswith(wanted)
            elif inside and line.startswith("Pss:"):
                total += int(line.split()[1]) * _KIB
    return total


def mem_available_bytes() -> int:
    """What the kernel could give to new work without swapping."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
    assert found is not None, "MemAvailable is there since Linux 3.14"
    return int(found[1]) * _KIB


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor time of processes, that of the kernel and of ended children too."""
    ticks = 0
    for pid in pids:
        ticks += sum(map(int, _stat(pid)[11:15]))
    return ticks / _TICKS_PER_S


def cpu_nanoseconds(pids: Iterable[int]) -> int:
    """As `cpu_seconds`, to the nanosecond and without children."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            # The number of the clock of another process, as clock_getcpuclockid(3) makes it.
            total += time.clock_gettime_ns((~pid << 3) | 2)
    return total


def context_switches(pids: Iterable[int]) -> dict[int, int]:
    """For each of their threads how often it gave up or lost a core: a measure of wakeups."""
    counts = {}
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").glob("*/status"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found = re.findall(r"ctxt_switches:\s+(\d+)", task.read_text())
                counts[int(task.parent.name)] = sum(map(int, found))
    return counts


def states(pids: Iterable[int]) -> str:
    """The states of processes as the kernel names them, such as "STT"."""
    return "".join(fields[0] for pid in pids if (fields := _stat(pid)))


def percentile(values: Iterable[float], share: float) -> float:
    """The value below which that share of the values lies (nearest rank)."""
    ordered = sorted(values)
    return ordered[round((len(ordered) - 1) * share)]


@dataclass(frozen=True)
class Interval:
    """A ratio, and where it lies with 95 % confidence."""

    value: float
    low: float
    high: float


@dataclass
class Pairs:
    """Times of the same things done in two ways in one run: what is measured, and the base."""

    seed: int
    measured: list[float] = field(default_factory=list)
    base: list[float] = field(default_factory=list)

    def ratio(self, repetitions: int = 2000) -> Interval:
        """The median of the ratios within pairs, with an interval by bootstrap over pairs."""
        choose = random.Random(self.seed)
        each = [top / base for top, base in zip(self.measured, self.base, strict=True)]
        medians = [percentile(choose.choices(each, k=len(each)), 0.5) for _ in range(repetitions)]
        low, high = percentile(medians, 0.025), percentile(medians, 0.975)
        return Interval(percentile(each, 0.5), low, high)
