"""hooks and hint: what is written into Claude Code's settings, and what the hooks then do."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_fleet import Fleet, fleet_in
from hypothesis import given
from hypothesis import strategies as st

from agentmem import hooks
from agentmem.cli import main
from agentmem.errors import Damaged

OURS = {
    "Stop": [{"hooks": [{"type": "command", "command": "agentmem hint idle", "timeout": 5}]}],
    "UserPromptSubmit": [
        {"hooks": [{"type": "command", "command": "agentmem hint active", "timeout": 5}]}
    ],
}
OTHERS = {
    "model": "opus",
    "permissions": {"allow": ["Bash(ls:*)", "ünïcode"], "numbers": [1, 1.50, -0.0, 2**70]},
    "hooks": {
        "Stop": [{"matcher": "", "hooks": [{"type": "command", "command": "notify-send done"}]}],
        "PreToolUse": [{"matcher": "Bash", "hooks": []}],
    },
}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments], prog_name="agentmem")


def install(path: Path, *more: str) -> Result:
    return run("hooks", "install", "claude", "--settings", path, *more)


# the settings


def test_hooks_are_added_beside_what_is_there() -> None:
    after = hooks.installed(OTHERS, "agentmem")
    assert after["hooks"]["Stop"] == OTHERS["hooks"]["Stop"] + OURS["Stop"]  # type: ignore[index]
    assert after["hooks"]["UserPromptSubmit"] == OURS["UserPromptSubmit"]
    assert hooks.installed({}, "agentmem") == {"hooks": OURS}
    assert hooks.installed(after, "agentmem") == after
    assert hooks.removed(after) == OTHERS


def test_another_place_of_agentmem_takes_the_place_of_the_old() -> None:
    before = hooks.installed(OTHERS, "'/old place/bin/agentmem'")
    after = hooks.installed(before, "agentmem")
    assert after == hooks.installed(OTHERS, "agentmem")
    assert hooks.removed(before) == OTHERS


def test_a_group_keeps_the_hooks_of_others() -> None:
    foreign = {"type": "command", "command": "notify-send agentmem hint idle or so"}
    mine = OURS["Stop"][0]["hooks"][0]
    settings = {"hooks": {"Stop": [{"hooks": [mine, foreign]}]}}
    assert hooks.removed(settings) == {"hooks": {"Stop": [{"hooks": [foreign]}]}}
    assert hooks.removed({"hooks": {}}) == {"hooks": {}}


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # Half of a surrogate pair cannot stand in a file of UTF-8.
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda each: st.lists(each) | st.dictionaries(st.text("abc"), each),
    max_leaves=10,
)


@given(st.dictionaries(st.text("abcd"), values), st.sampled_from(["", "{\n\t", "{\n    ", "é"]))
def test_everything_else_is_equal_afterwards(settings: dict[str, Any], like: str) -> None:
    text = hooks.write(settings, like=like)
    assert hooks.read(text) == settings
    after = hooks.read(hooks.write(hooks.installed(settings, "agentmem"), like=text))
    assert {name: after[name] for name in settings} == settings
    assert hooks.removed(after) == settings


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "no valid JSON"),
        ('{"a": 1, "a": 2}', "stands twice"),
        ('{"a": 1e999}', "too large"),
        ('{"a": NaN}', "not JSON"),
        ("[]", "not a JSON object"),
        ('{"hooks": []}', "hooks"),
        ('{"hooks": {"Stop": {}}}', "hooks.Stop"),
        ('{"hooks": {"Stop": [{"hooks": 1}]}}', "hooks.Stop"),
        ("[" * 100_000, "no valid JSON"),
    ],
)
def test_damage_is_refused_and_left_as_it_is(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(Damaged, match=why):
        hooks.read(text)
    path = tmp_path / "settings.json"
    path.write_text(text)
    result = install(path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert str(path) in result.stderr
    assert "nothing was changed" in result.stderr
    assert path.read_text() == text
    assert os.listdir(tmp_path) == ["settings.json"]


# the file


def test_install_and_uninstall_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    text = json.dumps(OTHERS, indent=4, ensure_ascii=False)
    path.write_text(text)
    path.chmod(0o640)
    assert "installed" in install(path).stdout
    assert json.loads(path.read_text()) == hooks.installed(OTHERS, "agentmem")
    assert path.read_text().startswith('{\n    "model"')
    assert "ünïcode" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o640
    (backup,) = tmp_path.glob("*.bak")
    assert backup.read_text() == text

    again = json.loads(install(path, "--json").stdout)
    assert again == {"settings": str(path), "changed": False, "installed": True, "backup": None}
    assert "nothing to do" in install(path).stdout

    assert "taken out" in install(path, "--uninstall").stdout
    assert json.loads(path.read_text()) == OTHERS
    assert "nothing to do" in install(path, "--uninstall").stdout
    assert len(list(tmp_path.glob("*.bak"))) == 2


def test_without_a_file_one_is_made_where_claude_code_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLAUDE_CONFIG_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run("hooks", "install", "claude").exit_code == 0
    path = tmp_path / ".claude" / "settings.json"
    assert json.loads(path.read_text()) == {"hooks": OURS}
    assert path.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(tmp_path / "other"))
    assert run("hooks", "install", "claude").exit_code == 0
    assert (tmp_path / "other" / "settings.json").exists()


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target = tmp_path / "dotfiles.json"
    target.write_text("{}")
    link = tmp_path / "settings.json"
    link.symlink_to(target)
    install(link)
    assert link.is_symlink()
    assert json.loads(target.read_text()) == {"hooks": OURS}


def test_a_hook_calls_agentmem_so_that_every_session_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment, shared = tmp_path / "my venv", tmp_path / "bin"
    own = environment / "bin" / "agentmem"
    own.parent.mkdir(parents=True)
    own.touch(mode=0o755)
    shared.mkdir()
    monkeypatch.setattr(sys, "argv", [str(own)])
    monkeypatch.setattr(sys, "prefix", str(environment))

    def command() -> str:
        install(tmp_path / "settings.json")
        written = json.loads((tmp_path / "settings.json").read_text())
        return str(written["hooks"]["Stop"][0]["hooks"][0]["command"])

    for path in (shared, own.parent):
        monkeypatch.setenv("PATH", str(path))
        assert command() == f"'{own}' hint idle"
    (shared / "agentmem").symlink_to(own)
    monkeypatch.setenv("PATH", str(shared))
    assert command() == "agentmem hint idle"


# hint


@pytest.fixture
def supervisors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    folder = tmp_path / "run"
    monkeypatch.setenv("AGENTMEM_RUNTIME_DIR", str(folder))
    with fleet_in(folder) as started:
        yield started


def test_a_hint_reaches_its_agent_and_says_nothing(
    supervisors: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisors.start("planner")
    monkeypatch.setenv("AGENTMEM_AGENT", "planner")
    for turn in ("idle", "active"):
        result = run("hint", turn)
        assert (result.exit_code, result.output) == (0, "")
    assert supervisors.requests == [
        {"op": "hint", "turn": "idle"},
        {"op": "hint", "turn": "active"},
    ]


def test_without_agentmem_a_hint_is_nothing(
    supervisors: Fleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AGENTMEM_AGENT", raising=False)
    assert (run("hint", "idle").exit_code, run("hint", "idle").output) == (0, "")
    supervisors.lost("killed")
    for name in ("killed", "unknown", "../x", "a/b", ""):
        monkeypatch.setenv("AGENTMEM_AGENT", name)
        result = run("hint", "idle")
        assert (result.exit_code, result.output) == (0, ""), name
    monkeypatch.setenv("AGENTMEM_AGENT", "planner")
    monkeypatch.setenv("AGENTMEM_RUNTIME_DIR", str(tmp_path / "none"))
    assert (run("hint", "idle").exit_code, run("hint", "idle").output) == (0, "")


def test_a_hint_that_is_refused_is_an_error_but_not_one_that_stops_a_prompt(
    supervisors: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisors.start("planner", lambda _: {"ok": False, "error": "InvalidArgument", "text": "no"})
    monkeypatch.setenv("AGENTMEM_AGENT", "planner")
    result = run("hint", "idle")
    # Claude Code takes 2 for "do not go on", and 1 for a remark.
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: agent 'planner': no\n"


def test_a_hint_is_quick() -> None:
    """Promised: under 100 ms. In processor time, since other work shares the cores."""
    code = "from agentmem.cli import main; main(['hint', 'idle'])"
    environment = {name: os.environ[name] for name in os.environ if name != "AGENTMEM_AGENT"}

    def once() -> float:
        process = subprocess.Popen([sys.executable, "-c", code], env=environment)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return used.ru_utime + used.ru_stime

    assert min(once() for _ in range(10)) < 0.100
