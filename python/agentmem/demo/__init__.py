"""The demonstration: the memory of a fleet of agents, held in a fraction of the RAM.

`plan` says how much there is of what. `stage` is the parent of all processes: a daemon of its own,
one for each agent (`member`), and one that makes the text (`writer`); `wire` is what they say to
each other. `fleet` is all of them, seen from the command; `run` measures.
"""
