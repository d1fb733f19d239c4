"""Memory management for fleets of AI agents on Linux.

    import agentmem

    with agentmem.open() as mem:
        agent = mem.agent("planner")
        prompt = agent.put("You plan.", kind="system_prompt", name="base-prompt")
        with prompt.view() as buf:
            print(bytes(buf))

Everything raised is an `agentmem.errors.AgentMemError`, and also one of Python's own exceptions
where one fits.
"""

from agentmem import errors
from agentmem._store import Agent, Conversation, Smu, Store, View, __version__, connect, open
from agentmem.errors import AgentMemError
from agentmem.policy import Candidate, Policy

__all__ = [
    "Agent",
    "AgentMemError",
    "Candidate",
    "Conversation",
    "Policy",
    "Smu",
    "Store",
    "View",
    "__version__",
    "connect",
    "errors",
    "open",
]
