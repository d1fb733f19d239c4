"""What must never appear in the source, each rule tried on a sample that breaks it.

A rule is a function from the text of a file to the numbers of the lines that break it.
"""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RUST_WITHOUT_UNSAFE = ("crates/agentmem-core", "crates/agentmem-corpus")
STORE = "crates/agentmem-store/src"
# Calls to Linux, those of sockets, and those of the kernel module.
SEAMS_TO_LINUX = (f"{STORE}/sys.rs", f"{STORE}/socket.rs", f"{STORE}/kernel.rs")
PAGER = "crates/agentmem-pager"
# What looks at others, acts on them, or acts on the own process; and what runs between a fork and
# an exec, or before there is a second thread.
PAGER_UNSAFE_FILES = ("peek", "sys", "os", "launch", "session", "start", "main")
PAGER_UNSAFE = {f"{PAGER}/src/{name}.rs" for name in PAGER_UNSAFE_FILES}
DAEMON = "crates/agentmem-daemon"
DAEMON_UNSAFE = f"{DAEMON}/src/sys.rs"
C_BINDING = "bindings/c"
# Where pointers of C's get types, and what the C library is asked for.
C_BINDING_UNSAFE = {f"{C_BINDING}/src/{name}.rs" for name in ("border", "memory", "sys")}
NODE_BINDING = "bindings/node"
# Where values of napi's are made that it has no safe call for.
NODE_BINDING_UNSAFE = {f"{NODE_BINDING}/src/{name}.rs" for name in ("handle", "promise", "view")}
C_BINDING_SEAM = f"{C_BINDING}/src/sys.rs"
ATOMICS_FACADE = f"{STORE}/sync.rs"
NATIVE_IMPORTER = "python/agentmem/_store.py"
FACES = ("integrations", "cli")
LINES_MAX = 800
# Locks and generated files are as long as they come; nobody reads them from top to bottom.
ANY_LENGTH = re.compile(
    r"Cargo\.lock|requirements/.*\.txt|spec/conformance\.json|bindings/node/package-lock\.json"
)
# Cargo names the public index by this address in every lock file, whatever it fetched from.
CARGO_INDEX = "registry+https://github.com/rust-lang/crates.io-index"

Rule = Callable[[str], list[int]]


