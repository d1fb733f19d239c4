"""SMUs and views: each sentence of their documentation, and each error."""

import array

import pytest
from words import noise

import agentmem
from agentmem.errors import AgentMemError, InvalidArgument, NotFound, Released

KINDS = ["system_prompt", "tool_definition", "tool_result", "message"]
MISSING_ID = "0" * 64


def test_what_is_put_is_what_is_read(agent: agentmem.Agent) -> None:
    for given, content in (
        (b"", b""),
        (b"\0bytes\xff", b"\0bytes\xff"),
        (bytearray(b"array"), b"array"),
        (memoryview(b"0123456789")[2:5], b"234"),
        (array.array("I", [1, 2]), array.array("I", [1, 2]).tobytes()),
        ("text \u00e4\u20ac\U0001f600", "text \u00e4\u20ac\U0001f600".encode()),
        (noise(3, 5_000_000), noise(3, 5_000_000)),
    ):
        smu = agent.put(given)
        assert (smu.logical_bytes, len(smu)) == (len(content), len(content))
        assert smu.read() == content
    assert agent.put("gr\u00fc\u00df").text() == "gr\u00fc\u00df"
    with pytest.raises(UnicodeDecodeError):
        agent.put(b"\xff").text()


def test_later_changes_to_a_buffer_do_not_reach_the_store(agent: agentmem.Agent) -> None:
    buffer = bytearray(b"before")
    smu = agent.put(buffer)
    buffer[:] = b"after!"
    assert smu.read() == b"before"


def test_only_contiguous_buffers_and_text_are_content(agent: agentmem.Agent) -> None:
    with pytest.raises((BufferError, TypeError, ValueError)):
        agent.put(memoryview(b"0123456789")[::2])
    for wrong in (1, None, ["x"]):
        with pytest.raises((TypeError, InvalidArgument)):
            agent.put(wrong)


@pytest.mark.parametrize("kind", KINDS)
def test_a_handle_says_what_it_was_put_as(agent: agentmem.Agent, kind: str) -> None:
    smu = agent.put(b"content", kind=kind, name="n", importance=7)
    assert (smu.kind, smu.name, smu.importance) == (kind, "n", 7)


def test_arguments_of_put_have_bounds(agent: agentmem.Agent) -> None:
    agent.put(b"x", name="n" * 255, importance=100)
    for wrong in (
        {"kind": "memo"},
        {"name": ""},
        {"name": "n" * 256},
        {"importance": 101},
        {"importance": -1},
    ):
        with pytest.raises(InvalidArgument):
            agent.put(b"x", **wrong)


def test_an_id_is_of_the_content_and_of_this_store_only(agent: agentmem.Agent) -> None:
    first, second, other = agent.put(b"same"), agent.put(b"same"), agent.put(b"different")
    assert first.id == second.id != other.id
    assert len(bytes.fromhex(first.id)) == 32
    with agentmem.open(memory_max="16M") as elsewhere:
        assert elsewhere.agent("a").put(b"same").id != first.id


def test_equal_content_is_stored_once(mem: agentmem.Store) -> None:
    content = noise(5, 100_000)
    handles = [mem.agent(f"agent {n}").put(content) for n in range(10)]
    assert {smu.id for smu in handles} == {handles[0].id}
    assert handles[0].shared_by == 10
    stats = mem.stats()
    assert stats["smus"] == 1
    assert stats["logical_bytes"] == 1_000_000
    assert stats["stored_bytes"] < 110_000
    assert stats["saved_bytes"] == stats["logical_bytes"] - stats["stored_bytes"]


def test_attach_by_every_key(mem: agentmem.Store, agent: agentmem.Agent) -> None:
    smu, other = agent.put(b"prompt", name="base"), mem.agent("other")
    for key in ("base", smu.id, bytes.fromhex(smu.id), smu):
        attached = other.attach(key)
        assert (attached.read(), attached.id) == (b"prompt", smu.id)
    assert smu.shared_by == 2
    for missing in ("nothing", MISSING_ID, bytes(32)):
        with pytest.raises(NotFound) as caught:
            other.attach(missing)
        assert isinstance(caught.value, KeyError)


def test_a_name_means_the_newest_content(mem: agentmem.Store, agent: agentmem.Agent) -> None:
    old = agent.put(b"old", name="prompt")
    new = agent.put(b"new", name="prompt")
    other = mem.agent("other")
    assert other.attach("prompt").read() == b"new"
    assert other.attach(old).read() == b"old"
    assert new.read() == b"new"


