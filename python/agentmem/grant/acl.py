"""Access control lists of files as Linux keeps them."""

import os
import struct
from pathlib import Path

ATTRIBUTE = "system.posix_acl_access"
_VERSION = 2
_ENTRY = struct.Struct("<HHI")
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_NOBODY = 0xFFFFFFFF
_READ_WRITE = 6

Entry = tuple[int, int, int]


def get(path: Path) -> bytes | None:
    """The list of a file; None when it has none, and its mode says it all."""
    try:
        return os.getxattr(path, ATTRIBUTE)
    except OSError:
        return None


def put(path: Path, acl: bytes | None) -> None:
    """Give a file this list, or none.

    Raises:
        OSError: The file system keeps no lists.
    """
    if acl is not None:
        os.setxattr(path, ATTRIBUTE, acl)
    elif get(path) is not None:
        os.removexattr(path, ATTRIBUTE)


def with_user(acl: bytes | None, mode: int, uid: int) -> bytes:
    """`acl`, or what `mode` means as one, with the right to read and write for a user."""
    entries = _entries(acl) if acl else _of_mode(mode)
    kept = [each for each in entries if each[0] != _MASK and (each[0], each[2]) != (_USER, uid)]
    kept.append((_USER, _READ_WRITE, uid))
    mask = 0
    for tag, permissions, _ in kept:
        if tag in (_USER, _GROUP_OBJ, _GROUP):
            mask |= permissions
    kept.append((_MASK, mask, _NOBODY))
    packed = [_ENTRY.pack(*each) for each in sorted(kept, key=lambda each: (each[0], each[2]))]
    return struct.pack("<I", _VERSION) + b"".join(packed)


def names_user(acl: bytes | None, uid: int) -> bool:
    """Whether a list lets a user read and write."""
    entries = _entries(acl) if acl else []
    mask = next((permissions for tag, permissions, _ in entries if tag == _MASK), 7)
    return any(
        tag == _USER and who == uid and permissions & mask & _READ_WRITE == _READ_WRITE
        for tag, permissions, who in entries
    )


def _entries(acl: bytes) -> list[Entry]:
    return [(tag, permissions, who) for tag, permissions, who in _ENTRY.iter_unpack(acl[4:])]


def _of_mode(mode: int) -> list[Entry]:
    return [
        (_USER_OBJ, mode >> 6 & 7, _NOBODY),
        (_GROUP_OBJ, mode >> 3 & 7, _NOBODY),
        (_OTHER, mode & 7, _NOBODY),
    ]
