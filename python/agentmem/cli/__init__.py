"""The `agentmem` command."""

from agentmem.cli.app import app as main

__all__ = ["main"]
