"""Sessions with a daemon: what only they have. All else is in the tests that run against both."""

import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import PythonProcess, until

import agentmem
from agentmem.daemon import PROGRAM
from agentmem.errors import (
    ArenaFull,
    ForkedChild,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unreachable,
)

CLIENT = """
import sys, time, agentmem
mem = agentmem.connect(sys.argv[1], start=False)
agent = mem.agent(sys.argv[2])
agent.attach("shared")
agent.put(sys.argv[2].encode() * 1000)
agent.conversation("talk").append(b"a message of " + sys.argv[2].encode())
print(agent.stats()["smus"])
time.sleep(600)
"""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A daemon without a keeper: its socket and its process."""
    socket, configuration = tmp_path / "agentmem.sock", tmp_path / "agentmemd.toml"
    configuration.touch()
    options = [f"--socket={socket}", f"--config={configuration}", "--no-keeper"]
    with subprocess.Popen([PROGRAM, "--foreground", *options]) as process:
        assert until(lambda: can_connect(socket))
        yield socket, process.pid
        os.kill(process.pid, signal.SIGCONT)
        process.terminate()
        process.wait(timeout=30)


def can_connect(socket: Path) -> bool:
    try:
        agentmem.connect(socket, start=False).close()
    except Unreachable:
        return False
    return True


def test_a_session_starts_the_daemon_where_there_is_none(tmp_path: Path) -> None:
    socket = tmp_path / "agentmem.sock"
    with pytest.raises(Unreachable):
        agentmem.connect(socket, start=False)
    try:
        with agentmem.connect(socket) as mem, agentmem.connect(socket) as other:
            mem.agent("agent")
            assert other.agents() == ["agent"]
    finally:
        subprocess.run([PROGRAM, "--stop", f"--socket={socket}"], check=True, timeout=60)


def test_killed_processes_give_back_what_only_they_held(
    daemon_socket: Path, python: type[PythonProcess]
) -> None:
    with agentmem.connect(daemon_socket, start=False) as mem:
        keeper = mem.agent("keeper")
        shared = keeper.put(b"a prompt for all of them " * 100, name="shared")
        clients = [python(CLIENT, daemon_socket, f"client-{number}") for number in range(10)]
        for client in clients:
            assert client.stdout is not None
            assert client.stdout.readline() == "2\n"
        assert (len(mem.agents()), shared.shared_by) == (11, 11)
        for client in clients:
            client.kill()
            client.communicate(timeout=30)
        assert until(lambda: mem.agents() == ["keeper"])
        stats = mem.stats()
        assert (stats["smus"], stats["conversations"], shared.shared_by) == (1, 0, 1)


def test_a_forked_child_has_no_session(daemon_socket: Path) -> None:
    with agentmem.connect(daemon_socket, start=False) as mem:
        agent = mem.agent("agent")
        smu = agent.put(b"kept")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                agent.put(b"not mine")
            except ForkedChild:
                code = 0
            os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert mem.agents() == ["agent"]
        with smu.view() as view:
            assert view == b"kept"


def test_put_and_view_need_no_daemon_that_runs(engine: tuple[Path, int]) -> None:
    socket, pid = engine
    with agentmem.connect(socket, on_full="fail", start=False) as mem:
        agent = mem.agent("agent")
        hot = agent.put(b"hot", name="hot")
        assert hot.id
        os.kill(pid, signal.SIGSTOP)
        put: list[agentmem.Smu] = []
        with pytest.raises(ArenaFull):
            put.extend(agent.put(number.to_bytes(8) * 100) for number in range(100_000))
        with hot.view() as view:
            assert view == b"hot"
        os.kill(pid, signal.SIGCONT)
        assert len(put) > 100
        for number, smu in enumerate(put):
            with smu.view() as view:
                assert view == number.to_bytes(8) * 100


def test_views_outlive_the_daemon(engine: tuple[Path, int]) -> None:
    socket, pid = engine
    mem = agentmem.connect(socket, start=False)
    agent = mem.agent("agent")
    hot = agent.put(b"hot " * 1000)
    assert hot.id
    with hot.view() as view:
        os.kill(pid, signal.SIGKILL)
        assert until(lambda: not can_connect(socket))
        with pytest.raises(Unreachable):
            mem.stats()
        assert view == b"hot " * 1000
    agent.put(b"goes into the arena")
    with hot.view() as view:
        assert view == b"hot " * 1000
    with pytest.raises(Unreachable):
        mem.close()


def test_domains_are_entered_by_their_token(daemon_socket: Path) -> None:
    def enter(name: str | None = None, token: str | None = None) -> agentmem.Store:
        return agentmem.connect(daemon_socket, domain=name, token=token, start=False)

    with enter() as own, enter("tenant", "a token that is long") as tenant:
        ids = []
        for mem in (own, tenant):
            smu = mem.agent("agent").put(b"the same for both", name="prompt")
            ids.append(smu.id)
            assert smu.shared_by == 1
        assert ids[0] != ids[1]
        with pytest.raises(NotFound):
            own.agent("other").attach(ids[1])
        with pytest.raises(PermissionDenied):
            enter("tenant", "another one as long")
        for wrong in (("tenant", None), (None, "a token that is long"), ("tenant", "short")):
            with pytest.raises(InvalidArgument):
                enter(*wrong)


def test_a_call_that_is_too_long_ends_no_session(daemon_socket: Path) -> None:
    with agentmem.connect(daemon_socket, start=False) as mem:
        agent = mem.agent("agent")
        kept = agent.put(b"kept", name="kept")
        with pytest.raises(InvalidArgument, match="at most"):
            agent.attach("x" * 2_000_000)
        assert mem.agents() == ["agent"]
        assert agent.attach("kept").id == kept.id


def test_threads_that_call_at_the_same_time_share_a_session(daemon_socket: Path) -> None:
    with agentmem.connect(daemon_socket, start=False) as mem:
        agents = [mem.agent(f"agent-{number}") for number in range(8)]

        def talk(agent: agentmem.Agent) -> int:
            conversation = agent.conversation()
            for number in range(50):
                conversation.append(b"%d" % number)
                assert agent.stats()["messages"] == number + 1
            return len(conversation)

        with ThreadPoolExecutor(len(agents)) as pool:
            assert list(pool.map(talk, agents)) == [50] * len(agents)
        assert mem.stats()["messages"] == 400
