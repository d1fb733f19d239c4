"""Where agents keep their transcripts, and which files are transcripts."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

# A log of records is a transcript; a document is one if it turns out to be a list of messages.
LOG_SUFFIXES = frozenset({".jsonl", ".ndjson"})
DOCUMENT_SUFFIXES = frozenset({".json", ".traj"})
_SKIPPED_FOLDERS = frozenset({".git", "node_modules", ".venv"})


class Transcript(NamedTuple):
    """A file that may hold a conversation."""

    path: Path
    file_bytes: int

    @property
    def is_log(self) -> bool:
        """Whether it is a transcript whatever is in it."""
        return self.path.suffix in LOG_SUFFIXES


def usual_folders() -> list[Path]:
    """Where Claude Code and Codex keep theirs, whether there are any or not."""
    claude = os.environ.get("CLAUDE_CONFIG_DIR") or Path.home() / ".claude"
    codex = os.environ.get("CODEX_HOME") or Path.home() / ".codex"
    return [Path(claude) / "projects", Path(codex) / "sessions"]


def find(folders: Iterable[Path]) -> list[Transcript]:
    """Every transcript in and below `folders`, each once, in the order of their paths."""
    found: dict[Path, int] = {}
    for folder in folders:
        # Links are not followed: they lead out of what was asked for, or around in it.
        for parent, children, names in os.walk(folder):
            children[:] = [name for name in children if name not in _SKIPPED_FOLDERS]
            for name in names:
                path = Path(parent, name)
                if path.suffix in LOG_SUFFIXES | DOCUMENT_SUFFIXES and path.is_file():
                    found[path] = path.stat().st_size
    return [Transcript(path, size) for path, size in sorted(found.items()) if size]
