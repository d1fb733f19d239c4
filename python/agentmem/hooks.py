"""Hooks of Claude Code: what is written into its settings so that it tells when it is idle.

Decisions on values only; `agentmem.cli.hooks` reads and writes the file.
"""

import copy
import json
import math
import re
from typing import Any

from agentmem.errors import Damaged

HINTS = {"Stop": "idle", "UserPromptSubmit": "active"}
"""The turn that each event of Claude Code means."""

_TIMEOUT_S = 5
_OURS = re.compile(r"(?:^|.*[/\s'\"])agentmem['\"]? hint (?:idle|active)")


def read(text: str) -> dict[str, Any]:
    """The settings in `text`; none in an empty one.

    Raises:
        Damaged: It is not one JSON object, or cannot be written back as it was.
    """
    if not text.strip():
        return {}
    try:
        settings = json.loads(
            text,
            object_pairs_hook=_object,
            parse_float=_number,
            parse_constant=_constant,
        )
    except (ValueError, RecursionError) as error:
        raise Damaged(f"no valid JSON: {error}") from error
    if not isinstance(settings, dict):
        raise Damaged("not a JSON object")
    _check(settings)
    return settings


def write(settings: dict[str, Any], *, like: str) -> str:
    """The settings as text, indented as `like` is."""
    found = re.search(r"^\s*\{\n([ \t]+)", like)
    ascii_only = like.isascii() and bool(like)
    text = json.dumps(settings, indent=found[1] if found else 2, ensure_ascii=ascii_only)
    return text + "\n"


def installed(settings: dict[str, Any], program: str) -> dict[str, Any]:
    """`settings` with the hooks, each once; everything else as it was.

    Args:
        settings: what `read` gave; not changed.
        program: how a shell calls `agentmem`.
    """
    settings = copy.deepcopy(settings)
    for event, turn in HINTS.items():
        wanted = f"{program} hint {turn}"
        groups = settings.setdefault("hooks", {}).setdefault(event, [])
        ours = [hook for group in groups for hook in group.get("hooks", []) if _is_ours(hook)]
        for hook in ours:
            hook["command"] = wanted
        if not ours:
            hook = {"type": "command", "command": wanted, "timeout": _TIMEOUT_S}
            groups.append({"hooks": [hook]})
    return settings


def removed(settings: dict[str, Any]) -> dict[str, Any]:
    """`settings` without the hooks, and without what held nothing but them."""
    settings = copy.deepcopy(settings)
    events = settings.get("hooks", {})
    for event in HINTS:
        groups = events.get(event, [])
        touched = [group for group in groups if any(map(_is_ours, group.get("hooks", [])))]
        for group in touched:
            group["hooks"] = [hook for hook in group["hooks"] if not _is_ours(hook)]
        if touched:
            kept = [group for group in groups if group["hooks"] or group not in touched]
            events[event] = kept
            if not kept:
                del events[event]
                if not events:
                    del settings["hooks"]
    return settings


def _is_ours(hook: Any) -> bool:
    command = hook.get("command") if isinstance(hook, dict) else None
    return isinstance(command, str) and _OURS.fullmatch(command) is not None


def _check(settings: dict[str, Any]) -> None:
    """Refuse hooks that are not laid out as Claude Code documents them."""
    events = settings.get("hooks", {})
    if not isinstance(events, dict):
        raise Damaged('"hooks" is not an object')
    for event in HINTS:
        groups = events.get(event, [])
        if not isinstance(groups, list) or not all(
            isinstance(group, dict) and isinstance(group.get("hooks", []), list) for group in groups
        ):
            raise Damaged(f'"hooks.{event}" is not a list of objects with a list of "hooks"')


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    settings = dict(pairs)
    if len(settings) != len(pairs):
        twice = next(key for key in settings if [each for each, _ in pairs].count(key) > 1)
        raise ValueError(f"{twice!r} stands twice in one object")
    return settings


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large a number")
    return value


def _constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")
