"""`agentmem import` and `agentmem export`: transcripts of others, in and out again."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import click

from agentmem.cli.bar import Bar
from agentmem.cli.output import Output, with_output
from agentmem.cli.where import Where, with_store, with_target
from agentmem.transfer.exporting import Exported, Format, export_all
from agentmem.transfer.importing import Imported, import_all
from agentmem.transfer.sources import KINDS
from agentmem.units import format_bytes


@click.command(name="import")
@click.argument("kind", type=click.Choice(sorted(KINDS)))
@click.argument("source", metavar="[PATH]", required=False, type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Say what would be imported, and store nothing.")
@with_target
@with_output
def import_(output: Output, kind: str, source: Path | None, dry_run: bool, where: Where) -> None:
    """Bring transcripts of others into a store, byte for byte.

    Without PATH, claude and codex are what Claude Code and Codex keep for this user; transcripts
    are those in any folder, langgraph-sqlite is a file of LangGraph's SqliteSaver. It can be
    interrupted and done again: what is there is compared, and what was added since is added.

    Exits 1 when something could not be imported, and names it.
    """
    sources = KINDS[kind](source)
    found = Imported.of(sources)
    if not dry_run:
        with where.make() as mem, Bar(output) as bar:
            for found in import_all(mem, sources):
                so_far = f"{found.done:,} of {found.conversations:,}"
                bar.show(found.done_bytes, found.conversation_bytes, so_far)
    if output.json:
        output.record(asdict(found) | {"dry_run": dry_run})
    else:
        output.console().print(_imported(found, dry_run), markup=False, soft_wrap=True)
    _end(output, found.failed)


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(get_args(Format)),
    default="jsonl",
    show_default=True,
    help="jsonl: every conversation is a file; claude: sessions, as Claude Code's projects.",
)
@with_store
@with_output
def export(output: Output, folder: Path, form: Format, where: Where) -> None:
    """Write conversations to files below FOLDER, which must be empty or new.

    What was imported comes out with the same bytes, in files of the same names. Agents that a
    program has taken up are left out, and named.

    Exits 1 when something was left out.
    """
    found = Exported(0)
    with where.open() as mem, Bar(output) as bar:
        for found in export_all(mem, folder, form):
            bar.show(found.agents_done, found.agents, f"{found.files:,} files")
    if output.json:
        output.record(asdict(found))
    else:
        text = f"Wrote {found.files:,} files ({format_bytes(found.file_bytes)}) to {folder}."
        output.console().print(text, markup=False, soft_wrap=True)
    _end(output, found.failed)


def _imported(found: Imported, dry_run: bool) -> str:
    whole = f"{found.conversations:,} conversations ({format_bytes(found.conversation_bytes)})"
    if dry_run:
        return f"Would import {whole}."
    return (
        f"Imported {found.done:,} of {whole}: {found.added:,} were new or longer, by"
        f" {format_bytes(found.added_bytes)}. agentmem df says what the store keeps for it."
    )


def _end(output: Output, failed: list[str]) -> None:
    for line in failed:
        output.message(f"left out: {line}")
    if failed:
        sys.exit(1)
