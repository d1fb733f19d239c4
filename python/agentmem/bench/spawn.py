"""A new agent, ready to work."""

import agentmem
from agentmem.bench.result import Result, Settings
from agentmem.bench.timing import each, quantiles

_AGENTS = 2_000
_FIRST = b'{"role": "user", "content": "Find out why the build fails, and mend it."}'


def run(settings: Settings) -> Result:
    """Register agents, attach prompt and tools to each, begin a conversation."""
    count = _AGENTS // (20 if settings.quick else 1)
    size = 50_000_000 // (20 if settings.quick else 1)
    with agentmem.open(memory_max="1G", cold=False) as mem:
        owner = mem.agent("owner")
        prompt = owner.put(settings.texts.prompt(settings.seed, size), kind="system_prompt").id
        tools = owner.put(settings.texts.tools(settings.seed, 2 * size), kind="tool_definition").id

        def spawn(number: int) -> agentmem.Agent:
            agent = mem.agent(f"agent-{number}")
            agent.attach(prompt)
            agent.attach(tools)
            agent.conversation().append(_FIRST)
            return agent

        nanoseconds = each(spawn, range(count))
    # A millisecond, in the microseconds that everything here is given in.
    figures = quantiles("spawn", nanoseconds, None, 1000.0)
    return Result(figures, ["spawn", count, size, prompt, tools])
