"""Amounts of bytes as people read them."""


def format_bytes(amount: float) -> str:
    """`amount` bytes in the unit that keeps the figure under 1024, such as "1.5 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(amount) < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def short_bytes(amount: float) -> str:
    """`amount` bytes in five characters at most, such as "1.5G", for tables of many columns."""
    units = iter("BKMGT")
    unit = next(units)
    while abs(amount) >= 999.5 and unit != "T":
        amount, unit = amount / 1024, next(units)
    return f"{amount:.1f}{unit}" if unit != "B" and abs(amount) < 9.95 else f"{amount:.0f}{unit}"
