"""Claude Code in a terminal under tmux: turns, idle, paged out, woken by a key.

After the wake the screen must hold the same conversation and the key, and go on with a turn whose
answer proves that nothing was lost.
"""

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from agentmem.bench.result import Figure, Result
from benchmarks import claude_code, measure, script
from benchmarks.managed import ManagedError
from benchmarks.stage import Settings, Stage, meaning, stage

_COLUMNS, _ROWS = 160, 50
_TURNS = 3
_WAIT_S = 60.0
_END_S = 10.0
_NAME = "tui"
_WAKING_KEY = "q"
_BOX = "\u2500" * 20
_WOKEN = re.compile(rf"^\u276f\s*{_WAKING_KEY}\s*$", re.MULTILINE)


class Screen:
    """A terminal of a tmux server of our own, which ends with the `with` block."""

    def __init__(self, folder: Path) -> None:
        self._tmux = ["tmux", "-S", str(folder / "tmux"), "-f", os.devnull]

    def call(self, *arguments: str) -> str:
        """One command to tmux; what it printed."""
        done = subprocess.run([*self._tmux, *arguments], check=True, capture_output=True, text=True)
        return done.stdout

    @contextlib.contextmanager
    def running(self, command: list[str], folder: Path, told: dict[str, str]) -> Iterator[None]:
        """A command on it, with nothing but `told` of the environment that matters."""
        variables = [word for name, value in told.items() for word in ("-e", f"{name}={value}")]
        size = ["-x", str(_COLUMNS), "-y", str(_ROWS)]
        self.call("new-session", "-d", *size, "-c", str(folder), *variables, "--", *command)
        pid = int(self.call("display-message", "-p", "#{pane_pid}"))
        try:
            yield
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):
                self.call("kill-server")
            # It is told by SIGHUP, and writes files until it has ended.
            until_s = time.monotonic() + _END_S
            while measure.tree_of(pid) and time.monotonic() < until_s:
                time.sleep(0.05)

    def text(self) -> str:
        """What is to be seen."""
        return self.call("capture-pane", "-p")

    def type(self, text: str) -> None:
        """Keys that stand for themselves."""
        self.call("send-keys", "-l", "--", text)

    def press(self, key: str) -> None:
        """A key by its name."""
        self.call("send-keys", key)

    async def shows(self, text: str, timeout_s: float = _WAIT_S) -> bool:
        """Wait until a text is there, wherever lines are broken; whether it came."""
        until_s = time.monotonic() + timeout_s
        while squeezed(text) not in squeezed(self.text()):
            if time.monotonic() > until_s:
                return False
            await asyncio.sleep(0.02)
        return True


def squeezed(text: str) -> str:
    """A text without what a screen adds to it: spaces, line ends, frames and bullets."""
    return re.sub(r"[^\w:,.\[\]/-]+", "", text)


def conversation(text: str) -> list[str]:
    """The lines above the input box and the hint over it, both of which come and go."""
    lines = [line.rstrip() for line in text.splitlines()]
    box = next((at for at, line in enumerate(lines) if line.startswith(_BOX)), len(lines))
    return [line for line in lines[: max(0, box - 1)] if line]


def prepare(home: Path, work: Path) -> None:
    """Answer beforehand what Claude Code asks a person who has just installed it."""
    home.mkdir(parents=True, exist_ok=True)
    trusted = {"hasTrustDialogAccepted": True, "hasCompletedProjectOnboarding": True}
    settings = {
        "hasCompletedOnboarding": True,
        "lastOnboardingVersion": claude_code.VERSION,
        "theme": "dark",
        "bypassPermissionsModeAccepted": True,
        "customApiKeyResponses": {"approved": ["test"], "rejected": []},
        "projects": {str(work): trusted},
    }
    (home / ".claude.json").write_text(json.dumps(settings))
    folder = home / ".claude"
    folder.mkdir(exist_ok=True)
    (folder / "settings.json").write_text(json.dumps({"skipDangerousModePermissionPrompt": True}))


async def run(settings: Settings) -> Result:
    """See the module."""
    if shutil.which("tmux") is None:
        raise SystemExit("tmux is missing: install it (Debian: apt install tmux)")
    async with stage(settings) as on:
        work = on.folder / _NAME / "work"
        script.write_files(work, _NAME, _TURNS + 1)
        told = claude_code.environment(on.folder / _NAME, on.model.port)
        prepare(on.folder / _NAME / "home", work)
        prefix = on.runtime.prefix(_NAME, idle_after="3s")
        claude = [*prefix, str(claude_code.install()), "--dangerously-skip-permissions"]
        screen = Screen(on.folder)
        with screen.running(claude, work, told | {"TERM": "xterm-256color"}):
            return Result(*await _figures(on, screen, script.Oracle(_NAME, work, settings.seed)))


async def _figures(
    on: Stage, screen: Screen, oracle: script.Oracle
) -> tuple[list[Figure], list[object], list[str]]:
    notes = list[str]()
    if not await screen.shows("bypass permissions"):
        raise SystemExit(f"Claude Code does not come up:\n{screen.text()}")
    right = [await ask(screen, oracle) for _ in range(_TURNS)]
    if not all(right):
        notes.append(f"the screen after a wrong answer: {screen.text()[-800:]!r}")
    try:
        await on.runtime.reach(_NAME, "paged_out")
        is_paged_out = True
    except ManagedError as error:
        is_paged_out = False
        notes.append(str(error))
    frozen = conversation(screen.text())
    woken_ms = await wake(screen)
    same = conversation(screen.text()) == frozen
    if not same:
        notes.append(f"the screen after the wake: {screen.text()!r}, and before: {frozen}")
    screen.press("BSpace")
    right.append(await ask(screen, oracle))
    status = await on.runtime.status(_NAME)
    notes.append(f"last wake: {status['last_wake']}")
    figures = [
        Figure("paged out when idle", is_paged_out, "", 1, False),
        Figure("conversation on the screen as before", same, "", 1, False),
        Figure("from the key to the screen", woken_ms, "ms"),
        Figure("answers", len(right), ""),
        Figure("wrong answers", right.count(False), "", 0),
    ]
    return figures, meaning(on, len(right)), notes


async def ask(screen: Screen, oracle: script.Oracle) -> bool:
    """The next task, typed; whether the right answer is on the screen in time."""
    line, right = oracle.next()
    screen.type(line)
    await asyncio.sleep(0.3)
    screen.press("Enter")
    return await screen.shows(right)


async def wake(screen: Screen) -> float:
    """Press a key; how long it takes in ms until the screen shows it."""
    began_s = time.perf_counter()
    screen.type(_WAKING_KEY)
    while not _WOKEN.search(screen.text()):
        if time.perf_counter() - began_s > _WAIT_S:
            raise SystemExit(f"the key that was to wake it is not to be seen:\n{screen.text()}")
        await asyncio.sleep(0.002)
    return (time.perf_counter() - began_s) * 1000
