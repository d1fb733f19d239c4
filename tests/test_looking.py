"""What the command line asks a daemon: inspect, cat, limit, ps, and the rest that speaks to it."""

import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from conftest import daemon
from fake_fleet import Fleet, fleet_in

import agentmem
from agentmem import listing
from agentmem.cli import main
from agentmem.daemon import PROGRAM
from agentmem.errors import InvalidArgument, NotFound, QuotaExceeded

PROMPT = b"You are one of many. " * 5000
TURNS = [{"role": "user", "content": f"turn {number}"} for number in range(50)]
TOKEN = "a token that is long"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments], prog_name="agentmem")


def record(*arguments: object) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture
def supervisors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """A registry of its own, where a daemon can listen."""
    folder = tmp_path / "run"
    monkeypatch.setenv("AGENTMEM_RUNTIME_DIR", str(folder))
    monkeypatch.delenv("AGENTMEM_SOCKET", raising=False)
    with fleet_in(folder) as started:
        yield started


@pytest.fixture
def mem(supervisors: Fleet) -> Iterator[agentmem.Store]:
    """A session with the daemon that commands find by themselves."""
    with (
        daemon(supervisors.agents.parent / "agentmem.sock") as socket,
        agentmem.connect(socket, start=False) as mem,
    ):
        yield mem


# inspect and cat


def test_an_smu_by_id_name_and_first_digits_in_every_tier(mem: agentmem.Store) -> None:
    planner, worker = mem.agent("planner"), mem.agent("worker")
    smu = planner.put(PROMPT, kind="system_prompt", name="base")
    worker.attach("base")
    for key in (smu.id, smu.id[:12], smu.id[:12].upper(), "base"):
        found = record("inspect", key)
        assert (found["id"], found["kind"], found["names"]) == (smu.id, "system_prompt", ["base"])
        assert found["logical_bytes"] == len(PROMPT)
        assert found["holders"] == {"planner": 1, "worker": 1}
        assert (found["shared_by"], found["tier"]) == (2, "hot")
    mem.reclaim()
    found = record("inspect", "base")
    assert (found["tier"], [frame["codec"] for frame in found["frames"]]) == ("warm", ["zstd"])
    assert found["stored_bytes"] < len(PROMPT) / 10
    text = run("inspect", "base").stdout
    for word in ("planner, worker", "zstd", "RAM", "102.5 KiB"):
        assert word in text
    assert run("cat", "base").stdout_bytes == PROMPT
    assert record("inspect", "base")["tier"] == "warm", "looking is no use"


def test_content_of_many_parts_comes_whole(mem: agentmem.Store) -> None:
    content = b"".join(number.to_bytes(4) * 3 for number in range(1_500_000))
    smu = mem.agent("agent").put(content)
    assert b"".join(mem.pieces(smu.id)) == content
    mem.reclaim()
    assert smu.tier == "warm"
    assert len(mem.inspect(smu.id)["frames"]) > 1
    assert b"".join(mem.pieces(smu.id)) == content
    assert b"".join(mem.pieces(mem.agent("empty").put(b"").id)) == b""


def test_a_conversation_by_its_agent_and_name(mem: agentmem.Store) -> None:
    talk = mem.agent("a/b").conversation("talk")
    talk.extend(TURNS)
    expected = talk.render()
    found = record("inspect", "a/b/talk")
    assert (found["kind"], found["agent"], found["conversation"]) == ("conversation", "a/b", "talk")
    assert (found["messages"], found["logical_bytes"]) == (50, talk.logical_bytes)
    assert run("cat", "a/b/talk").stdout_bytes == expected
    mem.reclaim()
    assert record("inspect", "a/b/talk")["frames"][0]["items"] == 50
    assert run("cat", "a/b/talk").stdout_bytes == expected


def test_what_means_nothing_or_too_much_is_said(mem: agentmem.Store) -> None:
    agent = mem.agent("agent")
    ids = sorted(agent.put(number.to_bytes(4)).id for number in range(3000))
    both = next(a[:4] for a, b in itertools.pairwise(ids) if a[:4] == b[:4])
    with pytest.raises(InvalidArgument, match="several ids"):
        mem.inspect(both)
    for key in ("nobody", "ab", "agent/none", "none/talk", "0" * 64, ""):
        with pytest.raises(NotFound):
            mem.inspect(key)
    result = run("cat", "nobody")
    assert (result.exit_code, result.stdout) == (1, "")


def test_another_domain_is_not_seen(mem: agentmem.Store, tmp_path: Path) -> None:
    socket = os.environ["AGENTMEM_RUNTIME_DIR"] + "/agentmem.sock"
    mem.agent("mine").put(PROMPT, name="base")
    with agentmem.connect(socket, domain="tenant", token=TOKEN, start=False) as tenant:
        tenant.agent("theirs").put(b"theirs", name="secret")
        with pytest.raises(NotFound):
            mem.inspect("secret")
        with pytest.raises(NotFound):
            mem.limit("theirs", 1)
        assert [each["name"] for each in records("ps")] == ["mine"]
        (tmp_path / "token").write_text(TOKEN + "\n")
        inside = ("--domain", "tenant", "--token-file", tmp_path / "token")
        assert [each["name"] for each in records("ps", *inside)] == ["theirs"]
        assert run("cat", "secret", *inside).stdout_bytes == b"theirs"
    assert run("ps", "--domain", "tenant").exit_code == 2


