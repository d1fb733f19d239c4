"""`agentmem df`."""

from typing import Any

import click

from agentmem.cli.output import Output, with_output
from agentmem.cli.where import Where, with_store
from agentmem.units import format_bytes

_SHARING = ("logical_bytes", "stored_bytes", "saved_bytes", "shared_bytes")
_PLACES = ("resident_bytes", "disk_bytes")


@click.command()
@with_store
@with_output
def df(output: Output, where: Where) -> None:
    """Show bytes by kind, tier and sharing, of the daemon's store or of a stored one."""
    with where.open() as mem:
        figures = mem.stats()
    if output.json:
        output.record({name: figures[name] for name in ("by_kind", "by_tier", *_SHARING, *_PLACES)})
    else:
        _print(output, figures)


def _print(output: Output, figures: dict[str, Any]) -> None:
    columns = ["count", "logical", "stored"]
    output.table(
        ["kind", *columns],
        [
            [
                kind,
                f"{row['count']:,}",
                format_bytes(row["logical_bytes"]),
                format_bytes(row["stored_bytes"]),
            ]
            for kind, row in figures["by_kind"].items()
        ],
        right=columns,
    )
    columns = ["count", "bytes"]
    output.table(
        ["tier", *columns],
        [
            [tier, f"{row['count']:,}", format_bytes(row["bytes"])]
            for tier, row in figures["by_tier"].items()
        ],
        right=columns,
    )
    meanings = {
        "logical_bytes": "what agents hold",
        "stored_bytes": "what is kept of it",
        "saved_bytes": "saved by sharing and compression",
        "shared_bytes": "held by two agents or more",
        "resident_bytes": "in RAM",
        "disk_bytes": "on disk",
    }
    output.table(
        ["sharing", "bytes"],
        [[text, format_bytes(figures[name])] for name, text in meanings.items()],
        right=["bytes"],
    )
