"""Sequences: the places of a value's parts, written down at each step in a few numbers.

A list that grows by a message at each step would take a list of all its places at each step.
Instead, each step names an earlier one, how many places it keeps of that, and those that come
after. Which one: step number n goes on from that with the number n without its lowest one bit (the
parent in a Fenwick tree, Fenwick 1994). So n steps write down O(n log n) places in all, and any
step is read by way of O(log n) others.
"""

from array import array
from collections.abc import Callable, Sequence
from typing import NamedTuple

NONE = -1
"""Instead of a record's place: there is none."""
_PLAIN_RUNS_MAX = 4


class Entry(NamedTuple):
    """A sequence as it is written down.

    Attributes:
        depth: number of the step; 0 for one that names no other.
        base: place of the record with the entry that it goes on from, or NONE.
        keep: how many places of that it begins with.
        runs: those that follow, as beginning and length of each run of neighbours.
    """

    depth: int
    base: int
    keep: int
    runs: list[int]


class Link(NamedTuple):
    """An entry that others can go on from.

    Attributes:
        depth: see `Entry`.
        record: place of the record that it stands in.
        keep: see `Entry`.
        length: places in the whole sequence.
    """

    depth: int
    record: int
    keep: int
    length: int


def runs_of(places: Sequence[int]) -> list[int]:
    """Beginning and length of each run of neighbours."""
    runs: list[int] = []
    end = NONE
    for place in places:
        if place == end:
            runs[-1] += 1
        else:
            runs += (place, 1)
        end = place + 1
    return runs


def places_of(runs: Sequence[int]) -> "array[int]":
    """The places in runs."""
    places = array("Q")
    for start, count in zip(runs[::2], runs[1::2], strict=True):
        places.extend(range(start, start + count))
    return places


def write(
    chain: list[Link], keep: int, places: Sequence[int], record: int
) -> tuple[Entry, list[Link]]:
    """How to write down `places`, and the chain to go on from.

    Args:
        chain: that of the sequence before: each link goes on from the one before it.
        keep: how many places both have in common at their beginning.
        places: all of them.
        record: place of the record that the entry will stand in.
    """
    chain = list(chain)
    depth = chain[-1].depth + 1 if chain else 0
    while chain and chain[-1].depth > depth & (depth - 1):
        keep = min(keep, chain.pop().keep)
    keep = min(keep, chain[-1].length) if chain else 0
    plain = runs_of(places)
    if keep == 0 or len(plain) <= 2 * _PLAIN_RUNS_MAX:
        # Needs no other step, and so ends the chain.
        return Entry(0, NONE, 0, plain), [Link(0, record, 0, len(places))]
    entry = Entry(depth, chain[-1].record, keep, runs_of(places[keep:]))
    return entry, [*chain, Link(depth, record, keep, len(places))]


def read(
    entry: Entry, record: int, entry_in: Callable[[int], Entry]
) -> tuple["array[int]", list[Link]]:
    """The places of a sequence.

    Args:
        entry: how it is written down.
        record: place of a record that it stands in.
        entry_in: the entry for the same value in the record at a place.

    Returns:
        The places, and the chain to go on from if `entry` stands in the record at `record`.
    """
    path = [(entry, record)]
    while (base := path[-1][0].base) != NONE:
        path.append((entry_in(base), base))
    places, chain = array("Q"), list[Link]()
    for each, at in reversed(path):
        places = places[: each.keep] + places_of(each.runs)
        chain.append(Link(each.depth, at, each.keep, len(places)))
    return places, chain
