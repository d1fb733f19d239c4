"""Swap in compressed RAM, for as long as it is compared with: a device of our own."""

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

_CONTROL = Path("/sys/class/zram-control")
_SYS_PROCESS_MADVISE = 440
_MADV_PAGEOUT = 21
_VECTORS_MAX = 1024


class Unavailable(Exception):
    """This machine has no zram, or we may not use it."""


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


@contextlib.contextmanager
def swap(size_bytes: int, algorithm: str) -> Iterator[Path]:
    """A zram device that is swapped to; its folder in /sys. It is taken away in every case."""
    if os.geteuid() != 0:
        raise Unavailable("only root can add swap")
    if not _CONTROL.exists():
        subprocess.run(["modprobe", "zram"], check=False, capture_output=True)
    if not _CONTROL.exists():
        raise Unavailable("this kernel has no zram")
    # Reading this file adds a device and gives its number.
    number = int((_CONTROL / "hot_add").read_text())
    device, folder = Path(f"/dev/zram{number}"), Path(f"/sys/block/zram{number}")
    try:
        _switch_on(device, folder, size_bytes, algorithm)
        yield folder
    finally:
        _remove(device, folder, number)


def _switch_on(device: Path, folder: Path, size_bytes: int, algorithm: str) -> None:
    try:
        (folder / "comp_algorithm").write_text(algorithm)
    except OSError as error:
        raise Unavailable(f"this kernel's zram has no {algorithm}") from error
    (folder / "disksize").write_text(str(size_bytes))
    for command in ("mkswap", "swapon"):
        try:
            subprocess.run([command, str(device)], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Unavailable(f"{command} of zram: {error}") from error


def _remove(device: Path, folder: Path, number: int) -> None:
    if str(device) in Path("/proc/swaps").read_text():
        subprocess.run(["swapoff", str(device)], check=True, capture_output=True)
    (folder / "reset").write_text("1")
    (_CONTROL / "hot_remove").write_text(str(number))


def used_bytes(folder: Path) -> int:
    """RAM that a device takes for all it holds."""
    return int((folder / "mm_stat").read_text().split()[2])


def page_out(pids: Iterable[int]) -> None:
    """Ask the kernel to swap out the private anonymous memory of processes."""
    libc = ctypes.CDLL(None, use_errno=True)
    for pid in pids:
        regions = _anonymous(pid)
        pidfd = os.pidfd_open(pid)
        try:
            for at in range(0, len(regions), _VECTORS_MAX):
                part = regions[at : at + _VECTORS_MAX]
                vectors = (_Vector * len(part))(*part)
                libc.syscall(
                    _SYS_PROCESS_MADVISE, pidfd, vectors, len(part), _MADV_PAGEOUT, ctypes.c_uint(0)
                )
        finally:
            os.close(pidfd)


def _anonymous(pid: int) -> list[_Vector]:
    """What is private and of no file."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        where, rights, _, device, _, *name = line.split(maxsplit=5)
        # Stack, vdso and the like are in brackets; the heap is the exception.
        if rights.endswith("p") and device == "00:00" and name in ([], ["[heap]"]):
            begin, end = (int(each, 16) for each in where.split("-"))
            found.append(_Vector(begin, end - begin))
    return found
