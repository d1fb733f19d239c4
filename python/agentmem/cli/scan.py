"""`agentmem scan`."""

import math
from pathlib import Path

import click

from agentmem.cli.bar import Bar
from agentmem.cli.output import Output, with_output
from agentmem.report.survey import Survey, survey
from agentmem.report.transcripts import usual_folders
from agentmem.units import format_bytes

# Where no bar can be shown, the first figures come as a line, this long after the start.
_FIRST_FIGURES_AFTER_S = 5.0


@click.command()
@click.argument(
    "folders",
    metavar="[DIR]...",
    nargs=-1,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)
@click.option(
    "--seconds-max",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    help="Then report on what has been measured: a sample of whole folders. 0: measure all.",
)
@with_output
def scan(output: Output, folders: tuple[Path, ...], seconds_max: float) -> None:
    """See how much transcripts hold, and would shrink to.

    Reads what Claude Code and Codex keep, or the transcripts in the given folders, and changes
    nothing. The last figure is measured by storing everything in a store that is thrown away.
    """
    found = _follow(output, list(folders) or usual_folders(), seconds_max or math.inf)
    for line in found.unreadable:
        output.message(f"cannot read {line}")
    if output.json:
        output.record(found.as_record())
    else:
        _print(output, found)


def _follow(output: Output, folders: list[Path], seconds_max: float) -> Survey:
    """Measure, and show on stderr how far it is; the last figures."""
    with Bar(output, "looking for transcripts") as bar:
        is_shown = bar.is_shown
        for found in survey(folders, seconds_max=seconds_max):
            bar.show(found.measured_bytes, found.file_bytes, _so_far(found))
            if not is_shown and not found.is_done and found.seconds > _FIRST_FIGURES_AFTER_S:
                output.message(f"so far: {_so_far(found)}")
                is_shown = True
    return found


def _so_far(found: Survey) -> str:
    return (
        f"{found.conversations} conversations, {format_bytes(found.logical_bytes)}"
        f" -> {format_bytes(found.stored_bytes)}"
    )


def _print(output: Output, found: Survey) -> None:
    """The figures for people, and how far they reach."""
    folders = " and ".join(found.folders)
    if found.conversations:
        _print_table(output, found)
        lines = [f"Measured by storing everything in {folders}, and forgetting it again."]
    else:
        lines = [f"Nothing to scan: no transcripts in {folders}."]
    if found.is_sample:
        whole = found.stored_bytes * found.file_bytes / found.measured_bytes
        lines = [
            f"A sample of {folders}: {found.measured_files:,} of {found.files:,} files"
            f" ({format_bytes(found.measured_bytes)} of {format_bytes(found.file_bytes)}), whole"
            f" folders picked at random for {found.seconds:.0f} s.",
            f"If the rest is like it, agentmem would keep about {format_bytes(whole)} of all."
            " --seconds-max 0 measures it.",
        ]
    for line in lines:
        output.console().print(line, markup=False, soft_wrap=True)


def _print_table(output: Output, found: Survey) -> None:
    def share(amount: int) -> str:
        return f"{100 * amount / found.logical_bytes:.1f} %"

    repeated, within = found.repeated_message_bytes, found.repeated_text_bytes
    output.table(
        ["found", "amount", "of bytes", ""],
        [
            ["conversations", f"{found.conversations:,}", "", ""],
            ["messages", f"{found.messages:,}", "", ""],
            ["bytes", format_bytes(found.logical_bytes), "", ""],
            [
                "in messages that repeat",
                format_bytes(repeated),
                share(repeated),
                "forks, resumes, snapshots",
            ],
            ["repeated in a message", format_bytes(within), share(within), "mostly tool output"],
            [
                "agentmem would keep",
                format_bytes(found.stored_bytes),
                share(found.stored_bytes),
                f"{found.reduction:.1f} times less",
            ],
        ],
        right=["amount", "of bytes"],
    )
