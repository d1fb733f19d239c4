"""Zygotes: what their children are, and what hurts nobody."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import ZYGOTE_AGENT, Make
from test_daemon import until

import agentmem
from agentmem import registry
from agentmem.errors import (
    Closed,
    ForkedChild,
    InvalidArgument,
    Io,
    LimitReached,
    NotFound,
    PermissionDenied,
    Unreachable,
    Unsupported,
)
from agentmem.zygote import Zygote, client, current, wire
from agentmem.zygote.place import Place, Target


def module(folder: Path, name: str, code: str) -> str:
    (folder / f"{name}.py").write_text(textwrap.dedent(code))
    return name


def output(zygote: Zygote, *arguments: str, code: int = 0, **options: object) -> str:
    """What a child printed, once it ended with `code`."""
    reading, writing = os.pipe()
    with os.fdopen(reading) as file:
        with zygote.spawn(*arguments, stdout=writing, **options) as child:  # type: ignore[arg-type]
            os.close(writing)
            text = file.read()
        assert child.returncode == code
    return text


def facts(zygote: Zygote, *arguments: str, **options: object) -> dict[str, object]:
    import json

    found = json.loads(output(zygote, *arguments, **options))
    assert isinstance(found, dict)
    return found


def test_a_child_has_what_its_caller_has(
    zygote: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARK", "caf\xe9 \udcff")
    monkeypatch.chdir(tmp_path)
    before = os.umask(0o027)
    try:
        found = facts(zygote(), "a", "\udcfe b")
    finally:
        os.umask(before)
    assert found["arguments"] == ["a", "\udcfe b"]
    assert (found["cwd"], found["umask"], found["marked"]) == (
        str(tmp_path),
        0o027,
        "caf\xe9 \udcff",
    )
    assert found["group"] == found["pid"]


def test_a_child_has_what_it_was_given(zygote: Make, tmp_path: Path) -> None:
    found = facts(
        zygote(),
        cwd=tmp_path,
        umask=0o077,
        env={"MARK": "x", "AGENTMEM_SOCKET": os.environ["AGENTMEM_SOCKET"]},
    )
    assert (found["cwd"], found["umask"], found["marked"]) == (str(tmp_path), 0o077, "x")


def test_what_one_caller_had_the_next_has_not(
    zygote: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = zygote()
    for marked in ("a", "b", None, "c"):
        monkeypatch.delenv("MARK", raising=False)
        if marked is not None:
            monkeypatch.setenv("MARK", marked)
        assert facts(made)["marked"] == marked


def test_nothing_of_the_zygote_is_left_in_a_child(zygote: Make) -> None:
    made = zygote()
    others = [zygote() for _ in range(5)]
    descriptors = facts(made, register=False)["descriptors"]
    # Those of the standard, and the one that lists them.
    assert descriptors == [0, 1, 2, 3]
    assert len(others) == made.status()["connections"] - 1


def test_no_two_children_draw_the_same_numbers(zygote: Make) -> None:
    made = zygote()
    assert len({facts(made)["drawn"] for _ in range(5)}) == 5


def test_stdin_reaches_a_child(zygote: Make) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"quiet")
    os.close(writing)
    try:
        assert output(zygote("zygote_agent:upper"), stdin=reading) == "QUIET"
    finally:
        os.close(reading)


@pytest.mark.parametrize(
    ("function", "arguments", "code", "said"),
    [
        ("main", ["3"], 3, ""),
        ("main", ["259"], 3, ""),
        ("fail", [], 1, "ValueError: as planned"),
        ("say", [], 1, "said"),
        ("nothing", [], 125, "agentmem: module zygote_agent has no function nothing"),
    ],
)
def test_the_end_of_a_child_is_that_of_a_script(
    zygote: Make, tmp_path: Path, function: str, arguments: list[str], code: int, said: str
) -> None:
    with (tmp_path / "stderr").open("w+") as stderr:
        made = zygote(f"zygote_agent:{function}")
        with made.spawn(*arguments, stdout=subprocess.DEVNULL, stderr=stderr) as child:
            assert child.wait(60) == code
        assert said in (tmp_path / "stderr").read_text()


def test_a_signal_reaches_a_child_and_its_end_its_caller(zygote: Make) -> None:
    made = zygote("zygote_agent:handle")
    reading, writing = os.pipe()
    with os.fdopen(reading) as file, made.spawn(stdout=writing) as child:
        os.close(writing)
        assert file.readline() == "ready\n"
        assert child.poll() is None
        with pytest.raises(TimeoutError):
            child.wait(0)
        child.send_signal(signal.SIGUSR1)
        assert child.wait(60) == 7
        child.kill()  # Too late, and no error.
    child = made.spawn(stdout=subprocess.DEVNULL)
    child.kill()
    assert child.wait(60) == child.poll() == -signal.SIGKILL
    child.close()


def test_a_group_is_signalled_together(zygote: Make) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading) as file:
        with zygote("zygote_agent:group").spawn(stdout=writing) as child:
            os.close(writing)
            grandchild = int(file.readline())
            child.send_signal(signal.SIGTERM, group=True)
            assert child.wait(60) == -signal.SIGTERM
        assert until(lambda: has_ended(grandchild))


def has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def test_children_are_registered_agents(zygote: Make, daemon_socket: Path) -> None:
    made = zygote("zygote_agent:talk")
    ends, children = [], []
    with agentmem.connect(daemon_socket, start=False) as mem:
        for number in range(3):
            (reading, writing), (stdin, end) = os.pipe(), os.pipe()
            children.append(
                made.spawn(
                    str(number), name="named" if number else None, stdin=stdin, stdout=writing
                )
                if number < 2
                else made.spawn("2", stdin=stdin, stdout=writing)
            )
            ends.append(end)
            os.close(stdin)
            os.close(writing)
            with os.fdopen(reading) as file:
                assert file.readline() == "put\n"
        assert sorted(mem.agents()) == sorted(child.name for child in children)
        assert children[1].name == "named"
        assert mem.agent_stats("named")["pid"] == children[1].pid
        for end, child in zip(ends, children, strict=True):
            os.close(end)
            assert child.wait(60) == 0
            child.close()
        # Who has a name can be taken up again; who has none is gone, with all that it held.
        assert until(lambda: mem.agents() == ["named"])
        assert mem.agent("named").attach("of-1").text() == "mine 1"
        with pytest.raises(NotFound):
            mem.agent("other").attach("of-0")


def test_a_name_that_is_taken_ends_the_child_with_a_line(
    zygote: Make, daemon_socket: Path, tmp_path: Path
) -> None:
    with agentmem.connect(daemon_socket, start=False) as mem:
        mem.agent("taken")
        with (
            (tmp_path / "stderr").open("w") as stderr,
            zygote().spawn(name="taken", stderr=stderr) as child,
        ):
            assert child.wait(60) == 125
        (line,) = (tmp_path / "stderr").read_text().splitlines()
        assert line.startswith("agentmem: ")
        assert "taken" in line


def test_each_child_has_the_environment_of_its_moment(
    zygote: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = zygote(), zygote()
    for made, mark in ((first, "a"), (first, "a"), (second, "b"), (first, "a"), (first, "b")):
        monkeypatch.setenv("MARK", mark)
        assert facts(made)["marked"] == mark
        time.sleep(0.1)  # The next is the spare, and has what this one had.
    # What a refused request told counts for nothing.
    with pytest.raises(InvalidArgument):
        first.spawn(env={"MARK": "c"}, umask=-1)
    assert facts(first)["marked"] == "b"
    monkeypatch.delenv("MARK")
    assert facts(first)["marked"] is None


def test_a_spare_whose_daemon_went_connects_again(
    zygote: Make, tmp_path: Path, daemon_socket: Path
) -> None:
    from conftest import daemon

    made = zygote()
    facts(made)
    time.sleep(0.1)  # The spare for the next has its session.
    with daemon(tmp_path / "other.sock") as other:
        environment = dict(os.environ) | {"AGENTMEM_SOCKET": str(other)}
        facts(made, env=environment, name="there")
        with agentmem.connect(other, start=False) as mem:
            assert mem.agents() == ["there"]


def test_one_zygote_serves_all_who_ask(zygote: Make) -> None:
    first, second = zygote(), zygote("zygote_agent:upper")
    assert first.status()["pid"] == second.status()["pid"]
    assert first.status()["module"] == "zygote_agent"


def test_what_one_asked_for_no_other_can_wait_for(zygote: Make) -> None:
    first, second = zygote("zygote_agent:handle"), zygote()
    with first.spawn(stdout=subprocess.DEVNULL) as child:
        assert not os.get_inheritable(child.fileno())
        assert not os.get_inheritable(first._open().births.fileno())
        with pytest.raises(NotFound):
            second._ask("reap", str(child.pid))
        with pytest.raises(InvalidArgument):
            first._ask("reap", str(child.pid))
        child.kill()


def test_children_outlive_their_caller_and_are_reaped(zygote: Make) -> None:
    made, other = zygote("zygote_agent:handle"), zygote()
    kept, let_go = (made.spawn(stdout=subprocess.DEVNULL) for _ in range(2))
    let_go.close()
    made.close()
    assert not has_ended(kept.pid)
    assert other.status()["children"] == 2
    for child in (kept, let_go):
        os.kill(child.pid, signal.SIGKILL)
    assert until(lambda: other.status()["children"] == 0)
    with pytest.raises(Closed):
        kept.wait(60)


def test_a_killed_spare_or_child_harms_nobody(zygote: Make) -> None:
    made = zygote()
    pid = made.status()["pid"]
    facts(made)

    def spares() -> list[int]:
        return [int(each) for each in children_file(pid).read_text().split()]

    assert until(lambda: len(spares()) == 1)
    os.kill(spares()[0], signal.SIGKILL)
    assert until(lambda: spares() == [])
    assert facts(made)["arguments"] == []
    assert until(lambda: len(spares()) == 1)


def children_file(pid: int) -> Path:
    return Path(f"/proc/{pid}/task/{pid}/children")


def test_a_zygote_ends_when_it_is_idle(zygote: Make, modules: Path) -> None:
    made = zygote(idle_after_s=0.2)
    pid = made.status()["pid"]
    time.sleep(0.5)
    assert not has_ended(pid)  # Somebody has a session.
    made.close()
    assert until(lambda: has_ended(pid))
    place = Place.of("zygote_agent")
    assert not place.socket.exists()
    with pytest.raises(Unreachable):
        zygote(start=False)
    assert zygote().status()["pid"] != pid


@pytest.mark.parametrize("signalled", [False, True])
def test_a_zygote_that_is_stopped_leaves_its_children(zygote: Make, signalled: bool) -> None:
    made = zygote("zygote_agent:handle")
    pid = made.status()["pid"]
    child = made.spawn(stdout=subprocess.DEVNULL)
    if signalled:
        os.kill(pid, signal.SIGTERM)
    else:
        made.stop()
    assert until(lambda: has_ended(pid))
    assert not has_ended(child.pid)
    child.kill()
    with pytest.raises(Unreachable):
        child.wait(60)
    with pytest.raises(Unreachable):
        made.spawn()


@pytest.mark.parametrize(
    ("code", "error", "said"),
    [
        (
            "import threading, time\n"
            "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
            Unsupported,
            "started threads",
        ),
        ("import agentmem; MEM = agentmem.connect()", Unsupported, "1 store open"),
        ("import no_such_module_at_all", NotFound, "no_such_module_at_all"),
        ("1 / 0", Io, "ZeroDivisionError"),
    ],
)
def test_what_a_fork_would_break_is_refused(
    zygote: Make, modules: Path, code: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        zygote(module(modules, "zygote_refused", code))


@pytest.mark.parametrize("target", ["", "a b", "a..b", "__main__", "a:b:c", "a:", "../a", "a;b"])
def test_what_is_no_module_is_refused(modules: Path, target: str) -> None:
    with pytest.raises(InvalidArgument):
        Target.parse(target)


def test_a_module_that_is_nowhere_is_refused(modules: Path) -> None:
    with pytest.raises(NotFound, match="looked in"):
        Zygote("zygote_nowhere")


def test_a_folder_that_is_open_to_others_is_refused(modules: Path, tmp_path: Path) -> None:
    Place.of("zygote_agent")
    (tmp_path / "run").chmod(0o755)
    with pytest.raises(PermissionDenied, match="chmod 700"):
        Zygote("zygote_agent")


@pytest.mark.parametrize(
    "message",
    [
        b"\n",
        b"\0",
        b"\xff",
        b"nothing that is known",
        b"reap",
        b"reap\0" + b"1",
        b"reap\0" + b"9" * 4000,
        b"forget\0\0",
        b"x" * 100_000,
    ],
)
def test_garbage_is_refused_and_hurts_nobody(zygote: Make, message: bytes) -> None:
    made = zygote()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(60)
        with registry.address(Place.of("zygote_agent").socket) as address:
            connection.connect(address)
        try:
            connection.sendall(message)
            said = connection.recv(4096)
        except ConnectionError:
            said = b""
        assert said == b"" or said.startswith(b"error\0")
    assert facts(made)["arguments"] == []


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (b"\n", None),
        (b"\xff", None),
        (b"main", "understood"),
        (b"main\0name\0\0one\0" + b"18\0" + b"1\0", "understood"),
        (b"main\0name\0\0" + b"1\0" + b"512\0" + b"1\0" + b"1\0", "umask"),
    ],
)
@pytest.mark.parametrize("count", [0, 5, 6])
def test_a_request_that_makes_no_sense_hurts_nobody(
    zygote: Make, message: bytes, said: str | None, count: int
) -> None:
    made = zygote()
    facts(made)  # Whoever hears it is a spare, and then the next.
    session = made._open()
    here, there = wire.pair()
    with here, open(os.devnull) as file:
        with there:
            lent = [file.fileno()] * (count - 1) + [there.fileno()] if count else []
            wire.send(session.births, message, lent)
        here.settimeout(60)
        if said is not None and count == 6:
            with pytest.raises(InvalidArgument, match=said):
                wire.answer(here, "it")
        else:
            with pytest.raises(EOFError):
                wire.answer(here, "it")
    assert facts(made)["arguments"] == []


def test_where_the_answer_goes_may_be_anything(zygote: Make) -> None:
    made = zygote()
    with open(os.devnull) as file:
        birth = b"upper\0\0\0" + b"0\0" + b"18\0" + b"1\0" + b"1\0"
        wire.send(made._open().births, birth, [file.fileno()] * 6)
    assert until(lambda: made.status()["spawned"] == 1)
    assert facts(made)["arguments"] == []


def test_limits_are_said(zygote: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = zygote()
    for name, value in (("A", "b\0c"), ("", "b"), ("A=", "b"), ("A", "\ud800")):
        with pytest.raises(InvalidArgument, match="variable"):
            made.spawn(env={name: value})
    with pytest.raises(InvalidArgument, match="NUL"):
        made.spawn("b\0c")
    with pytest.raises(InvalidArgument, match="umask"):
        made.spawn(umask=-1)
    with pytest.raises(Io, match="cannot work in"):
        made.spawn(cwd="/no/such/folder")
    with pytest.raises(InvalidArgument, match="no descriptor"):
        made.spawn(stdout=-7)
    with pytest.raises(InvalidArgument, match="at most"):
        made.spawn("x" * wire.MESSAGE_BYTES_MAX)
    with pytest.raises(InvalidArgument, match="at most"):
        made.spawn(env={"A": "x" * wire.MESSAGE_BYTES_MAX})
    assert facts(made)["arguments"] == []


def test_a_session_is_not_for_a_forked_child(zygote: Make) -> None:
    made = zygote()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            made.spawn()
        except ForkedChild:
            code = 0
        made.close()
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert facts(made)["arguments"] == []


def test_a_process_that_nobody_spawned_has_no_agent() -> None:
    with pytest.raises(NotFound, match="agentmem spawn"):
        current()


def test_the_umask_is_found_with_threads_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(0o026)
    try:
        assert client._umask() == 0o026
        monkeypatch.setattr("threading.active_count", lambda: 2)
        assert client._umask() == 0o026
    finally:
        os.umask(before)


def test_more_children_than_allowed_are_refused(
    zygote: Make, modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = f"""
        from agentmem.zygote import server
        server.CHILDREN_MAX = 2
        {textwrap.indent(textwrap.dedent(ZYGOTE_AGENT), " " * 8).lstrip()}
    """
    made = zygote(module(modules, "zygote_limited", limited) + ":handle")
    kept = [made.spawn(stdout=subprocess.DEVNULL) for _ in range(2)]
    for _ in range(2):
        with pytest.raises(LimitReached, match="2 children"):
            made.spawn(stdout=subprocess.DEVNULL)
    kept[0].kill()
    assert kept[0].wait(60) == -signal.SIGKILL
    kept[0] = made.spawn(stdout=subprocess.DEVNULL)
    for each in kept:
        each.kill()
        each.wait(60)
        each.close()


def test_children_that_cannot_get_ready_are_an_error(zygote: Make, modules: Path) -> None:
    dying = """
        import gc, os
        from agentmem.zygote import birth

        def die(*_):
            os._exit(1)

        birth.rehearse = die

        def main():
            pass
    """
    made = zygote(module(modules, "zygote_dying", dying))
    for _ in range(2):
        with pytest.raises(Unreachable, match="children end before"):
            made.spawn()
    assert made.status()["children"] == 0


def test_threads_ask_at_the_same_time(zygote: Make) -> None:
    made = zygote()

    def one(number: int) -> object:
        return facts(made, f"a{number}", register=False)["arguments"]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(24))) == [[f"a{number}"] for number in range(24)]
    assert made.status()["children"] == 0


@pytest.mark.parametrize("length", [4000, 4100, 1 << 20])
def test_arguments_may_be_long(zygote: Make, length: int) -> None:
    assert facts(zygote(), "x" * length, "y")["arguments"] == ["x" * length, "y"]


@pytest.mark.parametrize("is_full", [False, True])
def test_a_spare_that_is_stopped_is_replaced(
    zygote: Make, monkeypatch: pytest.MonkeyPatch, is_full: bool
) -> None:
    monkeypatch.setattr(client, "_STUCK_AFTER_S", 0.5)
    made = zygote()
    children = children_file(made.status()["pid"])
    assert until(lambda: len(children.read_text().split()) == 1)
    stopped = int(children.read_text())
    os.kill(stopped, signal.SIGSTOP)
    while is_full:
        try:
            wire.send(made._open().births, b"no request", flags=socket.MSG_DONTWAIT)
        except BlockingIOError:
            break
    found = facts(made)
    assert found["arguments"] == []
    assert found["pid"] != stopped
    assert until(lambda: str(stopped) not in children.read_text().split())


def test_children_that_are_killed_at_any_moment_are_told_as_killed(zygote: Make) -> None:
    made = zygote()
    children = children_file(made.status()["pid"])
    chance, is_over = random.Random(5), threading.Event()

    def kill() -> None:
        while not is_over.wait(chance.uniform(0, 0.02)):
            for pid in children.read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    codes: list[int | None] = []
    try:
        for _ in range(100):
            try:
                with made.spawn("3", register=False, stdout=subprocess.DEVNULL) as child:
                    pass
                codes.append(child.returncode)
            except Unreachable:
                codes.append(None)
    finally:
        is_over.set()
        killer.join()
    assert set(codes) <= {3, -signal.SIGKILL, None}
    assert len(set(codes)) > 1
    assert facts(made, "a")["arguments"] == ["a"]
    assert until(lambda: made.status()["children"] == 0)


def test_nobody_is_born_for_who_waits_no_more(
    zygote: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = zygote()
    children = children_file(made.status()["pid"])
    assert until(lambda: len(children.read_text().split()) == 1)
    stopped = int(children.read_text())
    os.kill(stopped, signal.SIGSTOP)
    monkeypatch.setattr(client, "_STUCK_AFTER_S", 0.05)
    monkeypatch.setattr(client, "_PATIENCE", 1)
    # It is not old enough to be replaced at once, as far as this caller can tell.
    monkeypatch.setattr(made, "_replace", lambda: None)
    with pytest.raises(Unreachable, match="no child"):
        made.spawn()
    os.kill(stopped, signal.SIGCONT)
    assert facts(made)["pid"] == stopped
    assert made.status()["spawned"] == 1


def test_a_spare_that_has_no_time_yet_is_not_replaced(zygote: Make) -> None:
    made = zygote()
    children = children_file(made.status()["pid"])
    assert until(lambda: len(children.read_text().split()) == 1)
    spare = children.read_text()
    made._ask("replace", "3600")
    assert children.read_text() == spare
    made._ask("replace", "0")
    assert until(lambda: children.read_text() != spare)
    for text in ("", "soon"):
        with pytest.raises(InvalidArgument, match="seconds"):
            made._ask("replace", text)


def test_more_connections_than_allowed_are_refused(zygote: Make, modules: Path) -> None:
    limited = """
        from agentmem.zygote import server
        server.CONNECTIONS_MAX = 2

        def main():
            pass
    """
    name = module(modules, "zygote_crowded", limited)
    first, second = zygote(name), zygote(name)
    with pytest.raises(LimitReached, match="2 connections"):
        zygote(name)
    second.close()
    assert until(lambda: first.status()["connections"] == 1)
    assert zygote(name).status()["pid"] == first.status()["pid"]


def test_a_late_answer_is_not_taken_for_the_next(
    zygote: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = zygote()
    pid = made.status()["pid"]
    made._open().connection.settimeout(0.2)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(Unreachable):
        made.status()
    os.kill(pid, signal.SIGCONT)
    with pytest.raises(Unreachable):
        made.stop()
    assert zygote().status()["pid"] == pid
