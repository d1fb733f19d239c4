"""The screen of `agentmem top`."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar, Literal

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.css.query import NoMatches
from textual.widgets import DataTable, Footer, Static

from agentmem import fleet
from agentmem.cli.control import DONE
from agentmem.cli.graph import History, graph
from agentmem.cli.ps import COLUMNS, cells
from agentmem.errors import AgentMemError
from agentmem.fleet import Agent
from agentmem.listing import ApiAgent, Listing
from agentmem.process import mem_available_bytes, mem_total_bytes
from agentmem.registry import in_order
from agentmem.units import format_bytes

_GRAPH_LINES = 4
_SPARK_WIDTH = 20
_SPARK = "resident over time"
_SPARK_AT = 3
_STATE_AT = 2

Key = Callable[[Agent | ApiAgent], Any]
_KEYS: dict[str, Key] = {
    "name": lambda agent: in_order(agent.name),
    "type": lambda agent: agent.type,
    "state": lambda agent: agent.state,
    "procs": lambda agent: agent.processes or 0,
    "before": lambda agent: agent.resident_before_bytes or 0,
    "now": lambda agent: agent.resident_bytes,
    "compressed": lambda agent: agent.compressed_bytes,
    "on SSD": lambda agent: agent.ssd_bytes,
    "ratio": lambda agent: agent.ratio or 0,
    "woken": lambda agent: agent.woken or 0,
    "wake p50/p99": lambda agent: agent.wake_ms_p50 or 0,
    "last wake": lambda agent: agent.last_wake or "",
}
_STYLES = {
    "running": "green",
    "idle": "yellow",
    "paged_out": "cyan",
    "frozen": "blue",
    "waking": "magenta",
    "active": "green",
    "paused": "blue",
    "absent": "dim",
}
_IS_FIGURE = {column.title: column.is_figure for column in COLUMNS}


class Top(App[None]):
    """A table of agents with graphs above and beside it.

    Args:
        listing: what there is at the start.
        look: what looks again.
        interval_s: how often.
        command: what has a supervisor do something.
    """

    TITLE = "agentmem top"
    ENABLE_COMMAND_PALETTE = False
    CSS = f"""
    #summary {{ padding: 0 1; }}
    #graph {{ height: {_GRAPH_LINES}; padding: 0 1; color: $accent; }}
    DataTable {{ height: 1fr; }}
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        ("p", "command('pause')", "Pause"),
        ("r", "command('resume')", "Resume"),
        ("w", "command('wake')", "Wake"),
        ("n", "sort('name')", "By name"),
        ("s", "sort('state')", "state"),
        ("b", "sort('before')", "before"),
        ("m", "sort('now')", "now"),
        ("c", "sort('compressed')", "compressed"),
        ("x", "sort('ratio')", "ratio"),
        ("k", "sort('woken')", "woken"),
        ("q", "quit", "Quit"),
    ]

    def __init__(
        self,
        listing: Listing,
        *,
        look: Callable[[], Listing],
        interval_s: float = 1.0,
        command: Callable[[str, str], Any] = fleet.command,
    ) -> None:
        super().__init__()
        self._listing = listing
        self._interval_s = interval_s
        self._look = look
        self._command = command
        self._history = History()
        self._sorted_by, self._is_reversed = "name", False
        self._is_looking = False

    def compose(self) -> ComposeResult:
        """The widgets, from top to bottom."""
        yield Static(id="summary", markup=False)
        yield Static(id="graph", markup=False)
        table: DataTable[Text] = DataTable(cursor_type="row", zebra_stripes=True)
        for at, column in enumerate(COLUMNS):
            if at == _SPARK_AT:
                table.add_column(_SPARK, key=_SPARK, width=_SPARK_WIDTH)
            table.add_column(_title(column.title), key=column.title)
        yield table
        yield Footer()

    def on_mount(self) -> None:
        """Show what there is, and look again from time to time."""
        self.show(self._listing)
        self.set_interval(self._interval_s, self._begin_look)

    def _begin_look(self) -> None:
        if not self._is_looking:
            self._is_looking = True
            self._look_again()

    @work(thread=True)
    def _look_again(self) -> None:
        try:
            listing = self._look()
        except AgentMemError as error:
            self.call_from_thread(self.refused, str(error))
        else:
            self.call_from_thread(self.show, listing)
        finally:
            self._is_looking = False

    def refused(self, text: str) -> None:
        """Say why there was nothing to see."""
        with suppress(NoMatches):  # As below.
            self.query_one("#summary", Static).update(text)

    def show(self, listing: Listing) -> None:
        """Take this as what there is now."""
        self._listing = listing
        self._history.add(listing.agents, listing.store)
        # What was looked for last may arrive when the screen is going, or gone.
        with suppress(NoMatches):
            self._redraw()

    def _redraw(self) -> None:
        table = self._table()
        selected, scrolled = self._selected(), table.scroll_offset
        agents = sorted(
            self._listing.agents,
            key=lambda agent: (_KEYS[self._sorted_by](agent), in_order(agent.name)),
            reverse=self._is_reversed,
        )
        with self.batch_update():
            self.query_one("#summary", Static).update(_summary(self._listing))
            self.query_one("#graph", Static).update(self._graph())
            table.clear()
            for agent in agents:
                table.add_row(*self._row(agent), key=_row_key(agent))
            if selected in table.rows:
                table.move_cursor(row=table.get_row_index(selected), scroll=False)
            table.scroll_to(*scrolled, animate=False, immediate=True)

    def _table(self) -> "DataTable[Text]":
        return self.query_one(DataTable)

    def _graph(self) -> str:
        width = max(self.size.width - 2, 1)
        return "\n".join(graph(self._history.total, width, _GRAPH_LINES))

    def _row(self, agent: Agent | ApiAgent) -> list[Text]:
        row = [
            Text(cell, justify="right" if column.is_figure else "left")
            for column, cell in zip(COLUMNS, cells(agent), strict=True)
        ]
        row[_STATE_AT].stylize(_STYLES.get(agent.state, "red"))
        # What is small against what it was looks small.
        top = agent.resident_before_bytes or 0
        (spark,) = graph(self._history.of(agent), _SPARK_WIDTH, top=top)
        row.insert(_SPARK_AT, Text(spark, style="cyan"))
        return row

    def _selected(self) -> str:
        """The key of the row under the cursor; empty without any."""
        table = self._table()
        if not table.row_count:
            return ""
        return str(table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value)

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """Sort by the column whose title was clicked."""
        if event.column_key.value in _KEYS:
            self.action_sort(str(event.column_key.value))

    def action_sort(self, column: str) -> None:
        """Sort by a column, figures from the largest down; once more turns it round."""
        if column == self._sorted_by:
            self._is_reversed = not self._is_reversed
        else:
            self._sorted_by, self._is_reversed = column, _IS_FIGURE[column]
        self._redraw()

    def action_command(self, op: Literal["pause", "resume", "wake"]) -> None:
        """Have the supervisor of the selected agent do something."""
        kind, _, name = self._selected().partition(" ")
        if kind == Agent.type:
            self._send(name, op)
        elif name:
            text = f"{name} is an agent of the API: its own program pauses and resumes it"
            self.notify(text, severity="warning", markup=False)

    @work(thread=True)
    def _send(self, name: str, op: str) -> None:
        try:
            self._command(name, op)
        except AgentMemError as error:
            self.call_from_thread(self.notify, str(error), severity="error", markup=False)
        else:
            self.call_from_thread(self.notify, f"{name}: {DONE[op]}", markup=False, timeout=2)
            self.call_from_thread(self._begin_look)


