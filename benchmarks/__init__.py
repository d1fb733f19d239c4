"""Benchmarks of managing unmodified agents, and of sharing beside what others offer, run in a
checkout: `python -m benchmarks --help`.

Those of the store alone are part of the package: `agentmem bench`.
"""
