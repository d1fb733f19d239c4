"""The guides in docs/ and the examples in docstrings, as they stand: embedded and connected."""

import importlib
import inspect
import os
import re
import shlex
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path

import pytest
from conftest import PythonProcess
from words import transcript

DOCS = Path(__file__).resolve().parent.parent / "docs"
LINES_MAX = 15

GUIDES = {"claude-agent-sdk": "claude_agent_sdk", "openai-agents": "openai_agents"}
SAID = {
    "claude-agent-sdk": "1 entry",
    "openai-agents": "[{'role': 'user', 'content': 'Sort the mail.'}]",
}


def of_guide(name: str) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / f"{name}.md").read_text(), re.DOTALL)
    return str(code)


def of_docstring(module: str) -> str:
    text = inspect.getdoc(importlib.import_module(f"agentmem.integrations.{module}")) or ""
    (code, *_) = re.findall(r"(?:^    .*\n|^\n)+", text, re.MULTILINE)
    return f"{textwrap.dedent(code).strip()}\n"


@pytest.mark.parametrize("where", ["embedded", "connected"])
@pytest.mark.parametrize("name", GUIDES)
def test_the_example_runs(
    name: str, where: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = of_docstring(GUIDES[name])
    assert code == of_guide(name)
    assert len(code.splitlines()) <= LINES_MAX
    if where == "connected":
        monkeypatch.setenv("AGENTMEM_SOCKET", str(request.getfixturevalue("daemon_socket")))
        changed = code.replace("agentmem.open()", "agentmem.connect(start=False)")
        assert changed != code
        code = changed
    assert PythonProcess(code).output().startswith(SAID[name])


@pytest.mark.parametrize("module", GUIDES.values())
def test_an_integration_is_imported_only_when_it_is_used(module: str) -> None:
    frameworks = ("agents", "claude_agent_sdk", "anyio", "langgraph", "agentmem.integrations")
    code = f"import agentmem, sys; print([n for n in {frameworks} if n in sys.modules])"
    assert PythonProcess(code).output() == "[]\n"


def test_the_commands_of_the_guide_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```sh\n(.*?)```", (DOCS / "import.md").read_text(), re.DOTALL)
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(tmp_path / "claude"))
    monkeypatch.setenv("CODEX_HOME", str(tmp_path / "codex"))
    places = ("claude/projects/p/s.jsonl", "codex/sessions/2026/r.jsonl", "runs/r.jsonl")
    for number, place in enumerate(places):
        path = tmp_path / place
        path.parent.mkdir(parents=True)
        path.write_bytes(transcript(number, 10))
    with closing(sqlite3.connect(tmp_path / "checkpoints.sqlite")) as database:
        key = "thread_id TEXT, checkpoint_ns TEXT, checkpoint_id TEXT"
        database.execute(f"CREATE TABLE checkpoints ({key}, checkpoint BLOB, metadata BLOB)")
        database.execute(f"CREATE TABLE writes ({key}, task_id TEXT, idx INTEGER, value BLOB)")
        database.execute("INSERT INTO checkpoints VALUES ('t', '', '1', x'80', x'80')")
        database.commit()
    command = [sys.executable, "-c", "from agentmem.cli import main; main()"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    for line in block.splitlines():
        program, *arguments = shlex.split(line)
        assert program == "agentmem"
        subprocess.run([*command, *arguments], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "projects/p/s.jsonl").read_bytes() == transcript(0, 10)
    assert (tmp_path / "everything/codex/2026/r.jsonl").read_bytes() == transcript(1, 10)
    assert (tmp_path / "everything/transcripts/r.jsonl").read_bytes() == transcript(2, 10)
    assert (tmp_path / "everything/langgraph-sqlite/t/main.jsonl").read_text().count("\n") == 1
