"""JSON lines: how integrations keep what frameworks hand over as values."""

import json
from collections.abc import Sequence
from typing import Any


def encode(values: Sequence[Any]) -> bytes:
    """A line for each value.

    Raises:
        TypeError: JSON has no form for one of them.
        ValueError: One of them holds itself.
    """
    try:
        return _text(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        # Lone surrogates have no UTF-8, but an escape.
        return _text(values, ensure_ascii=True).encode()


def _text(values: Sequence[Any], *, ensure_ascii: bool) -> str:
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, separators=(",", ":"))
    return "".join(f"{encoder.encode(value)}\n" for value in values)


def decode(text: bytes) -> list[Any]:
    """The values. Lines that hold none are left out: the last of a transcript whose writer was
    killed may be cut."""
    values = []
    for line in text.split(b"\n"):
        try:
            values.append(json.loads(line))
        except ValueError:
            continue
    return values
