"""`agentmem setup`."""

import os
import pwd
import sys
from pathlib import Path

import click

from agentmem.cli.output import Output, with_output
from agentmem.errors import Io, PermissionDenied
from agentmem.grant import facts, journal
from agentmem.grant.host import Host
from agentmem.grant.plan import Change, Facts, plan, remarks

_CALLERS = ("SUDO_USER", "DOAS_USER")
_ROOT_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


@click.command()
@click.option("--undo", is_flag=True, help="Take back all that setup changed.")
@click.option("--check", is_flag=True, help="Say what is missing, change nothing; 1 if something.")
@click.option("--user", metavar="NAME", help="Who is to run agents; by default who called sudo.")
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("/"),
    hidden=True,
    help="The root folder of an image, where no command is run.",
)
@with_output
def setup(output: Output, undo: bool, check: bool, user: str | None, root: Path) -> None:
    """Grant a user, once and as root, what paging out agents needs.

    That is access to /dev/userfaultfd, by a group and a udev rule, and a part of the cgroup tree
    where systemd does not give one already. Each change is said, and --undo takes back exactly
    those.
    """
    if undo and check:
        raise click.UsageError("--undo and --check exclude each other")
    root = root.resolve()
    if not check and os.geteuid() != 0 and root == Path("/"):
        raise PermissionDenied(f"setup changes the system: sudo {_own_path()} setup")
    try:
        if undo:
            _undo(output, root)
            return
        name, uid = _user(user, root)
        found = facts.look(root, name, uid)
        _check(output, found) if check else _grant(output, root, found, uid)
    except OSError as error:
        if isinstance(error, Io):
            raise
        raise Io(f"setup stopped: {error}; what was done is in {journal.PATH}") from error


def _own_path() -> str:
    """How root calls this command: root's PATH does not have a virtual environment."""
    own = Path(sys.argv[0])
    if own.name == "agentmem" and own.is_file() and str(own.absolute().parent) not in _ROOT_PATH:
        return str(own.absolute())
    return "agentmem"


def _user(given: str | None, root: Path) -> tuple[str, int]:
    """Who is to run agents."""
    named = given or next((os.environ[name] for name in _CALLERS if os.environ.get(name)), None)
    if named is None and os.geteuid() != 0:
        named = pwd.getpwuid(os.geteuid()).pw_name
    if named is None or (named == "root" and given is None):
        raise click.UsageError(
            "root may do all this already: name who is to run agents, --user NAME"
        )
    text = facts.text_of(root / "etc/passwd") or ""
    for line in text.splitlines():
        fields = line.split(":")
        if fields[0] == named and len(fields) > 2:
            return named, int(fields[2])
    if root == Path("/"):
        try:
            return named, pwd.getpwnam(named).pw_uid
        except KeyError:
            pass
    raise click.UsageError(f"no user {named!r} on this machine")


def _check(output: Output, found: Facts) -> None:
    missing = plan(found)
    for change in missing:
        _say(output, change, "missing: ", is_done=False)
    _end(output, found, missing)
    if missing:
        sys.exit(1)


def _grant(output: Output, root: Path, found: Facts, uid: int) -> None:
    changes, host = plan(found), Host(root)
    for change in changes:
        host.make(change, uid)
        _say(output, change, "", is_done=True)
    _end(output, found, changes)


def _say(output: Output, change: Change, lead: str, *, is_done: bool) -> None:
    if output.json:
        output.record({**change.as_record(), "is_done": is_done})
    else:
        click.echo(f"{lead}{change.said}")


def _end(output: Output, found: Facts, changes: list[Change]) -> None:
    """What else is to be said; 1 where nothing can be granted."""
    for line in remarks(found, changes):
        output.message(line)
    if found.device is None:
        sys.exit(1)
    if not changes:
        output.message(f"nothing to do: {found.user} may page out agents already")


def _undo(output: Output, root: Path) -> None:
    lines = Host(root).take_back()
    for line in lines:
        if output.json:
            output.record({"undone": line})
        else:
            click.echo(line)
    if not lines:
        output.message("nothing to undo: setup changed nothing, or it was taken back already")
