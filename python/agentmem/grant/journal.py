"""What setup changed, and what was there before, so that it can be taken back exactly."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from agentmem.errors import Damaged
from agentmem.grant.facts import text_of, under
from agentmem.grant.plan import Change

PATH = "/var/lib/agentmem/setup.json"
_VERSION = 1


class Entry(NamedTuple):
    """One change, and what was there before."""

    change: Change
    before: dict[str, Any]


def read(root: Path) -> list[Entry]:
    """All that was changed and not taken back, oldest first.

    Raises:
        Damaged: The file is not what setup wrote.
    """
    path = under(root, PATH)
    text = text_of(path)
    if text is None:
        return []
    try:
        found = json.loads(text)
        if found["version"] != _VERSION:
            raise Damaged(f"{path} was written by another version of agentmem: undo with that one")
        return [
            Entry(Change(each["kind"], each["target"], each["text"]), dict(each["before"]))
            for each in found["changes"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{path} is damaged, and tells no longer what setup changed") from error


def write(root: Path, entries: list[Entry]) -> None:
    """Put the entries in place of what was there; without any, the file goes."""
    path = under(root, PATH)
    if not entries:
        path.unlink(missing_ok=True)
        if path.parent.is_dir() and not any(path.parent.iterdir()):
            path.parent.rmdir()
        return
    records = [{**entry.change._asdict(), "before": entry.before} for entry in entries]
    text = json.dumps({"version": _VERSION, "changes": records}, indent=2)
    replace(path, text + "\n")


def replace(path: Path, text: str) -> None:
    """Write a file in one step, readable for all."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("x") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
