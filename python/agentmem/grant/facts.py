"""Looking at a machine for `agentmem setup`; nothing is changed, and no privilege needed."""

import re
import stat
from pathlib import Path

from agentmem.grant import acl
from agentmem.grant.plan import DEVICE, DROP_IN, GROUP, RULE, Device, Facts

# Folders of rules say nothing: packages put rules there, whether anybody reads them or not.
_UDEV = ("run/udev/control", "usr/bin/udevadm", "bin/udevadm", "usr/sbin/udevadm", "sbin/udevadm")
_UNITS = (
    "etc/systemd/system",
    "run/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
)


def look(root: Path, user: str, uid: int) -> Facts:
    """The facts of the machine whose root folder is `root`.

    Args:
        root: `/`, or the root folder of an image.
        user: who is to run agents.
        uid: that user's number.
    """
    gid, members = group(root)
    return Facts(
        user=user,
        device=_device(under(root, DEVICE), uid),
        has_udev=any((root / path).exists() for path in _UDEV),
        rule=text_of(under(root, RULE)),
        gid=gid,
        is_member=user in members,
        delegates=_delegates(root, uid),
        drop_in=text_of(under(root, DROP_IN)),
    )


def under(root: Path, path: str) -> Path:
    """An absolute path, below `root`."""
    return root / path.lstrip("/")


def text_of(path: Path) -> str | None:
    """The text of a file; None when it is not there."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None


def group(root: Path) -> tuple[int | None, list[str]]:
    """The number of the group, None when there is none; and its members."""
    text = text_of(root / "etc/group") or ""
    found = re.search(rf"^{GROUP}:[^:]*:(\d+):(.*)$", text, re.MULTILINE)
    if found is None:
        return None, []
    return int(found[1]), [name for name in found[2].split(",") if name]


def _device(path: Path, uid: int) -> Device | None:
    try:
        found = path.stat()
    except OSError:
        return None
    mode = stat.S_IMODE(found.st_mode)
    return Device(found.st_gid, mode, acl.names_user(acl.get(path), uid))


def _delegates(root: Path, uid: int) -> bool | None:
    """Whether the user's systemd owns a part of the cgroup tree, or would."""
    if not (root / "run/systemd/system").is_dir():
        return None
    tree = root / "sys/fs/cgroup"
    if not (tree / "cgroup.controllers").exists():
        return None
    try:
        own = tree / f"user.slice/user-{uid}.slice/user@{uid}.service"
        return own.stat().st_uid == uid
    except OSError:
        return _unit_delegates(root)


def _unit_delegates(root: Path) -> bool | None:
    """The same from the unit's files, for a user who is not logged in."""
    files = [root / folder / "user@.service" for folder in _UNITS]
    for folder in _UNITS:
        files += sorted((root / folder / "user@.service.d").glob("*.conf"))
    texts = [text for file in files if (text := text_of(file)) is not None]
    if not texts:
        return None
    settings = re.findall(r"^Delegate=(.*)$", "\n".join(texts), re.MULTILINE)
    return any(value.strip().lower() not in ("", "no", "false", "0", "off") for value in settings)
