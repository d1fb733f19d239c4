"""Where a msgpack value can be cut, so that its parts are the same as those of an earlier one.

It is a scanner, not a parser: it finds where values end and builds none of them. The format is that
of the MessagePack specification.
"""

from itertools import pairwise

PART_BYTES_MIN = 64
"""Elements of lists that are shorter on average stay together."""
VALUE_BYTES_MIN = 2048
"""Shorter values of a map stay together."""
_DEPTH_MAX = 32

# First byte to the bytes that say how long it is, and those that follow them beside the content.
_SIZED = {
    0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0),  # bin
    0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1),  # ext
    0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0),  # str
}  # fmt: skip
_FIXED = {
    0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8,
    0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8, 0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17,
}  # fmt: skip


def parts(data: bytes) -> list[bytes]:
    """`data` in consecutive parts, none of them empty: elements of the lists and large values of
    the maps that are reached through maps. What is no msgpack value is one part."""
    cuts = [0]
    try:
        whole = _cut(data, 0, cuts, 0) == len(data)
    except (IndexError, ValueError):
        whole = False
    if not whole:
        return [data] if data else []
    edges = sorted({*cuts, len(data)})
    return [data[start:end] for start, end in pairwise(edges)]


def _cut(data: bytes, at: int, cuts: list[int], depth: int) -> int:
    """Note where the value at `at` can be cut; where it ends."""
    if depth > _DEPTH_MAX:
        raise ValueError("nested too deeply")
    kind, count, inner = _container(data, at)
    if kind == "list":
        starts = [inner]
        for _ in range(count):
            starts.append(_end(data, starts[-1], depth + 1))
        if starts[-1] - inner >= count * PART_BYTES_MIN:
            cuts.extend(starts)
        return starts[-1]
    if kind == "map":
        at = inner
        for _ in range(count):
            value = _end(data, at, depth + 1)
            end = _cut(data, value, cuts, depth + 1)
            if end - value >= VALUE_BYTES_MIN:
                cuts += (value, end)
            at = end
        return at
    return _end(data, at, depth)


def _container(data: bytes, at: int) -> tuple[str, int, int]:
    """Whether a list or a map begins at `at`, how many elements or pairs it has, and where the
    first one is."""
    first = data[at]
    if 0x80 <= first <= 0x8F:
        return "map", first & 0x0F, at + 1
    if 0x90 <= first <= 0x9F:
        return "list", first & 0x0F, at + 1
    if first in (0xDC, 0xDD, 0xDE, 0xDF):
        width = 2 if first in (0xDC, 0xDE) else 4
        kind = "list" if first in (0xDC, 0xDD) else "map"
        return kind, _number(data, at + 1, width), at + 1 + width
    return "", 0, at


def _end(data: bytes, at: int, depth: int) -> int:
    """Where the value at `at` ends."""
    if depth > _DEPTH_MAX:
        raise ValueError("nested too deeply")
    first = data[at]
    if first <= 0x7F or first >= 0xE0:
        return at + 1
    if 0xA0 <= first <= 0xBF:
        end = at + 1 + (first & 0x1F)
    elif first in _SIZED:
        width, more = _SIZED[first]
        end = at + 1 + width + more + _number(data, at + 1, width)
    elif first in _FIXED:
        end = at + 1 + _FIXED[first]
    else:
        kind, count, end = _container(data, at)
        if not kind:
            raise ValueError("no msgpack")
        for _ in range(count * (2 if kind == "map" else 1)):
            end = _end(data, end, depth + 1)
    if end > len(data):
        raise ValueError("cut short")
    return end


def _number(data: bytes, at: int, width: int) -> int:
    if at + width > len(data):
        raise ValueError("cut short")
    return int.from_bytes(data[at : at + width])
