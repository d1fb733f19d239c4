"""`agentmem ps`, and how an agent looks as a row."""

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import click

from agentmem import fleet
from agentmem.cli.output import Output, with_output
from agentmem.cli.where import Where, with_daemon
from agentmem.fleet import Agent
from agentmem.listing import ApiAgent, Listing, look
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
    Column("type", is_figure=False, is_dropped=6),
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
@with_daemon
@with_output
def ps(output: Output, verbose: bool, where: Where) -> None:
    """List your agents, and what they take: trees of processes, and the API's in the daemon.

    before and now are the resident memory (PSS) of an agent's processes: before it was last paged
    out, and now. ratio is how many times less RAM it takes, with what agentmem keeps for it:
    before / (now + compressed + its supervisor). p50 and p99 are how long waking took.

    Of an agent of the API, before is what it holds, now what of that is raw in RAM; what it shares
    counts in full, but once in the sum, which has the daemon's tables too.
    """
    show(output, look(where.connect, verbose=verbose), verbose=verbose)


def show(output: Output, listing: Listing, *, verbose: bool) -> None:
    """Print agents: one object a line for programs, a table for people."""
    if listing.note:
        output.message(listing.note)
    if output.json:
        for agent in listing.agents:
            output.record(agent.as_record())
    elif not listing.agents:
        output.message(_NO_AGENTS)
    else:
        _print(output, listing, verbose)


def cells(agent: Agent | ApiAgent) -> list[str]:
    """An agent as a row; what cannot apply is empty."""
    if isinstance(agent, Agent) and not agent.has_answered:
        start = [agent.name, agent.type, agent.state]
        return [*start, *[""] * (len(COLUMNS) - 4), agent.why or ""]
    before = agent.resident_before_bytes
    return [
        agent.name,
        agent.type,
        f"{agent.state} (paused)" if agent.paused else agent.state,
        "" if agent.processes is None else f"{agent.processes}",
        "" if before is None else short_bytes(before),
        short_bytes(agent.resident_bytes),
        short_bytes(agent.compressed_bytes),
        short_bytes(agent.ssd_bytes),
        _times(agent.ratio),
        "" if agent.woken is None else f"{agent.woken}",
        _wake(agent),
        agent.last_wake or "",
    ]


def total_cells(agents: list[Agent]) -> list[str]:
    """The sums of trees as a row."""
    total = fleet.totals(agents)
    return [
        _count(total.agents),
        "tree",
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


def store_cells(agents: int, store: Mapping[str, Any]) -> list[str]:
    """The sums of the API's agents as a row: what they share is there once."""
    resident = store["resident_bytes"]
    return [
        _count(agents),
        "api",
        "",
        "",
        short_bytes(store["logical_bytes"]),
        short_bytes(resident - store["warm_bytes"]),
        short_bytes(store["warm_bytes"]),
        short_bytes(store["cold_bytes"]),
        _times(store["logical_bytes"] / resident if resident else None),
        "",
        "",
        "",
    ]


def _count(agents: int) -> str:
    return "1 agent" if agents == 1 else f"{agents} agents"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.1f}x"


def _wake(agent: Agent | ApiAgent) -> str:
    if agent.wake_ms_p50 is None:
        return ""
    p99 = "" if agent.wake_ms_p99 is None else f"/{agent.wake_ms_p99:.0f}"
    return f"{agent.wake_ms_p50:.0f}{p99} ms"


def _print(output: Output, listing: Listing, verbose: bool) -> None:
    agents = listing.agents
    trees = [agent for agent in agents if isinstance(agent, Agent)]
    rows = [cells(agent) for agent in agents]
    # Why there are no figures is said below: in a cell it would drive the others out of sight.
    rows = [
        row if agent.has_answered else [*row[:-1], ""]
        for agent, row in zip(agents, rows, strict=True)
    ]
    if any(agent.has_answered for agent in trees):
        rows.append(total_cells(trees))
    if listing.store is not None and (count := len(agents) - len(trees)):
        rows.append(store_cells(count, listing.store))
    keep = _fitting(rows, _width())
    output.table(
        [COLUMNS[at].title for at in keep],
        [[row[at] for at in keep] for row in rows],
        right=[column.title for column in COLUMNS if column.is_figure],
        is_whole=True,
    )
    for agent in trees:
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
