"""The demonstration, small: that it measures what it says, and says what it found."""

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import until

import agentmem
from agentmem.cli.demo import demo
from agentmem.demo import node, wire
from agentmem.demo.fleet import Fleet
from agentmem.demo.member import Member
from agentmem.demo.plan import MB, Language, Plan
from agentmem.demo.readback import ONE_IN, Samples, message_hash
from agentmem.demo.run import run
from agentmem.demo.wire import Frame, Kind
from agentmem.demo.writer import Comparison, frames, load
from agentmem.errors import Io, Unsupported
from agentmem.process import memory_of

COMMAND = [sys.executable, "-c", "from agentmem.cli import main; main()", "demo"]
SMALL = Plan(agents=12, scale=0.001, memory_max_bytes=0, cold=True, corpus=(), seed=7).with_budget(
    None
)
FIELDS = {
    "agents", "logical_bytes", "stored_bytes", "resident_bytes_peak", "resident_bytes_end",
    "cold_bytes", "reduction", "dedup_effectiveness", "by_kind", "cross_agent_equal_share",
    "ratio_original", "ratio_rewritten", "readback_checked", "readback_failed", "cpu_seconds",
    "wall_seconds", "corpus", "seed", "digest", "rss_bytes_peak", "processes", "store",
}  # fmt: skip


def quiet(what: str, done: int, total: int) -> None:
    """No progress shown."""


@pytest.fixture
def transcripts(tmp_path: Path) -> Path:
    """A folder with a transcript in it."""
    folder = tmp_path / "mine" / "project"
    folder.mkdir(parents=True)
    lines = [
        json.dumps({"role": "user", "content": f"Look at number {n}, again and again. " * 20})
        for n in range(400)
    ]
    (folder / "session.jsonl").write_text("\n".join(lines))
    return tmp_path / "mine"


def test_full_plan_has_45_000_mb() -> None:
    plan = Plan(100, 1.0, 0, False, (), 1).with_budget(None)
    assert plan.logical_bytes == 45_000 * MB
    assert plan.logical_bytes / 11 < plan.memory_max_bytes < plan.logical_bytes / 10
    assert plan.with_budget(1 << 30).memory_max_bytes == 1 << 30
    assert replace(plan, cold=True).with_budget(None).memory_max_bytes <= 1 << 30


def test_scale_follows_from_the_rate_and_can_be_typed() -> None:
    plan = Plan(100, 0.0, 0, False, (), 1)
    scales = [plan.fitted(lambda _, rate=rate: rate * MB).scale for rate in (1, 10, 40)]
    assert scales == sorted(scales)
    assert scales[0] < scales[-1] <= 1
    assert all(len(f"{scale:g}".lstrip("0.")) <= 2 for scale in scales)


def test_frames_come_back_as_they_were_sent() -> None:
    sent = [
        Frame(Kind.PROMPT, messages=[b"p" * 70_000]),
        Frame(Kind.WAKE, 3),
        Frame(Kind.WRITE, 3, 1, [b"one", b"", b"three"]),
    ]
    stream = io.BytesIO()
    for frame in sent:
        wire.write(stream, frame)
    stream.seek(0)
    assert [frame._replace(messages=list(frame.messages)) for frame in wire.read(stream)] == [
        frame._replace(messages=list(frame.messages)) for frame in sent
    ]
    with pytest.raises(EOFError):
        list(wire.read(io.BytesIO(stream.getvalue()[:-1])))


def test_an_agent_that_hangs_up_instead_of_answering_is_an_error() -> None:
    feed, fed = socket.socketpair()
    with feed, fed:
        fed.send(wire.TAKEN)
        wire.await_taken(feed, 7)
        fed.close()
        with pytest.raises(Io, match="agent 7 hung up"):
            wire.await_taken(feed, 7)


def test_one_message_of_each_hundred_is_sampled() -> None:
    messages = [b"%d" % n for n in range(10_000)]
    samples, again, other = Samples(1), Samples(1), Samples(2)
    samples.offer(0, 0, messages)
    for first in range(0, len(messages), 7):
        again.offer(0, first, messages[first : first + 7])
    other.offer(0, 0, messages)
    assert len(samples) == len(messages) // ONE_IN
    assert samples.digest() == again.digest() != other.digest()
    for n, sampled in enumerate(samples.by_conversation()):
        assert sampled.position // ONE_IN == n
        assert sampled.hash == message_hash(messages[sampled.position])


def test_writer_wakes_every_agent_several_times() -> None:
    corpus = load((), SMALL.seed)
    written = dict.fromkeys(range(SMALL.agents), 0)
    awake: set[int] = set()
    wakes = dict.fromkeys(range(SMALL.agents), 0)
    for frame in frames(SMALL, corpus, Comparison(corpus)):
        if frame.kind is Kind.WAKE:
            awake.add(frame.agent)
            wakes[frame.agent] += 1
            assert len(awake) <= 10
        elif frame.kind in (Kind.IDLE, Kind.PAUSE):
            awake.remove(frame.agent)
        elif frame.kind is Kind.WRITE:
            assert frame.agent in awake
            written[frame.agent] += sum(map(len, frame.messages))
    assert not awake
    assert min(wakes.values()) >= 2
    assert min(written.values()) >= SMALL.conversation_bytes


