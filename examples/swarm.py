"""A planner forks fifty workers from one conversation and merges what they bring back.

Every worker starts from the planner's whole context: system prompt, tools and the conversation so
far. Without sharing that is fifty copies of it; here it is one, and each worker costs what it adds.

Run it: python examples/swarm.py
"""

import json
import random

import agentmem
from agentmem.units import format_bytes

WORKERS = 50
TURNS = 8
FILES = 300

# Stands for what a model and its tools would say.
SPEECH = """
the session handler reads a token from the store checks its age and answers with an error when it is
missing expired or signed by another key so every caller must be ready to ask again retry with
backoff log the cause and leave shared state alone until a lock is held
"""


def say(source: random.Random, words: int) -> str:
    return " ".join(source.choices(SPEECH.split(), k=words))


def system_prompt() -> str:
    return "You are a careful engineer.\n" + "\n".join(
        f"{n}. {say(random.Random(n), 25)}." for n in range(100)
    )


def tool_definitions() -> str:
    return json.dumps(
        [
            {
                "name": f"tool_{n}",
                "description": say(random.Random(1000 + n), 80),
                "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}},
            }
            for n in range(60)
        ]
    )


def plan(planner: agentmem.Agent) -> agentmem.Conversation:
    """The planner looks at the whole project before it hands anything out."""
    conversation = planner.conversation("migration")
    conversation.append({"role": "user", "content": "Move every handler to the new sessions."})
    for n in range(FILES):
        source = random.Random(f"file {n}")
        conversation.append({"role": "assistant", "content": f"Reading src/handler_{n}.py."})
        conversation.append({"role": "tool", "content": say(source, 300), "lines": n})
    return conversation


def work(worker: agentmem.Agent, conversation: agentmem.Conversation, number: int) -> None:
    """One worker's turns, at the end of its own branch."""
    source = random.Random(f"worker {number}")
    conversation.append({"role": "user", "content": f"Take src/handler_{number}.py."})
    for turn in range(TURNS):
        conversation.append({"role": "assistant", "content": say(source, 60), "turn": turn})
        conversation.append({"role": "tool", "content": say(source, 120)})
    conversation.append({"role": "assistant", "content": f"handler_{number} is moved."})
    # Its part is done: what it holds may go to the cheaper tiers first.
    worker.idle()


def main() -> None:
    with agentmem.open(memory_max="256M") as mem:
        planner = mem.agent("planner", importance=90)
        planner.put(system_prompt(), kind="system_prompt", name="prompt")
        planner.put(tool_definitions(), kind="tool_definition", name="tools")
        conversation = plan(planner)
        shared_messages = len(conversation)

        branches = []
        for number in range(WORKERS):
            worker = mem.agent(f"worker {number}")
            worker.attach("prompt")
            worker.attach("tools")
            branch = conversation.fork(name="task", agent=worker)
            work(worker, branch, number)
            branches.append(branch)

        # Merge: a branch is the planner's conversation plus what its worker added.
        for branch in branches:
            conversation.append({"role": "user", "content": branch[-1]["content"]})
        assert conversation[-1]["content"] == f"handler_{WORKERS - 1} is moved."
        assert branches[0][:shared_messages] == conversation[:shared_messages]

        mem.reclaim()
        figures = mem.stats()
        without, kept = figures["logical_bytes"], figures["stored_bytes"]
        added = sum(len(branch) - shared_messages for branch in branches)
        print(f"{WORKERS} workers forked from {shared_messages} messages and added {added}")
        print(f"without sharing   {format_bytes(without):>10}   every agent with its own copy")
        print(f"with agentmem     {format_bytes(kept):>10}   {without / kept:.0f} times less")


if __name__ == "__main__":
    main()
