"""Programs that npm installs for benchmarks: by name, at one version, outside of what git has."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).resolve().parents[1]


class Package(NamedTuple):
    """What is installed."""

    name: str
    version: str
    program: str
    """Where its program is found, as a pattern below `node_modules`: the first match counts."""

    def install(self) -> Path:
        """The program, installed if it is not there yet."""
        folder = _cache_folder() / f"{self.name.rpartition('/')[2]}-{self.version}"
        if not (found := self._programs(folder)):
            if shutil.which("npm") is None:
                raise SystemExit(f"npm is missing, and {self.name} is installed by it: Node.js")
            # Built beside its place and moved there whole, so that half an installation never
            # counts.
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                self._install(Path(scratch) / "made", Path(scratch) / "npm")
                (Path(scratch) / "made").rename(folder)
            found = self._programs(folder)
        if not found:
            raise SystemExit(f"{self.name} {self.version} has no program for this machine")
        return found[0]

    def _programs(self, folder: Path) -> list[Path]:
        return sorted((folder / "node_modules").glob(self.program))

    def _install(self, folder: Path, npm_cache: Path) -> None:
        command = ["npm", "install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts"]
        where = ["--prefix", str(folder), "--cache", str(npm_cache)]
        folder.mkdir()
        spec = f"{self.name}@{self.version}"
        subprocess.run([*command, *where, spec], check=True, stdout=sys.stderr, cwd=folder)


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base) / "agentmem-bench" if base else CHECKOUT / "target" / "npm-cache"
