"""Lengths of time on the command line."""

import re

import click

_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def duration_ms(text: str) -> int:
    """The milliseconds that `text` means: a number of seconds, or text such as "30s" or "10m".

    Raises:
        BadParameter: It means none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|)", text.strip(), re.IGNORECASE)
    if found is None:
        raise click.BadParameter(
            f"{text!r} is not a length of time: give seconds, or text such as 30s, 10m or 1h"
        )
    return int(float(found[1]) * _MS[found[2].lower() or "s"])
