"""The command group: what `agentmem` offers, and how its commands are found.

A command's module is imported when the command is used and not before, so that `agentmem --help`
and the shell's completion stay quick however much the commands pull in.
"""

from importlib import import_module
from typing import Any, NamedTuple

import click

import agentmem
from agentmem.errors import AgentMemError


class _Entry(NamedTuple):
    """Where a command is, and its line of help."""

    target: str
    help: str


COMMANDS = {
    "run": _Entry(
        "agentmem.cli.run:run", "Run a command as an agent that shrinks when it is idle."
    ),
    "adopt": _Entry("agentmem.cli.run:adopt", "Supervise a process that runs already."),
    "spawn": _Entry("agentmem.cli.spawn:spawn", "Fork agents from a parent that has imported."),
    "ps": _Entry("agentmem.cli.ps:ps", "List your agents, and what they take."),
    "top": _Entry("agentmem.cli.top:top", "Watch your agents, and pause or wake them."),
    "pause": _Entry("agentmem.cli.control:pause", "Page out and freeze agents until they resume."),
    "resume": _Entry("agentmem.cli.control:resume", "Let paused agents run again."),
    "wake": _Entry("agentmem.cli.control:wake", "Bring back the memory of agents now."),
    "limit": _Entry(
        "agentmem.cli.control:limit", "Change what an agent or a trust domain may hold."
    ),
    "grants": _Entry("agentmem.cli.grants:grants", "List what other trust domains may copy."),
    "revoke": _Entry("agentmem.cli.grants:revoke", "Take such a grant back."),
    "admit": _Entry("agentmem.cli.admit:admit", "Say whether there is room for another agent."),
    "hint": _Entry("agentmem.cli.hint:hint", "Tell the supervisor what its agent is doing."),
    "hooks": _Entry("agentmem.cli.hooks:hooks", "Have agents tell when they are idle."),
    "setup": _Entry("agentmem.cli.setup:setup", "Grant once, as root, what agents need."),
    "daemon": _Entry("agentmem.cli.daemon:daemon", "Serve all of your processes from one store."),
    "scan": _Entry(
        "agentmem.cli.scan:scan", "See how much your own transcripts hold, and would shrink to."
    ),
    "import": _Entry(
        "agentmem.cli.transfer:import_", "Bring transcripts of others into a store, byte for byte."
    ),
    "export": _Entry("agentmem.cli.transfer:export", "Write conversations of a store to files."),
    "demo": _Entry(
        "agentmem.cli.demo:demo", "Hold the memory of 100 agents in a tenth of the RAM."
    ),
    "stats": _Entry("agentmem.cli.stats:stats", "Show the figures of a store, or of one agent."),
    "inspect": _Entry("agentmem.cli.inspect:inspect", "Say what an SMU or a conversation is."),
    "cat": _Entry("agentmem.cli.inspect:cat", "Write the bytes of an SMU or a conversation."),
    "df": _Entry("agentmem.cli.df:df", "Show bytes by kind, tier and sharing."),
    "verify": _Entry("agentmem.cli.verify:verify", "Check every frame of a store."),
    "doctor": _Entry(
        "agentmem.cli.doctor:doctor", "Say what this machine offers and lacks, and the way out."
    ),
    "bench": _Entry("agentmem.cli.bench:bench", "Measure one promise, or all of them."),
}

FIRST_STEPS = """\
agentmem: memory management for fleets of AI agents on Linux

What to do first:

  agentmem scan            read your transcripts, change nothing, say what would be saved
  agentmem run -- claude   run an agent that shrinks to a few MB when it is idle
  agentmem demo            hold 100 agents' memory on this machine, and measure it

`agentmem run` needs a right that ordinary users lack: `sudo agentmem setup` grants it, once.
`agentmem ps` shows what your agents take, `agentmem doctor` what this machine offers, and
`agentmem --help` lists everything.
"""


class _LazyGroup(click.Group):
    """A group whose commands are `COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        entry = COMMANDS.get(name)
        if entry is None:
            return None
        module, attribute = entry.target.split(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command), entry.target
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AgentMemError as error:
            raise click.ClickException(str(error)) from error


@click.group(
    cls=_LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(agentmem.__version__, prog_name="agentmem", message="%(prog)s %(version)s")
@click.pass_context
def app(ctx: click.Context) -> None:
    """Memory management for fleets of AI agents on Linux."""
    if ctx.invoked_subcommand is None:
        click.echo(FIRST_STEPS, nl=False)
