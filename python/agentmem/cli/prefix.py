"""Commands that run another: errors of theirs are told apart from those of what they run."""

import re
from typing import Any

import click

from agentmem.errors import AgentMemError
from agentmem.registry import AGENTS_MAX, NAME

EXIT_CODE = 125
"""What a command that runs others ends with when it fails itself, as env, nice and timeout do."""


class Prefix(click.Command):
    """A command whose own errors are one line and 125: none looks as if its agent had made it."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """See `click.Command`."""
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:
            raise _failure(error.format_message()) from error

    def invoke(self, ctx: click.Context) -> Any:
        """See `click.Command`."""
        try:
            return super().invoke(ctx)
        except AgentMemError as error:
            raise _failure(str(error)) from error
        except click.UsageError as error:
            raise _failure(error.format_message()) from error


class _Failure(click.ClickException):
    exit_code = EXIT_CODE


def _failure(text: str) -> click.ClickException:
    return _Failure(" ".join(text.split()))


def agent_name(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """The callback of an option that names an agent."""
    if value is not None and re.fullmatch(NAME, value) is None:
        raise click.BadParameter(
            f"{value!r}: a name has up to 64 letters, digits, dots, dashes and underscores, and"
            " begins with a letter or digit"
        )
    return value


count_option = click.option(
    "-n",
    "--count",
    type=click.IntRange(1, AGENTS_MAX),
    metavar="COUNT",
    help="Start so many of it, named NAME-1 and so on.",
)
"""How many agents a command starts."""
