"""What the running kernel says of itself and of the machine."""

import platform
import re
from pathlib import Path


def read_text(path: str) -> str | None:
    """The text of a kernel file; None when the kernel does not offer or allow it."""
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def kernel_version() -> tuple[int, int]:
    """Major and minor number of the running kernel."""
    match = re.match(r"(\d+)\.(\d+)", platform.release())
    return (int(match[1]), int(match[2])) if match else (0, 0)


def meminfo_bytes(field: str) -> int:
    """A field of /proc/meminfo, in bytes; 0 when it is not there."""
    match = re.search(rf"^{field}:\s+(\d+) kB", read_text("/proc/meminfo") or "", re.MULTILINE)
    return int(match[1]) * 1024 if match else 0
