"""One agent of the demonstration in JavaScript: bindings/node/demo/member.js, as member.py is.

It is there in a working copy in which the package for Node was built.
"""

import fcntl
import os
import shutil
import socket
from pathlib import Path
from typing import Final

from agentmem.errors import Unsupported

_PACKAGE: Final = Path(__file__).resolve().parents[3] / "bindings" / "node"
# Where the process finds its socket and the pipe.
_FEED, _PIPE = 3, 4


def check() -> None:
    """Refuse early what cannot be done here.

    Raises:
        Unsupported: Node is missing, or its package was not built.
    """
    if shutil.which("node") is None:
        raise Unsupported("agents in Node need node, version 20 or later, in PATH")
    if not (_PACKAGE / "dist" / "index.js").is_file():
        raise Unsupported(
            "agents in Node need libagentmem-node, which is built in a working copy:"
            f" npm install --prefix {_PACKAGE}"
        )


def perform(daemon: Path, number: int, seed: int, fed: socket.socket, pipe: int) -> None:
    """Become agent `number`: do what frames from `fed` say, and say over `pipe` how far that is."""
    # Out of the way first: either may lie where the other belongs.
    fed_at, pipe_at = (fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 10) for each in (fed, pipe))
    os.dup2(fed_at, _FEED)
    os.dup2(pipe_at, _PIPE)
    # One that was told to collect garbage has no copy of what it has put.
    options = ["--expose-gc", "--max-semi-space-size=1", "--single-threaded-gc"]
    program = str(_PACKAGE / "demo" / "member.js")
    os.execvp("node", ["node", *options, program, str(daemon), str(number), str(seed)])