@pytest.mark.parametrize("first_released", [True, False])
def test_a_name_stays_while_anybody_holds_its_content(
    mem: agentmem.Store, agent: agentmem.Agent, first_released: bool
) -> None:
    first, second = agent.put(b"prompt", name="n"), agent.put(b"prompt", name="n")
    agent.release(first if first_released else second)
    other = mem.agent("other")
    attached = other.attach("n")
    agent.release(second if first_released else first)
    assert other.attach("n").id == attached.id


def test_share_gives_a_lease_of_its_own(mem: agentmem.Store, agent: agentmem.Agent) -> None:
    other = mem.agent("other")
    smu = agent.put(b"shared")
    shared = agent.share(smu, to=other)
    assert smu.shared_by == 2
    agent.release(smu)
    assert (shared.read(), shared.shared_by) == (b"shared", 1)
    with pytest.raises(Released):
        agent.share(smu, to=other)


def test_a_handle_is_released_once(mem: agentmem.Store, agent: agentmem.Agent) -> None:
    first, second = agent.put(b"twice", name="n"), agent.put(b"twice")
    agent.release(first)
    for call in (
        lambda: agent.release(first),
        lambda: first.view(),
        lambda: first.read(),
        lambda: first.text(),
        lambda: agent.attach(first),
        lambda: agent.advise(first, "hot"),
    ):
        with pytest.raises(Released) as caught:
            call()
        assert isinstance(caught.value, ValueError)
    assert second.read() == b"twice"
    agent.release(second)
    with pytest.raises(NotFound):
        agent.attach("n")
    assert mem.stats()["smus"] == 0


def test_nobody_releases_what_another_holds(mem: agentmem.Store, agent: agentmem.Agent) -> None:
    smu = agent.put(b"mine")
    with pytest.raises(AgentMemError):
        mem.agent("thief").release(smu)
    assert smu.read() == b"mine"


def test_smus_are_handles_on_everything_held(mem: agentmem.Store, agent: agentmem.Agent) -> None:
    agent.put(b"one")
    agent.attach(mem.agent("other").put(b"two", kind="system_prompt"))
    agent.conversation("c").append(b"not this")
    listed = sorted((smu.read(), smu.kind) for smu in agent.smus())
    assert listed == [(b"one", "tool_result"), (b"two", "system_prompt")]


def test_listing_what_is_held_holds_nothing_more(
    mem: agentmem.Store, agent: agentmem.Agent
) -> None:
    smu = agent.put(b"x" * 100)
    for _ in range(3):
        agent.smus()
    assert agent.stats()["logical_bytes"] == 100
    agent.release(smu)
    assert agent.smus() == []
    assert mem.stats()["smus"] == 0


# Views


def test_a_view_is_read_only_and_without_copy(agent: agentmem.Agent) -> None:
    content = noise(7, 1 << 20)
    smu = agent.put(content)
    with smu.view() as buffer, smu.view() as again:
        assert isinstance(buffer, memoryview)
        assert (buffer.readonly, buffer.nbytes, buffer.format) == (True, len(content), "B")
        assert buffer == content == again
        with pytest.raises(TypeError):
            buffer[0] = 0
    view = smu.view()
    assert bytes(view) == content
    assert len(view) == len(content)
    view.release()


def test_a_view_pins_until_it_is_left(mem: agentmem.Store, agent: agentmem.Agent) -> None:
    smu = agent.put(noise(8, 300_000))
    with smu.view():
        mem.reclaim(0)
        assert mem.stats()["pinned_bytes"] >= 300_000
    assert mem.stats()["pinned_bytes"] == 0
    mem.reclaim(0)
    assert smu.tier != "hot"


def test_views_survive_release_and_close() -> None:
    content, other = noise(9, 200_000), noise(10, 200_000)
    with agentmem.open(memory_max="16M") as mem:
        agent = mem.agent("a")
        smu = agent.put(content)
        view = smu.view()
        buffer = view.__enter__()
        agent.release(smu)
        with agent.put(other).view() as left:
            pass
        for seed in range(100):
            agent.release(agent.put(noise(seed, 200_000)))
        assert (buffer, left) == (content, other)
    assert (buffer, left) == (content, other)
    view.release()
    assert buffer == content
