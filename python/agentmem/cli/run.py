"""`agentmem run` and `agentmem adopt`: this process becomes the supervisor.

Neither Rich nor Textual is imported here: an agent should start as quickly as without agentmem.
"""

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from agentmem import supervisor
from agentmem.cli.duration import duration_ms
from agentmem.cli.size import size
from agentmem.errors import AgentMemError
from agentmem.registry import AGENTS_MAX, NAME
from agentmem.supervisor import Settings

F = TypeVar("F", bound=Callable[..., Any])

EXIT_CODE = 125
"""What `agentmem run` ends with when it fails itself, as env, nice and timeout do."""


class _Prefix(click.Command):
    """A command whose own errors are one line and 125: none looks as if its agent had made it."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:
            raise _failure(error.format_message()) from error

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AgentMemError as error:
            raise _failure(str(error)) from error
        except click.UsageError as error:
            raise _failure(error.format_message()) from error


class _Failure(click.ClickException):
    exit_code = EXIT_CODE


def _failure(text: str) -> click.ClickException:
    return _Failure(" ".join(text.split()))


def _name(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and re.fullmatch(NAME, value) is None:
        raise click.BadParameter(
            f"{value!r}: a name has up to 64 letters, digits, dots, dashes and underscores, and"
            " begins with a letter or digit"
        )
    return value


def _positive(convert: Callable[[str], int]) -> Callable[[str], int]:
    """`convert`, refusing nothing at all."""

    def converted(text: str) -> int:
        value = convert(text)
        if value < 1:
            raise click.BadParameter(f"{text!r} is too small: give more than 0")
        return value

    return converted


def _settings(command: F) -> F:
    """The options that `run` and `adopt` share."""
    options = [
        click.option(
            "--name", callback=_name, help="What the agent is called; else as its command."
        ),
        click.option(
            "--importance",
            type=click.IntRange(0, 100),
            default=50,
            show_default=True,
            help="Whose memory goes last.",
        ),
        click.option(
            "--idle-after",
            type=_positive(duration_ms),
            default="30s",
            show_default=True,
            metavar="TIME",
            help="How long it must be quiet before it is paged out and frozen.",
        ),
        click.option(
            "--memory-max",
            type=_positive(size),
            metavar="SIZE",
            help="What the tree may hold in RAM while it is awake, such as 2G.",
        ),
        click.option(
            "--breath",
            type=duration_ms,
            default="10m",
            show_default=True,
            metavar="TIME",
            help="How often it may run its timers for a moment while it is away; 0: never.",
        ),
        click.option(
            "--cold-dir",
            type=click.Path(file_okay=False, resolve_path=True),
            metavar="DIR",
            help="Folder on SSD for what was not used for long.",
        ),
        click.option(
            "--no-freeze",
            is_flag=True,
            help="Never freeze it, nor page it out: for what must go on while it is quiet.",
        ),
        click.option(
            "--best-effort",
            is_flag=True,
            help="Where this machine cannot page out, run it all the same, and only freeze it.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _made(options: dict[str, Any], count: int | None = None) -> Settings:
    return Settings(
        name=options["name"],
        importance=options["importance"],
        idle_after_ms=options["idle_after"],
        memory_max_bytes=options["memory_max"],
        breath_ms=options["breath"],
        cold_dir=options["cold_dir"],
        freeze=not options["no_freeze"],
        best_effort=options["best_effort"],
        count=count,
    )


# No interspersed arguments: options end at the command, whose own options follow it.
@click.command(cls=_Prefix, context_settings={"allow_interspersed_args": False})
@_settings
@click.option(
    "-n",
    "--count",
    type=click.IntRange(1, AGENTS_MAX),
    metavar="COUNT",
    help="Start so many of it, named NAME-1 and so on.",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(command: tuple[str, ...], count: int | None, **options: Any) -> None:
    """Run COMMAND as an agent that shrinks when it is idle, and wakes with everything there.

    Options of agentmem come before COMMAND; what follows it is COMMAND's. Ends as COMMAND ends,
    and with 125 when agentmem itself fails.
    """
    supervisor.become(["run", *_made(options, count).arguments(), "--", *command])


@click.command(cls=_Prefix)
@_settings
@click.option("--tree", is_flag=True, help="With its children, and theirs.")
@click.argument("pid", type=click.IntRange(min=1))
def adopt(pid: int, tree: bool, **options: Any) -> None:
    """Supervise the running process PID, as if `agentmem run` had started it.

    Stays in the foreground; when it ends, the process runs on without it.
    """
    tree_option = ["--tree"] if tree else []
    supervisor.become(["adopt", f"--pid={pid}", *tree_option, *_made(options).arguments()])
