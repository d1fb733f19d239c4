"""The command as its users meet it: what goes where, and which exit code."""

import json
import os
import subprocess
import sys
import time
from importlib import import_module

import click
import pytest
from click.testing import CliRunner, Result

import agentmem
from agentmem.cli import app as group
from agentmem.cli import main
from agentmem.cli.output import Output, with_output
from agentmem.errors import NotFound
from agentmem.machine import examine

# These become another program, say nothing at all, or write bytes as they are.
WITHOUT_DATA = {"daemon", "run", "adopt", "hint", "cat"}

# What a shell runs when it runs `agentmem`, whether or not the script is on its PATH.
COMMAND = [sys.executable, "-c", "from agentmem.cli import main; main(prog_name='agentmem')"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="agentmem")


def test_without_arguments_it_says_what_to_do_first() -> None:
    result = run()
    assert result.exit_code == 0
    places = [result.stdout.index(f"agentmem {name} ") for name in ("scan", "run", "demo")]
    assert places == sorted(places)


def test_version() -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"agentmem {agentmem.__version__}\n")


def test_a_wrong_command_or_option_is_exit_code_2_and_says_so_on_stderr() -> None:
    for arguments in (["nonsense"], ["--nonsense"], ["doctor", "--nonsense"]):
        result = run(*arguments)
        assert (result.exit_code, result.stdout) == (2, ""), arguments
        assert "nonsense" in result.stderr


@pytest.mark.parametrize("name", group.COMMANDS)
def test_every_command_exists_takes_json_and_has_help(name: str) -> None:
    module, attribute = group.COMMANDS[name].target.split(":")
    command = getattr(import_module(module), attribute)
    assert isinstance(command, click.Command)
    assert command.name == name
    assert run(name, "--help").exit_code == 0
    for leaf in leaves(command):
        takes_json = any("--json" in parameter.opts for parameter in leaf.params)
        assert takes_json == (name not in WITHOUT_DATA), leaf.name


def leaves(command: click.Command) -> list[click.Command]:
    """The command itself, or those of a group."""
    if not isinstance(command, click.Group):
        return [command]
    return [leaf for each in command.commands.values() for leaf in leaves(each)]


def test_doctor_json_is_one_object_a_line_and_each_lack_has_a_way_out() -> None:
    result = run("doctor", "--json")
    findings = [json.loads(line) for line in result.stdout.splitlines()]
    assert [finding["name"] for finding in findings] == [finding.name for finding in examine()]
    for finding in findings:
        assert set(finding) == {"name", "status", "detail", "way_out", "required"}
        assert (finding["status"] == "ok") == (finding["way_out"] == ""), finding
    lacks = any(finding["required"] and finding["status"] == "missing" for finding in findings)
    assert result.exit_code == int(lacks)


def test_doctor_for_people_shows_the_same_findings_without_colour_in_a_pipe() -> None:
    result = run("doctor")
    assert "\x1b" not in result.stdout
    assert all(finding.name in result.stdout for finding in examine())


def test_an_error_of_agentmem_is_one_line_on_stderr_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @click.command()
    @with_output
    def failing(output: Output) -> None:
        raise NotFound("no agent 'planner'")

    monkeypatch.setattr(group.app, "get_command", lambda context, name: failing)
    result = run("doctor")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: no agent 'planner'\n"


def test_a_table_cell_is_data_and_never_markup(capsys: pytest.CaptureFixture[str]) -> None:
    Output(json=False).table(["name", "bytes"], [["[bold]x[/bold]", "12"]], right=["bytes"])
    assert "[bold]x[/bold]" in capsys.readouterr().out


def test_start_up_is_quick() -> None:
    """Promised: under 150 ms. The best of some runs, since other work shares the cores."""

    def once() -> float:
        start = time.perf_counter()
        subprocess.run([*COMMAND, "--help"], check=True, capture_output=True)
        return time.perf_counter() - start

    assert min(once() for _ in range(10)) < 0.150


def test_help_imports_neither_rich_nor_a_command() -> None:
    code = (
        "import sys; from agentmem.cli import main; main(['--help'], standalone_mode=False);"
        "wrong = {'rich', 'asyncio', 'matplotlib', 'agentmem.cli.doctor'} & set(sys.modules);"
        "sys.exit(f'imported: {wrong}' if wrong else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_a_closed_pipe_is_no_traceback() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    result = subprocess.run(
        [*COMMAND, "doctor", "--json"], stdout=write_end, stderr=subprocess.PIPE, text=True
    )
    os.close(write_end)
    assert "Traceback" not in result.stderr
