"""Bringing one conversation into a store, once or again after an interruption."""

from collections.abc import Callable, Iterable
from pathlib import Path

import agentmem


def copy_file(path: Path, agent: agentmem.Agent, name: str) -> int:
    """Make the conversation `name` of `agent` what the file holds; return how many of its bytes
    were not there yet.

    What is there is compared with the file. JSON lines that were added to the file since are added
    to the conversation, and anything else that differs is stored anew.

    Raises:
        OSError: The file cannot be read.
        OutOfMemory: The store is full; the next time goes on with what is in.
    """
    data = path.read_bytes()
    conversation = agent.conversation(name)
    kept = conversation.render()
    if data == kept:
        return 0
    if not (path.suffix == ".jsonl" and kept.endswith(b"\n") and data.startswith(kept)):
        conversation = _anew(agent, conversation)
        kept = b""
    conversation.load(memoryview(data)[len(kept) :])
    return len(data) - len(kept)


def copy_messages(messages: Callable[[], Iterable[bytes]], agent: agentmem.Agent, name: str) -> int:
    """The same, where the conversation is to be these messages."""
    conversation = agent.conversation(name)
    fresh = iter(messages())
    for kept in conversation:
        if next(fresh, None) != kept:
            conversation, fresh = _anew(agent, conversation), iter(messages())
            break
    added_bytes = 0
    for message in fresh:
        conversation.append(message)
        added_bytes += len(message)
    return added_bytes


def _anew(agent: agentmem.Agent, conversation: agentmem.Conversation) -> agentmem.Conversation:
    """An empty conversation in the place of that one."""
    if not len(conversation):
        return conversation
    agent.release(conversation)
    return agent.conversation(conversation.name)
