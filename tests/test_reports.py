"""scan, stats, df and verify, and the figures behind them."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from words import message, noise, prose, transcript

import agentmem
from agentmem.cli import main
from agentmem.report.duplicates import Duplicates, repeated_text_bytes
from agentmem.report.survey import survey
from agentmem.report.transcripts import find, usual_folders


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments], prog_name="agentmem")


def record(*arguments: object) -> Any:
    result = run(*arguments, "--json")
    assert len(result.stdout.splitlines()) == 1
    return json.loads(result.stdout)


# scan


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with nothing in it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("CLAUDE_CONFIG_DIR", raising=False)
    monkeypatch.delenv("CODEX_HOME", raising=False)
    return tmp_path


def write(path: Path, data: bytes) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return data


def test_scan_of_nothing_says_where_it_looked_and_is_no_error(home: Path) -> None:
    result = run("scan")
    assert result.exit_code == 0
    assert str(home / ".claude" / "projects") in result.stdout
    assert str(home / ".codex" / "sessions") in result.stdout
    found = record("scan")
    assert (found["conversations"], found["is_done"]) == (0, True)


def test_scan_finds_what_agents_keep_and_what_is_there_twice(home: Path) -> None:
    original = write(home / ".claude/projects/a/1.jsonl", transcript(1, 200))
    resumed = write(home / ".claude/projects/a/2.jsonl", original + transcript(2, 20))
    other = write(home / ".codex/sessions/2026/01/02/rollout-x.jsonl", transcript(3, 100))
    write(home / ".claude/projects/a/memory.md", b"# not a transcript")
    write(home / ".claude/projects/a/index.json", b'{"version": 1}')
    found = record("scan")
    assert found["conversations"] == 3
    assert found["messages"] == 200 + 220 + 100
    assert found["logical_bytes"] == len(original + resumed + other)
    assert found["repeated_messages"] == 200
    # Without the 200 line ends.
    assert found["repeated_message_bytes"] == len(original) - 200
    distinct = len(resumed + other)
    assert distinct / 8 < found["stored_bytes"] < distinct / 2
    assert (found["is_done"], found["is_sample"]) == (True, False)
    assert (home / ".claude/projects/a/1.jsonl").read_bytes() == original


def test_scan_of_a_given_folder_takes_documents_too(tmp_path: Path) -> None:
    messages = [message(n) for n in range(30)]
    write(tmp_path / "run.json", json.dumps({"messages": messages}).encode())
    write(tmp_path / "node_modules/x/y.jsonl", transcript(1, 5))
    write(tmp_path / "empty.jsonl", b"")
    found = record("scan", tmp_path)
    assert (found["conversations"], found["messages"], found["files"]) == (1, 30, 1)
    assert run("scan", tmp_path / "missing").exit_code == 2


def test_scan_counts_each_run_of_a_file(tmp_path: Path) -> None:
    runs = [{"traj": [message(5 * n + k) for k in range(5)], "reward": 1} for n in range(6)]
    write(tmp_path / "results.json", json.dumps(runs).encode())
    write(tmp_path / "output.jsonl", b"".join(json.dumps(run).encode() + b"\n" for run in runs))
    found = record("scan", tmp_path)
    assert (found["conversations"], found["messages"], found["files"]) == (12, 60, 2)
    assert found["repeated_messages"] == 30


def test_scan_for_people_has_no_colour_in_a_pipe(tmp_path: Path) -> None:
    write(tmp_path / "1.jsonl", transcript(1, 100))
    result = run("scan", tmp_path)
    assert result.exit_code == 0
    assert "\x1b" not in result.output
    assert "times less" in result.stdout
    assert "A sample" not in result.stdout


def test_scan_samples_whole_folders_when_time_is_up_and_says_so(tmp_path: Path) -> None:
    for n in range(20):
        write(tmp_path / f"{n % 4}" / f"{n}.jsonl", transcript(n, 5))
    steps = [(f.measured_files, f.is_sample) for f in survey([tmp_path], seconds_max=0.0)]
    assert steps == [(1, False), (1, True)]
    result = run("scan", tmp_path, "--seconds-max", "0.000001")
    assert "A sample" in result.stdout
    assert "1 of 20 files" in result.stdout
    result = run("scan", tmp_path, "--seconds-max", "0")
    assert "A sample" not in result.stdout
    measured = [f.measured_files for f in survey([tmp_path], seconds_max=600)]
    assert measured == [*range(1, 21), 20]


def test_a_file_that_cannot_be_read_is_named_and_the_rest_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.jsonl", transcript(1, 5))
    write(tmp_path / "b.jsonl", transcript(2, 5))
    real = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path.name == "a.jsonl":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    result = run("scan", tmp_path, "--json")
    assert "a.jsonl: Permission denied" in result.stderr
    assert json.loads(result.stdout)["conversations"] == 1


def test_the_usual_folders_follow_the_agents_own_settings(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert usual_folders() == [home / ".claude/projects", home / ".codex/sessions"]
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", "/elsewhere")
    assert usual_folders()[0] == Path("/elsewhere/projects")


def test_links_are_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "in/1.jsonl", b"{}\n")
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    assert [found.path.name for found in find([tmp_path / "in"])] == ["1.jsonl"]


def test_large_texts_repeated_in_a_message_are_counted() -> None:
    text, other = prose(1, 2000).decode(), "\u00e4" * 1024
    twice = {"content": [{"text": text}], "toolUseResult": {"stdout": text, "x": [other]}}
    assert repeated_text_bytes(json.dumps(twice).encode()) == 2000
    twice["again"] = {"deep": [[other]]}
    assert repeated_text_bytes(json.dumps(twice).encode()) == 2000 + 2048
    assert repeated_text_bytes(json.dumps({"a": text[:1023], "b": text[:1023]}).encode()) == 0
    for no_json in (b"x" * 5000, b"[" * 100_000, b"\xff" * 3000):
        assert repeated_text_bytes(no_json) == 0


def test_repeated_messages_are_those_of_an_earlier_conversation() -> None:
    duplicates = Duplicates()
    for conversation, text in ((0, b"a"), (0, b"a"), (1, b"aa"), (1, b"a"), (2, b"a"), (2, b"b")):
        duplicates.add(conversation, text)
    assert (duplicates.messages, duplicates.message_bytes) == (2, 2)


# stats, df, verify


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """The folder of a closed store."""
    path = tmp_path / "store"
    with agentmem.open(path, memory_max="32M") as mem:
        planner, worker = mem.agent("planner", importance=80), mem.agent("worker")
        prompt = planner.put(prose(1, 20_000), kind="system_prompt", name="prompt")
        planner.share(prompt, to=worker)
        for n in range(20):
            planner.put(noise(n, 50_000), name=f"result {n}")
        worker.conversation("task").extend([message(n) for n in range(200)])
    return path


def test_stats_of_a_store_and_of_an_agent(stored: Path) -> None:
    figures = record("stats", "--path", stored)
    assert (figures["agents"], figures["smus"], figures["conversations"]) == (2, 21, 1)
    assert sorted(figures["agent_names"]) == ["planner", "worker"]
    worker = record("stats", "worker", "--path", stored)
    assert (worker["name"], worker["smus"], worker["messages"]) == ("worker", 1, 200)
    text = run("stats", "--path", stored)
    assert text.exit_code == 0
    assert "planner, worker" in text.stdout
    assert "logical_bytes" in text.stdout


def test_asking_for_figures_changes_nothing(stored: Path) -> None:
    before = record("stats", "planner", "--path", stored)
    assert before["importance"] == 80
    assert record("stats", "planner", "--path", stored)["importance"] == 80


@pytest.mark.parametrize("command", ["stats", "df", "verify"])
def test_without_a_path_and_a_daemon_the_way_out_is_said(command: str, tmp_path: Path) -> None:
    result = run(command, "--socket", tmp_path / "agentmem.sock")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "agentmem daemon --background" in result.stderr


def test_stats_of_an_unknown_agent(stored: Path) -> None:
    result = run("stats", "nobody", "--path", stored)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "planner" in result.stderr
    assert sorted(record("stats", "--path", stored)["agent_names"]) == ["planner", "worker"]


@pytest.mark.parametrize("command", [["stats", "--path"], ["df", "--path"], ["verify"]], ids=str)
def test_a_folder_without_a_store_gets_none(command: list[str], tmp_path: Path) -> None:
    result = run(*command, tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no store" in result.stderr
    assert list(tmp_path.iterdir()) == []
    assert run(*command, tmp_path / "missing").exit_code == 2


@pytest.mark.parametrize("command", [["stats", "--path"], ["df", "--path"], ["verify"]], ids=str)
def test_a_store_in_use_is_an_error_that_says_so(command: list[str], stored: Path) -> None:
    with agentmem.open(stored, memory_max="32M"):
        result = run(*command, stored)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("Error: ")
    assert run(*command, stored).exit_code == 0


def test_df_shows_kinds_tiers_and_sharing(stored: Path) -> None:
    figures = record("df", "--path", stored)
    assert figures["by_kind"]["system_prompt"]["count"] == 1
    assert figures["by_kind"]["system_prompt"]["logical_bytes"] == 40_000
    assert figures["by_kind"]["tool_result"]["logical_bytes"] == 20 * 50_000
    assert figures["by_kind"]["message"]["count"] == 200
    assert figures["by_tier"]["cold"]["bytes"] > 0
    assert figures["shared_bytes"] > 0
    text = run("df", "--path", stored).stdout
    for word in ("system_prompt", "tool_result", "cold", "saved by sharing"):
        assert word in text


def test_verify_of_a_whole_store(stored: Path) -> None:
    report = record("verify", stored)
    assert report["damaged"] == []
    assert (report["smus"], report["messages"], report["orphans"]) == (21, 200, 0)
    assert report["bytes"] > 1_000_000
    assert "nothing damaged" in run("verify", stored).stdout


def test_verify_names_what_is_damaged_and_exits_1(stored: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(stored, tmp_path / "copy")
    file = max((f for f in copy.rglob("*.seg")), key=lambda f: f.stat().st_size)
    data = bytearray(file.read_bytes())
    for at in random.Random(1).sample(range(len(data)), k=20):
        data[at] ^= 0xFF
    file.write_bytes(data)
    result = run("verify", copy, "--json")
    assert result.exit_code == 1
    damaged = json.loads(result.stdout)["damaged"]
    assert damaged
    result = run("verify", copy)
    assert result.exit_code == 1
    for line in damaged:
        assert line in result.stderr
    assert run("verify", stored).exit_code == 0
