"""Amounts of bytes as people read them."""


def format_bytes(amount: float) -> str:
    """`amount` bytes in the unit that keeps the figure under 1024, such as "1.5 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(amount) < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
