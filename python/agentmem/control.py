"""One request to one supervisor: a JSON object a line, there and back."""

import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentmem import errors, registry
from agentmem.errors import AgentMemError, Io, NotFound

ANSWER_BYTES_MAX = 8 * 1024 * 1024
_BLOCK_BYTES = 64 * 1024


def ask(agents: Path, name: str, request: Mapping[str, Any], *, timeout_s: float) -> dict[str, Any]:
    """The supervisor's answer, once it says `ok`.

    Args:
        agents: the folder of the registry.
        name: the agent.
        request: what is asked, with `op`.
        timeout_s: for all of it.

    Raises:
        NotFound: Nobody listens under that name.
        Io: It did not answer in time, or not in the way that was agreed.
        AgentMemError: What the supervisor says, with its class.
    """
    line = json.dumps(request).encode() + b"\n"
    try:
        answer = json.loads(_exchange(agents, name, line, time.monotonic() + timeout_s))
    except TimeoutError as error:
        raise Io(f"agent {name!r} did not answer within {timeout_s:g} s") from error
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise NotFound(f"no agent {name!r} is running; agentmem ps lists them") from error
    except (OSError, ValueError, RecursionError) as error:
        raise Io(f"agent {name!r} answered with nothing that can be read: {error}") from error
    if not isinstance(answer, dict):
        raise Io(f"agent {name!r} answered with something else than an object")
    if answer.get("ok") is not True:
        raise said(f"agent {name!r}", answer)
    return answer


def _exchange(agents: Path, name: str, line: bytes, deadline_s: float) -> bytes:
    """Send one line, and read one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_left(deadline_s))
        with registry.address(agents / f"{name}.sock") as address:
            connection.connect(address)
        connection.sendall(line)
        return _line(connection, deadline_s)


def _line(connection: socket.socket, deadline_s: float) -> bytes:
    received = bytearray()
    while not received.endswith(b"\n"):
        connection.settimeout(_left(deadline_s))
        block = connection.recv(_BLOCK_BYTES)
        if not block:
            break
        received += block
        if len(received) > ANSWER_BYTES_MAX:
            raise ValueError(f"more than {ANSWER_BYTES_MAX} bytes")
    return bytes(received)


def _left(deadline_s: float) -> float:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def said(whom: str, answer: Mapping[str, Any]) -> AgentMemError:
    """The exception that an answer of `whom` names."""
    kind = getattr(errors, str(answer.get("error")), None)
    text = answer.get("text")
    if not (isinstance(kind, type) and issubclass(kind, AgentMemError)):
        kind = Io
    return kind(f"{whom}: {text if isinstance(text, str) else 'it refused, without a word'}")
