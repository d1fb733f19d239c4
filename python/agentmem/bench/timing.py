"""Timing of single calls."""

import gc
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from agentmem.bench.result import Figure

T = TypeVar("T")


def each(call: Callable[[T], object], arguments: Iterable[T]) -> list[int]:
    """Nanoseconds that `call` takes with each of the arguments, the clock's own time included.

    Results are kept until all calls are done, so that no destructor is in the measured time.
    """
    clock, nanoseconds, results = time.perf_counter_ns, [], []
    with without_collector():
        for argument in arguments:
            begin = clock()
            result = call(argument)
            nanoseconds.append(clock() - begin)
            results.append(result)
    return nanoseconds


@contextmanager
def without_collector() -> Iterator[None]:
    """Keep Python's garbage collector out of what is measured."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def quantile(values: list[int], share: float) -> int:
    """The value below which that share of the values lies."""
    return sorted(values)[round((len(values) - 1) * share)]


def quantiles(
    name: str, nanoseconds: list[int], p50_goal: float | None = None, p99_goal: float | None = None
) -> list[Figure]:
    """The median and the 99th percentile in microseconds."""
    return [
        Figure(f"{name}, p50", quantile(nanoseconds, 0.5) / 1000, "us", p50_goal),
        Figure(f"{name}, p99", quantile(nanoseconds, 0.99) / 1000, "us", p99_goal),
    ]
