"""A virtual machine that runs this checkout on another kernel, and sees no network."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.guest.initramfs import Entry, archive
from benchmarks.guest.kernel import Kernel
from benchmarks.npm import CHECKOUT

_QEMU = "qemu-system-x86_64"
_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
_FOLDERS = ("bin", "proc", "dev", "guest", "machine", "changes", "modules")
_UP = "the guest is up"
_MEMORY_MIB = 6144
# Where there is no processor to share, such as in some virtual machines, a kernel hangs early.
_UP_S = {"kvm": 30.0, "tcg": 240.0}


def run(kernel: Kernel, count: int, seed: int, timeout_s: float) -> tuple[str, str]:
    """Boot, and wait for the end; the report, and what ran it ("kvm" or "tcg")."""
    if shutil.which(_QEMU) is None:
        raise SystemExit(f"{_QEMU} is missing: install it (Debian: apt install qemu-system-x86)")
    kinds = ["kvm", "tcg"] if os.access("/dev/kvm", os.R_OK | os.W_OK) else ["tcg"]
    with tempfile.TemporaryDirectory(prefix="amb-") as name:
        folder = Path(name)
        report, console = folder / "report", folder / "console.txt"
        report.mkdir()
        (folder / "initramfs").write_bytes(_initramfs(kernel, count, seed))
        for kind in kinds:
            with _booted(kernel, folder, kind) as process:
                if not _is_up(process, console, _UP_S[kind]):
                    continue
                print(f"the guest is up, by {kind}", file=sys.stderr)
                _follow(process, console, timeout_s)
            found = report / "report.json"
            if not found.exists():
                raise SystemExit(f"no report; its console: {_tail(console)}")
            return found.read_text(), kind
        raise SystemExit(f"it does not start; its console: {_tail(console)}")


def _initramfs(kernel: Kernel, count: int, seed: int) -> bytes:
    values = {"CHECKOUT": CHECKOUT, "PYTHON": sys.executable, "COUNT": count, "SEED": seed}
    lines = [f"{name}={shlex.quote(str(value))}" for name, value in values.items()]
    script = (Path(__file__).parent / "init.sh").read_text()
    init = "\n".join(["#!/bin/busybox sh", *lines, script])
    modules = [
        Entry(f"modules/{number:02}-{name}.ko", content)
        for number, (name, content) in enumerate(kernel.with_needs(_MODULES))
    ]
    files = [Entry("bin/busybox", kernel.busybox.read_bytes()), Entry("init", init.encode())]
    return archive([*map(Entry, _FOLDERS), *files, *modules])


@contextmanager
def _booted(kernel: Kernel, folder: Path, kind: str) -> Iterator[subprocess.Popen[bytes]]:
    """A machine that is switched off in the end."""
    # What one says that does not start is of interest only where the other does not start either.
    errors = (folder / "qemu.txt").open("ab")
    process = subprocess.Popen(
        [
            *(_QEMU, "-nodefaults", "-no-reboot", "-display", "none", "-nic", "none"),
            *("-machine", "q35", "-accel", kind, "-cpu", "host" if kind == "kvm" else "max"),
            *("-smp", f"{len(os.sched_getaffinity(0))}", "-m", f"{_MEMORY_MIB}"),
            *("-kernel", str(kernel.image), "-initrd", str(folder / "initramfs")),
            *("-append", "console=ttyS0 quiet panic=-1"),
            *("-serial", f"file:{folder / 'console.txt'}"),
            *("-virtfs", _share("machine", Path("/"), "readonly=on,multidevs=remap")),
            *("-virtfs", _share("report", folder / "report", "multidevs=remap")),
        ],
        stdin=subprocess.DEVNULL,
        stderr=errors,
    )
    errors.close()
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _share(tag: str, folder: Path, options: str) -> str:
    path = str(folder).replace(",", ",,")
    return f"local,path={path},mount_tag={tag},security_model=none,{options}"


def _is_up(process: subprocess.Popen[bytes], console: Path, timeout_s: float) -> bool:
    until_s = time.monotonic() + timeout_s
    while process.poll() is None and time.monotonic() < until_s:
        if _UP in _text(console):
            return True
        time.sleep(0.2)
    return _UP in _text(console)


def _follow(process: subprocess.Popen[bytes], console: Path, timeout_s: float) -> None:
    """Pass on what the guest says, until it ends."""
    until_s, said = time.monotonic() + timeout_s, len(_text(console))
    while process.poll() is None:
        if time.monotonic() > until_s:
            raise SystemExit(f"not done after {timeout_s:.0f} s; its console: {_tail(console)}")
        time.sleep(1.0)
        text = _text(console)
        print(text[said:], end="", file=sys.stderr, flush=True)
        said = len(text)


def _text(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else ""


def _tail(console: Path) -> str:
    return _text(console.with_name("qemu.txt"))[-500:] + _text(console)[-1500:]
