"""`agentmem grants` and `agentmem revoke`: what other trust domains may copy."""

import time

import click

from agentmem.cli.output import Output, with_output
from agentmem.cli.where import Where, with_daemon
from agentmem.registry import printable
from agentmem.units import format_bytes


@click.command()
@with_daemon
@with_output
def grants(output: Output, where: Where) -> None:
    """List what other trust domains may still copy from this one, oldest first."""
    with where.connect() as mem:
        found = mem.grants()
    if output.json:
        for grant in found:
            output.record(grant)
        return
    if not found:
        output.message("no grants")
        return
    output.table(
        ["id", "agent", "to domain", "kind", "bytes", "uses left", "expires"],
        [
            [
                grant["id"],
                printable(grant["agent"]),
                grant["to_domain"] or "the user's own",
                grant["kind"],
                format_bytes(grant["logical_bytes"]),
                f"{grant['uses']:,}",
                time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(grant["expires_s"])),
            ]
            for grant in found
        ],
        right=["bytes", "uses left"],
    )


@click.command()
@click.argument("grant", metavar="ID")
@with_daemon
@with_output
def revoke(output: Output, grant: str, where: Where) -> None:
    """Take a grant back. What was redeemed before stays where it is.

    ID is what agentmem grants shows, or the text of the grant.
    """
    with where.connect() as mem:
        mem.revoke(grant)
    if output.json:
        output.record({"ok": True})
    else:
        click.echo("revoked")
