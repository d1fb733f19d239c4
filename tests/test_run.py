"""`agentmem run` and `adopt`: what the supervisor is called with, and what it inherits."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
from click.testing import CliRunner, Result

from agentmem import supervisor
from agentmem.cli import main
from agentmem.cli.duration import duration_ms
from agentmem.errors import Unsupported

# `agentmem` with another supervisor, named first.
WITH_PROGRAM = (
    "import sys, pathlib; from agentmem import supervisor; from agentmem.cli import main;"
    "supervisor.PROGRAM = pathlib.Path(sys.argv.pop(1)); main(prog_name='agentmem')"
)
DEFAULTS = ["--importance=50", "--idle-after-ms=30000", "--breath-ms=600000"]


class Became(Exception):
    """What the process would have become."""


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the command, and returns what the supervisor is called with."""

    def become(arguments: list[str]) -> NoReturn:
        raise Became(arguments)

    monkeypatch.setattr(supervisor, "become", become)

    def invoke(*arguments: str) -> list[str]:
        result = run(*arguments)
        assert isinstance(result.exception, Became), result.stderr
        return list(result.exception.args[0])

    return invoke


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="agentmem")


def program(folder: Path, script: str, mode: int = 0o755) -> Path:
    """A supervisor that is a script: of the shell, if it does not name another interpreter."""
    path = folder / "agentmem-supervisor"
    path.write_text(script if script.startswith("#!") else f"#!/bin/sh\n{script}\n")
    path.chmod(mode)
    return path


def become(path: Path, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """`agentmem ARGUMENTS`, in a process of its own."""
    command = [sys.executable, "-c", WITH_PROGRAM, str(path), *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, **more)


# what it is called with


def test_options_end_at_the_command(became: Any) -> None:
    expected = ["run", *DEFAULTS, "--", "claude", "--help", "-n", "2", "--", "x"]
    assert became("run", "claude", "--help", "-n", "2", "--", "x") == expected
    assert became("run", "--", "claude", "--help", "-n", "2", "--", "x") == expected
    assert became("run", "--", "--odd")[-2:] == ["--", "--odd"]


def test_every_option_of_run_in_the_supervisors_units(became: Any) -> None:
    options = "--name a.b -n 3 --importance 80 --idle-after 1.5m --memory-max 2G --breath 0"
    more = "--cold-dir /var/cold --no-freeze --best-effort"
    assert became("run", *options.split(), *more.split(), "--", "sh", "-c", "true") == [
        "run",
        "--name=a.b",
        "--importance=80",
        "--idle-after-ms=90000",
        f"--memory-max-bytes={2 * 1024**3}",
        "--breath-ms=0",
        "--cold-dir=/var/cold",
        "--count=3",
        "--no-freeze",
        "--best-effort",
        "--",
        "sh",
        "-c",
        "true",
    ]


def test_adopt(became: Any) -> None:
    assert became("adopt", "42") == ["adopt", "--pid=42", *DEFAULTS]
    assert became("adopt", "42", "--tree", "--name", "x") == [
        "adopt",
        "--pid=42",
        "--tree",
        "--name=x",
        *DEFAULTS,
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["run", "--"],
        ["run", "--nonsense", "x"],
        ["run", "--name", "../x", "x"],
        ["run", "--name", "x" * 65, "x"],
        ["run", "--importance", "101", "x"],
        ["run", "--idle-after", "soon", "x"],
        ["run", "--idle-after", "0", "x"],
        ["run", "--memory-max", "much", "x"],
        ["run", "--memory-max", "0", "x"],
        ["run", "-n", "0", "x"],
        ["adopt"],
        ["adopt", "claude"],
        ["adopt", "0"],
        ["adopt", "1", "2"],
    ],
)
def test_errors_of_its_own_are_125_and_one_line(arguments: list[str]) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (125, "")
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("Error: ")


@pytest.mark.parametrize(
    ("text", "ms"),
    [("30", 30_000), ("30s", 30_000), ("250ms", 250), ("1.5 m", 90_000), ("2H", 7_200_000)],
)
def test_lengths_of_time(text: str, ms: int) -> None:
    assert duration_ms(text) == ms


# the program


def test_without_a_supervisor_it_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "PROGRAM", tmp_path / "none")
    result = run("run", "true")
    assert result.exit_code == 125
    assert "needs the supervisor" in result.stderr
    assert "make setup" in result.stderr
    monkeypatch.setattr(supervisor, "PROGRAM", program(tmp_path, "true", mode=0o644))
    with pytest.raises(Unsupported, match="chmod"):
        supervisor.become([])


