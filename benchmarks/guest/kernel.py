"""Debian's kernel and busybox: downloaded by name and unpacked below target/, never installed."""

import lzma
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from benchmarks.npm import CHECKOUT

FOLDER = CHECKOUT / "target" / "guest"
# The first that names a kernel which is new enough: older releases have it beside their own.
_KERNELS = ("linux-image-6.12-amd64", "linux-image-amd64")
_BUSYBOX = "busybox-static"
_SINCE = (6, 7)
_VERSION = re.compile(r"linux-image-(\d+)\.(\d+)")
_MODULE_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


class Kernel(NamedTuple):
    """What was unpacked."""

    image: Path
    modules: Path
    """The folder with the modules of this version."""
    busybox: Path

    def with_needs(self, names: Iterable[str]) -> list[tuple[str, bytes]]:
        """Modules, each behind those that it needs. What is not there is built in."""
        files = {_name(path.name): path for path in self.modules.rglob("*.ko*")}
        found: dict[str, bytes] = {}

        def add(name: str) -> None:
            if name in found or name not in files:
                return
            content = _content(files[name])
            needs = _MODULE_DEPENDS.search(content)
            for need in needs[1].decode().split(",") if needs else ():
                add(_name(need))
            found[name] = content

        for name in names:
            add(name)
        return list(found.items())


def _name(file: str) -> str:
    return file.partition(".ko")[0].replace("-", "_")


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    return lzma.decompress(content) if path.suffix == ".xz" else content


def unpacked() -> Kernel:
    """The kernel, downloaded if it is not there yet."""
    for name in ("apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(name) is None:
            raise SystemExit(f"{name} is missing: the guest's kernel is Debian's, and comes by it")
    image = packages(_image_name())
    (file,), (modules,) = image.glob("boot/vmlinuz-*"), image.glob("lib/modules/*")
    return Kernel(file, modules, packages(_BUSYBOX) / "bin" / "busybox")


def _image_name() -> str:
    """The package that the newest kernel is in."""
    for name in _KERNELS:
        for image in depends(name, "linux-image-"):
            found = _VERSION.match(image)
            if found and (int(found[1]), int(found[2])) >= _SINCE:
                return image
    raise SystemExit(f"no kernel from {'.'.join(map(str, _SINCE))} on is known: apt-get update")


def depends(name: str, prefix: str) -> list[str]:
    """Packages with such names that a package needs."""
    result = subprocess.run(["apt-cache", "depends", name], capture_output=True, text=True)
    return re.findall(rf"^ *Depends: ({re.escape(prefix)}\S+)", result.stdout, re.MULTILINE)


def packages(*names: str) -> Path:
    """The folder that packages are unpacked in together, called after the first."""
    folder = FOLDER / names[0]
    if not folder.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        # Built beside its place and moved there whole, so that half a package never counts.
        with tempfile.TemporaryDirectory(dir=FOLDER) as scratch:
            made = Path(scratch) / "made"
            _run(["apt-get", "-q", "download", *names], Path(scratch))
            for archive in Path(scratch).glob("*.deb"):
                _run(["dpkg-deb", "-x", str(archive), str(made)], Path(scratch))
            made.rename(folder)
    return folder


def _run(words: list[str], folder: Path) -> None:
    try:
        subprocess.run(words, check=True, stdout=sys.stderr, cwd=folder)
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{' '.join(words[:3])} failed: apt-get update may help") from error
