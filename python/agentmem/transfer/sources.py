"""What there is to import, by kind."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import agentmem
from agentmem import claude_layout
from agentmem.claude_layout import MAIN, SUMMARIES
from agentmem.errors import NotFound
from agentmem.report.transcripts import find, usual_folders
from agentmem.transfer import langgraph_sqlite
from agentmem.transfer.copying import copy_file, copy_messages

_PROJECTS = "projects"


class Source(NamedTuple):
    """One conversation to import.

    Attributes:
        name: Where it comes from, for people.
        agent_name: The agent that is to hold it.
        conversation: What it is called there.
        size_bytes: Its bytes.
        copy: Makes that conversation of an agent what it is to be, also after an interruption,
            and returns how many bytes were not there yet.
    """

    name: str
    agent_name: str
    conversation: str
    size_bytes: int
    copy: Callable[[agentmem.Agent, str], int]


def claude(path: Path | None) -> list[Source]:
    """All files of Claude Code's projects; `path` is their folder, one project's, or one file.

    Sessions are then where `agentmem.integrations.claude_agent_sdk` finds them.
    """
    path = _existing(path or usual_folders()[0])
    if (path / _PROJECTS).is_dir():
        path = path / _PROJECTS
    base = path
    if path.is_file():
        base = path.parent.parent
    elif any(path.glob("*.jsonl")):
        base = path.parent
    sources = []
    for file in _files(path):
        session, conversation = claude_layout.place_of(file.relative_to(base))
        copy = _copy_session if conversation == MAIN else copy_file
        sources.append(_of_file(file, session.agent_name, conversation, partial(copy, file)))
    return sources


def codex(path: Path | None) -> list[Source]:
    """All of Codex's sessions."""
    return _transcripts(_existing(path or usual_folders()[1]), "codex")


def transcripts(path: Path | None) -> list[Source]:
    """Every transcript in and below a folder, as `agentmem scan` finds them."""
    return _transcripts(_existing(path), "transcripts")


def threads(path: Path | None) -> list[Source]:
    """Every thread in a file of LangGraph's SqliteSaver."""
    path = _existing(path)
    return [
        Source(
            name=f"{path}: {thread.thread_id}",
            agent_name=f"langgraph-sqlite/{thread.thread_id}",
            conversation=MAIN,
            size_bytes=thread.size_bytes,
            copy=partial(copy_messages, partial(langgraph_sqlite.messages, path, thread.thread_id)),
        )
        for thread in langgraph_sqlite.threads(path)
    ]


KINDS: dict[str, Callable[[Path | None], list[Source]]] = {
    "claude": claude,
    "codex": codex,
    "transcripts": transcripts,
    "langgraph-sqlite": threads,
}
"""What can be imported, and what finds it.

Raises:
    NotFound: There is nothing at that path, or none was given and none is usual.
    InvalidArgument: What is there is of another kind.
"""


def _existing(path: Path | None) -> Path:
    if path is None:
        raise NotFound("a path, which this kind has to be given")
    if not path.exists():
        raise NotFound(f"there is nothing at {path}")
    return path


def _transcripts(path: Path, kind: str) -> list[Source]:
    if path.is_file():
        base, files = path.parent, [path]
    else:
        base, files = path, [transcript.path for transcript in find([path])]
    return [
        _of_file(
            file, f"{kind}/{file.relative_to(base).as_posix()}", MAIN, partial(copy_file, file)
        )
        for file in files
    ]


def _of_file(
    file: Path, agent_name: str, conversation: str, copy: Callable[[agentmem.Agent, str], int]
) -> Source:
    return Source(str(file), agent_name, conversation, file.stat().st_size, copy)


def _files(path: Path) -> Iterator[Path]:
    """Every file in and below a folder, or that file. Links are not followed: they lead out of
    what was asked for, or around in it."""
    if path.is_file():
        yield path
    for parent, children, names in os.walk(path):
        children.sort()
        for name in sorted(names):
            file = Path(parent, name)
            if file.is_file() and not file.is_symlink():
                yield file


def _copy_session(file: Path, agent: agentmem.Agent, name: str) -> int:
    """As `copy_file`; the session is then as old as the file, and what is known of it is read
    anew."""
    added_bytes = copy_file(file, agent, name)
    if added_bytes:
        for other in agent.conversations():
            if other.startswith(SUMMARIES):
                agent.release(agent.conversation(other))
        session = claude_layout.session_of(agent.name)
        assert session is not None, "it was named after one"
        mtime_ms = file.stat().st_mtime_ns // 1_000_000
        summary = {"session_id": session.session_id, "mtime": mtime_ms, "data": {}}
        agent.conversation(f"{SUMMARIES}0").append(summary)
    return added_bytes
