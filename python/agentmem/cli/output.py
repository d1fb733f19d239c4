"""What every command prints, and where: data to stdout, messages to stderr."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console

P = ParamSpec("P")
R = TypeVar("R")
_WIDTH_IN_A_PIPE = 10_000


class Output:
    """The two ways out of a command, as text for people or as JSON lines for programs.

    Attributes:
        json: whether the caller asked for JSON; then `record` is all that may reach stdout.
    """

    def __init__(self, *, json: bool) -> None:
        self.json = json

    def record(self, record: Mapping[str, Any]) -> None:
        """Print one JSON object, on one line, at once."""
        click.echo(json.dumps(record))

    def table(
        self,
        columns: Sequence[str],
        rows: Iterable[Sequence[str]],
        *,
        title: str | None = None,
        right: Sequence[str] = (),
        is_whole: bool = False,
    ) -> None:
        """Print a table for people.

        Args:
            columns: their titles.
            rows: a cell for each column.
            title: what is above it.
            right: the columns that are figures.
            is_whole: whether a row stays one line, and cells are never shortened in a pipe.
        """
        from rich.table import Table
        from rich.text import Text

        table = Table(
            title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0)
        )
        for column in columns:
            justify: Literal["left", "right"] = "right" if column in right else "left"
            table.add_column(column, justify=justify, no_wrap=is_whole)
        for row in rows:
            # Text, not str: a cell is data, and may hold what Rich takes for markup.
            table.add_row(*(Text(cell) for cell in row))
        console = self.console()
        if is_whole and not console.is_terminal:
            console.width = _WIDTH_IN_A_PIPE
        console.print(table)

    def message(self, text: str) -> None:
        """Print one message for the person at the terminal."""
        click.echo(text, err=True)

    def console(self) -> "Console":
        """Rich's console on stdout; it honours NO_COLOR and drops colours in a pipe."""
        from rich.console import Console

        return Console(file=sys.stdout, highlight=False)

    def progress_console(self) -> "Console":
        """Rich's console on stderr, for progress bars: silent unless that is a terminal."""
        from rich.console import Console

        return Console(file=sys.stderr, highlight=False, quiet=not sys.stderr.isatty())


def with_output(command: Callable[Concatenate[Output, P], R]) -> Callable[P, R]:
    """Give a command the option that all of them share, and an `Output` as first argument."""

    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        return command(Output(json=bool(kwargs.pop("as_json"))), *args, **kwargs)

    return click.option(
        "--json", "as_json", is_flag=True, help="Print JSON: one object, or one object a line."
    )(update_wrapper(run, command))
