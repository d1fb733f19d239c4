"""The demonstration: the memory of a fleet of agents, held in a fraction of the RAM.

`plan` says how much there is of what, `writer` (a process of its own) makes the text, `wire`
carries it over a pipe, `fleet` holds the store and does what the agents do, `run` measures.
"""
