"""Where transcripts of Claude Code lie in a store.

A session is an agent of its own, so that it comes, goes and waits as a whole. Its transcript and
those of its subagents are conversations of that agent. What mirrors sessions and what imports them
agree on these names.
"""

from pathlib import PurePath
from typing import NamedTuple

_AGENTS = "claude/"
MAIN = "main"
"""The conversation that is the session's own transcript."""
SUMMARIES = "summary/"
"""What names of conversations begin with that say what the transcript is about."""
_SUBPATHS = "sub/"
_FILES = "file/"
_SUFFIX = ".jsonl"


class Session(NamedTuple):
    """A session, as the Claude Agent SDK names it."""

    project_key: str
    session_id: str

    @property
    def agent_name(self) -> str:
        """The agent that holds it."""
        return f"{agents_of(self.project_key)}{_escaped(self.session_id)}"


def agents_of(project_key: str) -> str:
    """What the names of all agents begin with that hold sessions of that project."""
    return f"{_AGENTS}{_escaped(project_key)}/"


def session_of(agent_name: str) -> Session | None:
    """The session that an agent holds; None if it is none of ours."""
    parts = agent_name.removeprefix(_AGENTS).split("/")
    if not agent_name.startswith(_AGENTS) or len(parts) != 2:
        return None
    return Session(*map(_unescaped, parts))


def conversation_of(subpath: str | None) -> str:
    """The conversation that holds the transcript at `subpath`; None: the session's own."""
    return f"{_SUBPATHS}{subpath}" if subpath else MAIN


def subpath_of(conversation: str) -> str | None:
    """The subpath whose transcript a conversation holds; None if it is another one."""
    is_sub = conversation.startswith(_SUBPATHS)
    return conversation.removeprefix(_SUBPATHS) if is_sub else None


def metadata_of(subpath: str) -> str:
    """The conversation that is the file which Claude Code has beside the transcript there."""
    return f"{_FILES}{subpath}.meta.json"


def place_of(path: PurePath) -> tuple[Session, str]:
    """The session and the conversation that a file belongs to, by its path from Claude Code's
    folder of projects."""
    match path.parts:
        case (name,):
            return Session("", ""), f"{_FILES}{name}"
        case (project_key, _) if path.suffix == _SUFFIX:
            return Session(project_key, path.stem), MAIN
        case (project_key, name):
            return Session(project_key, ""), f"{_FILES}{name}"
        case (project_key, session_id, *rest):
            subpath = "/".join(rest)
            if path.suffix == _SUFFIX:
                conversation = conversation_of(subpath.removesuffix(_SUFFIX))
            else:
                conversation = f"{_FILES}{subpath}"
            return Session(project_key, session_id), conversation
    raise ValueError("a path without a name")


def path_of(session: Session, conversation: str) -> PurePath | None:
    """Where such a conversation lies below a folder of projects; None if it is no file there."""
    project_key, session_id = session
    if conversation == MAIN:
        return PurePath(project_key, f"{session_id}{_SUFFIX}")
    if (subpath := subpath_of(conversation)) is not None:
        return PurePath(project_key, session_id, f"{subpath}{_SUFFIX}")
    if conversation.startswith(_FILES):
        return PurePath(project_key, session_id, conversation.removeprefix(_FILES))
    return None


def _escaped(part: str) -> str:
    return part.replace("%", "%25").replace("/", "%2F")


def _unescaped(part: str) -> str:
    return part.replace("%2F", "/").replace("%25", "%")
