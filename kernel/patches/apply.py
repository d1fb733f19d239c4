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
# Whom the rows of a table are for.
TABLES = {
    "scripts/syscall.tbl": "common",
    "arch/x86/entry/syscalls/syscall_32.tbl": "i386",
    "arch/x86/entry/syscalls/syscall_64.tbl": "common",
}
# From here on, x86 has numbers of its own for another ABI.
X32_FIRST = 512


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tree", type=Path, help="the source of a kernel, which is changed")
    tree = parser.parse_args().tree
    folder = tree / "mm" / "agentmem"
    if folder.exists():
        raise SystemExit(f"{folder} is there already: start from a tree that was not changed")
    made = changed(tree)
    folder.mkdir()
    for source in (*MODULE.glob("*.[ch]"), HERE / "syscalls.c", HERE / "Kconfig"):
        shutil.copy(source, folder)
    for name, content in made.items():
        (tree / name).write_text(content)


def changed(tree: Path) -> dict[str, str]:
    """What files hold then, by their path in the tree, apart from those that are copied."""
    kbuild = (MODULE / "Kbuild").read_text().replace("obj-m", "obj-$(CONFIG_AGENTMEM)")
    prototype = "asmlinkage long sys_{}(int agent, void __user *args, size_t bytes,\n"
    prototype += "\t\t\t\t    unsigned int flags);\n"
    made = {
        "mm/agentmem/Makefile": kbuild.replace("device.o ", "device.o syscalls.o ", 1),
        "mm/Makefile": read(tree, "mm/Makefile") + "obj-$(CONFIG_AGENTMEM) += agentmem/\n",
        "mm/Kconfig": before(
            'source "mm/damon/Kconfig"\n',
            read(tree, "mm/Kconfig"),
            'source "mm/agentmem/Kconfig"\n',
        ),
        "kernel/sys_ni.c": read(tree, "kernel/sys_ni.c")
        + "".join(f"COND_SYSCALL({call});\n" for call in CALLS),
        "include/linux/syscalls.h": before(
            "asmlinkage long sys_mseal(",
            read(tree, "include/linux/syscalls.h"),
            "".join(prototype.format(call) for call in CALLS),
        ),
    }
    return made | {name: with_calls(read(tree, name), abi) for name, abi in TABLES.items()}


def read(tree: Path, name: str) -> str:
    """A file of the tree."""
    if not (tree / name).is_file():
        raise SystemExit(f"{tree} is not the source of a kernel: it has no {name}")
    return (tree / name).read_text()


def before(place: str, content: str, text: str) -> str:
    """With a text in front of something that is there once."""
    if content.count(place) != 1:
        raise SystemExit(f"{place!r} is not there once: this is for Linux 6.12")
    return content.replace(place, text + place)


def with_calls(table: str, abi: str) -> str:
    """A table of system calls with ours behind the last that all have."""
    rows = re.finditer(r"^(\d+)\s.*(?:\n|\Z)", table, re.MULTILINE)
    ends = {int(row[1]): row.end() for row in rows if int(row[1]) < X32_FIRST}
    last = max(ends)
    head, tail = table[: ends[last]], table[ends[last] :]
    made = (f"{last + n}\t{abi}\t{call}\t\tsys_{call}\n" for n, call in enumerate(CALLS, start=1))
    return head.rstrip("\n") + "\n" + "".join(made) + tail


if __name__ == "__main__":
    main()
