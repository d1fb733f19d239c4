"""Conversations: each sentence of their documentation, and each error."""

import json
from typing import Any

import pytest
from words import message, prose, transcript

import agentmem
from agentmem.errors import InvalidArgument, NameTaken, QuotaExceeded, Released

VALUES: list[Any] = [
    {"role": "user", "content": 'gr\u00fc\u00df \U0001f600 \u2028 \0 "\\/'},
    {"": {"a": [1, [2, {"b": None}]], "t": True, "f": False}, "n": {}},
    {"big": 2**200, "negative": -(2**63) - 1, "exact": 2**53 + 1},
    {"tiny": 5e-324, "huge": 1.7976931348623157e308, "third": 1 / 3, "zero": -0.0},
    [],
    {},
    ["list", ["in", ["list"]]],
    "only text",
    "",
]


@pytest.fixture
def talk(agent: agentmem.Agent) -> agentmem.Conversation:
    return agent.conversation("talk")


# Messages


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_comes_back_equal(talk: agentmem.Conversation, value: Any) -> None:
    talk.append(value)
    assert talk[0] == value
    # 1 == True == 1.0, so equality alone does not see a changed type.
    assert repr(talk[0]) == repr(value)
    assert json.loads(talk.raw(0)) == value


@pytest.mark.parametrize("content", [b"", b'{"a": 1}', b"\0\xff", b"two\nlines\n", b" "])
def test_bytes_come_back_as_the_same_bytes(talk: agentmem.Conversation, content: bytes) -> None:
    talk.append(content)
    talk.append(bytearray(content))
    talk.append(memoryview(content))
    assert list(talk) == [content] * 3
    assert all(type(given) is bytes for given in talk)
    assert talk.raw(1) == content
    assert talk.render() == content * 3


@pytest.mark.parametrize("value", [{"a": object()}, {"a": {1, 2}}, {"a": b"bytes"}, [1j]])
def test_what_json_cannot_hold_is_refused(talk: agentmem.Conversation, value: Any) -> None:
    with pytest.raises((TypeError, InvalidArgument)):
        talk.append(value)
    assert len(talk) == 0


def test_keys_that_json_would_change_are_not_changed_silently(
    talk: agentmem.Conversation,
) -> None:
    value = {1: "number", None: "none"}
    try:
        talk.append(value)
    except (TypeError, InvalidArgument):
        assert len(talk) == 0
    else:
        assert talk[0] == value


def test_indices_and_slices_are_those_of_a_list(talk: agentmem.Conversation) -> None:
    values = [message(n) for n in range(30)]
    talk.extend(values)
    assert len(talk) == 30
    assert list(talk) == values
    for index in (0, 29, -1, -30):
        assert talk[index] == values[index]
        assert json.loads(talk.raw(index)) == values[index]
    for index in (30, -31):
        with pytest.raises(IndexError):
            talk[index]
        with pytest.raises(IndexError):
            talk.raw(index)
    for part in (slice(None), slice(5), slice(-3, None), slice(None, None, -7), slice(9, 2)):
        assert talk[part] == values[part]
    with pytest.raises(TypeError):
        talk["1"]


def test_iteration_sees_what_is_there(talk: agentmem.Conversation) -> None:
    talk.extend([b"0", b"1"])
    seen = iter(talk)
    assert next(seen) == b"0"
    talk.append(b"2")
    assert next(seen) == b"1"
    assert list(talk) == [b"0", b"1", b"2"]


def test_values_render_as_one_json_text_a_line(talk: agentmem.Conversation) -> None:
    values = [message(n) for n in range(5)]
    talk.extend(values)
    lines = talk.render().decode().splitlines()
    assert [json.loads(line) for line in lines] == values
    assert talk.render().endswith(b"\n")


def test_a_message_in_a_frame_reads_as_the_one_in_the_tail(
    mem: agentmem.Store, talk: agentmem.Conversation
) -> None:
    values = [message(n) for n in range(1500)]
    talk.extend(values)
    mem.reclaim(0)
    talk.append(b"tail")
    assert [talk[n] for n in range(0, 1500, 31)] == values[::31]
    assert talk[-1] == b"tail"
    assert talk[-2] == values[-1]
    assert talk[:] == [*values, b"tail"]
    assert 0 < talk.stored_bytes < talk.logical_bytes / 2


def test_a_message_may_be_large(mem: agentmem.Store, talk: agentmem.Conversation) -> None:
    big = prose(1, 3_000_000)
    talk.extend([b"before", big, {"content": big.decode()}, b"after"])
    mem.reclaim(0)
    assert talk.raw(1) == big
    assert talk[2] == {"content": big.decode()}
    assert (talk[0], talk[3]) == (b"before", b"after")


