"""`agentmem ps`, and how an agent looks as a row."""

import sys
from typing import NamedTuple

import click

from agentmem import fleet
from agentmem.cli.output import Output, with_output
from agentmem.fleet import Agent
from agentmem.units import format_bytes, short_bytes

_NO_AGENTS = "no agents: agentmem run -- COMMAND starts one"
_LEFT_ALONE_MAX = 5


class Column(NamedTuple):
    """One column of the table."""

    title: str
    is_figure: bool = True
    is_dropped: int = 0
    """Where the terminal is too narrow: which column goes first; 0 stays."""


COLUMNS = (
    Column("name", is_figure=False),
    Column("state", is_figure=False),
    Column("procs", is_dropped=4),
    Column("before"),
    Column("now"),
    Column("compressed"),
    Column("on SSD", is_dropped=5),
    Column("ratio"),
    Column("woken", is_dropped=3),
    Column("wake p50/p99", is_dropped=2),
    Column("last wake", is_figure=False, is_dropped=1),
)
"""What `cells` gives, in this order; before and now are resident memory."""


@click.command()
@click.option("-v", "--verbose", is_flag=True, help="With what keeps agents awake or resident.")
@with_output
def ps(output: Output, verbose: bool) -> None:
    """List your agents, and what they take.

    before and now are the resident memory (PSS) of an agent's processes: before it was last paged
    out, and now. ratio is how many times less RAM it takes, with what agentmem keeps for it:
    before / (now + compressed + its supervisor). p50 and p99 are how long waking took.
    """
    show(output, fleet.agents(verbose=verbose), verbose=verbose)


def show(output: Output, agents: list[Agent], *, verbose: bool) -> None:
    """Print agents: one object a line for programs, a table for people."""
    if output.json:
        for agent in agents:
            output.record(agent.as_record())
    elif not agents:
        output.message(_NO_AGENTS)
    else:
        _print(output, agents, verbose)


def cells(agent: Agent) -> list[str]:
    """An agent as a row."""
    if not agent.has_answered:
        return [agent.name, agent.state, *[""] * (len(COLUMNS) - 3), agent.why or ""]
    before = agent.resident_before_bytes
    return [
        agent.name,
        f"{agent.state} (paused)" if agent.paused else agent.state,
        f"{agent.processes}",
        "" if before is None else short_bytes(before),
        short_bytes(agent.resident_bytes),
        short_bytes(agent.compressed_bytes),
        short_bytes(agent.ssd_bytes),
        _times(agent.ratio),
        f"{agent.woken}",
        _wake(agent),
        agent.last_wake or "",
    ]


def total_cells(agents: list[Agent]) -> list[str]:
    """The sums as a row."""
    total = fleet.totals(agents)
    return [
        f"{total.agents} agents" if total.agents != 1 else "1 agent",
        "",
        f"{total.processes}",
        short_bytes(total.resident_before_bytes),
        short_bytes(total.resident_bytes),
        short_bytes(total.compressed_bytes),
        short_bytes(total.ssd_bytes),
        _times(total.ratio),
        f"{total.woken}",
        "",
        "",
    ]


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.1f}x"


def _wake(agent: Agent) -> str:
    if agent.wake_ms_p50 is None:
        return ""
    p99 = "" if agent.wake_ms_p99 is None else f"/{agent.wake_ms_p99:.0f}"
    return f"{agent.wake_ms_p50:.0f}{p99} ms"


def _print(output: Output, agents: list[Agent], verbose: bool) -> None:
    rows = [cells(agent) for agent in agents]
    # Why there are no figures is said below: in a cell it would drive the others out of sight.
    rows = [
        row if agent.has_answered else [*row[:-1], ""]
        for agent, row in zip(agents, rows, strict=True)
    ]
    if any(agent.has_answered for agent in agents):
        rows.append(total_cells(agents))
    keep = _fitting(rows, _width())
    output.table(
        [COLUMNS[at].title for at in keep],
        [[row[at] for at in keep] for row in rows],
        right=[column.title for column in COLUMNS if column.is_figure],
        is_whole=True,
    )
    for agent in agents:
        for line in _details(agent, verbose):
            click.echo(line)


def _width() -> int | None:
    """Of the terminal; None in a pipe, where lines are as long as they come."""
    import shutil

    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _fitting(rows: list[list[str]], width: int | None) -> list[int]:
    """The columns for which there is room."""
    keep = list(range(len(COLUMNS)))
    widths = [
        max(len(COLUMNS[at].title), *(len(row[at]) for row in rows)) + 2
        for at in range(len(COLUMNS))
    ]
    droppable = sorted((each for each in keep if COLUMNS[each].is_dropped), key=_order)
    for drop in droppable:
        if width is None or sum(widths[at] for at in keep) <= width + 2:
            break
        keep.remove(drop)
    return keep


def _order(at: int) -> int:
    return COLUMNS[at].is_dropped


def _details(agent: Agent, verbose: bool) -> list[str]:
    """What does not fit into the row of an agent."""
    if not agent.has_answered:
        return [f"{agent.name}: {agent.why}"]
    if not verbose:
        return []
    lines = [f"{agent.name}: {agent.command}"]
    if agent.busy_with:
        lines.append(f"  busy with {agent.busy_with}")
    lines.append(f"  supervisor {format_bytes(agent.supervisor_bytes)}")
    largest = sorted(agent.left_alone, key=lambda left: left.bytes, reverse=True)
    lines += [
        f"  left alone {format_bytes(left.bytes)} of {left.pid}: {left.why}"
        for left in largest[:_LEFT_ALONE_MAX]
    ]
    if more := largest[_LEFT_ALONE_MAX:]:
        amount = format_bytes(sum(left.bytes for left in more))
        lines.append(f"  left alone {amount} in {len(more)} more places: --json has all")
    return lines
