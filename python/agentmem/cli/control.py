"""`agentmem pause`, `resume`, `wake` and `limit`: what a person has a supervisor do."""

import sys
from typing import Any

import click

from agentmem import fleet
from agentmem.cli.output import Output, with_output
from agentmem.cli.size import size
from agentmem.cli.where import Where, with_daemon
from agentmem.errors import AgentMemError, InvalidArgument, NotFound, Unreachable
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


# Not None, which is no limit.
_UNSAID = object()


def _size_or_none(said: object) -> object:
    if said is _UNSAID:
        return said
    return None if str(said).lower() == "none" else size(str(said))


def _count_or_none(said: object) -> object:
    if said is _UNSAID or str(said).lower() == "none":
        return said if said is _UNSAID else None
    try:
        count = int(str(said))
    except ValueError:
        count = -1
    if count < 0:
        raise click.BadParameter(f"{said!r} is no number of agents")
    return count


@click.command()
@click.argument("name", required=False)
@click.option(
    "--memory-max",
    type=_size_or_none,
    default=_UNSAID,
    metavar="SIZE|none",
    help="What a tree of agentmem run may hold in RAM, such as 2G.",
)
@click.option(
    "--quota",
    type=_size_or_none,
    default=_UNSAID,
    metavar="SIZE|none",
    help="Logical bytes that an agent of the API, or a domain, may hold, such as 500M.",
)
@click.option(
    "--agents",
    type=_count_or_none,
    default=_UNSAID,
    metavar="COUNT|none",
    help="Agents that a domain may have.",
)
@with_daemon
@with_output
def limit(
    output: Output,
    name: str | None,
    memory_max: object,
    quota: object,
    agents: object,
    where: Where,
) -> None:
    """Change what an agent may hold, while it runs, or all agents of a domain together.

    A managed tree has a --memory-max, an agent of the API a --quota: NAME is one or the other.
    Without a NAME, --quota and --agents are those of the --domain, until the daemon is started
    anew; none is as much as the daemon's configuration gives it.
    """
    if name is None:
        if memory_max is not _UNSAID or (quota is _UNSAID and agents is _UNSAID):
            raise click.UsageError("name an agent, or give --quota or --agents for the domain")
        _limit_domain(output, quota, agents, where)
        return
    if agents is not _UNSAID:
        raise click.UsageError("--agents is a domain's: leave the name out")
    if (memory_max is _UNSAID) == (quota is _UNSAID):
        raise click.UsageError("give --memory-max for a managed tree, or --quota for the API's")
    if quota is _UNSAID:
        _limit_tree(output, name, _amount(memory_max), where)
    else:
        _limit_api(output, name, _amount(quota), where)


def _limit_tree(output: Output, name: str, memory_max: int | None, where: Where) -> None:
    try:
        answer = fleet.command(name, "limit", memory_max_bytes=memory_max)
    except NotFound as error:
        if name in _api_names(where):
            raise InvalidArgument(f"{name!r} is an agent of the API: it has a --quota") from error
        raise
    done = "no limit" if memory_max is None else f"at most {format_bytes(memory_max)}"
    _report(output, name, done, answer)


def _limit_api(output: Output, name: str, quota: int | None, where: Where) -> None:
    is_tree = any(agent.name == name for agent in fleet.agents())
    try:
        with where.connect() as mem:
            mem.limit(name, quota)
    except (NotFound, Unreachable) as error:
        if is_tree:
            raise InvalidArgument(f"{name!r} is a managed tree: it has a --memory-max") from error
        raise
    done = "no quota" if quota is None else f"at most {format_bytes(quota)} of content"
    _report(output, name, done, {"ok": True})


def _limit_domain(output: Output, quota: object, agents: object, where: Where) -> None:
    with where.connect() as mem:
        now = mem.domain()
        mem.limit_domain(
            quota_bytes=_amount(now["quota_bytes"] if quota is _UNSAID else quota),
            agents_max=_amount(now["agents_max"] if agents is _UNSAID else agents),
        )
        now = mem.domain()
    quota_bytes, agents_max = now["quota_bytes"], now["agents_max"]
    done = "no quota" if quota_bytes is None else f"at most {format_bytes(quota_bytes)} of content"
    done += "" if agents_max is None else f", and {agents_max:,} agents"
    name = where.domain or "the user's own domain"
    _report(output, name, done, {"ok": True, "quota_bytes": quota_bytes, "agents_max": agents_max})


def _api_names(where: Where) -> list[str]:
    try:
        with where.connect() as mem:
            return mem.agents()
    except Unreachable:
        return []


def _amount(said: object) -> int | None:
    assert said is None or isinstance(said, int)
    return said


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