# Names, release, quota


def test_conversations_have_names_within_their_agent(mem: agentmem.Store) -> None:
    agent, other = mem.agent("a"), mem.agent("b")
    agent.conversation("c").append(b"1")
    assert len(agent.conversation("c")) == 1
    assert len(other.conversation("c")) == 0
    assert agent.conversation("c").name == "c"
    assert agent.conversations() == other.conversations() == ["c"]


def test_a_conversation_without_a_name_is_a_new_one_under_a_name_of_its_own(
    agent: agentmem.Agent,
) -> None:
    # Names that look like those that are given must not be in the way.
    taken = [agent.conversation(agent.conversation().name + str(n)).name for n in range(20)]
    taken += [agent.conversation(f"conversation-{n}").name for n in range(60, 70)]
    fresh = [agent.conversation() for _ in range(20)]
    fresh += [fresh[0].fork() for _ in range(20)]
    names = {talk.name for talk in fresh}
    assert len(names) == 40
    assert not names & set(taken)
    assert names <= set(agent.conversations())
    assert all(len(talk) == 0 for talk in fresh)


def test_a_released_conversation_is_gone(
    mem: agentmem.Store, agent: agentmem.Agent, talk: agentmem.Conversation
) -> None:
    again = agent.conversation("talk")
    talk.append(message(1))
    agent.release(talk)
    for call in (
        lambda: agent.release(talk),
        lambda: talk.append(b"x"),
        lambda: talk[0],
        lambda: talk.raw(0),
        lambda: talk.render(),
        lambda: talk.fork(),
        lambda: agent.advise(talk, "cold"),
        lambda: again.append(b"x"),
    ):
        with pytest.raises(Released):
            call()
    assert agent.conversations() == []
    assert mem.stats()["logical_bytes"] == 0
    assert len(agent.conversation("talk")) == 0


def test_messages_and_forks_are_charged_to_their_agent(mem: agentmem.Store) -> None:
    writer, reader = mem.agent("writer"), mem.agent("reader", quota_bytes=1500)
    talk = writer.conversation("c")
    talk.extend([bytes(1000), bytes(1000)])
    assert talk.logical_bytes == writer.stats()["logical_bytes"] == 2000
    with pytest.raises(QuotaExceeded):
        talk.fork(agent=reader)
    fork = talk.fork(1, agent=reader)
    assert reader.stats()["logical_bytes"] == 1000
    with pytest.raises(QuotaExceeded):
        fork.append(bytes(501))
    assert len(fork) == 1
    fork.append(bytes(500))
    reader.release(fork)
    assert reader.stats()["logical_bytes"] == 0


# Forks


def test_a_fork_has_the_first_messages_and_goes_its_own_way(
    mem: agentmem.Store, agent: agentmem.Agent, talk: agentmem.Conversation
) -> None:
    values = [message(n) for n in range(20)]
    talk.extend(values)
    whole, part, empty = talk.fork(), talk.fork(7, name="part"), talk.fork(at=0)
    talk.append(b"original")
    whole.append(b"whole")
    part.append(b"part")
    assert list(whole) == [*values, b"whole"]
    assert list(part) == [*values[:7], b"part"]
    assert list(empty) == []
    assert list(talk) == [*values, b"original"]
    assert set(agent.conversations()) == {"part", "talk", whole.name, empty.name}
    other = mem.agent("other")
    given = part.fork(name="talk", agent=other)
    agent.release(talk)
    agent.release(part)
    assert list(given) == [*values[:7], b"part"]
    assert other.conversations() == ["talk"]


def test_a_fork_is_refused_beyond_the_end_and_under_a_taken_name(
    agent: agentmem.Agent, talk: agentmem.Conversation
) -> None:
    talk.append(b"x")
    for at in (2, -1, 2**40):
        with pytest.raises(InvalidArgument):
            talk.fork(at)
    with pytest.raises(NameTaken):
        talk.fork(name="talk")
    assert agent.stats()["conversations"] == 1


def test_a_fork_costs_what_it_adds(mem: agentmem.Store, agent: agentmem.Agent) -> None:
    talk = agent.conversation("root")
    talk.load(transcript(1, 800))
    mem.reclaim()
    alone = mem.stats()["stored_bytes"]
    forks = [talk.fork(name=f"fork {n}") for n in range(50)]
    for n, fork in enumerate(forks):
        fork.append(f"result {n}")
    mem.reclaim()
    stats = mem.stats()
    assert stats["logical_bytes"] > 50 * talk.logical_bytes
    assert stats["stored_bytes"] < 1.1 * alone + 50 * 200


