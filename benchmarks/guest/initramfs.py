"""The first file system of a guest, as the kernel unpacks it: a cpio archive (newc)."""

import stat
from collections.abc import Iterable
from typing import NamedTuple

_END = "TRAILER!!!"


class Entry(NamedTuple):
    """A file; a folder, if it has no content."""

    name: str
    content: bytes | None = None


def archive(entries: Iterable[Entry]) -> bytes:
    """The archive. Folders come before what is in them; all can be executed."""
    records = [_record(number, entry) for number, entry in enumerate(entries, 1)]
    return b"".join([*records, _record(0, Entry(_END, b""))])


def _record(number: int, entry: Entry) -> bytes:
    is_folder = entry.content is None
    content = entry.content or b""
    mode = (stat.S_IFDIR if is_folder else stat.S_IFREG) | 0o755
    name = entry.name.encode() + b"\0"
    # Owner and times do not matter here, and devices have none.
    fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return _padded(head) + _padded(content)


def _padded(part: bytes) -> bytes:
    return part + bytes(-len(part) % 4)
