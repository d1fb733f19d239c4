"""`agentmem pause`, `resume`, `wake` and `limit`: what a person has a supervisor do."""

import sys
from typing import Any

import click

from agentmem import fleet
from agentmem.cli.output import Output, with_output
from agentmem.cli.size import size
from agentmem.errors import AgentMemError
from agentmem.units import format_bytes

DONE = {"pause": "paused", "resume": "resumed", "wake": "awake"}
"""What is said of an agent that did it."""

_names = click.argument("names", metavar="[NAME]...", nargs=-1)
_all = click.option("--all", "is_all", is_flag=True, help="All agents of yours.")


@click.command()
@_names
@_all
@with_output
def pause(output: Output, names: tuple[str, ...], is_all: bool) -> None:
    """Page out and freeze agents now. They stay so, whatever comes in, until they are resumed."""
    _each(output, "pause", _chosen(names, is_all))


@click.command()
@_names
@_all
@with_output
def resume(output: Output, names: tuple[str, ...], is_all: bool) -> None:
    """Let paused agents run again."""
    _each(output, "resume", _chosen(names, is_all))


@click.command()
@_names
@_all
@with_output
def wake(output: Output, names: tuple[str, ...], is_all: bool) -> None:
    """Bring back the memory of agents now, before something comes in for them."""
    _each(output, "wake", _chosen(names, is_all))


def _size_or_none(text: str) -> int | None:
    return None if text.lower() == "none" else size(text)


@click.command()
@click.argument("name")
@click.option(
    "--memory-max",
    type=_size_or_none,
    required=True,
    metavar="SIZE|none",
    help="What its tree may hold in RAM, such as 2G.",
)
@with_output
def limit(output: Output, name: str, memory_max: int | None) -> None:
    """Change what an agent may hold in RAM, while it runs."""
    answer = fleet.command(name, "limit", memory_max_bytes=memory_max)
    done = "no limit" if memory_max is None else f"at most {format_bytes(memory_max)}"
    _report(output, name, done, answer)


def _chosen(names: tuple[str, ...], is_all: bool) -> tuple[str, ...]:
    """The agents that the command line means."""
    if bool(names) == is_all:
        raise click.UsageError("name agents, or give --all; agentmem ps lists them")
    if not is_all:
        return names
    return tuple(agent.name for agent in fleet.agents() if agent.state != fleet.LOST)


def _each(output: Output, op: str, names: tuple[str, ...]) -> None:
    """Have each do it; one that cannot is told, and does not keep the others from it."""
    if not names:
        output.message("no agents: agentmem run -- COMMAND starts one")
    failed = [name for name in names if not _one(output, name, op)]
    if failed:
        sys.exit(1)


def _one(output: Output, name: str, op: str) -> bool:
    try:
        answer = fleet.command(name, op)
    except AgentMemError as error:
        if output.json:
            output.record(
                {"name": name, "ok": False, "error": type(error).__name__, "text": str(error)}
            )
        else:
            output.message(f"Error: {error}")
        return False
    _report(output, name, DONE[op], answer)
    return True


def _report(output: Output, name: str, done: str, answer: dict[str, Any]) -> None:
    if output.json:
        output.record({"name": name, **answer})
    else:
        click.echo(f"{name}: {done}")
