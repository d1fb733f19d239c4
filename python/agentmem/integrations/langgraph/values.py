"""Values, split by their structure: the framework's encoding of a list or dict, child by child.

The default serialiser writes msgpack, in which a list is a header and its children one after the
other. So the children can be kept apart, and long ones likewise; and header and children put
together again are, to the byte, what the serialiser would have written for the whole. What it
writes in another form (bytes, pickles, encrypted text) is opaque, and stays whole.
"""

import struct
from collections.abc import Sequence
from itertools import islice
from typing import Any

import ormsgpack
from langchain_core.messages import BaseMessage
from langgraph.checkpoint.serde.base import SerializerProtocol

SPLITTABLE = "msgpack"
"""Type of the encodings that can be split."""

# (up to 15, up to 65,535, more): first byte of a header
_HEADERS = {"list": (0x90, 0xDC, 0xDD), "dict": (0x80, 0xDE, 0xDF)}
_OUTLINE = (
    ormsgpack.OPT_NON_STR_KEYS
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_UUID
)
_MESSAGE_CLASSES_MAX = 1024
_NESTED_BYTES_MIN = 4 << 10
_DEPTH_MAX = 8
_message_classes: dict[type[BaseMessage], int] = {}


def kind_of(value: Any) -> str | None:
    """Whether it can be split: `"list"` or `"dict"`, None if not."""
    kind = type(value).__name__
    return kind if type(value) in (list, dict) and value else None


def children(
    serde: SerializerProtocol, value: Any, begin: int = 0, depth: int = 0
) -> list[list[bytes]] | None:
    """The encoding of each child of a list or dict from number `begin` on, as one piece; if it is
    long and a list or dict itself, as its key and header, and the pieces of its children. None if
    it is opaque."""
    found = []
    singles = (
        ({key: item} for key, item in islice(value.items(), begin, None))
        if isinstance(value, dict)
        else ([item] for item in islice(value, begin, None))
    )
    for single in singles:
        encoded = _only(serde, single)
        if encoded is None:
            return None
        pieces = [encoded]
        if len(encoded) > _NESTED_BYTES_MIN and depth < _DEPTH_MAX:
            pieces = _nested(serde, single, depth) or pieces
        found.append(pieces)
    return found


def _only(serde: SerializerProtocol, single: Any) -> bytes | None:
    """The encoding of the only child of a collection."""
    kind, encoded = serde.dumps_typed(single)
    # A collection of one has a header of one byte.
    is_split = kind == SPLITTABLE and encoded[0] == _HEADERS[type(single).__name__][0] + 1
    return encoded[1:] if is_split else None


def _nested(serde: SerializerProtocol, single: Any, depth: int) -> list[bytes] | None:
    """The pieces of the only child of a collection, if it is a list or dict itself."""
    key, child = next(iter(single.items())) if isinstance(single, dict) else (None, single[0])
    kind = kind_of(child)
    inner = children(serde, child, depth=depth + 1) if kind else None
    if kind is None or inner is None:
        return None
    # Nil takes one byte, behind the key.
    begin = (_only(serde, {key: None}) or b"")[:-1] if isinstance(single, dict) else b""
    return [begin + joined(kind, len(child), ()), *(piece for each in inner for piece in each)]


def joined(kind: str, count: int, parts: Sequence[bytes]) -> bytes:
    """The encoding of a list or dict with `count` children, whose encodings are in `parts`."""
    small, medium, large = _HEADERS[kind]
    if count <= 15:
        header = bytes([small + count])
    elif count <= 0xFFFF:
        header = struct.pack(">BH", medium, count)
    else:
        header = struct.pack(">BI", large, count)
    return b"".join((header, *parts))


def outline(values: Sequence[Any]) -> bytes | None:
    """What decides how the framework encodes `values`, several times quicker than encoding them:
    as long as it is the same, so is the encoding. None if that cannot be said of one of them.

    The outline of two lists one after the other is that of both together.
    """
    try:
        packed = ormsgpack.packb([_outlined(value) for value in values], option=_OUTLINE)
    except (TypeError, ormsgpack.MsgpackEncodeError):
        return None
    header = 1 if len(values) <= 15 else 3 if len(values) <= 0xFFFF else 5
    return packed[header:]


def _outlined(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, BaseMessage):
        return (value,)
    number = _message_classes.get(type(value))
    if number is None:
        if len(_message_classes) >= _MESSAGE_CLASSES_MAX:
            raise TypeError("classes of messages without end")
        number = _message_classes.setdefault(type(value), len(_message_classes))
    return number, value.__dict__, value.__pydantic_extra__
