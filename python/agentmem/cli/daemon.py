"""`agentmem daemon`: becomes agentmemd."""

import os
from typing import NoReturn

import click

from agentmem.daemon import program


@click.command()
@click.option("--foreground", "verb", flag_value="--foreground", help="Stay here (the default).")
@click.option(
    "--background", "verb", flag_value="--background", help="Return once agents are served."
)
@click.option("--stop", "verb", flag_value="--stop", help="End the one that runs, and wait.")
@click.option("--socket", metavar="PATH", help="Where to listen, instead of $AGENTMEM_SOCKET.")
@click.option(
    "--config", metavar="FILE", help="Instead of $XDG_CONFIG_HOME/agentmem/agentmemd.toml."
)
@click.option(
    "--memory-max", metavar="SIZE", help="Budget of the fleet, managed trees included: 8G."
)
@click.option("--metrics-port", metavar="N", help="Metrics on this port of 127.0.0.1 too.")
@click.option("--path", metavar="DIR", help="Folder of the cold tier; none for a temporary one.")
@click.option("--no-keeper", is_flag=True, help="No parent that starts it again: systemd does.")
def daemon(verb: str | None, *, no_keeper: bool, **given: str | None) -> NoReturn:
    """Serve all of your processes from one store."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if value]
    if no_keeper:
        options.append("--no-keeper")
    os.execv(program(), ["agentmemd", verb or "--foreground", *options])
