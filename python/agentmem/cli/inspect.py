"""`agentmem inspect` and `agentmem cat`: what something is, and its bytes."""

import sys
from collections.abc import Mapping
from typing import Any

import click

from agentmem.cli.output import Output, with_output
from agentmem.cli.stats import rows
from agentmem.cli.where import Where, with_store
from agentmem.registry import printable
from agentmem.units import format_bytes

_FRAMES_SHOWN = 20
_key = click.argument("key", metavar="ID")


@click.command()
@_key
@with_store
@with_output
def inspect(output: Output, key: str, where: Where) -> None:
    """Say what an SMU or a conversation is: kind, bytes, tier, who shares it, frames, ages.

    ID is a content id or its first digits (four at least), the name of an SMU, or
    AGENT/CONVERSATION. Looking is no use: nothing is promoted for it.
    """
    with where.open() as mem:
        found = mem.inspect(key)
    if output.json:
        output.record(found)
    else:
        _print(output, found)


@click.command()
@_key
@with_store
def cat(key: str, where: Where) -> None:
    """Write the bytes of an SMU or a conversation to stdout.

    ID is what agentmem inspect takes. A conversation comes as it was loaded, and what was appended
    as values comes as one JSON text a line.
    """
    out = sys.stdout.buffer
    with where.open() as mem:
        for piece in mem.pieces(key):
            out.write(piece)
        out.flush()


def _print(output: Output, found: Mapping[str, Any]) -> None:
    frames = found["frames"]
    shown: dict[str, Any] = {
        name: each for name, each in found.items() if name not in ("frames", "holders")
    }
    if holders := found.get("holders"):
        shown["holders"] = [printable(name) for name in holders]
    shown["frames"] = len(frames)
    output.table(["", ""], rows(shown))
    if not frames:
        return
    figures = ["logical", "stored", "items", "age"]
    output.table(
        ["frame", "codec", "where", *figures],
        [
            [
                f"{frame['number']}",
                frame["codec"] or "unreadable",
                _place(frame),
                format_bytes(frame["logical_bytes"]),
                format_bytes(frame["stored_bytes"]),
                f"{frame['items']:,}",
                f"{frame['age_s']:.0f} s",
            ]
            for frame in frames[:_FRAMES_SHOWN]
        ],
        right=["frame", *figures],
    )
    if more := frames[_FRAMES_SHOWN:]:
        output.message(f"{len(more)} more frames: --json has up to 1,000")


def _place(frame: Mapping[str, Any]) -> str:
    places = [name for name, key in (("RAM", "in_ram"), ("SSD", "on_ssd")) if frame[key]]
    return " and ".join(places)
