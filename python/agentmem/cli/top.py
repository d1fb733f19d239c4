"""`agentmem top`."""

import sys

import click

from agentmem.cli.duration import duration_ms
from agentmem.cli.output import Output, with_output
from agentmem.cli.ps import show
from agentmem.cli.where import Where, with_daemon
from agentmem.listing import look

_INTERVAL_MS_MIN = 100


@click.command()
@click.option(
    "--interval",
    type=duration_ms,
    default="1s",
    show_default=True,
    metavar="TIME",
    help="How often to look.",
)
@click.option("--once", is_flag=True, help="Look once, and print what agentmem ps prints.")
@with_daemon
@with_output
def top(output: Output, interval: int, once: bool, where: Where) -> None:
    """Watch your agents, and pause, resume or wake them by key.

    A click on a column's title sorts by it, and so do the keys named below. With --json, or
    --once, no terminal is needed.
    """
    listing = look(where.connect)
    if once or output.json:
        show(output, listing, verbose=False)
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("top needs a terminal: give --once, or use agentmem ps")
    from agentmem.cli.top_app import Top

    interval_s = max(interval, _INTERVAL_MS_MIN) / 1000
    Top(listing, interval_s=interval_s, look=lambda: look(where.connect)).run()
