"""Puts agentmem into the source of a kernel (6.12), with its four calls as system calls.

    python -m kernel.patches.apply TREE

The sources are those of the module. The numbers are the next free ones of each table.
"""

import argparse
import re
import shutil
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODULE = HERE.parent
CALLS = ("agentmem_alloc", "agentmem_share", "agentmem_advise", "agentmem_stats")
# The columns between number and name, and behind the name.
TABLES = {
    "scripts/syscall.tbl": "common",
    "arch/x86/entry/syscalls/syscall_32.tbl": "i386",
    "arch/x86/entry/syscalls/syscall_64.tbl": "common",
}
# From here on, x86 has numbers of its own for another ABI.
LEGACY_X32 = 512


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tree", type=Path, help="the source of a kernel, which is changed")
    tree = parser.parse_args().tree
    folder = tree / "mm" / "agentmem"
    if folder.exists():
        raise SystemExit(f"{folder} is there already")
    table = tree / "arch/x86/entry/syscalls/syscall_64.tbl"
    if not table.exists():
        raise SystemExit(f"{tree} is not the source of a kernel: it has no {table.name}")
    folder.mkdir()
    for source in (*MODULE.glob("*.[ch]"), HERE / "syscalls.c", HERE / "Kconfig"):
        shutil.copy(source, folder)
    kbuild = (MODULE / "Kbuild").read_text()
    kbuild = kbuild.replace("obj-m", "obj-$(CONFIG_AGENTMEM)")
    (folder / "Makefile").write_text(kbuild.replace("device.o ", "device.o syscalls.o ", 1))
    append(tree / "mm/Makefile", "obj-$(CONFIG_AGENTMEM) += agentmem/\n")
    insert(tree / "mm/Kconfig", 'source "mm/damon/Kconfig"\n', 'source "mm/agentmem/Kconfig"\n')
    append(tree / "kernel/sys_ni.c", "".join(f"COND_SYSCALL({call});\n" for call in CALLS))
    prototypes = (
        f"asmlinkage long sys_{call}(int agent, void __user *args, size_t bytes,\n"
        "\t\t\t\t    unsigned int flags);\n"
        for call in CALLS
    )
    insert(
        tree / "include/linux/syscalls.h",
        "asmlinkage long sys_mseal(",
        "".join(prototypes),
    )
    for name, abi in TABLES.items():
        path = tree / name
        path.write_text(with_calls(path.read_text(), abi))


def append(path: Path, text: str) -> None:
    """At the end of a file."""
    path.write_text(path.read_text() + text)


def insert(path: Path, before: str, text: str) -> None:
    """In front of something that is there once."""
    content = path.read_text()
    if content.count(before) != 1:
        raise SystemExit(f"{path} does not have {before!r} once: this is for 6.12")
    path.write_text(content.replace(before, text + before))


def with_calls(table: str, abi: str) -> str:
    """A table of system calls with ours behind the last that has a number of its own."""
    rows = list(re.finditer(r"^(\d+)\t.*\n", table, re.MULTILINE))
    numbers = {int(row[1]): row.end() for row in rows if int(row[1]) < LEGACY_X32}
    last = max(numbers)
    made = "".join(
        f"{last + n}\t{abi}\t{call}\t\tsys_{call}\n" for n, call in enumerate(CALLS, start=1)
    )
    return table[: numbers[last]] + made + table[numbers[last] :]


if __name__ == "__main__":
    main()
