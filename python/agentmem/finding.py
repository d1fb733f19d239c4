"""One thing that agentmem uses, as it was found on a machine."""

from typing import Literal, NamedTuple

Status = Literal["ok", "limited", "missing"]


class Finding(NamedTuple):
    """One thing that agentmem uses, as it is on this machine."""

    name: str
    status: Status
    """`ok`; `limited`: works, with less; `missing`."""
    detail: str
    """What was found."""
    way_out: str = ""
    """What to do about it; empty when there is nothing to do."""
    required: bool = False
    """Whether agentmem cannot work without it."""
