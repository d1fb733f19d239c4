"""Builds the module, boots guests that have it, and says what its tests and the engine's say.

    python -m kernel.test.run [--seed N] [--rounds N] [--build FOLDER]

Everything of Debian's kernel is downloaded by name and unpacked below target/; nothing is
installed, and nothing is ever loaded into the kernel of this machine. The guest runs on a
processor that is emulated, so that the times of its tests say nothing.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.guest import kernel as debian
from benchmarks.guest.initramfs import Entry, archive

SOURCES = Path(__file__).resolve().parents[1]
PROGRAMS = ("calls", "memory", "lifetime", "fuzz", "pressure", "corpus")
# Tests of the engine that are run over the module, in a guest of their own.
ENGINE_TESTS = ("conformance", "backend")
ENGINE_TARGET = "x86_64-unknown-linux-gnu"
FOLDERS = ("bin", "proc", "sys", "dev", "modules", "tmp")
# The module's own needs are built in, but for the codecs that are tried.
MODULES = ("virtio_pci", "virtio_blk", "deflate", "lz4")
TOOLS = ("qemu-system-x86_64", "make", "gcc", "sparse", "pahole", "xz", "zstd", "cargo")
OLD_HEADERS = "linux-headers-amd64"
TIMEOUT_S, TIMEOUT_DEBUG_S = 600.0, 2400.0
FAST_MIB, SLOW_MIB = 320, 192
ENGINE_FAST_MIB, ENGINE_SLOW_MIB = 1536, 512
# Whatever is wrong ends the guest. Freed pages are poisoned, and looked at before they are used.
COMMAND_LINE = (
    "console=ttyS0 quiet panic=-1 oops=panic panic_on_warn=1 page_poison=1 slab_debug=FZP,am_smu "
    "kfence.sample_interval=20"
)
COMPLAINTS = re.compile(
    r"\bBUG[ :]|WARNING:|Kernel panic|Oops|general protection|unreferenced object"
)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1, help="of the random calls")
    parser.add_argument("--rounds", type=int, default=1500, help="of random calls, in each thread")
    parser.add_argument("--build", type=Path, help="a kernel that was built there, for Debian's")
    options = parser.parse_args()
    if missing := [name for name in TOOLS if shutil.which(name) is None]:
        raise SystemExit(f"install what is missing, as kernel/README.md says: {' '.join(missing)}")
    debian.FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="build-", dir=debian.FOLDER) as scratch:
        run(Path(scratch), options)


def run(scratch: Path, options: argparse.Namespace) -> None:
    """Build, boot, judge."""
    found = debian.unpacked()
    if options.build:
        kernel = options.build.resolve()
        image = kernel / "vmlinux"
        check_style(kernel / "scripts" / "checkpatch.pl")
    else:
        build_module(headers(*debian.depends(OLD_HEADERS, "linux-headers-")), scratch / "old")
        kernel = headers(f"linux-headers-{found.modules.name}")
        image = uncompressed(found.image, scratch / "vmlinux")
    module = build_module(kernel, scratch / "module")
    step("module built, without a warning of gcc (W=1) or sparse")
    dkms = Entry("dkms.ko", by_dkms(kernel, scratch / "dkms").read_bytes())
    step("module built and installed by DKMS")
    files = [Entry("agentmem.ko", module.read_bytes()), *map(Entry, FOLDERS)]
    files += [
        Entry(f"modules/{number:02}-{name}.ko", content)
        for number, (name, content) in enumerate([] if options.build else found.with_needs(MODULES))
    ]
    values = f"#!/bin/busybox sh\nROUNDS={options.rounds}\nSEED={options.seed}\n"
    init = values + (SOURCES / "test" / "init.sh").read_text()
    files += [Entry("init", init.encode()), Entry("bin/busybox", found.busybox.read_bytes())]
    engine = [*engine_programs(scratch)]
    engine += [Entry("engine.sh", (SOURCES / "test" / "engine.sh").read_bytes())]
    step("engine built")
    # To look closer takes room and time.
    times = 3 if options.build else 1
    guests = [
        Guest(
            [*files, dkms, *programs(scratch, kernel)],
            FAST_MIB * times,
            SLOW_MIB * times,
            corpus(scratch),
        ),
        Guest([*files, *engine], ENGINE_FAST_MIB, ENGINE_SLOW_MIB),
    ]
    wrong = 0
    for guest in guests:
        (scratch / "initramfs").write_bytes(archive(guest.files))
        step("guest starts")
        wrong += judge(boot(image, scratch, guest, TIMEOUT_DEBUG_S if options.build else TIMEOUT_S))
    raise SystemExit(wrong > 0)


class Guest(NamedTuple):
    """What a guest has: files in its first file system, memory of two kinds (MiB), a disk."""

    files: list[Entry]
    fast: int
    slow: int
    disk: Path | None = None


def step(name: str) -> None:
    """Says how far this is, and how long it took."""
    print(f"# {time.monotonic() - STARTED_S:.0f} s: {name}", file=sys.stderr, flush=True)


STARTED_S = time.monotonic()


def headers(name: str) -> Path:
    """Headers of Debian's, with the folder where they look for the others."""
    version = name.removeprefix("linux-headers-")
    common = f"linux-headers-{version.removesuffix('-amd64')}-common"
    tree = debian.packages(name, common, *debian.depends(name, "linux-kbuild-"))
    folder = tree / "usr" / "src" / name
    (folder / "Makefile").write_text(f"include {tree / 'usr' / 'src' / common / 'Makefile'}\n")
    return folder


