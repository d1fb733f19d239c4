"""`agentmem spawn`, and a zygote in the foreground."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_daemon import until
from test_zygote import facts, has_ended

from agentmem.zygote import Zygote
from agentmem.zygote.place import Place


def command(*arguments: str, **options: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
        [Path(sys.executable).with_name("agentmem"), "spawn", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--zygote", "zygote_agent", "--", "5"], 5, ""),
        (["--zygote", "zygote_agent", "-n", "3", "--name", "w", "0"], 0, ""),
        (["--zygote", "zygote_agent:fail"], 1, "ValueError: as planned"),
        (["--zygote", "zygote_nowhere"], 125, "there is no module"),
        (["--zygote", "a b"], 125, "is no MODULE"),
        ([], 125, "--zygote"),
    ],
)
def test_the_command_ends_as_its_child(
    modules: Path, arguments: list[str], code: int, said: str
) -> None:
    process = command(*arguments, cwd=modules)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, said in err) == (code, True), err
    assert len(out.splitlines()) == (3 if "-n" in arguments else code == 5)


def test_the_command_passes_signals_on_and_dies_of_them(modules: Path) -> None:
    process = command("--zygote", "zygote_agent:handle", cwd=modules)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=60) == 7
    process.communicate()
    process = command("--zygote", "zygote_agent:group", cwd=modules)
    assert process.stdout is not None
    grandchild = int(process.stdout.readline())
    process.send_signal(signal.SIGTSTP)
    assert until(lambda: state(process.pid) == "T" and state(grandchild) == "T")
    process.send_signal(signal.SIGCONT)
    assert until(lambda: state(grandchild) == "S")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM
    assert until(lambda: has_ended(grandchild))


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_the_command_shows_and_stops_a_zygote(modules: Path) -> None:
    def asked(option: str) -> tuple[str, str]:
        process = command("--zygote", "zygote_agent", option, cwd=modules)
        return process.communicate(timeout=60)

    assert asked("--status") == ("", "the zygote of zygote_agent does not run\n")
    # As `python -m agentmem` finds it: from there, and not from what these tests import.
    command("--zygote", "zygote_agent", cwd=modules).communicate(timeout=60)
    assert "zygote_agent" in asked("--status")[0]
    assert "spawned" in asked("--stop")[0]
    assert until(lambda: asked("--status")[0] == "")


def test_a_zygote_in_the_foreground(modules: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "agentmem.zygote", "zygote_agent"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=modules,
    )
    try:
        assert until(lambda: Place.of("zygote_agent").socket.exists())
        with Zygote("zygote_agent", start=False) as made:
            assert made.status()["pid"] == process.pid
            assert facts(made)["arguments"] == []
            again = subprocess.run(
                [sys.executable, "-m", "agentmem.zygote", "zygote_agent"],
                capture_output=True,
                text=True,
                timeout=60,
                cwd=modules,
            )
            assert (again.returncode, "runs already" in again.stderr) == (1, True)
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0