# limit


def test_a_quota_reaches_the_session_that_has_the_agent(mem: agentmem.Store) -> None:
    agent = mem.agent("agent")
    kept = [agent.put(number.to_bytes(4) * 250) for number in range(20)]
    assert record("limit", "agent", "--quota", "25000")["ok"]
    with pytest.raises(QuotaExceeded):
        kept.extend(agent.put(number.to_bytes(4) * 250) for number in range(20, 40))
    assert (len(kept), agent.quota_bytes) == (25, 25000)
    run("limit", "agent", "--quota", "none")
    kept.extend(agent.put(number.to_bytes(4) * 250) for number in range(25, 40))
    assert [smu.read() for smu in kept] == [number.to_bytes(4) * 250 for number in range(40)]
    assert agent.quota_bytes is None


def test_the_name_says_which_limit_it_has(mem: agentmem.Store, supervisors: Fleet) -> None:
    supervisors.start("tree")
    mem.agent("api")
    assert run("limit", "tree", "--memory-max", "1G").stdout == "tree: at most 1.0 GiB\n"
    wrong = run("limit", "tree", "--quota", "1G")
    assert (wrong.exit_code, "--memory-max" in wrong.stderr) == (1, True)
    wrong = run("limit", "api", "--memory-max", "1G")
    assert (wrong.exit_code, "--quota" in wrong.stderr) == (1, True)
    for option in ("--quota", "--memory-max"):
        assert run("limit", "nobody", option, "1G").exit_code == 1
    assert run("limit", "api").exit_code == 2
    assert run("limit", "api", "--quota", "1", "--memory-max", "1").exit_code == 2


# ps and the rest


def records(*arguments: object) -> list[dict[str, Any]]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_trees_and_agents_of_the_api_are_one_list(mem: agentmem.Store, supervisors: Fleet) -> None:
    supervisors.start("b-tree")
    first, second = mem.agent("a-api"), mem.agent("c-api", importance=80)
    first.put(PROMPT, name="base")
    second.attach("base")
    second.idle()
    found = records("ps")
    assert [(each["type"], each["name"], each["state"]) for each in found] == [
        ("api", "a-api", "active"),
        ("tree", "b-tree", "paged_out"),
        ("api", "c-api", "idle"),
    ]
    assert found[0]["pid"] == os.getpid()
    assert found[2]["logical_bytes"] == found[2]["hot_bytes"] == len(PROMPT)
    assert "processes" not in found[0]
    lines = run("ps").stdout.splitlines()
    assert [line.split()[:2] for line in lines[1:4]] == [
        ["a-api", "api"],
        ["b-tree", "tree"],
        ["c-api", "api"],
    ]
    assert lines[4].startswith("1 agent ")
    # Held twice and there once.
    assert lines[5].split()[:4] == ["2", "agents", "api", "205K"]
    mem.close()
    assert [each["state"] for each in records("ps") if each["type"] == "api"] == ["absent"] * 2


def test_stats_df_verify_and_doctor_ask_the_daemon(mem: agentmem.Store) -> None:
    mem.agent("agent").put(PROMPT, kind="system_prompt")
    assert record("stats")["agent_names"] == ["agent"]
    assert record("stats", "agent")["logical_bytes"] == len(PROMPT)
    assert record("df")["by_kind"]["system_prompt"]["count"] == 1
    assert record("verify")["smus"] == 1
    (found,) = [each for each in records_of_doctor() if each["name"] == "daemon"]
    assert found["status"] == "ok"
    assert "listens" in found["detail"]


def records_of_doctor() -> list[dict[str, Any]]:
    return [json.loads(line) for line in run("doctor", "--json").stdout.splitlines()]


def test_a_daemon_that_hangs_hides_nothing_else(supervisors: Fleet) -> None:
    supervisors.start("tree")
    socket = supervisors.agents.parent / "agentmem.sock"
    configuration = socket.with_suffix(".toml")
    configuration.touch()
    options = [f"--socket={socket}", f"--config={configuration}", "--no-keeper"]
    with subprocess.Popen([PROGRAM, *options]) as process:
        try:
            while run("stats").exit_code != 0:
                time.sleep(0.01)
            process.send_signal(signal.SIGSTOP)
            for _ in range(2):
                result = run("ps", "--json")
                assert [json.loads(line)["name"] for line in result.stdout.splitlines()] == ["tree"]
                assert "does not answer" in result.stderr
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()
    assert listing._asking is not None
    listing._asking.join(30)
