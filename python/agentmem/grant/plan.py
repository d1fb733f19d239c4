"""What is to be changed on a machine so that a user can run agents: from facts to changes.

Decisions only: nothing here looks at the machine or touches it.
"""

from typing import Any, Literal, NamedTuple

GROUP = "agentmem"
DEVICE = "/dev/userfaultfd"
RULE = "/etc/udev/rules.d/60-agentmem.rules"
RULE_TEXT = f"""\
# Written by `agentmem setup`; `agentmem setup --undo` takes it back.
KERNEL=="userfaultfd", SUBSYSTEM=="misc", GROUP="{GROUP}", MODE="0660"
"""
DROP_IN = "/etc/systemd/system/user@.service.d/60-agentmem.conf"
DROP_IN_TEXT = """\
# Written by `agentmem setup`; `agentmem setup --undo` takes it back.
[Service]
Delegate=cpu memory pids
"""

WARNING = (
    f"what this means: members of the group {GROUP} can hold up the kernel while it reads or writes"
    " their own memory, which makes some faults of the kernel easier to exploit; that is why it"
    " is not open to all"
)

Kind = Literal["group", "member", "file", "device"]


class Device(NamedTuple):
    """Who may open the device."""

    gid: int
    mode: int
    is_open_to_user: bool
    """Whether an access control list names the user."""


class Facts(NamedTuple):
    """What there is on a machine, as far as setup cares."""

    user: str
    """Who is to run agents."""
    device: Device | None
    """None: the kernel offers none."""
    has_udev: bool
    rule: str | None
    """The rule file as it is; None: there is none."""
    gid: int | None
    """Of the group; None: there is none."""
    is_member: bool
    delegates: bool | None
    """Whether systemd gives users a part of the cgroup tree; None: not to be told."""
    drop_in: str | None


class Change(NamedTuple):
    """One thing to do."""

    kind: Kind
    target: str
    """A group, a user or a path."""
    text: str = ""
    """What a file is to hold; the user for whom a device is opened."""

    @property
    def said(self) -> str:
        """One line."""
        match self.kind:
            case "group":
                return f"create the group {self.target}"
            case "member":
                return f"add the user {self.target} to the group {GROUP}"
            case "file":
                content = self.text.splitlines()[-1]
                return f"write {self.target}: {content}"
            case "device":
                return (
                    f"open {self.target} to the group {GROUP}, and at once to {self.text}, whose"
                    " next login will count as a member"
                )

    def as_record(self) -> dict[str, Any]:
        """As one JSON object."""
        return self._asdict() | {"said": self.said}


def plan(facts: Facts) -> list[Change]:
    """The changes that are missing, in the order to make them; none when all is granted."""
    changes = []
    if facts.device is not None:
        changes += _device_changes(facts, facts.device)
    if facts.delegates is False and facts.drop_in != DROP_IN_TEXT:
        changes.append(Change("file", DROP_IN, DROP_IN_TEXT))
    return changes


def _device_changes(facts: Facts, device: Device) -> list[Change]:
    changes = []
    if facts.gid is None:
        changes.append(Change("group", GROUP))
    if not facts.is_member:
        changes.append(Change("member", facts.user))
    if facts.has_udev and facts.rule != RULE_TEXT:
        changes.append(Change("file", RULE, RULE_TEXT))
    is_open = facts.gid is not None and device.gid == facts.gid and device.mode & 0o060 == 0o060
    # A new member counts as one from the next login on; the list of the device counts now.
    if not is_open or not (facts.is_member or device.is_open_to_user):
        changes.append(Change("device", DEVICE, facts.user))
    return changes


def remarks(facts: Facts, changes: list[Change]) -> list[str]:
    """What whoever runs setup has to know beside what was changed."""
    lines = []
    if facts.device is None:
        lines.append(
            f"this kernel has no {DEVICE}, so there is nothing to grant: agents need"
            " Linux 6.1 or later for it, and 6.7 or later to be paged out"
        )
    elif not facts.has_udev:
        lines.append("no udev here: run setup again after each restart of the machine")
    if any(change.kind == "device" for change in changes):
        lines.append(WARNING)
    if any(change.target == DROP_IN for change in changes):
        lines.append(
            f"cgroups are delegated once {facts.user} has logged out everywhere and in again"
        )
    return lines
