"""`python -m agentmem.zygote MODULE`: a zygote in the foreground."""

import argparse
import os
import socket
import sys

from agentmem import registry
from agentmem.errors import AgentMemError, StoreLocked
from agentmem.zygote import birth, wire
from agentmem.zygote.client import IDLE_AFTER_S, is_there, locked
from agentmem.zygote.place import Place, Target
from agentmem.zygote.server import Server, load


def main() -> int:
    """Import, listen, serve. A child never returns from here."""
    given = _arguments()
    if given.ready is not None:
        _leave_caller()
    try:
        module = Target.parse(given.module).module
        place = Place.of(module)
        load(module, huge_pages=given.huge_pages)
        if given.ready is None:
            with locked(place):
                listener = _listen(place)
        else:
            listener = _listen(place)  # Whoever started this has the lock.
    except AgentMemError as error:
        return _refuse(given.ready, error)
    made = place.socket.stat().st_ino
    if given.ready is not None:
        _tell(given.ready, wire.success())
    sockets = Server(module, listener, idle_after_s=given.idle_after).serve()
    if sockets is not None:
        birth.wait(module, *sockets)
    with locked(place):
        # The next one may listen there already.
        if place.socket.exists() and place.socket.stat().st_ino == made:
            place.socket.unlink()
            place.log.unlink(missing_ok=True)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m agentmem.zygote", description=__doc__)
    parser.add_argument("module", metavar="MODULE", help="what to import before the first fork")
    parser.add_argument(
        "--idle-after",
        type=float,
        default=IDLE_AFTER_S,
        metavar="SECONDS",
        help="end when nobody needed it for so long (%(default)s)",
    )
    parser.add_argument(
        "--no-huge-pages",
        dest="huge_pages",
        action="store_false",
        help="leave the heap on pages of 4 KiB",
    )
    # A descriptor that is told when it listens: it runs in the background then.
    parser.add_argument("--ready", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def _leave_caller() -> None:
    """Be nobody's child, so that nobody has to wait for its end, and in no terminal's session."""
    if os.fork() != 0:
        os._exit(0)
    os.setsid()


def _listen(place: Place) -> socket.socket:
    if is_there(place):
        raise StoreLocked(f"a zygote of {place.name} runs already: agentmem spawn --stop ends it")
    place.socket.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with registry.address(place.socket) as address:
        listener.bind(address)
    listener.listen()
    return listener


def _refuse(ready: int | None, error: AgentMemError) -> int:
    if ready is None:
        print(f"agentmem: {error}", file=sys.stderr)
    else:
        _tell(ready, wire.failure(error))
    return 1


def _tell(ready: int, answer: list[str]) -> None:
    with open(ready, "wb") as file:
        file.write(wire.encoded(*answer))


if __name__ == "__main__":
    sys.exit(main())