def files(*suffixes: str, under: str = "") -> list[Path]:
    """The project's own files, as paths below the root: committed, or not yet and not ignored."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so the project's own files cannot be told")
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    names = sorted({name for name in listing.stdout.split("\0") if name.startswith(under)})
    return [
        Path(name)
        for name in names
        if (not suffixes or name.endswith(suffixes)) and (ROOT / name).is_file()
    ]


def text_of(path: Path) -> str:
    """The text of a file, and nothing for one that is not text."""
    content = (ROOT / path).read_bytes()
    return "" if b"\0" in content else content.decode(errors="replace")


def breaks(rule: Rule, paths: list[Path]) -> list[str]:
    """Where files break a rule, as `path:line`."""
    return [f"{path}:{line}" for path in paths for line in rule(text_of(path))]


def lines_with(pattern: str) -> Rule:
    """Lines in which `pattern` is found."""
    found = re.compile(pattern)
    return lambda text: [n for n, line in enumerate(text.splitlines(), 1) if found.search(line)]


def rust_code_with(pattern: str) -> Rule:
    """Lines of Rust on which `pattern` starts outside of a line comment; it may span lines."""
    found = re.compile(pattern)

    def rule(text: str) -> list[int]:
        code = re.sub(r"//.*", "", text)
        return [code.count("\n", 0, match.start()) + 1 for match in found.finditer(code)]

    return rule


def imports_of(*modules: str) -> Rule:
    """Lines of Python that import one of `modules`, or something in it, relatively too."""

    def names(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = f"agentmem.{node.module or ''}".rstrip(".") if node.level else node.module or ""
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif (
            isinstance(node, ast.Call)
            and node.args
            and isinstance(node.args[0], ast.Constant)
            and getattr(node.func, "attr", getattr(node.func, "id", ""))
            in {"import_module", "__import__"}
        ):
            yield str(node.args[0].value)

    wanted = tuple(f"{module}." for module in modules)
    return lambda text: sorted(
        node.lineno
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Call)
        and any(f"{name}.".startswith(wanted) for name in names(node))
    )


def too_long(text: str) -> list[int]:
    """The first line too many."""
    return [LINES_MAX + 1] if len(text.splitlines()) > LINES_MAX else []


# Written in pieces, so that this file does not break its own rules.
MACHINE_PATHS = lines_with("(?<![A-Za-z0-9_.])/(work" + "|root)/")
REGISTRY_HOSTS = lines_with(
    "pypi" + r"\.org|pythonhosted" + r"\.org|npmjs" + r"\.(org|com)|static\.crates" + r"\.io"
)
ADDRESSES = lines_with("https?:" + "//")
ATOMICS = rust_code_with(r"\b(std|core)::(sync::)?(\{[^;]*)?\batomic\b")
UNSAFE = rust_code_with(r"\bunsafe\b")
# An exported name is unsafe to choose, and says so.
UNSAFE_BUT_NAMES = rust_code_with(r"\bunsafe\b(?!\(no_mangle\))")
LINUX = rust_code_with(r"\b(libc|rustix)\b")
LIBC = rust_code_with(r"\blibc\b")
# A leader outside of our pid namespace has the number 0, of which rustix cannot make a Pid.
LEADERS = rust_code_with(r"\bget(sid|pgrp|pgid)\b")
NATIVE = imports_of("agentmem._native")
UPWARDS = imports_of(*(f"agentmem.{face}" for face in FACES))


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (MACHINE_PATHS, "see network/root/x and .../work/", "open('/wo" + "rk/main')"),
        (REGISTRY_HOSTS, "published on PyPI", "--index-url pypi" + ".org/simple"),
        (ADDRESSES, "click==8.1 --hash=sha256:00", "click @ https:" + "//example.org/c.whl"),
        (ATOMICS, "use crate::sync::atomic::AtomicU64; // not std", "use std::sync::atomic::*;"),
        (ATOMICS, "use std::sync::{Arc,\n Mutex};", "use std::sync::{Arc,\n atomic::AtomicU64};"),
        (UNSAFE, "#![forbid(unsafe_code)] // unsafe", "unsafe { read(pointer) }"),
        (UNSAFE_BUT_NAMES, "#[unsafe(no_mangle)]", "#[unsafe(no_mangle)]\nunsafe fn f() {}"),
        (LINUX, "let libcurl = 1; // libc::open", "libc::open(path, 0)"),
        (LIBC, "rustix::fs::open(path) // not libc", "libc::open(path, 0)"),
        (LEADERS, "proc::own_stat()?.session", "rustix::process::getsid(None)"),
        (NATIVE, "from agentmem import _store", "from agentmem._native import Store"),
        (NATIVE, "import agentmem", "from . import _native"),
        (UPWARDS, "import agentmem.errors", "from .cli import output"),
        (UPWARDS, "x.import_module(name)", "importlib.import_module('agentmem.integrations.a')"),
        (too_long, "a\n" * LINES_MAX, "a\n" * (LINES_MAX + 1)),
    ],
)
def test_each_rule_tells_good_from_bad(rule: Rule, good: str, bad: str) -> None:
    assert rule(good) == []
    assert rule(bad) != []


def test_the_rules_see_the_source() -> None:
    for suffix, under in ((".rs", "crates/"), (".rs", STORE), (".py", "python/"), ("", ".ci/")):
        assert files(suffix, under=under), (suffix, under)


@pytest.mark.parametrize("crate", RUST_WITHOUT_UNSAFE)
def test_decisions_and_corpus_have_no_unsafe(crate: str) -> None:
    assert "#![forbid(unsafe_code)]" in (ROOT / crate / "src" / "lib.rs").read_text()
    assert breaks(UNSAFE, files(".rs", under=f"{crate}/src/")) == []


def test_three_files_of_the_store_call_linux() -> None:
    sources = [path for path in files(".rs") if "src" in path.parts]
    others = [path for path in sources if not str(path).startswith((f"{PAGER}/", f"{DAEMON}/"))]
    seams = (*SEAMS_TO_LINUX, C_BINDING_SEAM)
    assert breaks(LINUX, [path for path in others if str(path) not in seams]) == []


def test_nobody_asks_for_a_leader_who_may_be_in_another_pid_namespace() -> None:
    assert breaks(LEADERS, files(".rs")) == []


def test_the_pager_is_unsafe_in_few_files() -> None:
    sources = [path for path in files(".rs", under=f"{PAGER}/src/") if path.name != "tests.rs"]
    assert breaks(UNSAFE, [path for path in sources if str(path) not in PAGER_UNSAFE]) == []


def test_one_file_of_the_daemon_is_unsafe_or_calls_libc() -> None:
    sources = [path for path in files(".rs", under=f"{DAEMON}/src/") if str(path) != DAEMON_UNSAFE]
    assert sources
    assert breaks(UNSAFE, sources) == []
    assert breaks(LIBC, sources) == []


def test_the_border_to_c_is_unsafe_in_few_files() -> None:
    sources = files(".rs", under=f"{C_BINDING}/src/")
    assert sources
    others = [path for path in sources if str(path) not in C_BINDING_UNSAFE]
    assert breaks(UNSAFE_BUT_NAMES, others) == []


def test_the_border_to_node_is_unsafe_in_few_files() -> None:
    sources = files(".rs", under=f"{NODE_BINDING}/src/")
    assert sources
    assert breaks(UNSAFE, [each for each in sources if str(each) not in NODE_BINDING_UNSAFE]) == []


def test_atomics_of_the_store_come_from_the_facade_that_loom_replaces() -> None:
    sources = files(".rs", under=f"{STORE}/")
    assert breaks(ATOMICS, [path for path in sources if str(path) != ATOMICS_FACADE]) == []


def test_one_file_imports_the_native_module() -> None:
    sources = files(".py")
    assert breaks(NATIVE, [path for path in sources if str(path) != NATIVE_IMPORTER]) == []
    assert NATIVE(text_of(Path(NATIVE_IMPORTER)))


def test_the_core_package_imports_no_integration_and_no_command() -> None:
    faces = tuple(f"python/agentmem/{face}/" for face in FACES)
    core = [path for path in files(".py", under="python/") if not str(path).startswith(faces)]
    assert breaks(UPWARDS, core) == []


def test_error_tables_are_what_the_taxonomy_says() -> None:
    subprocess.run([sys.executable, "spec/generate_errors.py", "--check"], cwd=ROOT, check=True)


def test_python_locks_pin_by_hash_and_name_no_address() -> None:
    locks = files(".txt", under="requirements/")
    assert locks
    assert breaks(ADDRESSES, locks) == []
    for lock in locks:
        pins = re.findall(r"^[^\s#].*?==.*?(?=^[^\s]|\Z)", text_of(lock), re.MULTILINE | re.DOTALL)
        assert pins
        assert [pin.splitlines()[0] for pin in pins if "--hash=sha256:" not in pin] == []


def test_the_lock_of_the_package_for_node_pins_by_hash_and_names_no_place() -> None:
    lock = json.loads(text_of(Path(f"{NODE_BINDING}/package-lock.json")))
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert packages
    assert [name for name, package in packages.items() if "resolved" in package] == []
    assert [name for name, package in packages.items() if "integrity" not in package] == []


def test_the_package_for_node_has_the_version_of_the_workspace() -> None:
    version = tomllib.loads(text_of(Path("Cargo.toml")))["workspace"]["package"]["version"]
    for name in ("package.json", "package-lock.json"):
        assert json.loads(text_of(Path(f"{NODE_BINDING}/{name}")))["version"] == version


def test_the_cargo_lock_names_nothing_but_the_public_index() -> None:
    lock = text_of(Path("Cargo.lock"))
    assert ADDRESSES(lock.replace(CARGO_INDEX, "")) == []


def test_no_file_names_a_path_of_some_machine() -> None:
    assert breaks(MACHINE_PATHS, files()) == []


def test_no_file_names_the_host_of_a_registry() -> None:
    assert breaks(REGISTRY_HOSTS, files()) == []


def test_no_file_is_too_long_to_read() -> None:
    readable = [path for path in files() if not ANY_LENGTH.fullmatch(str(path))]
    assert breaks(too_long, readable) == []
