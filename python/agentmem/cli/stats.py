"""`agentmem stats`."""

import time
from collections.abc import Mapping
from typing import Any

import click

from agentmem.cli.output import Output, with_output
from agentmem.cli.where import Where, with_store
from agentmem.errors import NotFound
from agentmem.registry import printable
from agentmem.units import format_bytes

_NAMES_MAX = 10
# Lengths of time; what else ends in _s is a moment.
_AGES = {"unused_s"}


@click.command()
@click.argument("agent", required=False)
@with_store
@with_output
def stats(output: Output, agent: str | None, where: Where) -> None:
    """Show the figures of the daemon's store or of a stored one, or of one agent in it."""
    with where.open() as mem:
        if agent is None:
            figures = mem.stats() | {"agent_names": mem.agents()}
        elif agent in mem.agents():
            figures = mem.agent_stats(agent)
        else:
            raise NotFound(f"no agent {agent!r} in {where}; there are: {', '.join(mem.agents())}")
    if output.json:
        output.record(figures)
    else:
        output.table(["", ""], rows(figures), right=[""])


def rows(figures: Mapping[str, Any], prefix: str = "") -> list[list[str]]:
    """A line for each figure, and for each figure of the groups in it."""
    lines = []
    for name, figure in figures.items():
        if isinstance(figure, Mapping):
            lines += rows(figure, f"{prefix}{name}.")
        else:
            lines.append([prefix + name, _text(name, figure)])
    return lines


def _text(name: str, figure: Any) -> str:
    """A figure as people write it; its unit is the end of its name."""
    if figure is None:
        return "none"
    if name == "bytes" or name.endswith("_bytes"):
        return format_bytes(figure)
    if name in _AGES:
        return f"{figure:.1f} s"
    if name.endswith("_s"):
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(figure))
    if isinstance(figure, list):
        more = ", ..." if len(figure) > _NAMES_MAX else ""
        return ", ".join(printable(name) for name in figure[:_NAMES_MAX]) + more
    if isinstance(figure, bool):
        return "yes" if figure else "no"
    return f"{figure:,}" if isinstance(figure, int) else printable(str(figure))
