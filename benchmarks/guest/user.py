"""The ordinary user of the guest, and commands that it gives."""

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.npm import CHECKOUT

NAME = "agentmem-guest"
AGENTMEM = str(CHECKOUT / ".venv" / "bin" / "agentmem")


class User(NamedTuple):
    """See the module."""

    uid: int
    gid: int
    home: Path

    def environment(self) -> dict[str, str]:
        """What a login would set."""
        return {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "USER": NAME,
            "HOME": str(self.home),
            "TMPDIR": str(self.home / "tmp"),
            "XDG_RUNTIME_DIR": f"/run/user/{self.uid}",
        }

    def start(self, words: Sequence[str], **more: Any) -> subprocess.Popen[str]:
        """A command of this user, who is in no group but its own."""
        return subprocess.Popen(
            words,
            user=self.uid,
            group=self.gid,
            extra_groups=[],
            env=self.environment(),
            start_new_session=True,
            text=True,
            **{"cwd": self.home} | more,
        )

    def run(self, words: Sequence[str], timeout_s: float = 120.0) -> "Said":
        """Such a command, until it ends or has to be ended."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with self.start(words, **pipes) as process:
            try:
                out, err = process.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                out, err = process.communicate()
        return Said(process.returncode, out.strip(), err.strip())

    def agentmem(self, *words: str) -> "Said":
        """The command of the checkout."""
        return self.run([AGENTMEM, *words])

    def bench(self, name: str, count: int, seed: int, timeout_s: float) -> dict[str, Any]:
        """The record of one benchmark."""
        options = [f"--count={count}", f"--seed={seed}", "--json", f"--results={self.home}"]
        command = [sys.executable, "-m", "benchmarks", name, *options]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
        with self.start(command, cwd=CHECKOUT, **pipes) as process:
            try:
                out, _ = process.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                return {"figures": {}, "notes": [f"{name} was not done after {timeout_s:.0f} s"]}
        lines = out.splitlines()
        if not lines:
            return {"figures": {}, "notes": [f"{name} ended with {process.returncode}"]}
        return dict(json.loads(lines[-1]))


class Said(NamedTuple):
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str


def create() -> User:
    """A new user that has logged in, and can reach this checkout and its Python."""
    subprocess.run(["useradd", "--create-home", NAME], check=True)
    entry = pwd.getpwnam(NAME)
    user = User(entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(user.home)], check=True)
    for folder in (user.home, user.home / "tmp", Path(f"/run/user/{user.uid}")):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chown(folder, user.uid, user.gid)
    for path in (CHECKOUT, Path(sys.executable).resolve()):
        for folder in path.parents:
            folder.chmod(folder.stat().st_mode | 0o011)
    return user
