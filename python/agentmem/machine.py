"""What this machine offers to agentmem and what it lacks, with the way out of each lack."""

import os
import platform
import re
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from agentmem import connect, listing, paging, registry
from agentmem.errors import AgentMemError, Unreachable
from agentmem.finding import Finding
from agentmem.kernel import kernel_version, meminfo_bytes, read_text
from agentmem.units import format_bytes

__all__ = ["Finding", "cache_folder", "examine"]

_OPEN_FILES_WANTED = 4096
# The kernel's default, and what a sandbox that hides the setting is taken to have.
_MAP_COUNT_WANTED = 65530
_DISK_WANTED_BYTES = 10 * 1024**3
_DEVICE = Path("/dev/agentmem")
_WITHOUT_MODULE = "stores opened with backend='auto' hold all content themselves"


def examine() -> list[Finding]:
    """Look at everything. Nothing is changed, and nothing needs a privilege."""
    return [probe() for probe in _PROBES]


def cache_folder() -> Path:
    """Where cold tiers live unless a path is given."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agentmem"


def _cpu_flags() -> set[str]:
    """The feature words of the first core."""
    text = read_text("/proc/cpuinfo") or ""
    match = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return set(match[1].split()) if match else set()


def _python() -> Finding:
    version = platform.python_version()
    return Finding("python", "ok", f"{version} ({sys.implementation.name})", required=True)


def _kernel() -> Finding:
    release = platform.release()
    if platform.system() != "Linux":
        return Finding("kernel", "missing", platform.system(), "run agentmem on Linux", True)
    if kernel_version() < (5, 10):
        return Finding(
            "kernel",
            "limited",
            release,
            "agentmem is tested on Linux 5.10 and later: upgrade",
            True,
        )
    return Finding("kernel", "ok", release, required=True)


def _memfd() -> Finding:
    try:
        descriptor = os.memfd_create("agentmem-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except (AttributeError, OSError) as error:
        return Finding(
            "memfd",
            "missing",
            f"memfd_create: {error}",
            "every arena is a sealable memfd: use a kernel and a sandbox that allow memfd_create",
            True,
        )
    os.close(descriptor)
    return Finding("memfd", "ok", "memfd_create with sealing", required=True)


def _memory() -> Finding:
    total, available = meminfo_bytes("MemTotal"), meminfo_bytes("MemAvailable")
    return Finding("memory", "ok", f"{format_bytes(available)} available of {format_bytes(total)}")


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    detail = f"{soft} (hard limit {hard})"
    if soft == resource.RLIM_INFINITY or soft >= _OPEN_FILES_WANTED:
        return Finding("open files", "ok", detail)
    return Finding(
        "open files",
        "limited",
        detail,
        f"each big content holds a descriptor: ulimit -n {_OPEN_FILES_WANTED}",
    )


def _map_count() -> Finding:
    limit = int(read_text("/proc/sys/vm/max_map_count") or _MAP_COUNT_WANTED)
    if limit >= _MAP_COUNT_WANTED:
        return Finding("vm.max_map_count", "ok", str(limit))
    return Finding(
        "vm.max_map_count",
        "limited",
        str(limit),
        f"as root: sysctl -w vm.max_map_count={_MAP_COUNT_WANTED}",
    )


def _disk() -> Finding:
    folder = cache_folder()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    detail = f"{format_bytes(free)} free for {folder}"
    if not os.access(existing, os.W_OK):
        return Finding(
            "disk",
            "limited",
            f"{existing} is not writable",
            "set XDG_CACHE_HOME, or open with path=",
        )
    if free < _DISK_WANTED_BYTES:
        return Finding(
            "disk", "limited", detail, "free some, or put the cold tier elsewhere: path="
        )
    return Finding("disk", "ok", detail)


def _pressure() -> Finding:
    text = read_text("/proc/pressure/memory")
    if text is not None:
        return Finding("memory pressure (PSI)", "ok", text.splitlines()[0])
    return Finding(
        "memory pressure (PSI)",
        "limited",
        "/proc/pressure/memory cannot be read",
        "boot with psi=1; until then only memory_max and ages move content",
    )


def _hashing() -> Finding:
    flags = _cpu_flags()
    for name, needs in (
        ("AVX-512", {"avx512f", "avx512vl"}),
        ("AVX2", {"avx2"}),
        ("NEON", {"asimd"}),
    ):
        if needs <= flags:
            return Finding("hashing", "ok", f"BLAKE3 uses {name}")
    return Finding(
        "hashing",
        "limited",
        "no wide vector unit: BLAKE3 is several times slower",
        "use a processor with AVX2 or NEON, or give the virtual machine its host's CPU model",
    )


def _numa() -> Finding:
    online = read_text("/sys/devices/system/node/online")
    return Finding("NUMA nodes", "ok", online or "one: the kernel lists none")


def _huge_pages() -> Finding:
    text = read_text("/sys/kernel/mm/transparent_hugepage/enabled")
    chosen = re.search(r"\[(\w+)\]", text or "")
    if chosen is None:
        return Finding(
            "huge pages (THP)",
            "limited",
            "not offered: big mappings cost more faults",
            "use a kernel built with CONFIG_TRANSPARENT_HUGEPAGE",
        )
    if chosen[1] == "never":
        return Finding(
            "huge pages (THP)",
            "limited",
            "never",
            "as root: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        )
    return Finding("huge pages (THP)", "ok", chosen[1])


def _module() -> Finding:
    name = "kernel module"
    if not _DEVICE.exists():
        return Finding(name, "ok", f"not loaded, and not needed: {_WITHOUT_MODULE}")
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        return Finding(
            name,
            "limited",
            f"{_DEVICE} is not this user's to open: {_WITHOUT_MODULE}",
            "make it a group's, as kernel/README.md says",
        )
    return Finding(name, "ok", f"{_DEVICE}: for agentmem.open(backend='kernel') or 'auto'")


def _daemon() -> Finding:
    socket = registry.socket()

    def budget_bytes() -> int:
        with connect(socket, start=False) as mem:
            return mem.memory_max

    try:
        budget = listing.in_time(budget_bytes)
    except Unreachable:
        return Finding("daemon", "ok", "none runs: agentmem.connect() starts one")
    except AgentMemError as error:
        way_out = "agentmem daemon --stop, then agentmem daemon --background"
        return Finding("daemon", "limited", str(error), way_out)
    return Finding("daemon", "ok", f"listens at {socket}, {format_bytes(budget)} are its engine's")


_PROBES: tuple[Callable[[], Finding], ...] = (
    _python,
    _kernel,
    _memfd,
    _memory,
    _disk,
    _open_files,
    _map_count,
    _pressure,
    _hashing,
    _numa,
    _huge_pages,
    *paging.PROBES,
    _module,
    _daemon,
)
