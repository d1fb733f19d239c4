"""Amounts of bytes on the command line."""

import re

import click


def size(text: str) -> int:
    """The bytes that `text` means: a number, or text such as "512M" or "2G" (powers of 1024).

    Raises:
        BadParameter: It means none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise click.BadParameter(f"{text!r} is not a size: give bytes, or text such as 512M")
    exponent = "KMGT".index(found[2].upper()) + 1 if found[2] else 0
    return int(float(found[1]) * 1024**exponent)
