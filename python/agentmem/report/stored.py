"""Stores that are on disk already."""

import os
from pathlib import Path

import agentmem
from agentmem.errors import NotFound

# The one file that every store has. Opening a folder without it would make a new store there.
_INDEX = "index.redb"


def open_existing(path: str | os.PathLike[str]) -> agentmem.Store:
    """Open the store in the folder `path`, and never make one.

    Raises:
        NotFound: there is no store in that folder.
        StoreLocked: a running program has it open.
    """
    if not (Path(path) / _INDEX).is_file():
        raise NotFound(f"there is no store in {os.fspath(path)}")
    return agentmem.open(path)
