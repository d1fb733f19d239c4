"""Huge pages for what a zygote has imported: a fork copies the page tables of what is mapped."""

import ctypes
import re
from pathlib import Path

_HUGE_BYTES = 2 << 20
_MADV_COLLAPSE = 25
_PRIVATE_ANONYMOUS = re.compile(
    r"^([0-9a-f]+)-([0-9a-f]+) rw-p \S+ 00:00 0 +(?:\[heap\]|\[anon:.*\])?$", re.MULTILINE
)


def collapse() -> int:
    """Move this process's heap onto huge pages; returns how many bytes now lie on them.

    Only ranges that fill a huge page are moved, so no more memory is taken than is mapped. A
    kernel that cannot (before 6.1), or has no huge page to give, leaves pages as they are: a
    fork is slower then, and nothing else.
    """
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    collapsed_bytes = 0
    for start, end in _ranges(Path("/proc/self/maps").read_text()):
        for at in range(start, end, _HUGE_BYTES):
            if madvise(at, _HUGE_BYTES, _MADV_COLLAPSE) == 0:
                collapsed_bytes += _HUGE_BYTES
    return collapsed_bytes


def _ranges(maps: str) -> list[tuple[int, int]]:
    """The aligned ranges of private anonymous memory in the text of a `maps` file."""
    ranges = []
    for found in _PRIVATE_ANONYMOUS.finditer(maps):
        start = -(-int(found[1], 16) // _HUGE_BYTES) * _HUGE_BYTES
        end = int(found[2], 16) // _HUGE_BYTES * _HUGE_BYTES
        if start < end:
            ranges.append((start, end))
    return ranges