def test_run_reports_everything_and_reads_everything_back() -> None:
    outcome = run(SMALL, quiet)
    record = outcome.record
    assert record.keys() >= FIELDS
    json.dumps(record)
    assert record["logical_bytes"] >= SMALL.logical_bytes
    assert record["reduction"] == record["logical_bytes"] / record["resident_bytes_peak"]
    assert record["resident_bytes_peak"] >= record["resident_bytes_end"] > 0
    assert record["readback_failed"] == 0
    assert record["readback_checked"] >= record["messages"] // ONE_IN
    assert min(record["dedup_effectiveness"].values()) >= 0.99
    assert record["cross_agent_equal_share"] < 0.01
    assert record["ratio_rewritten"] == pytest.approx(record["ratio_original"], rel=0.1)
    assert record["by_kind"]["system_prompt"]["logical_bytes"] == 12 * SMALL.prompt_bytes
    assert record["writer"]["resident_bytes_peak"] > 0
    assert record["processes"]["count"] == SMALL.agents
    assert record["resident_bytes_end"] > record["processes"]["own_bytes_end"] > 0
    store = record["store"]
    assert record["resident_bytes_peak"] > store["resident_bytes_peak"] > store["own_bytes_end"]
    assert outcome.synthetic


def test_digest_tells_what_was_put_and_nothing_else() -> None:
    first = run(SMALL, quiet).record["digest"]
    assert (
        run(replace(SMALL, cold=False, memory_max_bytes=64 << 20), quiet).record["digest"] == first
    )
    assert run(replace(SMALL, seed=8), quiet).record["digest"] != first
    embedded = run(replace(SMALL, embedded=True), quiet).record
    assert (embedded["digest"], embedded["readback_failed"]) == (first, 0)
    assert embedded["processes"]["count"] == 0
    assert embedded["resident_bytes_peak"] > embedded["store"]["resident_bytes_peak"] > 0


def test_what_comes_back_wrong_is_counted(mem: agentmem.Store) -> None:
    member = Member(mem, 0, seed=1)
    member.take(Frame(Kind.PROMPT, messages=[b"You plan."]))
    member.take(Frame(Kind.WRITE, 0, 0, [b"message %d" % n for n in range(100)]))
    assert list(member.read_back()) == [True, True]
    member.samples.offer(0, 0, [b"never put"] * 100)
    assert list(member.read_back()).count(False) == 1
    member._agent.release(member._latest[-1])
    assert list(member.read_back()) == [True, False, False]
    assert (member.checked, member.failed) == (2 + 3 + 3, 1 + 2)


@pytest.mark.parametrize("language", ["node", "mixed"])
def test_agents_in_node_hold_the_same_and_read_it_back(language: Language) -> None:
    try:
        node.check()
    except Unsupported as error:
        pytest.skip(str(error))
    record = run(replace(SMALL, agents=4, language=language), quiet).record
    in_python = run(replace(SMALL, agents=4), quiet).record
    assert record["readback_failed"] == 0
    assert record["readback_checked"] >= record["messages"] // ONE_IN
    assert record["by_kind"] == in_python["by_kind"]
    assert record["dedup_effectiveness"] == {"system_prompt": 1, "tool_definition": 1}


def test_agents_are_processes_that_map_one_prompt() -> None:
    plan = replace(SMALL, scale=0.02).with_budget(None)
    with Fleet(plan) as fleet:
        fleet.perform(quiet)
        pids = [*fleet.agents, *fleet.store, *fleet.others]
        assert len(set(pids)) == len(pids) == plan.agents + 2 + 2
        # All have all of it mapped, and it is there once: what is mapped is not even one copy more.
        mapped = sum(memory.shared_bytes for memory in fleet.memory_of_agents())
        once = plan.prompt_bytes + plan.tools_bytes
        assert once / 2 < mapped < 2 * once + plan.memory_max_bytes
        assert fleet.resident_bytes() > mapped
    # The others end with the demonstration.
    others = set(pids) - {os.getpid()}
    assert until(lambda: not any(memory_of(pid).own_bytes for pid in others))


def test_writer_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(agentmem.errors.Io, match="absent"):
        run(replace(SMALL, corpus=(str(tmp_path / "absent"),)), quiet)


def test_budget_that_is_too_small_is_named() -> None:
    with pytest.raises(agentmem.errors.AgentMemError, match="16"):
        run(replace(SMALL, memory_max_bytes=1 << 20), quiet)


def test_process_that_dies_is_an_error() -> None:
    def kill(what: str, done: int, total: int) -> None:
        # It may be gone already when this is called again.
        with contextlib.suppress(ProcessLookupError):
            os.kill(fleet.agents[3], signal.SIGKILL)

    dead = pytest.raises(agentmem.errors.Io, match="agent-003's process ended with -9")
    with Fleet(replace(SMALL, scale=0.05).with_budget(None)) as fleet, dead:
        fleet.perform(kill)


def test_real_text_is_not_called_synthetic(transcripts: Path) -> None:
    arguments = ["--agents", "2", "--scale", "0.001", "--corpus", str(transcripts)]
    result = CliRunner().invoke(demo, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["synthetic"] is False
    assert record["corpus"] == "mine"


def test_corpus_of_the_environment(transcripts: Path) -> None:
    arguments = ["--agents", "2", "--scale", "0.001", "--json"]
    result = CliRunner().invoke(demo, arguments, env={"AGENTMEM_CORPUS": str(transcripts)})
    assert json.loads(result.stdout)["corpus"] == "mine"


def test_command_refuses_what_is_no_size() -> None:
    result = CliRunner().invoke(demo, ["--memory-max", "much"])
    assert result.exit_code == 2
    assert "512M" in result.stderr


def test_command_prints_table_meaning_and_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / "demo.png"
    done = subprocess.run(
        [*COMMAND, "--agents", "3", "--scale", "0.001", "--no-cold", "--plot", str(plot)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    for row in ("system prompts", "tool definitions", "conversations", "total", "SYNTHETIC"):
        assert row in done.stdout
    assert "nothing lost" in done.stdout.splitlines()[-1]
    assert str(plot) in done.stderr
    assert plot.read_bytes().startswith(b"\x89PNG")
