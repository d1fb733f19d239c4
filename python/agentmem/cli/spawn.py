"""`agentmem spawn`: agents forked from a zygote, with this process standing in for them."""

import os
import resource
import select
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import click

from agentmem.cli.duration import duration_ms
from agentmem.cli.output import Output, with_output
from agentmem.cli.prefix import Prefix, agent_name, count_option
from agentmem.errors import Unreachable
from agentmem.zygote import Child, Zygote

# What a terminal or another process may send to a command; a child's group is not the terminal's.
_PASSED_ON = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
)


# No interspersed arguments: what follows the first argument is the module's.
@click.command(cls=Prefix, context_settings={"allow_interspersed_args": False})
@click.option(
    "--zygote",
    "module",
    required=True,
    metavar="MODULE[:FUNCTION]",
    help="What the parent imports, and the function that a child calls (main).",
)
@click.option("--name", callback=agent_name, help="What the agent is called; else MODULE-PID.")
@click.option("--importance", type=click.IntRange(0, 100), help="Whose memory goes last.")
@count_option
@click.option(
    "--idle-after",
    type=duration_ms,
    default="10m",
    show_default=True,
    metavar="TIME",
    help="When a zygote that this starts ends, once nobody needs it.",
)
@click.option("--no-huge-pages", is_flag=True, help="Leave its heap on pages of 4 KiB.")
@click.option("--stop", is_flag=True, help="End the zygote; its children go on.")
@click.option("--status", is_flag=True, help="Show the zygote, and start none.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@with_output
def spawn(
    output: Output,
    /,
    module: str,
    arguments: tuple[str, ...],
    *,
    idle_after: int,
    no_huge_pages: bool,
    stop: bool,
    status: bool,
    **child: Any,
) -> None:
    """Fork an agent from a Python parent that has imported MODULE, and wait for it.

    The parent is started where there is none, and shared by all that spawn the same module. The
    agent is registered with the daemon. Ends as the child ends, and with 125 when agentmem itself
    fails; of several, with what the first that failed ended with.
    """
    # As `python -m` does: a module is first looked for here.
    sys.path.insert(0, os.getcwd())
    if stop or status:
        _ask(output, module, stop=stop)
        return
    zygote = Zygote(module, idle_after_s=idle_after / 1000, huge_pages=not no_huge_pages)
    with zygote:
        _end_as(_run(zygote, arguments, **child))


def _ask(output: Output, module: str, *, stop: bool) -> None:
    try:
        zygote = Zygote(module, start=False)
    except Unreachable as error:
        output.message(str(error))
        return
    with zygote:
        status = zygote.status()
        if stop:
            zygote.stop()
    if output.json:
        output.record(status)
    else:
        output.table(["zygote", ""], [[key, str(value)] for key, value in status.items()])


def _run(
    zygote: Zygote,
    arguments: tuple[str, ...],
    *,
    name: str | None,
    count: int | None,
    importance: int | None,
) -> list[int]:
    """Return codes of the children, in their order."""
    family = _Family()
    for number in range(1, (count or 1) + 1):
        numbered = f"{name}-{number}" if name and count else name
        family.bear(partial(zygote.spawn, *arguments, name=numbered, importance=importance))
    children = family.children
    waiting = {child.fileno(): child for child in children}
    poll = select.poll()
    for descriptor in waiting:
        poll.register(descriptor, select.POLLIN)
    while waiting:
        for descriptor, _ in poll.poll():
            waiting.pop(descriptor).wait()
            poll.unregister(descriptor)
    codes = [child.wait() for child in children]
    for child in children:
        child.close()
    return codes


class _Family:
    """What is sent to this process goes to its children; they stop and go on when it does."""

    def __init__(self) -> None:
        self.children: list[Child] = []
        self._sent: set[int] = set()
        self._is_bearing = self._is_stop_due = False
        self._heeded = {
            number for number in _PASSED_ON if signal.getsignal(number) != signal.SIG_IGN
        }
        for number in self._heeded:
            signal.signal(number, self._pass_on)
        signal.signal(signal.SIGTSTP, self._stop)

    def bear(self, spawn: Callable[[], Child]) -> None:
        """One more, which hears of everything, also of what was sent while it was being born."""
        self._is_bearing = True
        child = spawn()
        # Meanwhile nothing is sent: it would be heard twice, or not at all.
        heeded = self._heeded | {signal.SIGTSTP}
        signal.pthread_sigmask(signal.SIG_BLOCK, heeded)
        self.children.append(child)
        for number in sorted(self._sent):
            child.send_signal(number, group=True)
        self._is_bearing = False
        signal.pthread_sigmask(signal.SIG_UNBLOCK, heeded)
        if self._is_stop_due:
            self._is_stop_due = False
            self._stop()

    def _pass_on(self, number: int, _: object) -> None:
        self._sent.add(number)
        self._send(number)

    def _send(self, number: int) -> None:
        for child in self.children:
            child.send_signal(number, group=True)

    def _stop(self, *_: object) -> None:
        if self._is_bearing:
            # The one that is being born would go on alone.
            self._is_stop_due = True
            return
        # They have no terminal, and in a group without one SIGTSTP does nothing.
        self._send(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        self._send(signal.SIGCONT)


def _end_as(codes: list[int]) -> NoReturn:
    """End with the first of `codes` that is not 0; one that is negative is a signal's number."""
    code = next(filter(None, codes), 0)
    if code < 0:
        # Whoever waits for this process sees the same signal; a core of it would be of no use.
        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)
