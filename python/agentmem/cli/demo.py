"""`agentmem demo`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agentmem.cli.corpus import corpus_option
from agentmem.cli.output import Output, with_output
from agentmem.cli.size import size

if TYPE_CHECKING:
    from agentmem.demo.plan import Language, Plan
    from agentmem.demo.run import Outcome

_ROWS = {
    "system_prompt": "system prompts",
    "tool_definition": "tool definitions",
    "message": "conversations",
}
_SYNTHETIC = "SYNTHETIC: the text was generated. Name real transcripts with --corpus."


@click.command()
@click.option("--agents", type=click.IntRange(1, 1_000), default=100, show_default=True)
@click.option(
    "--scale",
    type=click.FloatRange(min=0, max=1, min_open=True),
    help="Multiplies sizes; 1 is 450 MB an agent. By default: about two minutes.",
)
@click.option("--memory-max", type=size, metavar="SIZE", help="Budget of the store, such as 1G.")
@click.option(
    "--cold/--no-cold", default=True, show_default=True, help="Whether SSD may be used too."
)
@corpus_option
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=1, show_default=True)
@click.option(
    "--language",
    type=click.Choice(["python", "node", "mixed"]),
    default="python",
    show_default=True,
    help="What agents are written in; mixed: every other one in Node.",
)
@click.option(
    "--embedded", is_flag=True, help="All agents in one process, which has the store within."
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the picture goes; demo.png by default, none with --json.",
)
@with_output
def demo(
    output: Output,
    agents: int,
    scale: float | None,
    memory_max: int | None,
    cold: bool,
    corpus: tuple[str, ...],
    seed: int,
    language: "Language",
    embedded: bool,
    plot: Path | None,
) -> None:
    """Hold the memory of a fleet of agents, and measure what it takes.

    Each agent is a process with a session to a daemon that the demonstration starts for itself. It
    puts the same system prompt and tool definitions in full, and conversations of its own. At the
    end it reads back one message in a hundred, and all that is shared, and compares.

    RAM is that of all processes and the daemon together, each page once.
    """
    from agentmem.demo import node
    from agentmem.demo.plan import Plan
    from agentmem.demo.run import run

    if language != "python":
        if embedded:
            raise click.UsageError(f"--embedded is for agents in Python, not --language {language}")
        node.check()
    plan = Plan(agents, scale or 0, 0, cold, corpus, seed, language, embedded)
    with _Bars(output) as bars:
        if scale is None:
            plan = plan.fitted(lambda trial: _rate(trial, bars))
        plan = plan.with_budget(memory_max)
        _announce(output, plan, chosen=scale is None)
        outcome = run(plan, bars.update)
    if output.json:
        output.record(outcome.record)
    else:
        _print(output, outcome)
    if plot is not None or not output.json:
        _plot(output, outcome, plot or Path("demo.png"))
    if outcome.record["readback_failed"]:
        sys.exit(1)


class _Bars:
    """Progress bars on stderr, if that is a terminal."""

    def __init__(self, output: Output) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._progress = Progress(
            TextColumn("{task.description:<13}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            console=output.progress_console(),
        )

    def update(self, what: str, done: int, total: int) -> None:
        """Show how far something is."""
        if self._progress.console.quiet:
            return
        for task in self._progress.tasks:
            if task.description == what:
                break
        else:
            self._progress.add_task(what)
            task = self._progress.tasks[-1]
        self._progress.update(task.id, completed=min(done, total), total=total)

    def __enter__(self) -> "_Bars":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()


def _rate(trial: "Plan", bars: _Bars) -> float:
    """Bytes a second of a small run, from the first byte on."""
    from agentmem.demo.run import run

    outcome = run(trial.with_budget(None), lambda _, *amounts: bars.update("measuring", *amounts))
    start_s = max(sample.seconds for sample in outcome.samples if sample.logical_bytes == 0)
    return float(outcome.record["logical_bytes"] / (outcome.record["wall_seconds"] - start_s))


def _announce(output: Output, plan: "Plan", *, chosen: bool) -> None:
    """Say what is about to happen."""
    from agentmem.demo.plan import MB

    held = f"{plan.agents} agents with {plan.logical_bytes / MB:,.0f} MB"
    output.message(f"{held}, a budget of {plan.memory_max_bytes / MB:,.0f} MB, {_tiers(plan)}")
    if chosen and plan.scale < 1:
        output.message(
            f"scale {plan.scale:g}, to be fair to this machine and done in about two minutes;"
            " all of it: agentmem demo --scale 1"
        )


def _tiers(plan: "Plan") -> str:
    return "the rest on SSD" if plan.cold else "nothing on SSD"


def _print(output: Output, outcome: "Outcome") -> None:
    """The table, and what it means."""
    from agentmem.demo.plan import MB

    record = outcome.record

    def row(name: str, before: int, after: int) -> list[str]:
        return [name, f"{before / MB:,.1f}", f"{after / MB:,.1f}", f"{before / after:,.1f}x"]

    rows = [
        row(name, kind["logical_bytes"], kind["stored_bytes"])
        for key, name in _ROWS.items()
        if (kind := record["by_kind"].get(key))
    ]
    rows.append(row("total, stored", record["logical_bytes"], record["stored_bytes"]))
    rows.append(row("total, RAM at most", record["logical_bytes"], record["resident_bytes_peak"]))
    rows.append(row("total, RAM at end", record["logical_bytes"], record["resident_bytes_end"]))
    output.table(
        ["", "before MB", "after MB", "reduction"],
        rows,
        title=f"{record['agents']} agents, scale {record['scale']:g}, {record['corpus']}"
        + (", SYNTHETIC" if outcome.synthetic else ""),
        right=["before MB", "after MB", "reduction"],
    )
    for line in _lines(outcome):
        click.echo(line)


def _lines(outcome: "Outcome") -> list[str]:
    """The other figures, and last the one line that says what it means."""
    from agentmem.demo.plan import MB

    record = outcome.record
    writer, processes = record["writer"], record["processes"]
    own_bytes = processes["own_bytes_end"]
    dedup = min(record["dedup_effectiveness"].values())
    good = record["readback_checked"] - record["readback_failed"]
    lines = [
        "",
        f"read back    {good:,} of {record['readback_checked']:,} samples are what was put",
        f"shared       {dedup:.1%} of the duplicate bytes of prompts and tools",
        f"on SSD       {record['cold_bytes'] / MB:,.1f} MB",
        "processes    one for all agents, with the store within"
        if outcome.plan.embedded
        else f"processes    {processes['count']}, of the RAM {own_bytes / MB:,.0f} MB their own:"
        f" {own_bytes / processes['count'] / MB:.1f} MB each",
        f"the store    {record['store']['resident_bytes_peak'] / MB:,.0f} MB at most, with what"
        f" agents hold; its budget is {record['memory_max_bytes'] / MB:,.0f} MB",
        f"available    {record['mem_available_bytes_before'] / MB:,.0f} MB before,"
        f" {record['mem_available_bytes_end'] / MB:,.0f} MB at the end (whole machine)",
        f"processor    {record['cpu_seconds']:.1f} s in {record['wall_seconds']:.1f} s,"
        f" {record['cpu_seconds_engine']:.1f} s of it the engine's thread",
        f"text         zstd takes it to 1/{record['ratio_rewritten']:.1f}"
        f" (before rewriting 1/{record['ratio_original']:.1f});"
        f" {record['cross_agent_equal_share']:.2%} equal between agents",
        f"its writer   {writer['resident_bytes_peak'] / MB:,.0f} MB,"
        f" {writer['cpu_seconds']:.1f} s of processor time, in a process of its own",
        f"digest       {record['digest'][:16]}",
        "",
    ]
    if outcome.synthetic:
        lines.append(_SYNTHETIC)
    ssd = f" and {record['cold_bytes'] / MB:,.0f} MB of SSD" if outcome.plan.cold else ""
    lines.append(
        f"{record['agents']} agents believe they hold {record['logical_bytes'] / MB:,.0f} MB;"
        f" this machine held it in {record['resident_bytes_peak'] / MB:,.0f} MB of RAM{ssd}:"
        f" {record['reduction']:.1f} times less RAM, nothing lost."
        if not record["readback_failed"]
        else f"{record['readback_failed']} of {record['readback_checked']} samples came back wrong."
    )
    return lines


def _plot(output: Output, outcome: "Outcome", path: Path) -> None:
    try:
        from agentmem.demo.plot import draw

        draw(outcome, path)
    except ImportError:
        output.message("no plot: matplotlib is missing (pip install 'libagentmem[demo]')")
    else:
        output.message(f"plot: {path}")
