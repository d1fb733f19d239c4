"""Exporting: conversations as files, with the bytes that they were imported from."""

import errno
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Literal

import agentmem
from agentmem import claude_layout
from agentmem.claude_layout import MAIN
from agentmem.errors import Damaged, InvalidArgument, NameTaken
from agentmem.transfer import langgraph_sqlite
from agentmem.turn import turn

Format = Literal["jsonl", "claude"]
# Agents that hold one file each, under its own name; and those that hold rows.
_FILE_AGENTS = ("codex/", "transcripts/")
_ROW_AGENTS = "langgraph-sqlite/"
_CLAUDE = "claude"
# A name is too long for a file, or another conversation's file or folder has it.
_NO_PLACE = {errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR}
# Others may be at work with an agent for a moment, or for good.
_WAIT_S = 1.0


@dataclass
class Exported:
    """What has been exported so far.

    Attributes:
        agents: How many there are to look at, and `agents_done`.
        files: Files that were written, and `file_bytes`, theirs.
        failed: What could not be exported, each with the reason.
    """

    agents: int
    agents_done: int = 0
    files: int = 0
    file_bytes: int = 0
    failed: list[str] = field(default_factory=list)


def export_all(store: agentmem.Store, folder: Path, form: Format) -> Iterator[Exported]:
    """Write conversations to files below `folder`; yields the same object after each agent.

    As "claude" it is what Claude Code has as its folder of projects: sessions that were imported
    from there or are kept for the Claude Agent SDK. As "jsonl" it is every conversation of every
    agent that nobody has taken up: AGENT/CONVERSATION.jsonl, or where it is a file that was
    imported, KIND/PATH.

    Raises:
        InvalidArgument: There is something in the folder already.
        OSError: A file cannot be written.
    """
    if folder.exists() and any(folder.iterdir()):
        raise InvalidArgument(f"{folder} is not empty: name a folder that is, or a new one")
    names = store.agents()
    if form == "claude":
        names = [name for name in names if claude_layout.session_of(name) is not None]
    found = Exported(len(names))
    for name in names:
        try:
            _export(store, name, folder, form, found)
        except NameTaken as error:
            found.failed.append(str(error))
        found.agents_done += 1
        yield found


def _export(
    store: agentmem.Store, agent_name: str, folder: Path, form: Format, found: Exported
) -> None:
    with turn(store, agent_name, wait_s=_WAIT_S) as agent:
        for name in agent.conversations():
            path = _path_of(agent_name, name, form)
            if path is None:
                continue
            if not _is_inside(path):
                found.failed.append(f"{agent_name}/{name}: it would lie outside of the folder")
                continue
            try:
                found.file_bytes += _write(folder / path, _pieces(agent, name))
                found.files += 1
            except OSError as error:
                if not isinstance(error, Damaged) and error.errno not in _NO_PLACE:
                    raise
                found.failed.append(f"{agent_name}/{name}: {error}")


def _write(target: Path, pieces: Iterator[bytes]) -> int:
    """Make a file of these pieces, or none; how many bytes they are."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as file:
        try:
            return sum(map(file.write, pieces))
        except BaseException:
            target.unlink()
            raise


def _path_of(agent_name: str, conversation: str, form: Format) -> PurePath | None:
    """Where a conversation goes; None: nowhere."""
    session = claude_layout.session_of(agent_name)
    if session is not None:
        path = claude_layout.path_of(session, conversation)
        return path if form == "claude" or path is None else PurePath(_CLAUDE, path)
    if conversation == MAIN and agent_name.startswith(_FILE_AGENTS):
        return PurePath(agent_name)
    return PurePath(agent_name, f"{conversation}.jsonl")


def _is_inside(path: PurePath) -> bool:
    return not path.is_absolute() and ".." not in path.parts and "\0" not in str(path)


def _pieces(agent: agentmem.Agent, name: str) -> Iterator[bytes]:
    conversation = agent.conversation(name)
    if agent.name.startswith(_ROW_AGENTS):
        yield from langgraph_sqlite.as_json_lines(conversation)
    else:
        yield conversation.render()
