"""setup: what it decides, and that it takes back exactly what it did, in the folder of an image."""

import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agentmem.cli import main
from agentmem.errors import Damaged, Io
from agentmem.grant import acl, facts, journal
from agentmem.grant.host import Host, run_command
from agentmem.grant.plan import (
    DEVICE,
    DROP_IN,
    DROP_IN_TEXT,
    GROUP,
    RULE,
    RULE_TEXT,
    WARNING,
    Change,
    Device,
    Facts,
    plan,
    remarks,
)

USER = "dana"
CLOSED = Device(gid=0, mode=0o600, is_open_to_user=False)
FRESH = Facts(
    user=USER,
    device=CLOSED,
    has_udev=True,
    rule=None,
    gid=None,
    is_member=False,
    delegates=False,
    drop_in=None,
)
GRANTED = FRESH._replace(
    device=Device(gid=990, mode=0o660, is_open_to_user=False),
    rule=RULE_TEXT,
    gid=990,
    is_member=True,
    delegates=True,
)


def kinds(found: Facts) -> list[tuple[str, str]]:
    return [(change.kind, change.target) for change in plan(found)]


# what is decided


def test_a_fresh_machine_needs_everything() -> None:
    assert kinds(FRESH) == [
        ("group", GROUP),
        ("member", USER),
        ("file", RULE),
        ("device", DEVICE),
        ("file", DROP_IN),
    ]
    assert WARNING in remarks(FRESH, plan(FRESH))
    assert all("\n" not in change.said for change in plan(FRESH))