def build_module(kernel: Path, folder: Path) -> Path:
    """The module for the kernel of which this is the build folder; no warning is accepted."""
    shutil.copytree(SOURCES, folder)
    words = ["make", "-s", "-j2", "-C", str(kernel), f"M={folder}", "W=1", "C=2", "modules"]
    result = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = [line for line in result.stdout.splitlines() if "Skipping BTF" not in line]
    if result.returncode or said:
        raise SystemExit("\n".join([*said, f"the module does not build against {kernel}"]))
    return folder / "agentmem.ko"


def check_style(script: Path) -> None:
    """Nothing for checkpatch to say. Who builds for several versions has to ask for the version."""
    words = [str(script), "--no-tree", "--terse", "--no-summary", "--max-line-length=100"]
    words += ["--ignore", "LINUX_VERSION_CODE,CONSTANT_COMPARISON", "--file"]
    sources = map(str, sorted(SOURCES.glob("*.[ch]")))
    result = subprocess.run(["perl", *words, *sources], capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(result.stdout + result.stderr)
    step("sources looked at, without a word of checkpatch")


def by_dkms(kernel: Path, folder: Path) -> Path:
    """The module as DKMS builds and installs it, in trees that are not this machine's."""
    release = (kernel / "include" / "config" / "kernel.release").read_text().strip()
    _, _, told = (SOURCES / "dkms.conf").read_text().partition('PACKAGE_VERSION="')
    version = told.partition('"')[0]
    shutil.copytree(SOURCES, folder / "source" / f"agentmem-{version}")
    installed = folder / "modules" / release
    installed.mkdir(parents=True)
    (folder / "state").mkdir()
    # It wants root, and gets one of a user namespace.
    words = [] if os.geteuid() == 0 else ["unshare", "--map-root-user"]
    words += ["bash", str(debian.packages("dkms") / "usr" / "sbin" / "dkms"), "install"]
    words += ["-m", "agentmem", "-v", version, "-k", release, "-a", "x86_64", "--no-depmod"]
    words += ["--sourcetree", str(folder / "source"), "--dkmstree", str(folder / "state")]
    words += ["--installtree", str(folder / "modules"), "--kernelsourcedir", str(kernel)]
    result = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    made = list(installed.rglob("agentmem.ko*"))
    if result.returncode or len(made) != 1:
        logs = [log.read_text() for log in (folder / "state").rglob("make.log")]
        raise SystemExit("\n".join([result.stdout, *logs, "DKMS does not install the module"]))
    return made[0]


def programs(scratch: Path, kernel: Path) -> Iterator[Entry]:
    """The programs that the guest runs; that of system calls where the kernel has them."""
    flags = ["-static", "-O1", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"]
    # Headers of 64 bits serve, where there are none of 32.
    bare = ["-m32", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-pic"]
    bare += ["-idirafter", "/usr/include/x86_64-linux-gnu"]
    names = [*PROGRAMS, "compat"]
    numbers = kernel / "arch" / "x86" / "include" / "generated" / "uapi" / "asm"
    if "agentmem" in (numbers / "unistd_64.h").read_text():
        names.append("syscalls")
    for name in names:
        source, made = SOURCES / "test" / f"{name}.c", scratch / name
        words = ["gcc", *flags, *(bare if name == "compat" else ["-pthread"])]
        words += ["-idirafter", str(numbers)] if name == "syscalls" else []
        subprocess.run([*words, "-o", str(made), str(source)], check=True)
        yield Entry(name, made.read_bytes())


def engine_programs(scratch: Path) -> Iterator[Entry]:
    """The engine's tests, as programs that need nothing of the system where they run."""
    words = ["cargo", "test", "--locked", "--quiet", "--no-run", "--message-format=json"]
    words += ["-p", "agentmem-store", "--target", ENGINE_TARGET]
    words += [word for name in ENGINE_TESTS for word in ("--test", name)]
    environment = {**os.environ, "RUSTFLAGS": "-C target-feature=+crt-static"}
    result = subprocess.run(
        words, check=True, stdout=subprocess.PIPE, text=True, env=environment, cwd=SOURCES.parent
    )
    for made in map(json.loads, result.stdout.splitlines()):
        if (program := made.get("executable")) and made["target"]["name"] in ENGINE_TESTS:
            stripped = scratch / f"test-{made['target']['name']}"
            subprocess.run(["strip", "-o", str(stripped), program], check=True)
            yield Entry(made["target"]["name"], stripped.read_bytes())


def corpus(scratch: Path) -> Path | None:
    """The transcripts as an archive that is not compressed, if there are any."""
    if not (packed := os.environ.get("AGENTMEM_CORPUS")):
        return None
    plain = scratch / "corpus.tar"
    subprocess.run(["zstd", "-q", "-d", "--long=27", packed, "-o", str(plain)], check=True)
    return plain


def uncompressed(image: Path, made: Path) -> Path:
    """The kernel in an image: a guest without firmware starts it at once."""
    content = image.read_bytes()
    for magic, words in ((b"\xfd7zXZ\0", ["xz", "-dc"]), (b"(\xb5/\xfd", ["zstd", "-dcq"])):
        for found in re.finditer(re.escape(magic), content):
            # What follows the kernel is not compressed, so they complain in the end.
            result = subprocess.run(words, input=content[found.start() :], capture_output=True)
            if result.stdout.startswith(b"\x7fELF"):
                made.write_bytes(result.stdout)
                return made
    raise SystemExit(f"{image} holds no kernel that this understands")


def boot(image: Path, scratch: Path, guest: Guest, timeout_s: float) -> str:
    """The console of a guest, from its start to its end."""
    fast, slow, disk = guest.fast, guest.slow, guest.disk
    started_s = time.monotonic()
    drive = ["-drive", f"file={disk},format=raw,if=virtio,readonly=on"] if disk else []
    words = [
        *("qemu-system-x86_64", "-machine", "q35,hmat=on", "-accel", "tcg,thread=multi"),
        *("-cpu", "max", "-smp", "2", "-m", f"{fast + slow}M", *drive, "-nodefaults", "-no-reboot"),
        *nodes(fast, slow),
        *("-display", "none", "-nic", "none", "-monitor", "none", "-serial", "stdio"),
        *("-kernel", str(image), "-initrd", str(scratch / "initramfs"), "-append", COMMAND_LINE),
    ]
    said: list[str] = []
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        try:
            while process.poll() is None:
                if time.monotonic() - started_s > timeout_s:
                    said.append(f"\nBail out! not done after {timeout_s:.0f} s\n")
                    break
                follow(process.stdout.read(), said)
                time.sleep(0.1)
            follow(process.stdout.read(), said)
        finally:
            process.kill()
    return "".join(said)


def nodes(fast: int, slow: int) -> Iterator[str]:
    """One with the processors, and one that is slower and has none, as CXL memory appears (MiB)."""
    yield from ("-object", f"memory-backend-ram,id=fast,size={fast}M")
    yield from ("-object", f"memory-backend-ram,id=slow,size={slow}M")
    yield from ("-numa", "node,nodeid=0,cpus=0-1,memdev=fast")
    yield from (
        "-numa",
        "node,nodeid=1,memdev=slow,initiator=0",
        "-numa",
        "dist,src=0,dst=1,val=40",
    )
    # How long it takes to reach each (ns), and how much of it comes at a time.
    for node, latency, bandwidth in ((0, 80, "100G"), (1, 250, "20G")):
        reach = f"hmat-lb,initiator=0,target={node},hierarchy=memory,data-type=access"
        yield from ("-numa", f"{reach}-latency,latency={latency}")
        yield from ("-numa", f"{reach}-bandwidth,bandwidth={bandwidth}")


def follow(content: bytes | None, said: list[str]) -> None:
    """Passes on what a guest said."""
    text = (content or b"").decode(errors="replace").replace("\r", "")
    print(text, end="", flush=True)
    said.append(text)


def judge(console: str) -> int:
    """How much failed, is missing, or made the kernel complain; says what."""
    lines = console.splitlines()
    plan = next((int(line[3:]) for line in lines if line.startswith("1..")), 0)
    results = [line for line in lines if re.match(r"(not )?ok \d", line)]
    nested = [line for line in lines if re.match(r" +(not )?ok \d", line)]
    wrong = [line for line in lines if re.match(r" *(not ok|Bail out)", line)]
    wrong += [line for line in lines if COMPLAINTS.search(line)]
    if not plan or len(results) != plan:
        wrong.append(f"{len(results)} results of {plan}")
    step(f"{len(results)} programs with {len(nested)} cases, {len(wrong)} wrong")
    for line in wrong:
        print(f"# wrong: {line}", file=sys.stderr)
    return len(wrong)


if __name__ == "__main__":
    main()
