"""What paging out idle processes needs from this machine, each lack with the way out."""

import ctypes
import errno
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path

from agentmem import supervisor
from agentmem.errors import Unsupported
from agentmem.finding import Finding
from agentmem.grant.plan import DEVICE
from agentmem.kernel import kernel_version, meminfo_bytes, read_text
from agentmem.units import format_bytes

_CALL_NUMBERS = {"x86_64": 323, "aarch64": 282, "riscv64": 282}
_CAP_SYS_PTRACE = 19
_WP_ASYNC_SINCE = (6, 7)


def has_cap_sys_ptrace() -> bool:
    """Whether this process may trace processes of others, and handle faults of the kernel."""
    text = read_text("/proc/self/status") or ""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", text, re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> _CAP_SYS_PTRACE & 1)


def userfaultfd(can_open: bool, refusal: int | None) -> Finding:
    """Whether a process of this user can have faults of the kernel handled too.

    Args:
        can_open: whether the device can be opened.
        refusal: the error number with which the system call was refused; None: it was not.
    """
    name = "userfaultfd"
    if can_open:
        return Finding(name, "ok", f"{DEVICE} can be opened")
    if refusal is None:
        return Finding(name, "ok", "the system call is allowed, kernel-mode faults too")
    if refusal == errno.ENOSYS:
        return Finding(
            name,
            "missing",
            "not in this kernel, or not in this sandbox: idle agents cannot be paged out",
            "use a kernel built with CONFIG_USERFAULTFD, and a sandbox that allows userfaultfd",
        )
    return Finding(
        name,
        "limited",
        "only for user-mode faults: idle agents cannot be paged out safely",
        "sudo agentmem setup",
    )


def pagemap_scan(version: tuple[int, int]) -> Finding:
    """Whether the kernel tells what was written since."""
    name = "WP_ASYNC, PAGEMAP_SCAN"
    if version >= _WP_ASYNC_SINCE:
        return Finding(name, "ok", "in this kernel")
    since = ".".join(map(str, _WP_ASYNC_SINCE))
    return Finding(
        name,
        "limited",
        f"came with Linux {since}",
        "upgrade the kernel: paging out an agent again costs more without them",
    )


def tracing(scope: str | None, is_privileged: bool) -> Finding:
    """Whether a supervisor may trace its agent, by Yama's rules."""
    name = "ptrace scope (Yama)"
    if scope is None:
        return Finding(name, "ok", "no Yama: own processes can be traced")
    if scope == "0" or (is_privileged and scope in ("1", "2")):
        return Finding(name, "ok", scope)
    if scope == "1":
        return Finding(
            name,
            "limited",
            "1: agentmem run can trace what it starts, agentmem adopt only as root",
            "for adopt, until the next restart, as root: sysctl -w kernel.yama.ptrace_scope=0",
        )
    if scope == "2":
        return Finding(
            name,
            "limited",
            "2: only root can trace, so idle agents cannot be paged out",
            "as root: sysctl -w kernel.yama.ptrace_scope=1",
        )
    return Finding(
        name,
        "missing",
        f"{scope}: nobody can trace, so idle agents cannot be paged out",
        "set kernel.yama.ptrace_scope=1 in /etc/sysctl.d, and restart the machine",
    )


def freezer(is_v2: bool, folder: Path, is_writable: bool) -> Finding:
    """Whether a tree can be frozen as a whole."""
    name = "cgroup v2 freezer"
    if not is_v2:
        return Finding(
            name,
            "limited",
            "not the only hierarchy: idle agents are frozen with SIGSTOP",
            "boot with systemd.unified_cgroup_hierarchy=1",
        )
    if is_writable:
        return Finding(name, "ok", f"{folder} is writable")
    return Finding(
        name,
        "limited",
        f"{folder} is not delegated: idle agents are frozen with SIGSTOP",
        "sudo agentmem setup; then start from: systemd-run --user --scope -p Delegate=yes bash",
    )


def swap(lines: list[str], total_bytes: int) -> Finding:
    """Whether there is somewhere to go for what cannot be paged out otherwise."""
    name = "swap, zram"
    if not lines:
        return Finding(
            name,
            "limited",
            "none: no fallback for processes that cannot be paged out",
            "add a swap file, or zram (package zram-tools or systemd-zram-generator)",
        )
    devices = ", ".join(line.split()[0] for line in lines)
    return Finding(name, "ok", f"{format_bytes(total_bytes)} on {devices}")


def _supervisor() -> Finding:
    try:
        return Finding("supervisor", "ok", str(supervisor.program()))
    except Unsupported as error:
        what, _, way_out = str(error).partition(": ")
        return Finding("supervisor", "missing", what, way_out)


def _userfaultfd() -> Finding:
    return userfaultfd(os.access(DEVICE, os.R_OK | os.W_OK), _refusal())


def _refusal() -> int | None:
    """The error of the system call, made for a moment; None when it succeeds."""
    number = _CALL_NUMBERS.get(platform.machine())
    if number is None:
        allowed = read_text("/proc/sys/vm/unprivileged_userfaultfd") == "1"
        return None if allowed or has_cap_sys_ptrace() else errno.EPERM
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.syscall(number, os.O_CLOEXEC | os.O_NONBLOCK)
    if descriptor < 0:
        return ctypes.get_errno()
    os.close(descriptor)
    return None


def _pagemap_scan() -> Finding:
    return pagemap_scan(kernel_version())


def _tracing() -> Finding:
    return tracing(read_text("/proc/sys/kernel/yama/ptrace_scope"), has_cap_sys_ptrace())


def _freezer() -> Finding:
    tree = Path("/sys/fs/cgroup")
    own = re.search(r"^0::(.*)$", read_text("/proc/self/cgroup") or "", re.MULTILINE)
    folder = tree / (own[1].lstrip("/") if own else "")
    return freezer((tree / "cgroup.controllers").exists(), folder, os.access(folder, os.W_OK))


def _swap() -> Finding:
    lines = (read_text("/proc/swaps") or "").splitlines()[1:]
    return swap(lines, meminfo_bytes("SwapTotal"))


PROBES: tuple[Callable[[], Finding], ...] = (
    _supervisor,
    _userfaultfd,
    _pagemap_scan,
    _tracing,
    _freezer,
    _swap,
)
"""Everything that `agentmem doctor` looks at for agents; nothing is changed."""
