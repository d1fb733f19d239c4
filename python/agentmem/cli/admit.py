"""`agentmem admit`."""

import sys

import click

from agentmem import daemon, fleet, registry
from agentmem.admission import decide, fleet_left
from agentmem.cli.output import Output, with_output
from agentmem.cli.size import size
from agentmem.errors import Unreachable
from agentmem.process import mem_available_bytes, mem_total_bytes


@click.command()
@click.option("--need", type=size, required=True, metavar="SIZE", help="What it will take: 1G.")
@with_output
def admit(output: Output, need: int) -> None:
    """Say whether there is room for another agent: exits 0 if so, and 1 if not.

    Room is what the machine has available, without a reserve of 5 % (256 MiB at least), and with
    what idle agents would give once they are paged out. Where a daemon governs content and agents
    together (`agentmem daemon --memory-max`), its budget must leave as much.
    """
    try:
        left = fleet_left(daemon.figures(registry.socket()))
    except Unreachable:
        left = None
    room = decide(need, mem_total_bytes(), mem_available_bytes(), fleet.agents(), left)
    if output.json:
        output.record(room._asdict() | {"why": room.why})
    else:
        click.echo(room.why)
    if not room.is_room:
        sys.exit(1)
