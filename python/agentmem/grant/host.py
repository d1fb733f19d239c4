"""Making the changes of `agentmem setup`, and taking them back."""

import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agentmem.errors import Io
from agentmem.grant import acl, facts, journal
from agentmem.grant.facts import under
from agentmem.grant.journal import Entry
from agentmem.grant.plan import DROP_IN, GROUP, RULE, Change

Run = Callable[[Sequence[str]], None]
_UDEV_SOCKET = "run/udev/control"
_FIRST_SYSTEM_GID, _LAST_SYSTEM_GID = 100, 999


def run_command(arguments: Sequence[str]) -> None:
    """Run one command of the system.

    Raises:
        Io: It is missing, or it failed.
    """
    name = arguments[0]
    if shutil.which(name) is None:
        raise Io(f"{name} is missing, and setup needs it: install it, or do it by hand")
    result = subprocess.run(arguments, capture_output=True, text=True)
    if result.returncode:
        raise Io(f"{' '.join(arguments)}: {result.stderr.strip() or result.returncode}")


class Host:
    """A machine to change: this one, or an image in a folder, where no command is run."""

    def __init__(self, root: Path, run: Run = run_command) -> None:
        self.root = root
        self._is_this = root == Path("/")
        self._run = run

    def make(self, change: Change, uid: int) -> None:
        """Make a change; what there is before is kept in the journal first."""
        entries = journal.read(self.root)
        journal.write(self.root, [*entries, Entry(change, self._before(change))])
        try:
            self._make(change, uid)
        except Io:
            # A command that failed did nothing. Files are compared when they are taken back.
            if change.kind in ("group", "member"):
                journal.write(self.root, entries)
            raise

    def _make(self, change: Change, uid: int) -> None:
        match change.kind:
            case "group":
                self._create_group()
            case "member":
                self._set_member(change.target, is_member=True)
            case "file":
                journal.replace(under(self.root, change.target), change.text)
                self._reload(change.target)
            case "device":
                self._open_device(under(self.root, change.target), uid)

    def take_back(self) -> list[str]:
        """Undo all that the journal has, the last first; a line for each."""
        entries = journal.read(self.root)
        lines = []
        while entries:
            entry = entries.pop()
            lines.append(self._undo(entry))
            journal.write(self.root, entries)
        return lines

    def _before(self, change: Change) -> dict[str, Any]:
        path = under(self.root, change.target)
        if change.kind == "file":
            missing = [str(each) for each in path.parents if not each.exists()]
            return {"text": facts.text_of(path), "folders": missing}
        if change.kind == "device":
            found, listed = path.stat(), acl.get(path)
            mode = stat.S_IMODE(found.st_mode)
            return {"gid": found.st_gid, "mode": mode, "acl": listed.hex() if listed else None}
        return {}

    def _undo(self, entry: Entry) -> str:
        change, before = entry
        match change.kind:
            case "group":
                return self._delete_group()
            case "member":
                if change.target not in facts.group(self.root)[1]:
                    return f"{change.target} was no member of the group {GROUP} any more"
                self._set_member(change.target, is_member=False)
                return f"took {change.target} out of the group {GROUP}"
            case "file":
                return self._restore_file(change, before)
            case "device":
                return self._close_device(change.target, before)

    def _create_group(self) -> None:
        if self._is_this:
            self._run(["groupadd", "--system", GROUP])
            return
        text = facts.text_of(self.root / "etc/group") or ""
        taken = {line.split(":")[2] for line in text.splitlines() if line.count(":") >= 3}
        numbers = range(_LAST_SYSTEM_GID, _FIRST_SYSTEM_GID, -1)
        gid = next(number for number in numbers if str(number) not in taken)
        self._write_groups(f"{text}{GROUP}:x:{gid}:\n")

    def _delete_group(self) -> str:
        gid, members = facts.group(self.root)
        if gid is None:
            return f"the group {GROUP} was gone already"
        if members:
            return f"left the group {GROUP}: {', '.join(members)} became a member otherwise"
        if self._is_this:
            self._run(["groupdel", GROUP])
        else:
            text = facts.text_of(self.root / "etc/group") or ""
            lines = text.splitlines(keepends=True)
            self._write_groups("".join(line for line in lines if not line.startswith(f"{GROUP}:")))
        return f"removed the group {GROUP}"

    def _set_member(self, user: str, *, is_member: bool) -> None:
        if self._is_this:
            self._run(["gpasswd", "--add" if is_member else "--delete", user, GROUP])
            return
        gid, members = facts.group(self.root)
        members = [name for name in members if name != user] + [user] * is_member
        text = facts.text_of(self.root / "etc/group") or ""
        lines = [
            f"{GROUP}:x:{gid}:{','.join(members)}\n" if line.startswith(f"{GROUP}:") else line
            for line in text.splitlines(keepends=True)
        ]
        self._write_groups("".join(lines))

    def _write_groups(self, text: str) -> None:
        journal.replace(self.root / "etc/group", text)

    def _restore_file(self, change: Change, before: dict[str, Any]) -> str:
        path = under(self.root, change.target)
        now = facts.text_of(path)
        if now == before["text"]:
            return f"{change.target} was as before already"
        if now is not None and now != change.text:
            return f"left {change.target}: it was changed since"
        if before["text"] is None:
            path.unlink()
            for folder in map(Path, before["folders"]):
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
        else:
            journal.replace(path, before["text"])
        self._reload(change.target)
        return f"{'removed' if before['text'] is None else 'put back'} {change.target}"

    def _reload(self, path: str) -> None:
        """Have the daemon whose file this is read it."""
        if not self._is_this:
            return
        # One that does not run reads its rules when it starts, and one in a container never runs.
        if path == RULE and (self.root / _UDEV_SOCKET).exists() and shutil.which("udevadm"):
            self._run(["udevadm", "control", "--reload"])
        if path == DROP_IN:
            self._run(["systemctl", "daemon-reload"])

    def _open_device(self, path: Path, uid: int) -> None:
        gid, _ = facts.group(self.root)
        if self._is_this and gid is not None:
            os.chown(path, -1, gid)
        path.chmod(0o660)
        try:
            acl.put(path, acl.with_user(acl.get(path), 0o660, uid))
        except OSError:
            return  # No lists on this file system: the user is let in from the next login on.

    def _close_device(self, target: str, before: dict[str, Any]) -> str:
        path = under(self.root, target)
        if not path.exists():
            return f"{target} is gone"
        acl.put(path, None)
        if self._is_this:
            os.chown(path, -1, before["gid"])
        path.chmod(before["mode"])
        if before["acl"] is not None:
            acl.put(path, bytes.fromhex(before["acl"]))
        return f"closed {target}"
