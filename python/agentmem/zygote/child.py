"""A process that a zygote forked, as it is seen by who asked for it."""

import os
import select
import signal
from collections.abc import Callable
from types import TracebackType
from typing import Self

Ask = Callable[..., list[str]]
"""How its zygote is asked."""


class Child:
    """A process forked by a zygote.

    Nobody else gets its pid while this is open: the zygote keeps it until its exit code is known.
    Use it in a `with` statement, which waits, or close it; what it runs goes on either way.

    Attributes:
        pid: its process, which leads a process group of its own.
        name: what its agent is called.
        returncode: what it ended with, as in `subprocess`: the exit code, or the negative
            number of the signal that killed it; None as long as nobody waited for its end.
    """

    def __init__(self, pid: int, name: str, pidfd: int, ask: Ask) -> None:
        self.pid = pid
        self.name = name
        self.returncode: int | None = None
        self._pidfd = pidfd
        self._ask = ask

    def fileno(self) -> int:
        """Its pidfd, which is readable once it has ended."""
        return self._pidfd

    def poll(self) -> int | None:
        """Its return code, if it has ended.

        Raises:
            Unreachable: It has ended, and the zygote too, which alone knew how.
        """
        return self.returncode if not self._has_ended(0) else self._reap()

    def wait(self, timeout_s: float | None = None) -> int:
        """Its return code, once it has ended.

        Raises:
            TimeoutError: It runs still.
            Unreachable: It has ended, and the zygote too, which alone knew how.
        """
        if self.returncode is not None:
            return self.returncode
        if not self._has_ended(timeout_s):
            raise TimeoutError(f"process {self.pid} runs after {timeout_s:g} s")
        return self._reap()

    def send_signal(self, number: int, *, group: bool = False) -> None:
        """Send it a signal; nothing happens once it has ended.

        Args:
            number: the signal.
            group: whether to send it to what it started as well, as a terminal does.
        """
        if self.returncode is not None or self._pidfd < 0:
            return
        try:
            if group:
                os.killpg(self.pid, number)
            else:
                signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            pass

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Let go of it. It runs on, and nobody will know how it ended."""
        if self._pidfd < 0:
            return
        os.close(self._pidfd)
        self._pidfd = -1
        if self.returncode is None:
            self._ask("forget", str(self.pid))

    def _has_ended(self, timeout_s: float | None) -> bool:
        if self.returncode is not None:
            return True
        if self._pidfd < 0:
            raise ValueError(f"the handle of process {self.pid} is closed")
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))

    def _reap(self) -> int:
        if self.returncode is None:
            self.returncode = int(self._ask("reap", str(self.pid))[0])
        return self.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is None:
            self.wait()
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_pidfd", -1) >= 0:
            os.close(self._pidfd)