def test_a_program_for_another_machine_is_one_line(tmp_path: Path) -> None:
    path = program(tmp_path, "")
    path.write_bytes(b"\x7fELF" + bytes(100))
    result = become(path, "run", "true", stderr=subprocess.PIPE)
    assert (result.returncode, result.stdout) == (125, "")
    assert "another kind of machine" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_built_supervisor_can_be_executed() -> None:
    assert os.access(supervisor.program(), os.X_OK)


# what it inherits


def test_it_ends_as_the_supervisor_ends_with_the_same_process_number(tmp_path: Path) -> None:
    path = program(tmp_path, 'echo "$$ $*"; exit 7')
    command = [sys.executable, "-c", WITH_PROGRAM, str(path), "run", "a b"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.read() == f"{process.pid} run {' '.join(DEFAULTS)} -- a b\n"
    assert process.returncode == 7


def signals(path: Path, field: str, **more: Any) -> int:
    """A set of signals of the supervisor."""
    lines = become(path, "run", "true", **more).stdout.splitlines()
    (line,) = [line for line in lines if line.startswith(field)]
    return int(line.split()[1], 16)


@pytest.fixture
def reporter(tmp_path: Path) -> Path:
    """A supervisor that says what it was started with."""
    return program(tmp_path, "grep Sig /proc/self/status; ls /proc/$$/fd; env")


def bit(number: signal.Signals) -> int:
    return 1 << (number - 1)


def ignored_anyway() -> int:
    """What the caller of the tests ignores: all that they start inherits that."""
    status = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout
    (line,) = [line for line in status.splitlines() if line.startswith("SigIgn:")]
    return int(line.split()[1], 16)


def test_no_signal_stays_ignored_or_blocked_that_was_not(reporter: Path) -> None:
    assert signals(reporter, "SigIgn:") == ignored_anyway()
    assert signals(reporter, "SigBlk:") == 0


def test_what_the_caller_ignored_or_blocked_stays_so(reporter: Path, tmp_path: Path) -> None:
    def prepare() -> None:
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])

    ignored = signals(reporter, "SigIgn:", preexec_fn=prepare)
    assert ignored == ignored_anyway() | bit(signal.SIGINT) | bit(signal.SIGHUP)
    # A shell unblocks what is blocked; Python, which ignores signals, leaves the mask as it is.
    read = f"#!{sys.executable}\nprint(open('/proc/self/status').read())"
    blocked = signals(program(tmp_path, read), "SigBlk:", preexec_fn=prepare)
    assert blocked == bit(signal.SIGUSR1)


def test_descriptors_are_those_of_the_caller(reporter: Path) -> None:
    read_end, write_end = os.pipe()
    try:
        lines = become(reporter, "run", "true", pass_fds=[read_end]).stdout.splitlines()
    finally:
        os.close(read_end)
        os.close(write_end)
    numbers = {int(line) for line in lines if line.isdigit()}
    # The shell keeps its script open as 10 or so; it is no descriptor of Python's.
    assert numbers - {0, 1, 2, read_end} <= {10, 255}
    assert read_end in numbers


def test_the_environment_is_that_of_the_caller(reporter: Path) -> None:
    # With this locale Python sets LC_CTYPE for itself.
    given = {"PATH": os.environ["PATH"], "LANG": "C", "PYTHONPATH": os.pathsep.join(sys.path)}
    lines = become(reporter, "run", "true", env=given).stdout.splitlines()
    assert not [line for line in lines if line.startswith("LC_")]
    lines = become(reporter, "run", "true", env=given | {"LC_CTYPE": "C.UTF-8"}).stdout.splitlines()
    assert "LC_CTYPE=C.UTF-8" in lines


def test_arguments_need_not_be_text(tmp_path: Path) -> None:
    path = program(tmp_path, "for each; do printf '%s' \"$each\" | od -An -tx1; done")
    command = [sys.executable, "-c", WITH_PROGRAM, str(path), "run", b"\xff\xfe"]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60)
    assert result.stdout.splitlines()[-1].split() == ["ff", "fe"]


def test_run_imports_nothing_heavy() -> None:
    code = (
        "import sys; from agentmem import supervisor; from agentmem.cli import main\n"
        "def become(arguments):\n"
        "    wrong = {'rich', 'textual', 'asyncio', 'concurrent.futures'} & set(sys.modules)\n"
        "    sys.exit(f'imported: {wrong}' if wrong else 0)\n"
        "supervisor.become = become\n"
        "main(['run', 'true'])"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
