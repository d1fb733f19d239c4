"""`agentmem verify`."""

import sys
from pathlib import Path

import click

from agentmem.cli.output import Output, with_output
from agentmem.cli.where import Where, with_daemon
from agentmem.units import format_bytes


@click.command()
@click.argument(
    "path", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@with_daemon
@with_output
def verify(output: Output, where: Where) -> None:
    """Read and check every frame and every id of the store in PATH, or of the daemon's.

    Exits 1 when something is damaged, and names it.
    """
    with where.open() as mem:
        report = mem.verify()
    if output.json:
        output.record(report)
    else:
        for line in report["damaged"]:
            output.message(f"damaged: {line}")
        output.console().print(
            f"{report['frames']:,} frames, {report['smus']:,} SMUs, {report['messages']:,}"
            f" messages, {format_bytes(report['bytes'])} checked:"
            f" {len(report['damaged']) or 'nothing'} damaged, {report['orphans']} orphans.",
            soft_wrap=True,
        )
    if report["damaged"]:
        sys.exit(1)
