"""libagentmem for C, installed into a prefix of its own and used from there in C and C++."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from agentmem.daemon import PROGRAM as DAEMON

ROOT = Path(__file__).resolve().parent.parent
C = ROOT / "bindings" / "c"
PROGRAMS = C / "tests"
HEADER = C / "include" / "agentmem.h"
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-pedantic", "-g", "-pthread")
# What stores that are opened in the program's own process can serve.
EMBEDDED = {"folder", "options", "alone"}
LINKS = ("dynamic", "static", "sanitized")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def run(*command: object, **environment: str) -> str:
    """What a command prints; it must end well."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Prefix:
    """Where the library was installed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lib = path / "lib"

    def config(self, *options: str) -> list[str]:
        """What pkg-config says, or would say where there is none."""
        folder = self.lib / "pkgconfig"
        if shutil.which("pkg-config"):
            return run("pkg-config", *options, "agentmem", PKG_CONFIG_PATH=str(folder)).split()
        text = (folder / "agentmem.pc").read_text()
        for name, value in reversed(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE)):
            text = text.replace(f"${{{name}}}", value)
        said = dict(re.findall(r"^([\w.]+): (.*)$", text, re.MULTILINE))
        fields = {"--cflags": "Cflags", "--libs": "Libs", "--modversion": "Version"}
        wanted = [fields.get(option, "Libs.private") for option in options]
        return " ".join(said[field] for field in wanted).split()

    def build(self, source: Path, out: Path, link: str = "dynamic") -> Path:
        """Compile and link a program."""
        compiler = ("c++", "-std=c++17") if source.suffix == ".cpp" else ("cc", "-std=c11")
        libraries = self.config("--libs")
        if link == "static":
            libraries = self.config("--libs", "--static")
            libraries[libraries.index("-lagentmem")] = "-l:libagentmem.a"
        flags = SANITIZERS if link == "sanitized" else ()
        program = out / f"{source.stem}-{link}"
        command = (*compiler, *WARNINGS, *flags, *self.config("--cflags"), source, "-o", program)
        run(*command, *libraries)
        return program

    def run(self, program: Path, *arguments: object, **environment: str) -> str:
        """Run a program that was linked here."""
        return run(program, *arguments, LD_LIBRARY_PATH=str(self.lib), **environment)


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Prefix:
    path = tmp_path_factory.mktemp("prefix")
    run("make", "install-c", f"PREFIX={path}")
    return Prefix(path)


def declared() -> set[str]:
    """Functions that the header declares."""
    code = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)
    return set(re.findall(r"^[a-z][\w *]*?\b(agent\w+)\(", code, re.MULTILINE))


def test_the_header_declares_what_the_library_exports(prefix: Prefix) -> None:
    exported = run("nm", "-D", "--defined-only", prefix.lib / "libagentmem.so")
    assert {line.split()[-1] for line in exported.splitlines()} == declared()


def test_programs_call_every_function() -> None:
    programs = "".join(path.read_text() for path in PROGRAMS.iterdir())
    assert [name for name in sorted(declared()) if f"{name}(" not in programs] == []


def test_structs_are_as_long_in_rust_as_in_the_header() -> None:
    rust = "".join(path.read_text() for path in sorted((C / "src").glob("*.rs")))
    names = dict(re.findall(r"/// `(agentmem_\w+)`.*?pub struct (\w+)", rust, re.DOTALL))
    asserted = dict(re.findall(r"assert!\(size_of::<(\w+)>\(\) == (\d+)\)", rust))
    promised = dict(re.findall(r"^AGENTMEM_ASSERT_SIZE\((\w+), (\d+)\)", HEADER.read_text(), re.M))
    structs = set(re.findall(r"^typedef struct (\w+) \{", HEADER.read_text(), re.MULTILINE))
    assert structs == set(promised)
    assert promised == {struct: asserted[names[struct]] for struct in structs}


def test_the_header_keeps_the_vocabulary_and_the_versions() -> None:
    header = HEADER.read_text()
    smu = (ROOT / "crates" / "agentmem-core" / "src" / "smu.rs").read_text()
    for enum, prefix in (("kind", ""), ("tier", ""), ("state", ""), ("advice", "ADVISE_")):
        found = re.search(rf"enum agentmem_{enum} {{(.*?)}}", header, re.DOTALL)
        name = "AgentState" if enum == "state" else enum.capitalize()
        told = re.search(rf"^    {name} {{(.*?)^    }}", smu, re.MULTILINE | re.DOTALL)
        assert found
        assert told
        numbers = re.findall(r"AGENTMEM_(\w+) = (\d)", found[1])
        words = re.findall(r'= (\d) "(\w+)"', told[1])
        assert numbers == [(prefix + word.upper(), number) for number, word in words]
    abi = re.findall(r"AGENTMEM_ABI_VERSION (\d+)", header)
    assert abi == re.findall(r"ABI_VERSION: u32 = (\d+)", (C / "src" / "lib.rs").read_text())
    assert f'libagentmem.so.{abi[0]}"' in (C / "build.rs").read_text()


def test_what_is_installed(prefix: Prefix) -> None:
    version = re.findall(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[0]
    lib = prefix.lib
    assert (lib / "libagentmem.so").resolve().name == f"libagentmem.so.{version}"
    assert os.readlink(lib / "libagentmem.so.0") == f"libagentmem.so.{version}"
    assert "libagentmem.so.0" in run("objdump", "-p", lib / "libagentmem.so")
    assert (prefix.path / "include" / "agentmem.h").read_text() == HEADER.read_text()
    assert prefix.config("--modversion") == [version]


def test_a_staged_installation_finds_itself_where_it_will_be(tmp_path: Path) -> None:
    run("make", "install-c", "PREFIX=/opt/agentmem", f"DESTDIR={tmp_path}")
    staged = tmp_path / "opt" / "agentmem" / "lib"
    assert (staged / "libagentmem.so.0").exists()
    config = (staged / "pkgconfig" / "agentmem.pc").read_text()
    assert "prefix=/opt/agentmem\n" in config
    assert str(tmp_path) not in config


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("source", ["store.c", "content.c", "owners.cpp"])
def test_programs(prefix: Prefix, tmp_path: Path, source: str, link: str) -> None:
    program = prefix.build(PROGRAMS / source, tmp_path, link)
    folder = tmp_path / "store"
    folder.mkdir(mode=0o700)
    arguments = [folder] if source == "store.c" else []
    printed = prefix.run(program, *arguments)
    for line in printed.splitlines():
        assert json.loads(line)


@pytest.mark.parametrize("link", ["dynamic", "sanitized"])
@pytest.mark.parametrize("source", ["store.c", "content.c"])
def test_programs_with_a_daemon(
    prefix: Prefix, tmp_path: Path, daemon_socket: Path, source: str, link: str
) -> None:
    program = prefix.build(PROGRAMS / source, tmp_path, link)
    folder = tmp_path / "store"
    folder.mkdir(mode=0o700)
    arguments = [folder] if source == "store.c" else []
    prefix.run(program, *arguments, AGENTMEM_TEST_SOCKET=str(daemon_socket))


@pytest.mark.parametrize("opener", ["embedded", "connected"])
def test_the_behaviour_suite_of_all_languages(prefix: Prefix, tmp_path: Path, opener: str) -> None:
    suite = ROOT / "spec" / "conformance.json"
    folder = tmp_path / "stores"
    folder.mkdir()
    program = prefix.build(PROGRAMS / "conformance.c", tmp_path)
    daemons, serves = ([DAEMON], {"daemon"}) if opener == "connected" else ([], EMBEDDED)
    counts = json.loads(prefix.run(program, suite, folder, *daemons))
    needs = [set(case.get("needs", [])) for case in json.loads(suite.read_text())["cases"]]
    served = [need <= serves for need in needs]
    assert counts == {"passed": sum(served), "failed": 0, "skipped": served.count(False)}


def test_nothing_is_asked_of_null(prefix: Prefix, tmp_path: Path) -> None:
    code = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)
    functions = dict(re.findall(r"^int (agent\w+)\((.*?)\);", code, re.MULTILINE | re.DOTALL))
    assert functions.keys() <= declared()
    # One says what a number is, the other takes NULL as free does.
    for name in ("agentmem_error_errno", "agent_discard"):
        del functions[name]
    calls = "".join(
        f"    FAILS(INVALID_ARGUMENT, {name}({', '.join('0' for _ in parameters.split(','))}));\n"
        for name, parameters in functions.items()
    )
    source = tmp_path / "nulls.c"
    include = f'#include "{PROGRAMS / "check.h"}"'
    source.write_text(f"{include}\nint main(void)\n{{\n{calls}    return 0;\n}}\n")
    prefix.run(prefix.build(source, tmp_path, "sanitized"))


def test_figures_have_the_names_that_python_gives_them(prefix: Prefix, tmp_path: Path) -> None:
    import agentmem

    program = prefix.build(PROGRAMS / "store.c", tmp_path)
    folder = tmp_path / "store"
    folder.mkdir()
    stats, agent_stats = map(json.loads, prefix.run(program, folder).splitlines())
    with agentmem.open(memory_max="64M") as mem:
        agent = mem.agent("figures")
        assert stats.keys() == mem.stats().keys()
        assert agent_stats.keys() == agent.stats().keys()
        for group in ("by_kind", "by_tier", "counters"):
            assert stats[group].keys() == mem.stats()[group].keys()


def test_the_quick_start_of_the_readme(prefix: Prefix, tmp_path: Path) -> None:
    source = tmp_path / "quick.c"
    source.write_text(re.findall(r"```c\n(.*?)```", (C / "README.md").read_text(), re.DOTALL)[0])
    assert prefix.run(prefix.build(source, tmp_path)) == "You are a coder.\n"
