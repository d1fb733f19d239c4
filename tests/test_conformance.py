"""The behaviour suite of all languages, spec/conformance.json, run on the Python package.

What a store does is said there, case by case; spec/README.md says how a case is read. The second
half checks the suite itself, each check tried on a suite that breaks it.
"""

import copy
import json
import re
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from conftest import daemon

import agentmem
from agentmem import errors

SPEC = Path(__file__).resolve().parent.parent / "spec"
SUITE = json.loads((SPEC / "conformance.json").read_text())
CASES = {case["name"]: case for case in SUITE["cases"]}
ERRORS = {row["name"] for row in tomllib.loads((SPEC / "errors.toml").read_text())["error"]}
PAUSE_S = 0.02

Step = dict[str, Any]
Opener = Callable[..., Any]


class Served:
    """A store of a daemon of its own, which ends with it."""

    def __init__(self, path: Path | None, **options: Any) -> None:
        self.folder = TemporaryDirectory()
        self.socket = Path(self.folder.name) / "agentmem.sock"
        names = {"token_sha256": "token_sha256", "quota_bytes": "quota", "agents_max": "agents"}
        on_full = options.pop("on_full", "wait")
        if path is not None:
            options["path"] = str(path)
        for age in ("warm_after", "cold_after"):
            if f"{age}_s" in options:
                options[age] = f"{options.pop(f'{age}_s') * 1000:.0f}ms"
        domains = options.pop("domains", [])
        lines = self.lines(options)
        for domain in domains:
            lines.append(f"[domains.{domain['name']}]")
            lines += self.lines({names[key]: domain[key] for key in names.keys() & domain.keys()})
        self.daemon = daemon(self.socket, configuration="\n".join(lines))
        self.daemon.__enter__()
        self.store = agentmem.connect(self.socket, on_full=on_full, start=False)

    @staticmethod
    def lines(options: Step) -> list[str]:
        """Values of JSON are values of TOML."""
        return [f"{name} = {json.dumps(value)}" for name, value in options.items()]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def close(self) -> None:
        """As a store is closed, which can be done twice."""
        self.store.close()
        self.daemon.__exit__(None, None, None)
        self.folder.cleanup()


# What opens a store of its own with these options, and which needs of cases it can serve.
OPENERS: dict[str, tuple[Opener, set[str]]] = {
    "embedded": (agentmem.open, {"folder", "options", "alone"}),
    "connected": (Served, {"daemon"}),
}


# Contents


@lru_cache(maxsize=64)
def pattern(seed: int, length: int) -> bytes:
    """The first `length` bytes of xorshift32 from `seed`, its words written little end first."""
    out = bytearray()
    while len(out) < length:
        seed ^= seed << 13 & 0xFFFFFFFF
        seed ^= seed >> 17
        seed ^= seed << 5 & 0xFFFFFFFF
        out += seed.to_bytes(4, "little")
    return bytes(out[:length])


def content(given: Step) -> bytes:
    """The bytes that a case writes down."""
    if "text" in given:
        once = given["text"].encode()
    elif "hex" in given:
        once = bytes.fromhex(given["hex"])
    else:
        once = pattern(given["pattern"], given["len"])
    return once * given.get("times", 1)


# Operations: each gives what it makes, or else the facts that are known then


def has(thing: Any, wanted: list[str]) -> Step:
    return {fact: len(thing) if fact == "messages" else getattr(thing, fact) for fact in wanted}


def store_has(store: agentmem.Store) -> Step:
    return {"memory_max_bytes": store.memory_max, "has_path": store.path is not None}


