"""`agentmem daemon`: becomes agentmemd."""

import os
from typing import NoReturn

import click

from agentmem.daemon import program


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def daemon(options: tuple[str, ...]) -> NoReturn:
    """Serve all of your processes from one store; --help lists the options."""
    path = program()
    os.execv(path, ["agentmemd", *options])
