"""The option that says where text comes from."""

import click

corpus_option = click.option(
    "--corpus",
    type=click.Path(exists=True),
    multiple=True,
    envvar="AGENTMEM_CORPUS",
    show_envvar=True,
    help="Transcripts to take text from: a folder, a file or a .tar.zst; can be given again."
    " Without any, text is generated.",
)
