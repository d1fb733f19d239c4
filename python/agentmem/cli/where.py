"""Which store a command speaks to: the daemon's, or one in a folder that no program has open."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

import click

import agentmem
from agentmem import registry
from agentmem.errors import Unreachable
from agentmem.report.stored import open_existing

P = ParamSpec("P")
R = TypeVar("R")

_TOKEN_BYTES_MAX = 4096


class Where(NamedTuple):
    """What the command line said of it."""

    path: Path | None
    socket: Path
    domain: str | None
    token: str | None

    def open(self) -> agentmem.Store:
        """The store; no daemon is started for it.

        Raises:
            Unreachable: No daemon listens; the text says what to do.
            NotFound: There is no store in the folder.
            StoreLocked: A running program has it open.
        """
        if self.path is not None:
            return open_existing(self.path)
        return self.connect()

    def make(self) -> agentmem.Store:
        """The same, where a folder without a store becomes one.

        Raises:
            Unreachable: No daemon listens.
            StoreLocked: A running program has the folder open.
        """
        return self.connect() if self.path is None else agentmem.open(self.path)

    def connect(self) -> agentmem.Store:
        """A session with the daemon that runs.

        Raises:
            Unreachable: None does.
        """
        try:
            return agentmem.connect(self.socket, domain=self.domain, token=self.token, start=False)
        except Unreachable as error:
            raise Unreachable(
                f"no daemon listens at {self.socket}: agentmem daemon --background starts one"
            ) from error

    def __str__(self) -> str:
        if self.path is not None:
            return str(self.path)
        return f"the daemon at {self.socket}" + (f", domain {self.domain}" if self.domain else "")


def with_daemon(command: Callable[P, R]) -> Callable[P, R]:
    """Give a command the options of a session, and `where` as an argument."""
    return _given(command)


def with_store(command: Callable[P, R]) -> Callable[P, R]:
    """The same, and a folder instead, by `--path`."""
    return click.option(
        "--path",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Folder of a store that no program has open, instead of the daemon.",
    )(_given(command))


def with_target(command: Callable[P, R]) -> Callable[P, R]:
    """The same, where the folder may be a new one, for `Where.make`."""
    return click.option(
        "--path",
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder of a store that no program has open, or of a new one, instead of the daemon.",
    )(_given(command))


def _given(command: Callable[P, R]) -> Callable[P, R]:
    from functools import update_wrapper

    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        path, socket, domain, token_file = (
            kwargs.pop(name, None) for name in ("path", "socket", "domain", "token_file")
        )
        kwargs["where"] = _where(path, socket, domain, token_file)
        return command(*args, **kwargs)

    wrapped: Callable[P, R] = update_wrapper(run, command)
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


_OPTIONS = (
    click.option(
        "--socket",
        type=click.Path(path_type=Path),
        help="Where the daemon listens, instead of $AGENTMEM_SOCKET.",
    ),
    click.option("--domain", metavar="NAME", help="A trust domain; needs --token-file."),
    click.option(
        "--token-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Has the domain's token on its first line.",
    ),
)


def _where(path: object, socket: object, domain: object, token_file: object) -> Where:
    assert path is None or isinstance(path, Path)
    assert domain is None or isinstance(domain, str)
    if (domain is None) != (token_file is None):
        raise click.UsageError("a domain is entered by --domain and --token-file together")
    if path is not None and (socket is not None or domain is not None):
        raise click.UsageError("--path names a folder: --socket and --domain are of the daemon")
    token = None
    if isinstance(token_file, Path):
        with token_file.open("rb") as file:
            token = file.read(_TOKEN_BYTES_MAX).split(b"\n")[0].decode(errors="replace").rstrip()
    return Where(path, socket if isinstance(socket, Path) else registry.socket(), domain, token)
