"""`agentmem hint`: runs at every turn of an agent, so it imports next to nothing."""

import os

import click

from agentmem.errors import NotFound

_TIMEOUT_S = 1.0


@click.command()
@click.argument("turn", type=click.Choice(["idle", "active"]))
def hint(turn: str) -> None:
    """Tell the supervisor whether its agent waits for a person, or has something to do.

    Agents call it through hooks (agentmem hooks install). It says nothing, and does nothing where
    $AGENTMEM_AGENT names no agent that runs.
    """
    name = os.environ.get("AGENTMEM_AGENT")
    if not name:
        return
    from agentmem import control, registry

    folder = registry.folder()
    if folder is None or name not in registry.names(folder):
        return
    try:
        control.ask(folder, name, {"op": "hint", "turn": turn}, timeout_s=_TIMEOUT_S)
    except NotFound:
        return  # Its supervisor is gone; the agent runs on, and so does its shell.
