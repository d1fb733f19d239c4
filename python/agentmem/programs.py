"""Programs that the package brings along: a wheel and `make setup` put them into one folder."""

import os
from pathlib import Path

from agentmem.errors import Unsupported

FOLDER = Path(__file__).resolve().parent / "_bin"
"""Where they are."""


def checked(program: Path, *, what: str, needed_by: str) -> Path:
    """`program`, if it can be run.

    Raises:
        Unsupported: This installation lacks it.
    """
    if not program.is_file():
        raise Unsupported(
            f"{needed_by} needs {what}, and this installation lacks it ({program}):"
            " in a working copy, make setup; otherwise install a wheel, not a source archive"
        )
    if not os.access(program, os.X_OK):
        raise Unsupported(f"{what} may not be executed: chmod +x {program}")
    return program
