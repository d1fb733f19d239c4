"""Put and view through an installed wheel."""

import agentmem

TEXT = "You plan, and hand work out. " * 100

with agentmem.open(memory_max="64M") as mem:
    prompt = mem.agent("planner").put(TEXT, kind="system_prompt", name="base-prompt")
    with prompt.view() as buf:
        assert bytes(buf) == TEXT.encode()
    same = mem.agent("worker").attach("base-prompt")
    assert same.id == prompt.id
    assert prompt.shared_by == 2
print("put, view and attach: as expected")
