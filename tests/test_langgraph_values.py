"""How values are split and sequences written down: properties of both."""

from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from agentmem.integrations.langgraph import sequence, values

SERDE = JsonPlusSerializer()
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=30)
    | st.binary(max_size=30)
    | st.datetimes()
    | st.uuids()
    | st.builds(HumanMessage, st.text(max_size=30))
    | st.builds(AIMessage, st.text(max_size=30), name=st.none() | st.text(max_size=3))
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5) | st.integers(0, 9), inner, max_size=4)
        | st.tuples(inner, inner)
    ),
    max_leaves=10,
)
COLLECTIONS = st.lists(VALUES, min_size=1, max_size=40) | st.dictionaries(
    st.text(max_size=5), VALUES, min_size=1, max_size=40
)


def pieces(collection: Any) -> list[bytes]:
    children = values.children(SERDE, collection)
    assert children is not None
    return [piece for child in children for piece in child]


@given(COLLECTIONS, st.integers(0, 5))
def test_header_and_children_are_the_whole(collection: Any, begin: int) -> None:
    kind = values.kind_of(collection)
    assert kind is not None
    children = values.children(SERDE, collection)
    assert children is not None
    assert values.children(SERDE, collection, begin) == children[begin:]
    joined = values.joined(kind, len(collection), pieces(collection))
    assert (values.SPLITTABLE, joined) == SERDE.dumps_typed(collection)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_long_children_are_split_too(depths: list[int]) -> None:
    collection: list[Any] = []
    for number, depth in enumerate(depths):
        value: Any = [str(number) * 100] * 50
        for level in range(depth):
            value = {7: value, "k": level} if level % 2 else ["x", value]
        collection.append(value)
    found = pieces(collection)
    assert max(map(len, found)) < 4096
    assert values.joined("list", len(collection), found) == SERDE.dumps_typed(collection)[1]


def test_headers_of_every_length() -> None:
    for count in (1, 15, 16, 65_535, 65_536):
        for collection in ([7] * count, dict.fromkeys(range(count))):
            kind = values.kind_of(collection)
            assert kind is not None
            joined = values.joined(kind, count, pieces(collection))
            assert joined == SERDE.dumps_typed(collection)[1]


def test_what_is_no_plain_collection_stays_whole() -> None:
    for value in (b"bytes", "text", None, 1, (1, 2), [], {}, HumanMessage("hello")):
        assert values.kind_of(value) is None


@given(st.lists(VALUES, max_size=6), st.lists(VALUES, max_size=6))
def test_outlines_decide_encodings_and_join(one: list[Any], other: list[Any]) -> None:
    outlines = values.outline(one), values.outline(other)
    if outlines[0] is not None and outlines[1] is not None:
        assert values.outline(one + other) == outlines[0] + outlines[1]
        if outlines[0] == outlines[1]:
            assert SERDE.dumps_typed(one) == SERDE.dumps_typed(other)


def test_every_field_of_a_message_is_in_its_outline() -> None:
    def message() -> AIMessage:
        call = {"name": "f", "args": {"a": [1]}, "id": "1", "type": "tool_call"}
        return AIMessage("text", id="1", additional_kwargs={"k": {"deep": [1]}}, tool_calls=[call])

    changes = [
        lambda m: setattr(m, "content", "texts"),
        lambda m: setattr(m, "id", None),
        lambda m: m.additional_kwargs["k"]["deep"].append(2),
        lambda m: m.tool_calls[0]["args"].update(a=[1.0]),
        lambda m: m.response_metadata.update(model="x"),
        lambda m: setattr(m, "extra", True),
    ]
    expected = values.outline([message()])
    assert expected is not None
    for change in changes:
        changed = message()
        change(changed)
        assert SERDE.dumps_typed(changed) != SERDE.dumps_typed(message())
        assert values.outline([changed]) != expected
    # Another class with the same fields.
    assert values.outline([HumanMessage("a")]) != values.outline([AIMessage("a")])


EDITS = st.lists(
    st.tuples(st.integers(0, 9), st.lists(st.integers(0, 99), max_size=6)), max_size=60
)


@given(EDITS)
@settings(deadline=None)
def test_a_sequence_reads_as_it_was_written(edits: list[tuple[int, list[int]]]) -> None:
    entries: list[sequence.Entry] = []
    chain: list[sequence.Link] = []
    places: list[int] = []
    history = []
    for drop, added in edits:
        keep = max(0, len(places) - drop)
        places = places[:keep] + added
        entry, chain = sequence.write(chain, keep, places, len(entries))
        entries.append(entry)
        history.append(list(places))
        read, read_chain = sequence.read(entry, len(entries) - 1, entries.__getitem__)
        assert (list(read), read_chain) == (places, chain)
    for number, expected in enumerate(history):
        assert list(sequence.read(entries[number], number, entries.__getitem__)[0]) == expected


def test_a_sequence_of_scattered_places_takes_logarithmic_room() -> None:
    entries: list[sequence.Entry] = []
    chain: list[sequence.Link] = []
    places: list[int] = []
    for number in range(4096):
        places.append(3 * number)
        entry, chain = sequence.write(chain, len(places) - 1, places, number)
        entries.append(entry)
        assert len(chain) <= 14
    # A flat list at each step would be 4096 * 4097 numbers.
    assert sum(len(entry.runs) for entry in entries) <= 4096 * 14