def test_a_machine_that_grants_it_needs_nothing() -> None:
    assert plan(GRANTED) == []
    assert remarks(GRANTED, []) == []


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"is_member": False}, [("member", USER), ("device", DEVICE)]),
        ({"rule": "KERNEL==..."}, [("file", RULE)]),
        ({"rule": None}, [("file", RULE)]),
        ({"rule": None, "has_udev": False}, []),
        ({"device": CLOSED}, [("device", DEVICE)]),
        ({"device": Device(990, 0o640, True)}, [("device", DEVICE)]),
        ({"device": None}, []),
        ({"delegates": False}, [("file", DROP_IN)]),
        ({"delegates": False, "drop_in": DROP_IN_TEXT}, []),
        ({"delegates": None}, []),
    ],
)
def test_only_what_is_missing_is_changed(
    changed: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    assert kinds(GRANTED._replace(**changed)) == expected


def test_a_kernel_without_the_device_is_said() -> None:
    found = FRESH._replace(device=None, delegates=None)
    (line,) = remarks(found, plan(found))
    assert "Linux 6.1" in line


# access control lists


def test_a_list_lets_one_more_user_in() -> None:
    made = acl.with_user(None, 0o660, 1000)
    assert acl.names_user(made, 1000)
    assert not acl.names_user(made, 1001)
    both = acl.with_user(made, 0o660, 1001)
    assert acl.names_user(both, 1000)
    assert acl.names_user(both, 1001)
    assert acl.with_user(both, 0o660, 1001) == both
    assert not acl.names_user(None, 1000)


def test_the_kernel_takes_the_list(tmp_path: Path) -> None:
    path = tmp_path / "device"
    path.touch(mode=0o600)
    made = acl.with_user(None, 0o660, 12345)
    try:
        acl.put(path, made)
    except OSError as error:
        pytest.skip(f"no access control lists here: {error}")
    assert acl.get(path) == made
    acl.put(path, None)
    assert acl.get(path) is None


# a machine in a folder


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The root folder of a machine with udev and a systemd that delegates nothing."""
    root = tmp_path / "image"
    uid = os.geteuid()
    for folder in ("dev", "etc/udev", "run/systemd/system", "usr/bin", "var/lib"):
        (root / folder).mkdir(parents=True)
    (root / "usr/bin/udevadm").touch()
    (root / "etc/group").write_text("root:x:0:\nusers:x:999:\n")
    (root / "etc/passwd").write_text(f"root:x:0:0::/:/bin/sh\n{USER}:x:{uid}:100::/:/bin/sh\n")
    (root / "dev/userfaultfd").touch(mode=0o600)
    unit = root / "usr/lib/systemd/system/user@.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\n")
    tree = root / "sys/fs/cgroup"
    tree.mkdir(parents=True)
    (tree / "cgroup.controllers").touch()
    return root


def snapshot(root: Path) -> dict[str, tuple[int, str | None, bytes | None]]:
    """Every file of an image: mode, text, access control list."""
    return {
        str(path.relative_to(root)): (
            stat.S_IMODE(path.stat().st_mode),
            path.read_text() if path.is_file() else None,
            acl.get(path) if path.is_file() else None,
        )
        for path in sorted(root.rglob("*"))
    }


def run(root: Path, *more: str) -> Result:
    arguments = ["setup", "--root", str(root), "--user", USER, *more]
    return CliRunner().invoke(main, arguments, prog_name="agentmem")


def test_setup_and_undo_leave_a_machine_as_it_was(image: Path) -> None:
    before = snapshot(image)
    missing = run(image, "--check")
    assert missing.exit_code == 1
    assert snapshot(image) == before

    result = run(image)
    assert result.exit_code == 0, result.output
    assert [f"missing: {line}" for line in result.stdout.splitlines()] == (
        missing.stdout.splitlines()
    )
    assert WARNING in result.stderr
    assert (image / RULE[1:]).read_text() == RULE_TEXT
    assert (image / DROP_IN[1:]).read_text() == DROP_IN_TEXT
    assert f"{GROUP}:x:998:{USER}\n" in (image / "etc/group").read_text()
    assert stat.S_IMODE((image / "dev/userfaultfd").stat().st_mode) == 0o660

    again = run(image, "--undo")
    assert again.exit_code == 0, again.output
    assert len(again.stdout.splitlines()) == 5
    assert snapshot(image) == before
    assert "nothing to undo" in run(image, "--undo").stderr


def test_a_second_setup_has_nothing_to_do_but_for_a_second_user(image: Path) -> None:
    # The image's device cannot be given to another group by everybody.
    gid = (image / "dev/userfaultfd").stat().st_gid
    with (image / "etc/group").open("a") as file:
        file.write(f"{GROUP}:x:{gid}:\n")
    assert run(image).exit_code == 0
    assert run(image, "--check").exit_code == 0
    before = snapshot(image)
    result = run(image)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "nothing to do" in result.stderr
    assert snapshot(image) == before

    with (image / "etc/passwd").open("a") as file:
        file.write("eve:x:4321:100::/:/bin/sh\n")
    result = run(image, "--user", "eve")
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["add", "open"]
    run(image, "--undo")
    text = (image / "etc/group").read_text()
    assert f"{GROUP}:x:{gid}:\n" in text, "a group that setup did not make stays"


def test_undo_leaves_what_others_changed_since(image: Path) -> None:
    run(image)
    (image / RULE[1:]).write_text("# mine\n")
    text = (image / "etc/group").read_text()
    (image / "etc/group").write_text(text.replace(f":{USER}", f":{USER},eve"))
    lines = run(image, "--undo").stdout.splitlines()
    assert f"left {RULE}: it was changed since" in lines
    assert f"left the group {GROUP}: eve became a member otherwise" in lines
    assert (image / RULE[1:]).read_text() == "# mine\n"


def test_a_rule_that_was_there_comes_back(image: Path) -> None:
    path = image / RULE[1:]
    path.parent.mkdir()
    path.write_text("# of an older version\n")
    run(image)
    assert path.read_text() == RULE_TEXT
    assert f"put back {RULE}" in run(image, "--undo").stdout
    assert path.read_text() == "# of an older version\n"


def test_json_is_one_object_a_line(image: Path) -> None:
    missing = [json.loads(line) for line in run(image, "--check", "--json").stdout.splitlines()]
    assert {record["is_done"] for record in missing} == {False}
    made = [json.loads(line) for line in run(image, "--json").stdout.splitlines()]
    assert [record["kind"] for record in made] == ["group", "member", "file", "device", "file"]
    undone = [json.loads(line) for line in run(image, "--undo", "--json").stdout.splitlines()]
    assert len(undone) == 5


def test_without_a_device_nothing_is_granted(image: Path) -> None:
    (image / "dev/userfaultfd").unlink()
    (image / "usr/lib/systemd/system/user@.service").write_text("[Service]\nDelegate=pids\n")
    before = snapshot(image)
    result = run(image)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Linux 6.1" in result.stderr
    assert snapshot(image) == before


def test_rules_of_others_are_no_udev(image: Path) -> None:
    (image / "usr/lib/udev/rules.d").mkdir(parents=True)
    (image / "usr/bin/udevadm").unlink()
    assert not facts.look(image, USER, os.geteuid()).has_udev
    result = run(image)
    assert not (image / RULE[1:]).exists()
    assert "run setup again after each restart" in result.stderr
    (image / "run/udev").mkdir()
    (image / "run/udev/control").touch()
    assert facts.look(image, USER, os.geteuid()).has_udev


def test_a_udev_that_does_not_run_is_not_told(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    commands: list[list[str]] = []
    host = Host(image, lambda arguments: commands.append(list(arguments)))
    host._is_this = True
    host.make(Change("file", RULE, RULE_TEXT), os.geteuid())
    assert commands == []
    (image / "run/udev").mkdir()
    (image / "run/udev/control").touch()
    host.take_back()
    assert commands == [["udevadm", "control", "--reload"]]


def test_a_delegation_is_seen(image: Path) -> None:
    def delegates() -> bool | None:
        return facts.look(image, USER, os.geteuid()).delegates

    assert delegates() is False
    drop_in = image / "etc/systemd/system/user@.service.d/x.conf"
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text("[Service]\nDelegate=yes\n")
    assert delegates() is True
    uid = os.geteuid()
    own = image / f"sys/fs/cgroup/user.slice/user-{uid}.slice/user@{uid}.service"
    own.mkdir(parents=True)
    drop_in.unlink()
    assert delegates() is True, "the folder is the user's own"
    (image / "sys/fs/cgroup/cgroup.controllers").unlink()
    assert delegates() is None


def test_a_damaged_journal_is_told(image: Path) -> None:
    path = image / journal.PATH[1:]
    path.parent.mkdir()
    for text in ("{", "[]", '{"version": 1}', '{"version": 1, "changes": [{}]}'):
        path.write_text(text)
        with pytest.raises(Damaged, match="damaged"):
            journal.read(image)
    path.write_text('{"version": 2}')
    with pytest.raises(Damaged, match="another version"):
        journal.read(image)


def test_a_command_that_fails_leaves_nothing_to_undo(image: Path) -> None:
    def fail(arguments: Sequence[str]) -> None:
        raise Io("groupadd is missing")

    host = Host(image, fail)
    host._is_this = True
    with pytest.raises(Io):
        host.make(Change("group", GROUP), 0)
    assert journal.read(image) == []


def test_commands_are_those_of_the_system(image: Path) -> None:
    commands: list[list[str]] = []
    host = Host(image, lambda arguments: commands.append(list(arguments)))
    host._is_this = True
    for change in plan(FRESH):
        if change.kind != "device":
            host.make(change, os.geteuid())
    assert commands[:2] == [["groupadd", "--system", GROUP], ["gpasswd", "--add", USER, GROUP]]
    assert commands[-1] == ["systemctl", "daemon-reload"]
    with pytest.raises(Io, match="missing"):
        run_command(["no-such-command-anywhere"])
    with pytest.raises(Io, match="false"):
        run_command(["false"])


# who calls


def test_not_root_is_one_line_that_says_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for arguments in (["setup"], ["setup", "--undo"]):
        result = CliRunner().invoke(main, arguments, prog_name="agentmem")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == "Error: setup changes the system: sudo agentmem setup\n"


def test_root_has_to_name_a_user(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for variable in ("SUDO_USER", "DOAS_USER"):
        monkeypatch.delenv(variable, raising=False)
    arguments = ["setup", "--check", "--root", str(image)]
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, "--user" in result.stderr) == (2, True)
    monkeypatch.setenv("SUDO_USER", USER)
    assert f"add the user {USER}" in CliRunner().invoke(main, arguments).stdout
    result = run(image, "--user", "nobody-of-that-name")
    assert (result.exit_code, result.stdout) == (2, "")
