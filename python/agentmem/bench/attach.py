"""Attach of a known prompt."""

import agentmem
from agentmem.bench.result import Result, Settings
from agentmem.bench.timing import each, quantiles

_BYTES = 50_000_000
_AGENTS = 1_000


def run(settings: Settings) -> Result:
    """Attach the same 50 MB from many agents, by id and by name."""
    count = _AGENTS // (20 if settings.quick else 1)
    size = _BYTES // (20 if settings.quick else 1)
    prompt = settings.texts.prompt(settings.seed, size)
    with agentmem.open(memory_max="1G", cold=False) as mem:
        owner = mem.agent("owner")
        known = owner.put(prompt, kind="system_prompt", name="prompt").id
        agents = [mem.agent(f"agent-{number}") for number in range(count)]
        by_id = each(lambda agent: agent.attach(known), agents)
        by_name = each(lambda agent: agent.attach("prompt"), agents)
    figures = quantiles("50 MB by id", by_id, 20.0) + quantiles("50 MB by name", by_name)
    return Result(figures, ["attach", count, size, known])