def _title(title: str) -> Text:
    return Text(title, justify="right" if _IS_FIGURE[title] else "left")


def _row_key(agent: Agent | ApiAgent) -> str:
    """A tree and an agent of the API may have the same name."""
    return f"{agent.type} {agent.name}"


def _summary(listing: Listing) -> str:
    """Two lines above the graph, and a third for the daemon."""
    agents, store = listing.agents, listing.store
    total = fleet.totals(agent for agent in agents if isinstance(agent, Agent))
    if store is not None:
        daemon = (
            f"\ndaemon: agents hold {format_bytes(store['logical_bytes'])}, resident"
            f" {format_bytes(store['resident_bytes'])}, compressed"
            f" {format_bytes(store['warm_bytes'])} of it,"
            f" on SSD {format_bytes(store['cold_bytes'])}"
        )
    else:
        daemon = f"\n{listing.note}" if listing.note else ""
    states = [agent.state for agent in agents]
    counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
    ratio = "" if total.ratio is None else f", {total.ratio:.1f} times less RAM"
    return (
        f"{len(agents)} agents{f' ({counts})' if counts else ''}, {total.processes} processes;"
        f" {format_bytes(mem_available_bytes())} available of {format_bytes(mem_total_bytes())}\n"
        f"resident {format_bytes(total.resident_bytes)} (before"
        f" {format_bytes(total.resident_before_bytes)}), compressed"
        f" {format_bytes(total.compressed_bytes)}, on SSD"
        f" {format_bytes(total.ssd_bytes)}{ratio}{daemon}"
    )
