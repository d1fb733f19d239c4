"""`agentmem run` and `agentmem adopt`: this process becomes the supervisor.

Neither Rich nor Textual is imported here: an agent should start as quickly as without agentmem.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from agentmem import supervisor
from agentmem.cli.duration import duration_ms
from agentmem.cli.prefix import Prefix, agent_name, count_option
from agentmem.cli.size import size
from agentmem.supervisor import Settings

F = TypeVar("F", bound=Callable[..., Any])


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
            "--name", callback=agent_name, help="What the agent is called; else as its command."
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
@click.command(cls=Prefix, context_settings={"allow_interspersed_args": False})
@_settings
@count_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(command: tuple[str, ...], count: int | None, **options: Any) -> None:
    """Run COMMAND as an agent that shrinks when it is idle, and wakes with everything there.

    Options of agentmem come before COMMAND; what follows it is COMMAND's. Ends as COMMAND ends,
    and with 125 when agentmem itself fails.
    """
    supervisor.become(["run", *_made(options, count).arguments(), "--", *command])


@click.command(cls=Prefix)
@_settings
@click.option("--tree", is_flag=True, help="With its children, and theirs.")
@click.argument("pid", type=click.IntRange(min=1))
def adopt(pid: int, tree: bool, **options: Any) -> None:
    """Supervise the running process PID, as if `agentmem run` had started it.

    Stays in the foreground; when it ends, the process runs on without it.
    """
    tree_option = ["--tree"] if tree else []
    supervisor.become(["adopt", f"--pid={pid}", *tree_option, *_made(options).arguments()])