def flat(figures: Step, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, figure in figures.items():
        if isinstance(figure, dict):
            yield from flat(figure, f"{prefix}{name}.")
        else:
            yield prefix + name, figure


def verify(store: agentmem.Store) -> Step:
    found = store.verify()
    return found | {"damaged": len(found["damaged"])}


def of_each(grants: list[Step]) -> Step:
    """What is said of each grant, by the names of the suite."""
    facts = {"agents": "agent", "to_domains": "to_domain", "logical_bytes": "logical_bytes"}
    facts |= {"uses": "uses"}
    return {fact: [grant[key] for grant in grants] for fact, key in facts.items()}


def domain_set(
    store: agentmem.Store, quota_bytes: int | None = None, agents_max: int | None = None
) -> None:
    store.limit_domain(quota_bytes=quota_bytes, agents_max=agents_max)


def register(store: agentmem.Store, process: Any = None, **given: Any) -> agentmem.Agent:
    return store.agent(**given, pid=None if process is None else process.pid)


def kill(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()


def grant(
    agent: agentmem.Agent, smu: agentmem.Smu, to_domain: str | None, lasts_ms: int, uses: int
) -> str:
    return agent.grant(smu, to_domain, expires_s=lasts_ms / 1000, uses=uses)


def agent_set(agent: agentmem.Agent, **given: Any) -> None:
    for attribute, value in given.items():
        setattr(agent, attribute, value)


def attach_id(agent: agentmem.Agent, id: str = "", hex: str = "") -> agentmem.Smu:
    return agent.attach(id or hex)


def id_of(smu: agentmem.Smu, **others: str) -> str:
    own = smu.id
    assert others.get("same_as", own) == own, "the ids differ"
    assert others.get("differs_from") != own, "the ids are the same"
    return own


def append(conversation: agentmem.Conversation, **message: Any) -> None:
    conversation.append(json.loads(message["json"]) if "json" in message else message["bytes"])


def get(conversation: agentmem.Conversation, index: int) -> Step:
    try:
        return {"json": conversation[index], "bytes": conversation.raw(index)}
    except IndexError as error:  # Python's word for it
        raise errors.InvalidArgument(str(error)) from None


def read(conversation: agentmem.Conversation, start: int, end: int) -> Step:
    return {"messages": conversation[start:end]}


OPERATIONS: dict[str, Callable[..., Any]] = {
    "close": lambda store: store.close(),
    "store_has": store_has,
    "agents": lambda store: {"names": store.agents()},
    "flush": lambda store: store.flush(),
    "reclaim": lambda store, **target: {"freed_bytes": store.reclaim(**target)},
    "verify": verify,
    "stats": lambda store: dict(flat(store.stats())),
    "stats_of": lambda store, name: store.agent_stats(name),
    "domain_has": lambda store: store.domain(),
    "domain_set": domain_set,
    "grants": lambda store: of_each(store.grants()),
    "revoke": lambda store, grant="", text="": store.revoke(grant or text),
    "kill": kill,
    "agent": register,
    "leave": lambda agent: agent.leave(),
    "grant": grant,
    "redeem": lambda agent, grant="", text="": agent.redeem(grant or text),
    "agent_has": lambda agent, wanted: has(agent, wanted),
    "agent_set": agent_set,
    "agent_stats": lambda agent: agent.stats(),
    "agent_close": lambda agent: agent.close(),
    "pause": lambda agent: agent.pause(),
    "resume": lambda agent: agent.resume(),
    "idle": lambda agent: agent.idle(),
    "smus": lambda agent: agent.smus(),
    "conversations": lambda agent: {"names": agent.conversations()},
    "put": lambda agent, bytes, **given: agent.put(bytes, **given),
    "attach": lambda agent, smu: agent.attach(smu),
    "attach_id": attach_id,
    "attach_name": lambda agent, name: agent.attach(name),
    "share": lambda agent, smu, to: agent.share(smu, to),
    "release": lambda agent, smu: agent.release(smu),
    "advise": lambda agent, smu, advice: agent.advise(smu, advice),
    "smu_has": lambda smu, wanted: has(smu, wanted),
    "id": id_of,
    "view": lambda smu: memoryview(smu.view()),
    "view_has": lambda view: {"bytes": view},
    "view_release": lambda view: view.release(),
    "conversation": lambda agent, name=None: agent.conversation(name),
    "append": append,
    "get": get,
    "read": read,
    "render": lambda conversation: {"bytes": conversation.render()},
    "load": lambda conversation, bytes: {"count": conversation.load(bytes)},
    "load_all": lambda agent, bytes: agent.load(bytes),
    "fork": lambda conversation, **given: conversation.fork(**given),
    "release_conversation": lambda agent, conversation: agent.release(conversation),
    "advise_conversation": lambda agent, conversation, advice: agent.advise(conversation, advice),
    "conversation_has": lambda conversation, wanted: has(conversation, wanted),
}
FACTS_OF_WHAT_IS_MADE: dict[str, Callable[[Any], Step]] = {
    "view": lambda view: {"bytes": view},
    "smus": lambda held: {"count": len(held)},
    "load_all": lambda loaded: {"count": len(loaded)},
}


def fits(fact: str, expected: Step, facts: Step) -> bool:
    wanted, found = expected[fact], facts[fact]
    return bool(json.loads(wanted) == found) if fact == "json" else agrees(wanted, found)


def agrees(wanted: Any, found: Any) -> bool:
    if isinstance(wanted, list):
        return len(wanted) == len(found) and all(map(agrees, wanted, found))
    if not isinstance(wanted, dict):
        return type(wanted) is type(found) and bool(wanted == found)
    if wanted.keys() <= {"min", "max"}:
        return bool(wanted.get("min", found) <= found <= wanted.get("max", found))
    return bool(content(wanted) == found)


class Run:
    """One case under way: what its labels name so far."""

    def __init__(self, opener: Opener, folder: Path) -> None:
        self.opener = opener
        self.folder = folder
        self.named: dict[str, Any] = {}
        self.stores: list[agentmem.Store] = []
        # Where the daemons of these listen, by the identity of each.
        self.sockets: dict[int, Path] = {}
        self.processes: list[subprocess.Popen[bytes]] = []

    def open(self, path: str | None = None, **options: Any) -> agentmem.Store:
        given = {"memory_max": options.pop("memory_max_bytes", 64 << 20), "pressure": False}
        for age in ("warm_after", "cold_after"):
            if f"{age}_ms" in options:
                given[f"{age}_s"] = options.pop(f"{age}_ms") / 1000
        store = self.opener(None if path is None else self.folder / path, **given, **options)
        self.stores.append(store)
        if isinstance(store, Served):
            self.sockets[id(store)] = store.socket
        return store

    def enter(self, store: Any, **domain: str) -> agentmem.Store:
        socket = self.sockets[id(store)]
        session = agentmem.connect(socket, start=False, **domain)
        self.stores.append(session)
        self.sockets[id(session)] = socket
        return session

    def process(self) -> "subprocess.Popen[bytes]":
        self.processes.append(subprocess.Popen(["sleep", "1000"]))
        return self.processes[-1]

    def operation(self, name: str) -> Callable[..., Any]:
        own: dict[str, Callable[..., Any]] = {
            "open": self.open,
            "enter": self.enter,
            "process": self.process,
            "write_file": lambda file, bytes: (self.folder / file).write_bytes(bytes) and None,
            "remove_file": lambda file: (self.folder / file).unlink(),
        }
        return own.get(name) or OPERATIONS[name]

    def fields(self, step: Step) -> Step:
        """What the operation is called with: labels as what they name, contents as bytes."""
        row = SUITE["operations"][step["op"]]
        fields = {"store": "store"} if "store" in row["may"] else {}
        fields |= {key: step[key] for key in row["needs"] + row["may"] if key in step}
        for key in fields.keys() & SUITE["labels"].keys():
            fields[key] = self.named[fields[key]]
        if "bytes" in fields:
            fields["bytes"] = content(fields["bytes"])
        if "ask" in row["may"]:
            fields["wanted"] = fields.pop("ask", None) or list(step["expect"])
        fields.pop("as", None)
        return fields

    def perform(self, step: Step) -> Step:
        """Carry a step out, name what it makes, and say what is known then."""
        fields = self.fields(step)
        for _ in range(step.get("repeat", 1)):
            outcome = self.operation(step["op"])(**fields)
        default = "store" if step["op"] == "open" else None
        match step.get("as", default):
            case list(labels):
                self.named |= zip(labels, outcome, strict=True)
            case str(label):
                self.named[label] = outcome
        facts = FACTS_OF_WHAT_IS_MADE.get(step["op"], lambda facts: facts)(outcome)
        return facts if isinstance(facts, dict) else {}

    def step(self, step: Step) -> None:
        deadline = time.monotonic() + step.get("within_ms", 0) / 1000
        while True:
            try:
                facts = self.perform(step)
            except agentmem.AgentMemError as error:
                name = type(error).__name__
                if name == step.get("error"):
                    return
                raise AssertionError(f"{name}: {error}") from error
            assert "error" not in step, "nothing was refused"
            expected = step.get("expect", {})
            wrong = {fact: facts[fact] for fact in expected if not fits(fact, expected, facts)}
            if not wrong or time.monotonic() > deadline:
                break
            time.sleep(PAUSE_S)
        assert not wrong, f"found {repr(wrong)[:300]}"

    def close(self) -> None:
        self.named.clear()
        # Sessions go before the daemons that they are with.
        for store in reversed(self.stores):
            store.close()
        for process in self.processes:
            kill(process)


def run(case: Step, opener: Opener, folder: Path) -> None:
    under_way = Run(opener, folder)
    try:
        for number, step in enumerate(case["steps"], 1):
            try:
                under_way.step(step)
            except AssertionError as error:
                said = f"{case['name']}, step {number}, {json.dumps(step)[:300]}: {error}"
                raise AssertionError(said) from None
    finally:
        under_way.close()


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("name", CASES)
def test_case(name: str, opener: str, tmp_path: Path) -> None:
    opens, serves = OPENERS[opener]
    if not serves >= set(CASES[name].get("needs", [])):
        pytest.skip(f"{opener}: the case needs {CASES[name]['needs']}")
    run(CASES[name], opens, tmp_path)


# The suite itself


def test_patterns_are_what_the_suite_says() -> None:
    for given in SUITE["patterns"]:
        assert content(given).hex() == given["is"]


COMMON = {"op", "expect", "error", "within_ms", "repeat"}
KIND_OF_ONE = {"smus": "smu", "conversations": "conversation"}
CONTENTS: list[set[str]] = [{"text"}, {"hex"}, {"pattern", "len"}]
RANGES: list[set[str]] = [{"min"}, {"max"}, {"min", "max"}]


def always_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def fact_of_table(fact: str) -> str:
    """How the table of operations calls a fact."""
    return re.sub(r"\..*", ".*", fact)


def unknown_fields(step: Step, row: Step) -> Iterator[str]:
    for key in step.keys() - COMMON - set(row["needs"]) - set(row["may"]):
        yield f"no field {key}"
    for key in set(row["needs"]) - step.keys():
        yield f"{key} is missing"
    for fact in [*step.get("expect", {}), *step.get("ask", [])]:
        if fact_of_table(fact) not in row.get("expect", []):
            yield f"no fact {fact}"
    for one, other in (("bytes", "json"), ("id", "hex"), ("grant", "text")):
        if {one, other} <= {*row["may"]} and (one in step) == (other in step):
            yield f"one of {one} and {other} is wanted"
    if "error" in step and ("expect" in step or "as" in step or "within_ms" in step):
        yield "an error has no outcome"
    if step.get("error", "Closed") not in ERRORS:
        yield f"no error {step['error']}"
    if "ask" in row["may"] and ("expect" in step, "ask" in step) != (
        "error" not in step,
        "error" in step,
    ):
        yield "facts are expected, or asked for where an error is"
    expected = step.get("expect", {}).values()
    given = [step.get("bytes"), *(part for fact in expected for part in always_list(fact))]
    for each in given:
        if isinstance(each, dict) and each.keys() - {"times"} not in CONTENTS + RANGES:
            yield f"no content {each}"
    if r"\u0000" in json.dumps(step):
        yield "a text with a NUL, which C would cut"


def unknown_labels(step: Step, row: Step, labels: dict[str, str], named: Step) -> Iterator[str]:
    """Labels that name nothing of the kind that is wanted; adds those that the step makes."""
    used = {key: step[key] for key in labels.keys() & step.keys()}
    if "store" in row["may"]:
        used.setdefault("store", "store")
    for key, label in used.items():
        if named.get(label) != labels[key]:
            yield f"{label} is no {labels[key]}"
    if "error" in step:
        return
    for label in always_list(step.get("as", "store" if step["op"] == "open" else [])):
        named[label] = KIND_OF_ONE.get(row["makes"], row["makes"])


def problems(suite: Step) -> Iterator[str]:
    """What is wrong with a suite: steps that no runner understands, and what no case shows."""
    names = [case["name"] for case in suite["cases"]]
    yield from (f"two cases {name}" for name in set(names) if names.count(name) > 1)
    shown: dict[str, set[str]] = {name: set() for name in suite["operations"]}
    provoked: set[str | None] = set()
    for case in suite["cases"]:
        named: Step = {}
        for step in case["steps"]:
            row = suite["operations"].get(step["op"])
            if row is None:
                yield f"{case['name']}: no operation {step['op']}"
                continue
            found = [*unknown_fields(step, row)]
            found += unknown_labels(step, row, suite["labels"], named)
            yield from (f"{case['name']}: {step['op']}: {problem}" for problem in found)
            facts = [*step.get("expect", {}), *step.get("ask", [])]
            shown[step["op"]] |= step.keys() | {fact_of_table(fact) for fact in facts}
            provoked.add(step.get("error"))
    for name, row in suite["operations"].items():
        if not shown[name]:
            yield f"no case has {name}"
        for part in {*row["needs"], *row["may"], *row.get("expect", [])} - shown[name]:
            yield f"no case has {part} of {name}"
    left = set(suite["not_provoked"])
    yield from (f"no case provokes {error}" for error in ERRORS - provoked - left)
    yield from (f"{error} is provoked after all" for error in left & provoked)
    yield from (f"no error {error}" for error in left - ERRORS)


def test_every_step_is_understood_and_everything_is_shown() -> None:
    assert [*problems(SUITE)] == []


def broken(change: Callable[[Step], Any]) -> Step:
    suite = copy.deepcopy(SUITE)
    change(suite)
    return suite


def without(word: str) -> Callable[[Step], Any]:
    """Leaves out the cases with a step that has `word`."""

    def change(suite: Step) -> None:
        suite["cases"] = [c for c in suite["cases"] if f'"{word}"' not in json.dumps(c["steps"])]

    return change


def with_step(**fields: Any) -> Callable[[Step], Any]:
    """Puts a step in front of the last case's last one."""
    return lambda suite: suite["cases"][-1]["steps"].insert(-1, fields)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda suite: suite["cases"].append(suite["cases"][0]), "two cases"),
        (with_step(op="pet", agent="a"), "no operation pet"),
        (with_step(op="pause", agent="a", slowly=True), "pause: no field slowly"),
        (with_step(op="pause"), "pause: agent is missing"),
        (with_step(op="pause", agent="p"), "pause: p is no agent"),
        (with_step(op="pause", agent="a", error="Tired"), "pause: no error Tired"),
        (with_step(op="smus", agent="a", expect={"sum": 1}), "smus: no fact sum"),
        (with_step(op="smus", agent="a", expect={"count": 1}, error="Closed"), "has no outcome"),
        (with_step(op="append", conversation="c"), "one of bytes and json"),
        (with_step(op="append", conversation="c", bytes={"words": 3}), "no content"),
        (with_step(op="agent", name="a\0b"), "a text with a NUL"),
        (with_step(op="smu_has", smu="p"), "facts are expected, or asked for"),
        (without("view_has"), "no case has view_has"),
        (without("shared_by"), "no case has shared_by of smu_has"),
        (without("cold_level"), "no case has cold_level of open"),
        (without("process"), "no case has kill"),
        (with_step(op="redeem", agent="a"), "one of grant and text"),
        (without("StoreLocked"), "no case provokes StoreLocked"),
        (lambda suite: suite["not_provoked"].pop("Version"), "no case provokes Version"),
        (lambda suite: suite["not_provoked"].update(Closed=""), "Closed is provoked after all"),
    ],
)
def test_a_broken_suite_is_found_out(change: Callable[[Step], Any], said: str) -> None:
    assert any(said in problem for problem in problems(broken(change)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"op": "view", "smu": "p", "expect": {"bytes": {"text": "contenu"}}},
        {"op": "view", "smu": "p", "error": "Released"},
        {"op": "smu_has", "smu": "p", "expect": {"tier": "hot", "shared_by": 2}},
        {"op": "smu_has", "smu": "p", "expect": {"logical_bytes": {"min": 8}}},
        {"op": "smu_has", "smu": "p", "expect": {"logical_bytes": {"max": 6}}},
        {"op": "smu_has", "smu": "p", "expect": {"tier": "cold"}, "within_ms": 50},
        {"op": "attach_name", "agent": "a", "name": "n", "error": "Released"},
        {"op": "attach_name", "agent": "a", "name": "n"},
        {"op": "id", "smu": "p", "differs_from": "x"},
        {"op": "agents", "expect": {"names": ["a", "b"]}},
        {"op": "get", "conversation": "c", "index": 0, "expect": {"json": '{"n":2}'}},
        {"op": "read", "conversation": "c", "start": 0, "end": 1, "expect": {"messages": []}},
    ],
    ids=str,
)
def test_a_wrong_expectation_is_found_out(wrong: Step, tmp_path: Path) -> None:
    steps: list[Step] = [
        {"op": "open"},
        {"op": "agent", "name": "a", "as": "a"},
        {"op": "put", "agent": "a", "kind": "message", "bytes": {"text": "content"}, "as": "p"},
        {"op": "id", "smu": "p", "as": "x"},
        {"op": "conversation", "agent": "a", "as": "c"},
        {"op": "append", "conversation": "c", "json": '{"n":1}'},
    ]
    run({"name": "right", "steps": steps}, agentmem.open, tmp_path)
    with pytest.raises(AssertionError, match=f"step {len(steps) + 1}"):
        run({"name": "wrong", "steps": [*steps, wrong]}, agentmem.open, tmp_path)


def test_the_guide_names_every_operation_and_field() -> None:
    guide = (SPEC / "README.md").read_text()
    for name, row in SUITE["operations"].items():
        words = [name, *row["needs"], *row["may"], *row.get("expect", [])]
        assert [word for word in words if f"`{word}`" not in guide] == [], name
