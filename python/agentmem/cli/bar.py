"""Progress bars on stderr, where that is a terminal."""

from typing import Self

from agentmem.cli.output import Output


class Bar:
    """A bar that is shown while it is entered.

    Attributes:
        is_shown: Whether there is anybody to see it.
    """

    def __init__(self, output: Output, text: str = "") -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = output.progress_console()
        self.is_shown = not console.quiet
        self._progress = Progress(
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task(text, total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def show(self, done: int, total: int, text: str) -> None:
        """Say how far it is, in units of whatever is done."""
        self._progress.update(self._task, completed=done, total=total, description=text)
