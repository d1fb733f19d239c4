"""`agentmem doctor`."""

import sys

import click

from agentmem.cli.output import Output, with_output
from agentmem.machine import Finding, examine

_COLOURS = {"ok": "green", "limited": "yellow", "missing": "red"}


@click.command()
@with_output
def doctor(output: Output) -> None:
    """Say what this machine offers and lacks, each lack with the way out.

    Exits 1 when something is missing that agentmem cannot work without.
    """
    findings = examine()
    if output.json:
        for finding in findings:
            output.record(finding._asdict())
    else:
        _print(output, findings)
    if any(finding.required and finding.status == "missing" for finding in findings):
        sys.exit(1)


def _print(output: Output, findings: list[Finding]) -> None:
    """A line for each finding, and under it the way out of what is not ok."""
    from rich.text import Text

    console = output.console()
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        line = Text(f"{finding.status:<8}", style=_COLOURS[finding.status])
        line.append(f" {finding.name:<{width}}  {finding.detail}", style="default")
        console.print(line, soft_wrap=True)
        if finding.way_out:
            console.print(Text(f"{'':9}{'':{width}}  -> {finding.way_out}"), soft_wrap=True)
