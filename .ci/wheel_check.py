"""Put and view through an installed wheel, and the supervisor in it."""

import os
import subprocess
from pathlib import Path

import agentmem
from agentmem import supervisor

TEXT = "You plan, and hand work out. " * 100
# Part of the path of every dependency's source, below the home folder of whoever built it.
BUILDERS_FOLDER = b"/.cargo/registry"

with agentmem.open(memory_max="64M") as mem:
    prompt = mem.agent("planner").put(TEXT, kind="system_prompt", name="base-prompt")
    with prompt.view() as buf:
        assert bytes(buf) == TEXT.encode()
    same = mem.agent("worker").attach("base-prompt")
    assert same.id == prompt.id
    assert prompt.shared_by == 2
print("put, view and attach: as expected")

program = supervisor.program()
assert os.access(program, os.X_OK), f"{program} cannot be executed"
subprocess.run(["agentmem", "run", "--best-effort", "--", "/bin/true"], check=True, timeout=60)
for binary in (program, *Path(agentmem.__file__).parent.glob("*.so")):
    content = binary.read_bytes()
    assert BUILDERS_FOLDER not in content, f"{binary} names folders of the machine that built it"
print("the supervisor: there, runs, and names no folder of its builder")
