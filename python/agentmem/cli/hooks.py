"""`agentmem hooks`."""

import os
import shlex
import shutil
import sys
import time
from pathlib import Path

import click

from agentmem import hooks as claude
from agentmem.cli.output import Output, with_output
from agentmem.errors import Damaged, Io


@click.group()
def hooks() -> None:
    """Have agents tell when they are idle, so that nobody needs to guess."""


@hooks.group()
def install() -> None:
    """Write hooks into the settings of an agent."""


@install.command("claude")
@click.option(
    "--settings",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file; by default Claude Code's own for this user.",
)
@click.option("--uninstall", is_flag=True, help="Take the hooks out again.")
@with_output
def install_claude(output: Output, settings: Path | None, uninstall: bool) -> None:
    """Have Claude Code say when an answer is finished, and when the next turn begins.

    Adds `agentmem hint idle` to its Stop hooks and `agentmem hint active` to its UserPromptSubmit
    hooks. They do nothing in sessions that agentmem does not run. Everything else in the file
    stays as it is; a copy of it is kept beside it.
    """
    path = (settings or _usual()).resolve()
    text, mark = _read(path)
    try:
        before = claude.read(text)
    except Damaged as error:
        raise Damaged(f"{path}: {error}; nothing was changed, mend it first") from error
    after = claude.removed(before) if uninstall else claude.installed(before, _program())
    backup = None
    if after != before:
        backup = _replace(path, claude.write(after, like=text), mark)
    done = "taken out" if uninstall else "installed"
    if output.json:
        record = {"settings": str(path), "changed": after != before, "installed": not uninstall}
        output.record(record | {"backup": str(backup) if backup else None})
    elif after == before:
        click.echo(f"{path}: nothing to do, the hooks are {done} already")
    else:
        kept = f"; as it was: {backup}" if backup else ""
        click.echo(f"{path}: hooks {done}{kept}")


def _usual() -> Path:
    """Where Claude Code keeps this user's settings."""
    folder = os.environ.get("CLAUDE_CONFIG_DIR")
    return (Path(folder) if folder else Path.home() / ".claude") / "settings.json"


def _program() -> str:
    """How the shell of a hook calls this agentmem: by name, if every session finds it so.

    A virtual environment is on the PATH only where it is active, and a hook that is not found would
    be reported at every turn of all other sessions.
    """
    own = Path(sys.argv[0])
    if own.name != "agentmem" or not own.is_file():
        return "agentmem"
    found = shutil.which("agentmem")
    is_active_only = sys.prefix != sys.base_prefix and found == f"{sys.prefix}/bin/agentmem"
    if found is not None and not is_active_only and Path(found).samefile(own):
        return "agentmem"
    return shlex.quote(str(own.absolute()))


def _read(path: Path) -> tuple[str, os.stat_result | None]:
    """The file's text, and what tells whether somebody changed it meanwhile."""
    try:
        with path.open("rb") as file:
            return file.read().decode("utf-8"), os.fstat(file.fileno())
    except FileNotFoundError:
        return "", None
    except UnicodeDecodeError as error:
        raise Damaged(f"{path} is not UTF-8 text; nothing was changed, mend it first") from error
    except OSError as error:
        raise Io(f"{path} cannot be read: {error.strerror}") from error


def _replace(path: Path, text: str, mark: os.stat_result | None) -> Path | None:
    """Put `text` in the place of the file in one step, and return where the old one is kept."""
    temporary = path.with_name(f"{path.name}.agentmem-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = (mark.st_mode & 0o777) if mark else 0o600
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            file.write(text.encode())
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        backup = _back_up(path) if mark else None
        if _identity(_read(path)[1]) != _identity(mark):
            raise Io(f"{path} was changed by somebody else just now; try again")
        os.replace(temporary, path)
    except OSError as error:
        if isinstance(error, Io):
            raise
        raise Io(f"{path} cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return backup


def _back_up(path: Path) -> Path:
    """A copy beside the file, under a name that is free."""
    stem = f"{path.name}.{time.strftime('%Y%m%d-%H%M%S')}"
    names = (f"{stem}{suffix}.bak" for suffix in ("", *(f"-{n}" for n in range(1, 1000))))
    backup = next(path.with_name(name) for name in names if not path.with_name(name).exists())
    shutil.copy2(path, backup)
    return backup


def _identity(found: os.stat_result | None) -> tuple[int, ...]:
    return (found.st_ino, found.st_mtime_ns, found.st_size) if found else ()
