"""The environment that a child is to have, as it is passed on: a file in memory, and its digest."""

import hashlib
import os
import time
from collections.abc import Mapping
from typing import NamedTuple, Self

from agentmem.errors import InvalidArgument
from agentmem.zygote import wire

_given = ""


class Environment(NamedTuple):
    """One that can be passed on, and has to be closed."""

    text: bytes
    """`NAME=VALUE`, with a NUL between two."""
    digest: str
    """What tells it from others."""
    file: int
    """A descriptor of a file in memory that holds the text."""

    @classmethod
    def of(cls, text: bytes) -> Self:
        """One that can be passed on.

        Raises:
            InvalidArgument: It is too long.
        """
        if len(text) > wire.MESSAGE_BYTES_MAX:
            raise InvalidArgument(
                f"an environment takes {len(text)} bytes, and a child is given"
                f" {wire.MESSAGE_BYTES_MAX} at most: pass a file"
            )
        digest = hashlib.blake2b(text, digest_size=16).hexdigest()
        return cls(text, digest, wire.file_of("environment", text))

    def close(self) -> None:
        """What was passed on stays."""
        os.close(self.file)


def text_of(variables: Mapping[str, str]) -> bytes:
    """The text that says them.

    Raises:
        InvalidArgument: One of them cannot be in an environment.
    """
    for name, value in variables.items():
        if not name or "=" in name or "\0" in name + value:
            raise InvalidArgument(f"{name!r} cannot be a variable of the environment, as it is")
    try:
        return os.fsencode("\0".join(f"{name}={value}" for name, value in variables.items()))
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"a variable of the environment is no text: {error}") from error


def given() -> str:
    """Digest of the one that this process was given last; empty before any."""
    return _given


def surround(digest: str, file: int) -> None:
    """Make that one this process's, unless it is already.

    Raises:
        InvalidArgument: It cannot be one.
    """
    global _given
    if digest == _given:
        return
    try:
        text = os.fsdecode(wire.content(file))
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"an environment cannot be read: {error}") from error
    wanted = dict(each.partition("=")[::2] for each in text.split("\0") if each)
    if "" in wanted:
        raise InvalidArgument("a variable of the environment has no name; give it one")
    zone = os.environ.get("TZ")
    for key in [key for key in os.environ if key not in wanted]:
        del os.environ[key]
    for key, value in wanted.items():
        if os.environ.get(key) != value:
            os.environ[key] = value
    if os.environ.get("TZ") != zone:
        time.tzset()
    _given = digest
