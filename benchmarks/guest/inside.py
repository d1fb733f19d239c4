"""The inner half: runs as root in the guest, and writes what came of each step as JSON.

    python -m benchmarks.guest.inside FOLDER COUNT SEED

Steps are what people do, in their order: run before anything is granted, setup, agents of an
ordinary user, adopt, undo.
"""

import json
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.guest import user as users
from benchmarks.guest.user import AGENTMEM, NAME, Said, User

SCOPE = Path("/proc/sys/kernel/yama/ptrace_scope")
_DEVICE = Path("/dev/userfaultfd")
_CGROUPS = Path("/sys/fs/cgroup")
_BENCH_S = 1500.0
_REACH_S = 120.0
_TRIES_S = 3.0

Step = Callable[[], str]
"""Does something, and says what was seen; an assertion that fails says what is wrong."""


class Session:
    """All steps, for one user."""

    def __init__(self, user: User, count: int, seed: int) -> None:
        self.user, self.count, self.seed = user, count, seed
        self.steps: list[dict[str, Any]] = []
        self.benchmarks: dict[str, dict[str, Any]] = {}
        self.before, self.began_scope = _granted(), int(SCOPE.read_text())
        self.began_s = time.monotonic()

    def do(self, name: str, step: Step) -> None:
        """One step; whatever becomes of it, the next one follows."""
        try:
            passed, said = True, step()
        except Exception as error:
            passed, said = False, str(error) or traceback.format_exc(limit=-2)
        self.tell(f"{'passed' if passed else 'FAILED'}: {name}: {said}")
        self.steps.append({"name": name, "passed": passed, "said": said})

    def bench(self, label: str, name: str) -> None:
        """One benchmark as the user."""
        record = self.user.bench(name, self.count, self.seed, _BENCH_S)
        self.benchmarks[label] = record
        values = {key: each["value"] for key, each in record["figures"].items()}
        self.tell(f"{label}: {values} {record['notes']}")

    def tell(self, line: str) -> None:
        """A line for whoever follows."""
        print(f"[{time.monotonic() - self.began_s:.0f} s] {line}", flush=True)

    def all(self) -> None:
        """Everything, in order."""
        self.do("run before setup is refused", self.refused)
        self.do("setup by the user itself is refused", self.setup_by_user)
        self.do("setup", self.setup)
        self.do("an agent pages out and wakes, by SIGSTOP", lambda: self.agent("T"))
        self.bench("SIGSTOP", "cycles")
        self.do("adopt of what the user started itself is refused", self.adopt_foreign)
        self.do("adopt of the same by root pages out and wakes", self.adopt_by_root)
        self.bench("below the supervisor", "adopted")
        self.do("a part of the cgroup tree is delegated", self.delegate)
        self.do("an agent pages out and wakes, by cgroup", lambda: self.agent("S"))
        self.bench("cgroup", "cycles")
        SCOPE.write_text("2")
        self.do("ptrace_scope 2: who is not root is refused", lambda: self.untraced("2"))
        self.do("ptrace_scope 2: adopt by root pages out and wakes", self.adopt_by_root)
        self.do("ptrace_scope 2: --best-effort runs", self.best_effort)
        SCOPE.write_text("1")
        self.do("setup --undo", self.undo)
        self.do("run after it is refused", self.refused)
        # From here there is no way back before the next start.
        SCOPE.write_text("3")
        self.do("ptrace_scope 3: everybody is refused", lambda: self.untraced("3"))
        self.do("ptrace_scope 3: adopt by root is refused", self.adopt_untraced)
        self.do("ptrace_scope 3: --best-effort runs", self.best_effort)

    def refused(self) -> str:
        said = self.user.agentmem("run", "--", "true")
        assert said.code == 125, said
        assert "agentmem setup" in said.err, said
        return _line(said)

    def setup_by_user(self) -> str:
        said = self.user.agentmem("setup")
        assert said.code == 1, said
        assert "sudo" in said.err, said
        return _line(said)

    def setup(self) -> str:
        missing = self.user.agentmem("setup", "--check")
        assert missing.code == 1, missing
        assert missing.out, missing
        said = _as_root("setup", "--user", NAME)
        assert said.code == 0, said
        check = self.user.agentmem("setup", "--check")
        assert check.code == 0, check
        return f"{said.out}\n{said.err}"

    def undo(self) -> str:
        said = _as_root("setup", "--undo")
        assert said.code == 0, said
        assert _granted() == self.before, f"{_granted()} was {self.before}"
        again = _as_root("setup", "--undo")
        assert "nothing to undo" in again.err, again
        return said.out

    def agent(self, state: str) -> str:
        """A small agent whose process is in `state` while it is away."""
        command = [AGENTMEM, "run", "--name=cat", "--idle-after=300ms", "--", "cat"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with self.user.start(command, **pipes) as process:
            found = _away(self.user.agentmem, "cat")
            states = measure.states(measure.tree_of(process.pid)[1:])
            assert states == state, f"its processes are in state {states}, not {state}"
            said = _asked(process)
        assert process.returncode == 0, process.returncode
        return f"{said}; held {found['held_bytes']} bytes"

    def adopt_foreign(self) -> str:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with self.user.start(["cat"], **pipes) as process:
            said = self.user.agentmem("adopt", str(process.pid))
            _asked(process)
        assert said.code == 125, said
        assert "Yama" in said.err, said
        assert "ptrace_scope" in said.err, said
        return _line(said)

    def adopt_by_root(self) -> str:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with self.user.start(["cat"], **pipes) as process:
            adopt = [AGENTMEM, "adopt", "--name=cat", "--idle-after=300ms", str(process.pid)]
            with subprocess.Popen(adopt) as adopter:
                found = _away(_as_root, "cat")
                said = _asked(process)
            assert adopter.returncode == 0, adopter.returncode
        return f"{said}; held {found['held_bytes']} bytes"

    def untraced(self, scope: str) -> str:
        """Under a rule by which the user may trace nothing, nor root under the strictest."""
        said = [self.user.agentmem("run", "--", "true")]
        said += [_as_root("run", "--", "true")] if scope == "3" else []
        for each in said:
            assert each.code == 125, each
            assert f"ptrace_scope is {scope}" in each.err, each
        return _line(said[-1])

    def adopt_untraced(self) -> str:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with self.user.start(["cat"], **pipes) as process:
            said = _as_root("adopt", str(process.pid))
            _asked(process)
        assert said.code == 125, said
        assert "restart the machine" in said.err, said
        return _line(said)

    def best_effort(self) -> str:
        """Who asks for no more runs, all the same, and is never paged out."""
        command = [AGENTMEM, "run", "--name=cat", "--best-effort", "--idle-after=300ms"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with self.user.start([*command, "--", "cat"], **pipes) as process:
            time.sleep(_TRIES_S)
            said = self.user.agentmem("ps", "-v", "--json")
            (found,) = [json.loads(line) for line in said.out.splitlines()]
            assert found["state"] in ("running", "idle"), found
            answered = _asked(process)
        assert process.returncode == 0, process.returncode
        return f"--best-effort: {answered}; {found['busy_with']}"

    def delegate(self) -> str:
        """What systemd does for a user who logs in; from here on, this process is in there."""
        uid = self.user.uid
        own = _CGROUPS / f"user.slice/user-{uid}.slice/user@{uid}.service"
        inner = own / "app.slice"
        inner.mkdir(parents=True)
        for folder in (own, inner):
            for name in ("", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"):
                os.chown(folder / name, uid, self.user.gid)
        (inner / "cgroup.procs").write_text(f"{os.getpid()}")
        said = self.user.agentmem("doctor")
        (line,) = [line for line in said.out.splitlines() if "freezer" in line]
        assert line.startswith("ok"), line
        return line


def _granted() -> dict[str, Any]:
    """What setup may change."""
    files = {path: Path(path).read_text() for path in ("/etc/group", "/etc/gshadow")}
    folders = [Path("/etc/udev/rules.d"), Path("/var/lib/agentmem"), Path("/etc/systemd/system")]
    listed = {str(folder): sorted(map(str, folder.glob("**"))) for folder in folders}
    found = _DEVICE.stat()
    acl = os.listxattr(_DEVICE)
    return files | listed | {"device": [oct(found.st_mode), found.st_uid, found.st_gid, acl]}


def _as_root(*words: str) -> Said:
    done = subprocess.run([AGENTMEM, *words], capture_output=True, text=True)
    return Said(done.returncode, done.stdout.strip(), done.stderr.strip())


def _line(said: Said) -> str:
    assert "\n" not in said.err, said
    assert not said.out, said
    return said.err


def _away(agentmem: Callable[..., Said], name: str) -> dict[str, Any]:
    """What `ps` says of an agent once it is paged out."""
    until_s, found = time.monotonic() + _REACH_S, dict[str, Any]()
    while time.monotonic() < until_s:
        listed = [json.loads(line) for line in agentmem("ps", "-v", "--json").out.splitlines()]
        found = next((each for each in listed if each.get("name") == name), {})
        if found.get("state") == "paged_out":
            return found
        time.sleep(0.2)
    raise AssertionError(f"{name} is not paged out: {found}")


def _asked(cat: "subprocess.Popen[str]") -> str:
    assert cat.stdin is not None, "a pipe"
    assert cat.stdout is not None, "a pipe"
    cat.stdin.write("Still there?\n")
    cat.stdin.flush()
    line = cat.stdout.readline()
    assert line == "Still there?\n", line
    cat.stdin.close()
    return "it answered right"


def main() -> None:
    """See the module."""
    folder, count, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    SCOPE.write_text("1")
    session = Session(users.create(), count, seed)
    session.all()
    report = {
        "kernel": platform.release(),
        "ptrace_scope": session.began_scope,
        "uid": session.user.uid,
        "steps": session.steps,
        "benchmarks": session.benchmarks,
    }
    # In one step: whoever looks sees all of it or nothing.
    (folder / "report.new").write_text(json.dumps(report))
    (folder / "report.new").rename(folder / "report.json")


if __name__ == "__main__":
    main()
