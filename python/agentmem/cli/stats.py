"""`agentmem stats`."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from agentmem.cli.output import Output, with_output
from agentmem.errors import NotFound
from agentmem.report.stored import open_existing
from agentmem.units import format_bytes

_NAMES_MAX = 10
_NO_PATH = (
    "a store lives inside the program that opened it, and this version has no daemon to ask."
    " Name the folder of a store that no program has open: --path PATH"
)


@click.command()
@click.argument("agent", required=False)
@click.option(
    "--path",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the store: what its program passed to agentmem.open(path).",
)
@with_output
def stats(output: Output, agent: str | None, path: Path | None) -> None:
    """Show the figures of a store, or of one agent in it."""
    if path is None:
        raise click.UsageError(_NO_PATH)
    with open_existing(path) as mem:
        if agent is None:
            figures = mem.stats() | {"agent_names": mem.agents()}
        elif agent in mem.agents():
            figures = mem.agent_stats(agent)
        else:
            raise NotFound(f"no agent {agent!r} in {path}; there are: {', '.join(mem.agents())}")
    if output.json:
        output.record(figures)
    else:
        output.table(["", ""], _rows(figures), right=[""])


def _rows(figures: Mapping[str, Any], prefix: str = "") -> list[list[str]]:
    """A line for each figure, and for each figure of the groups in it."""
    rows = []
    for name, figure in figures.items():
        if isinstance(figure, Mapping):
            rows += _rows(figure, f"{prefix}{name}.")
        else:
            rows.append([prefix + name, _text(name, figure)])
    return rows


def _text(name: str, figure: Any) -> str:
    """A figure as people write it; its unit is the end of its name."""
    if figure is None:
        return "none"
    if name == "bytes" or name.endswith("_bytes"):
        return format_bytes(figure)
    if name.endswith("_s"):
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(figure))
    if isinstance(figure, list):
        more = ", ..." if len(figure) > _NAMES_MAX else ""
        return ", ".join(figure[:_NAMES_MAX]) + more
    return f"{figure:,}" if isinstance(figure, int) else str(figure)