def test_snapshots_of_a_growing_conversation_cost_little_more_than_the_last(
    mem: agentmem.Store, agent: agentmem.Agent
) -> None:
    lines = transcript(2, 400).splitlines(keepends=True)
    with agentmem.open(memory_max="64M") as alone:
        single = alone.agent("a").conversation()
        single.load(b"".join(lines))
        alone.reclaim()
        once = alone.stats()["stored_bytes"]
    for count in range(8, 401, 8):
        assert agent.conversation(f"step {count}").load(b"".join(lines[:count])) == count
    mem.reclaim()
    assert mem.stats()["stored_bytes"] <= 1.3 * once
    assert agent.conversation("step 200").render() == b"".join(lines[:200])


# Transcripts

MESSAGE_LIST = [{"role": "user", "content": f"number {n}"} for n in range(5)]


@pytest.mark.parametrize("text", [str, bytes, bytearray], ids=lambda kind: kind.__name__)
def test_json_lines_are_split_and_rendered_byte_for_byte(
    talk: agentmem.Conversation, text: Any
) -> None:
    lines = b'\n {"a": 1}\t\r\n\n{"b" : [2,  3]}\n{"c": "no newline at the end"}'
    assert talk.load(lines.decode() if text is str else text(lines)) == 3
    assert talk.render() == lines
    assert [talk.raw(n) for n in range(3)] == [
        b'{"a": 1}',
        b'{"b" : [2,  3]}',
        b'{"c": "no newline at the end"}',
    ]
    assert talk.logical_bytes == len(lines)


@pytest.mark.parametrize(
    "document",
    [
        json.dumps(MESSAGE_LIST),
        json.dumps({"id": 7, "messages": MESSAGE_LIST, "end": [1]}, indent=2) + "\n",
        " " + json.dumps({"state": {"history": MESSAGE_LIST}}, separators=(",", ":")),
    ],
    ids=["array", "indented object", "nested"],
)
def test_a_json_document_is_split_into_its_messages(
    talk: agentmem.Conversation, document: str
) -> None:
    assert talk.load(document) == len(talk) == 5
    assert [json.loads(talk.raw(n)) for n in range(5)] == MESSAGE_LIST
    assert talk.render() == document.encode()


@pytest.mark.parametrize(
    "text", [b"", b"plain text\nof two lines", b"\0\xff\xfe", b"[1, 2", b'{"a":[{"b":1}}', b"\n\n"]
)
def test_what_is_no_transcript_is_kept_byte_for_byte(
    talk: agentmem.Conversation, text: bytes
) -> None:
    assert talk.load(text) == len(talk)
    assert talk.render() == text


def runs(count: int) -> list[dict[str, Any]]:
    """Runs as benchmarks write them: each with its own messages and what became of it."""
    return [
        {"task": n, "traj": [message(10 * n + k) for k in range(3)], "reward": n % 2}
        for n in range(count)
    ]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(runs(4), indent=1),
        json.dumps({"runs": runs(4)}),
        "\n".join(map(json.dumps, runs(4))) + "\n",
    ],
)
def test_each_run_of_a_file_is_a_conversation(agent: agentmem.Agent, text: str) -> None:
    loaded = agent.load(text)
    assert [[json.loads(raw) for raw in talk] for talk in loaded] == [
        run["traj"] for run in runs(4)
    ]
    assert b"".join(talk.render() for talk in loaded) == text.encode()
    assert agent.conversations() == [talk.name for talk in loaded]
    whole = agent.conversation("whole")
    assert whole.load(text) == 12
    assert whole.render() == text.encode()


def test_a_file_without_runs_is_one_conversation(agent: agentmem.Agent) -> None:
    (talk,) = agent.load(transcript(1, 20))
    assert talk.render() == transcript(1, 20)
    assert agent.load(b"") == []


def test_a_file_that_is_refused_leaves_nothing(mem: agentmem.Store) -> None:
    with mem.agent("limited", quota_bytes=10_000) as limited:
        with pytest.raises(QuotaExceeded):
            limited.load(json.dumps(runs(20)))
        assert limited.conversations() == []
        limited.put(b"x" * 10_000)


def test_loading_goes_on_where_the_conversation_is(talk: agentmem.Conversation) -> None:
    talk.append({"first": 1})
    assert talk.load(transcript(3, 10)) == 10
    talk.append(b"last")
    assert len(talk) == 12
    assert talk.render().endswith(transcript(3, 10) + b"last")
    assert json.loads(talk.raw(5)) == message(3_000_004)
