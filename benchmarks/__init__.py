"""Benchmarks of managing unmodified agents, run in a checkout: `python -m benchmarks --help`.

Those of the store are part of the package: `agentmem bench`.
"""
