"""Zygotes: a parent with everything imported, which forks agents when asked.

An agent that is started plainly imports its framework again, and holds all of that for itself. A
child of a zygote begins where the imports ended, and shares their pages with its siblings.

    from agentmem.zygote import Zygote

    with Zygote("my_agents:main") as zygote:
        with zygote.spawn("--task", "42", name="worker-42") as child:
            print(child.pid, child.wait())

The function is called without arguments, as that of a console script is: `sys.argv` has them. Its
agent is registered by then; `agentmem.zygote.current()` gives it.

Forking copies one thread, and no session with a daemon: a module that starts threads, or opens
a store, when it is imported is refused. `python -m agentmem.zygote MODULE` runs a zygote in the
foreground.
"""

from agentmem.zygote.birth import Current, current
from agentmem.zygote.child import Child
from agentmem.zygote.client import Zygote

__all__ = ["Child", "Current", "Zygote", "current"]
